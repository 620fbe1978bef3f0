//! Machines whose images have formats of their own, new ones and adopted ones; `qemu-img` says what is in them.

use crate::harness::{Target, make_child, make_vhdx, metric, noise, qemu_img};
use std::fs;
use std::path::Path;

const MIB: usize = 1 << 20;

/// Formats that machines keep their disks in, and the names `qemu-img` has for them.
const FORMATS: [(&str, &str); 4] =
    [("raw", "raw"), ("vhdx", "vhdx"), ("vmdk", "vmdk"), ("vhd", "vpc")];

/// Eight MiB, of which the second is data.
fn sparse(seed: u64) -> Vec<u8> {
    let mut disk = vec![0; 8 * MIB];
    disk[MIB..2 * MIB].copy_from_slice(&noise(seed, MIB));
    disk
}

/// That `qemu-img` finds `content` in the image, and nothing wrong with it.
fn holds(target: &Target, image: &Path, format: &str, content: &[u8]) {
    let expected = target.path("expected.raw");
    fs::write(&expected, content).unwrap();
    let (image, expected) = (image.to_str().unwrap(), expected.to_str().unwrap());
    qemu_img(&["compare", "-f", format, "-F", "raw", image, expected]);
    if format == "vhdx" {
        qemu_img(&["check", "-f", format, image]);
    }
}

#[test]
fn an_image_of_every_format_holds_the_first_copy_and_serves_every_point() {
    for (format, known_as) in FORMATS {
        let mut target = Target::start();
        let mut content = sparse(1);
        fs::write(target.path("disk.raw"), &content).unwrap();
        let disk = format!("name=os,size=8MiB,format={format}");
        target.run(&["machine", "add", "web", "--disk", &disk]);
        target.replicate();
        let first = content.clone();
        content[5 * MIB..5 * MIB + 4096].copy_from_slice(&noise(2, 4096));
        fs::write(target.path("disk.raw"), &content).unwrap();
        target.replicate();

        target.kill();
        target.resume();
        let machine = target.json(&["machine", "show", "web"]);
        assert_eq!(machine["disks"][0]["format"], format);
        assert_eq!(machine["disks"][0]["state"], "ready");
        let points = target.points();
        for (point, content) in points.iter().zip([&first, &content]) {
            let name = point["name"].as_str().unwrap();
            target.run(&["restore", name, "--output", "restored.raw", "--force"]);
            let restored = fs::read(target.path("restored.raw")).unwrap();
            assert!(restored == *content, "{format}: {name} is not what it was");
        }
        target.stop();
        let image = target.data().join(format!("images/web/os.{format}"));
        holds(&target, &image, known_as, &first);
    }
}

#[test]
fn an_adopted_image_of_any_format_gets_only_what_differs() {
    for (format, known_as) in FORMATS {
        let mut target = Target::start();
        let mut content = noise(1, 4 * MIB);
        fs::write(target.path("old.raw"), &content).unwrap();
        let image = target.path("there").join(format!("old.{format}"));
        fs::create_dir(target.path("there")).unwrap();
        let (from, to) = (target.path("old.raw"), image.to_str().unwrap().to_owned());
        // Otherwise QEMU rounds the size of a VHD to cylinders.
        let exact: &[&str] = if format == "vhd" { &["-o", "force_size=on"] } else { &[] };
        let files = [from.to_str().unwrap(), &to];
        qemu_img(&[&["convert", "-O", known_as], exact, &files].concat());
        content[..65536].copy_from_slice(&noise(2, 65536));
        fs::write(target.path("disk.raw"), &content).unwrap();
        let disk = format!("name=os,path={to}");
        target.run(&["machine", "add", "web", "--disk", &disk]);
        let disks = target.json(&["machine", "show", "web"])["disks"].clone();
        assert_eq!(
            (&disks[0]["format"], &disks[0]["size_bytes"]),
            (&format.into(), &(4 * MIB).into())
        );
        target.replicate();
        assert_eq!(metric(&target, "landfall_delta_content_bytes_total"), 65536, "{format}");
        assert!(target.read("web/os").unwrap().0 == content);
        target.stop();
        holds(&target, &image, known_as, &content);
    }
}

#[test]
fn a_new_image_has_the_format_of_its_extension() {
    let mut target = Target::start();
    target.run(&["machine", "add", "web", "--disk", "name=os,size=8MiB,path=new.VHDX"]);
    let disks = target.json(&["machine", "show", "web"])["disks"].clone();
    assert_eq!(disks[0]["format"], "vhdx");
    target.stop();
    qemu_img(&["check", "-f", "vhdx", target.path("new.VHDX").to_str().unwrap()]);
}

#[test]
fn what_cannot_be_a_machines_image_is_refused_and_stays_as_it_is() {
    let target = Target::start();
    let path = |name: &str| target.path(name).to_str().unwrap().to_owned();
    fs::write(target.path("noise.raw"), noise(1, MIB)).unwrap();
    for (name, said) in [("noise.raw,format=vhdx", "VHDX"), ("noise.raw,size=2MiB", "size it has")]
    {
        let disk = format!("name=os,path={}", path(name));
        let refused = target.refused(&["machine", "add", "web", "--disk", &disk]);
        assert!(refused.contains(said), "{name}: {refused}");
    }
    qemu_img(&["create", "-f", "vhdx", &path("busy.vhdx"), "8M"]);
    target.run(&["machine", "add", "one", "--disk", "name=os,path=busy.vhdx"]);
    fs::hard_link(path("busy.vhdx"), path("other.vhdx")).unwrap();
    let refused = target.refused(&["machine", "add", "two", "--disk", "name=os,path=other.vhdx"]);
    assert!(refused.contains("in use"), "{refused}");
    assert_eq!(target.json(&["machine", "list"])["machines"].as_array().map(Vec::len), Some(1));
}

#[test]
fn an_image_with_children_is_not_adopted_and_neither_is_a_child() {
    let target = Target::start();
    let path = |name: &str| target.path(name).to_str().unwrap().to_owned();
    make_vhdx(&target.path("base.vhdx"), 8 << 20);
    make_child(&target.path("base.vhdx"), &target.path("child.avhdx"));
    let before = fs::read(target.path("base.vhdx")).unwrap();
    for (name, said) in [("base.vhdx", "child.avhdx"), ("child.avhdx", "base.vhdx")] {
        let disk = format!("name=os,path={}", path(name));
        let refused = target.refused(&["machine", "add", "web", "--disk", &disk]);
        assert!(refused.contains(said), "{name}: {refused}");
    }
    assert!(fs::read(target.path("base.vhdx")).unwrap() == before, "the parent was changed");
    // One that cannot be read may be a child all the same.
    let mut child = fs::read(path("child.avhdx")).unwrap();
    child[64 << 10..192 << 10].fill(0xee);
    fs::write(path("child.avhdx"), child).unwrap();
    let base = ["machine", "add", "web", "--disk", "name=os,path=base.vhdx"];
    let refused = target.refused(&base);
    assert!(refused.contains("child.avhdx may stand on it and cannot be read"), "{refused}");
    fs::remove_file(path("child.avhdx")).unwrap();
    target.run(&["machine", "add", "web", "--disk", "name=os,path=base.vhdx"]);
}

#[test]
fn deltas_their_bases_and_streams_of_vmware_are_not_adopted() {
    let target = Target::start();
    let path = |name: &str| target.path(name).to_str().unwrap().to_owned();
    fs::write(target.path("noise.raw"), noise(1, MIB)).unwrap();
    let stream = ["-O", "vmdk", "-o", "subformat=streamOptimized"];
    qemu_img(&[&["convert"], &stream[..], &[&path("noise.raw"), &path("stream.vmdk")]].concat());
    fs::create_dir(target.path("chain")).unwrap();
    qemu_img(&["create", "-f", "vmdk", &path("chain/base.vmdk"), "8M"]);
    let parent = ["-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk"];
    qemu_img(&[&["create"], &parent[..], &[&path("chain/base-000001.vmdk")]].concat());
    for (name, said) in [
        ("stream.vmdk", "streamOptimized"),
        ("chain/base-000001.vmdk", "holds only what differs from its parent"),
        ("chain/base.vmdk", "base-000001.vmdk stands on it"),
    ] {
        let before = fs::read(target.path(name)).unwrap();
        let disk = format!("name=os,path={name}");
        let refused = target.refused(&["machine", "add", "web", "--disk", &disk]);
        assert!(refused.contains(said), "{name}: {refused}");
        assert!(fs::read(target.path(name)).unwrap() == before, "{name} was changed");
    }
    assert!(target.run(&["machine", "list"]).contains("no machines yet"));
}

#[test]
fn a_damaged_image_is_set_aside_until_it_is_repaired() {
    let mut target = Target::start();
    let content = sparse(1);
    fs::write(target.path("disk.raw"), &content).unwrap();
    target.run(&["machine", "add", "web", "--disk", "name=os,size=8MiB,format=vhdx"]);
    target.replicate();
    target.stop();
    let image = target.data().join("images/web/os.vhdx");
    let whole = fs::read(&image).unwrap();
    let mut damaged = whole.clone();
    damaged[64 << 10..192 << 10].fill(7);
    fs::write(&image, damaged).unwrap();
    target.expect_log("an image is lost");
    target.expect_log("NBD request failed");
    target.resume();
    let disk = target.json(&["machine", "show", "web"])["disks"][0].clone();
    assert_eq!(disk["state"], "needs-resync");
    assert!(disk["reason"].as_str().unwrap().contains("VHDX"), "{disk}");
    target.read("web/os").expect_err("what it held is not known");
    target.stop();
    fs::write(&image, whole).unwrap();
    target.resume();
    assert_eq!(target.json(&["machine", "show", "web"])["disks"][0]["state"], "ready");
    assert!(target.read("web/os").unwrap().0 == content);
}
