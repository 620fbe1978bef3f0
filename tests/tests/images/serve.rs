//! `landfall image serve` and what peers may do with it.

use crate::image::{Folder, landfall};
use crate::qemu;
use crate::server::Server;
use landfall_tests::harness::{attempt, run};

/// qemu-io's answer to a command on a served disk.
fn io(uri: &str, command: &str) -> String {
    let said = attempt("qemu-io", &["-f", "raw", "-c", command, uri]);
    format!("{}{}", said.out, said.err)
}

#[test]
fn what_peers_write_and_flush_is_in_the_image() {
    for name in ["disk.vmdk", "disk.vhdx", "disk.vhd", "disk.raw"] {
        let folder = Folder::new();
        let image = folder.at(name);
        landfall(&["create", &image, "--size", "64MiB"]).ok();
        let server = Server::start(&image, &folder.at("socket"), &[]);
        run("qemu-io", &["-f", "raw", "-c", "write -P 7 1M 3M", "-c", "flush", server.uri()]);
        // Under its name and without one, and under no other.
        let named = run("nbdinfo", &["--size", server.uri()]);
        let bare = server.uri().replace("/disk?", "/?");
        assert_eq!(run("nbdinfo", &["--size", &bare]), named, "{name}");
        let other = server.uri().replace("/disk?", "/other?");
        let refused = attempt("nbdinfo", &["--size", &other]);
        assert!(
            refused.code != Some(0) && refused.err.contains("no export named 'other'"),
            "{refused:?}"
        );
        let copy = folder.at("copy.raw");
        run("nbdcopy", &[server.uri(), &copy]);
        server.close();
        qemu::compare(&image, &copy);
        landfall(&["check", &image]).ok();
    }
}

#[test]
fn a_read_only_one_is_not_written_and_others_may_read_it() {
    let folder = Folder::new();
    let image = folder.at("disk.vhdx");
    landfall(&["create", &image, "--size", "16MiB"]).ok();
    let server = Server::start(&image, &folder.at("socket"), &["--read-only"]);
    assert!(io(server.uri(), "write 0 4k").contains("ermission"), "written");
    let read = run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0 0 4k", server.uri()]);
    assert!(read.contains("read 4096/4096"), "{read}");
    landfall(&["info", &image]).ok();
    server.close();
}

#[test]
fn what_would_go_wrong_later_is_refused_at_once() {
    let folder = Folder::new();
    let (image, socket) = (folder.at("disk.raw"), folder.at("socket"));
    landfall(&["create", &image, "--size", "16MiB"]).ok();
    let serve = |more: &[&str]| landfall(&[&["serve", &image], more].concat());
    serve(&["--listen", "0.0.0.0:0"]).refused(&["not loopback", "127.0.0.1"]);
    serve(&["--socket", &socket, "--shared"]).refused(&["--read-only"]);
    serve(&["--socket", &folder.at("no/socket")]).refused(&["no/socket"]);
    let server = Server::start(&image, &socket, &[]);
    serve(&["--socket", &folder.at("second")]).refused(&["disk.raw", "--shared"]);
    server.close();
    let streamed = folder.at("streamed.vmdk");
    landfall(&["convert", &image, &streamed, "--kind", "streamOptimized"]).ok();
    landfall(&["serve", &streamed, "--socket", &socket])
        .refused(&["streamOptimized disks are read"]);
}

#[test]
fn a_port_that_was_chosen_is_told() {
    let folder = Folder::new();
    let image = folder.at("disk.raw");
    landfall(&["create", &image, "--size", "16MiB"]).ok();
    let server = Server::listening(&image);
    assert!(!server.uri().contains(":0/"), "{}", server.uri());
    assert_eq!(run("nbdinfo", &["--size", server.uri()]).trim(), (16 << 20).to_string());
    server.close();
}
