//! Errors say what was wrong, where, and what exists.

use crate::harness::{Target, noise};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

#[test]
fn a_wrong_name_is_answered_with_the_right_ones() {
    let mut target = Target::start().with_machine(&noise(1, 1 << 20));
    target.expect_log("stream refused");
    for (command, part) in [
        ("machine show nope", "machines: web"),
        ("machine add web --disk name=os,size=1MiB", "exists already"),
        ("machine add Web --disk name=os,size=1MiB", "is not a name"),
        ("machine add x --disk name=os,size=1000", "512"),
        ("machine add x --disk name=os,size=1MiB,path=data/MANIFEST", "data folder"),
        ("point list nope", "machines: web"),
        ("point list web@latest", "without /DISK and @WHEN"),
        ("point mark web~x", "branch"),
        ("restore web@ --output x", "nothing follows the @"),
        ("restore web@-10y --output x", "is not a moment"),
        ("restore web@tag:none --output x", "points go from"),
        ("restore web --disk data --output x", "its disks: os"),
        ("restore web --output disk.raw", "--force replaces it"),
        ("branch add web --name B", "is not a name"),
        ("branch discard web", "see `landfall branch list`"),
        ("export add web/os --writable", "leave /os out"),
        ("replicate nope --disk os=disk.raw", "machines: web"),
        ("replicate web --disk data=disk.raw", "its disks: os"),
        ("replicate web --disk os=missing.raw", "missing.raw"),
        ("pki issue ../x", "name"),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let said = target.refused(&words);
        assert!(said.contains(part), "{command}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    assert_eq!(target.points().len(), 1, "something was changed");
}

#[test]
fn a_source_of_another_size_is_refused() {
    let mut target = Target::start().with_machine(&noise(1, 1 << 20));
    target.expect_log("stream refused");
    std::fs::write(target.path("disk.raw"), noise(2, 2 << 20)).unwrap();
    let said = target.refused(&["replicate", "web", "--disk", "os=disk.raw"]);
    assert!(said.contains("1048576") && said.contains("2097152"), "{said}");
}

#[test]
fn without_a_target_the_way_to_start_one_is_shown() {
    let mut target = Target::start();
    target.stop();
    assert!(target.refused(&["status"]).contains("landfall serve"));
    let output = target.command(&["status"]).env_remove("LANDFALL_DATA").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--data"), "{said}");
}

#[test]
fn a_misspelt_key_is_named() {
    let target = Target::start();
    std::fs::write(target.path("bad.toml"), "[listen]\nndb = 'off'\n").unwrap();
    let said = target.refused(&["serve", "--config", "bad.toml"]);
    assert!(said.contains("ndb") && said.contains("bad.toml"), "{said}");
}

#[test]
fn a_misuse_of_the_command_line_is_told_from_a_failure() {
    let target = Target::start();
    let status = target.command(&["machine", "add", "web"]).output().unwrap().status;
    assert_eq!(status.code(), Some(2));
}

#[test]
fn nonsense_on_the_control_socket_harms_nobody() {
    let target = Target::start();
    let send = |bytes: &[u8]| -> String {
        let mut socket = UnixStream::connect(target.data().join("landfall.sock")).unwrap();
        socket.write_all(bytes).unwrap();
        if !bytes.starts_with(b"GET") && !bytes.starts_with(b"POST") {
            // A request is answered on a connection that is open both ways; nonsense may wait for more for ever.
            socket.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut answer = Vec::new();
        // A connection that is reset is an answer too.
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    send(&noise(3, 100_000));
    let body = b"{\"name\": 3}";
    let head = format!(
        "POST /v1/machines HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let answer = send(&[head.as_bytes(), body].concat());
    assert!(answer.starts_with("HTTP/1.1 4") && answer.contains("\"error\""), "{answer}");
    let gone = send(b"GET /v2/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(gone.starts_with("HTTP/1.1 404") && gone.contains("\"error\""), "{gone}");
    assert!(target.run(&["status"]).contains("no machines yet"));
}

#[test]
fn credentials_are_issued_for_other_machines() {
    let mut target = Target::start().with_machine(&noise(1, 1 << 20));
    target.expect_log("a connection was not admitted");
    target.run(&["pki", "issue", "esx-7", "--output", "given"]);
    for name in ["ca.pem", "client.pem", "client.key"] {
        assert!(target.path("given").join(name).exists(), "{name}");
    }
    let status = target.json(&["status"]);
    let address = status["listen"]["delta"].as_str().unwrap();
    let replicate = ["replicate", "web", "--disk", "os=disk.raw", "--to", address];
    target.run(&[&replicate[..], &["--pki", "given"]].concat());
    // An authority of somebody else is not trusted.
    let stranger = Target::start();
    stranger.run(&["pki", "issue", "esx-7", "--output", "given"]);
    let folder = stranger.path("given");
    let said = target.refused(&[&replicate[..], &["--pki", folder.to_str().unwrap()]].concat());
    assert!(said.contains("trust"), "{said}");
}

#[test]
fn completions_know_the_verbs() {
    let target = Target::start();
    assert!(target.run(&["completions", "bash"]).contains("replicate"));
}
