//! `landfall mount`: what is in the files, for whoever reads them. Needs `/dev/fuse` and the rights of root.

use crate::machine::{SIZE, Web, same, text};
use landfall_tests::harness::{MIB, Mounted, Source, Target, Unmounter, attempt, newer, run};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread;

/// A time as files have it.
fn modified(path: &str) -> String {
    let data = std::fs::metadata(path).expect("it is there");
    let said = run("date", &["-u", "-d", &format!("@{}", data.mtime()), "+%Y-%m-%dT%H:%M:%S"]);
    format!("{}.{:09}", said.trim_end(), data.mtime_nsec())
}

/// The same of a point, whose fraction has as many digits as it needs.
fn padded(time: &str) -> String {
    let time = time.trim_end_matches('Z');
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    format!("{whole}.{fraction:0<9}")
}

#[test]
fn a_moment_is_files_with_its_bytes_its_size_and_its_time() {
    let mut web = Web::with_points(2);
    let at = web.target.folder().join("mounted");
    let name = format!("web@{}", web.kept[0].time);
    let mounted = Mounted::start(&web.target, &name, &at, &[]);
    assert_eq!(mounted.names(), ["os.raw"]);
    let raw = mounted.file("os.raw");
    let data = std::fs::metadata(&raw).expect("it is there");
    assert_eq!((data.len(), data.mode() & 0o7777), (SIZE, 0o400));
    assert_eq!(std::fs::metadata(&at).expect("a folder").mode() & 0o7777, 0o500);
    assert_eq!(modified(&raw), padded(&web.kept[0].time));
    let expected = std::fs::read(&web.kept[0].copy).expect("the copy");
    assert!(std::fs::read(&raw).expect("read") == expected, "what was there is not what is read");
    // Others change the machine, and nothing of that is seen; four read at the same time, none of them in order.
    web.source.change(12);
    web.point();
    thread::scope(|scope| {
        for reader in 0..4_u64 {
            let (expected, raw) = (&expected, &raw);
            scope.spawn(move || {
                let file = File::open(raw).expect("opened");
                for step in 0..200_u64 {
                    let from = (step * 7_919_111 + reader * 1_000_003) % (SIZE - 70_000);
                    let mut bytes = vec![0; 1 + usize::try_from(step * 331 % 69_999).unwrap()];
                    file.read_exact_at(&mut bytes, from).expect("read");
                    let from = usize::try_from(from).unwrap();
                    assert!(bytes == expected[from..from + bytes.len()], "{from}");
                }
            });
        }
    });
    assert!(std::fs::read(&raw).expect("read") == expected);
    assert!(File::options().write(true).open(&raw).is_err(), "it can be written");
    // The source has a hole in its middle half, which is told, so that a copy has one, too.
    let copy = web.target.folder().join("copied.raw");
    run("cp", &[&raw, text(&copy)]);
    assert!(std::fs::read(&copy).expect("read") == expected);
    let taken = std::fs::metadata(&copy).expect("copied").blocks() * 512;
    assert!(taken < SIZE / 2 + 3 * MIB, "{taken} bytes of {SIZE} are taken");
    run("umount", &[text(&at)]);
    mounted.ends_well();
}

#[test]
fn every_format_is_what_its_readers_take_for_the_disk() {
    let target = Target::start();
    let source = Source::create(target.folder(), "web.raw", SIZE + 512, 7);
    let newer = newer("qemu-img");
    for (own, driver) in [("vmdk", "vmdk"), ("vhdx", "vhdx"), ("vhd", "vpc")] {
        // The machine's own format, without being asked.
        let machine = format!("web-{own}");
        let disk = format!("name=os,size={},format={own}", source.size());
        target.landfall(&["machine", "add", &machine, "--disk", &disk]).ok();
        target.landfall(&["replicate", &machine, "--disk", &source.as_disk("os"), "--once"]).ok();
        let at = target.folder().join(&machine);
        let mounted = Mounted::start(&target, &machine, &at, &[]);
        let image = format!("os.{own}");
        assert_eq!(mounted.names(), ["os.raw", image.as_str()]);
        let (raw, image) = (mounted.file("os.raw"), mounted.file(&image));
        for qemu_img in ["qemu-img", &newer] {
            if driver != "vpc" {
                // QEMU has no check of that format.
                run(qemu_img, &["check", "-f", driver, &image]);
            }
            let compare = ["compare", "-f", "raw", "-F", driver, &raw, &image];
            let said = run(qemu_img, &compare);
            assert!(said.contains("Images are identical."), "{qemu_img} {own}: {said}");
        }
        let said =
            run("qemu-img", &["compare", "-f", "raw", "-F", driver, text(source.path()), &image]);
        assert!(said.contains("Images are identical."), "{own}: {said}");
        target.landfall(&["image", "check", &image]).ok();
        // The hole of the source is none of what a copy takes.
        let copy = target.folder().join(format!("copied.{own}"));
        run("cp", &[&image, text(&copy)]);
        let taken = std::fs::metadata(&copy).expect("copied").blocks() * 512;
        assert!(taken < SIZE / 2 + 5 * MIB, "{own}: {taken} bytes are taken");
        run("umount", &[text(&at)]);
        mounted.ends_well();
    }
}

/// A disk with a GPT, whose second partition is an ext4 with one file.
fn with_files(target: &Target) -> (Source, Vec<u8>) {
    let mut source = Source::empty(target.folder(), "disk.raw", 64 * MIB, 3);
    let tree = target.folder().join("tree");
    std::fs::create_dir(&tree).expect("made");
    let content: Vec<u8> = (0..3_000_001_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(tree.join("numbers"), &content).expect("written");
    let inner = target.folder().join("inner.ext4");
    File::create_new(&inner).expect("made").set_len(40 * MIB).expect("sized");
    run("mkfs.ext4", &["-q", "-d", text(&tree), text(&inner)]);
    let disk = source.path().to_owned();
    let script = "label: gpt\nstart=2048,size=4096,name=boot\nstart=8192,size=81920,name=files\n";
    let lines = target.folder().join("table");
    std::fs::write(&lines, script).expect("written");
    run("sh", &["-c", &format!("sfdisk -q {} < {}", text(&disk), text(&lines))]);
    // What sfdisk wrote is what the source knows.
    let table = std::fs::read(&disk).expect("read");
    source.write(0, &table);
    source.write(8192 * 512, &std::fs::read(&inner).expect("read"));
    (source, content)
}

#[test]
fn a_file_is_copied_out_of_an_ext4_in_a_partition() {
    let target = Target::start();
    let (source, content) = with_files(&target);
    let disk = format!("name=os,size={}", source.size());
    target.landfall(&["machine", "add", "web", "--disk", &disk]).ok();
    target.landfall(&["replicate", "web", "--disk", &source.as_disk("os"), "--once"]).ok();
    let at = target.folder().join("mounted");
    let mounted = Mounted::start(&target, "web/os", &at, &[]);
    assert_eq!(mounted.names(), ["os.p1", "os.p2", "os.raw"]);
    let size = |name: &str| std::fs::metadata(mounted.file(name)).expect("there").len();
    assert_eq!((size("os.p1"), size("os.p2")), (2 * MIB, 40 * MIB));
    let files = target.folder().join("files");
    std::fs::create_dir(&files).expect("made");
    let inner = Unmounter::of(&files);
    run("mount", &["-o", "ro,loop,noload", &mounted.file("os.p2"), text(&files)]);
    let copy = target.folder().join("numbers");
    run("cp", &[text(&files.join("numbers")), text(&copy)]);
    assert!(std::fs::read(&copy).expect("read") == content, "the file is another one");
    run("umount", &[text(&files)]);
    drop(inner);
    run("umount", &[text(&at)]);
    mounted.ends_well();
}

#[test]
fn disks_branches_and_formats_are_chosen_and_others_may_look_if_they_are_let() {
    let target = Target::start();
    let os = Source::create(target.folder(), "os.raw", 8 * MIB, 1);
    let data = Source::create(target.folder(), "data.raw", 3 * MIB + 512, 2);
    let sizes = [format!("name=os,size={}", os.size()), format!("name=data,size={}", data.size())];
    target.landfall(&["machine", "add", "db", "--disk", &sizes[0], "--disk", &sizes[1]]).ok();
    let (first, second) = (os.as_disk("os"), data.as_disk("data"));
    target.landfall(&["replicate", "db", "--disk", &first, "--disk", &second]).ok();
    target.landfall(&["export", "add", "db", "--writable", "--branch", "b"]).ok();
    let write = ["-f", "raw", "-c", "write -P 0x5a 1M 4k", &target.uri("db~b/os")];
    run("qemu-io", &write);

    // Another user gets as far as the mounts.
    let reachable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(target.folder(), reachable).expect("permitted");
    let as_nobody = |program: &[&str]| {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        attempt("setpriv", &[&nobody[..], program].concat())
    };
    let at = target.folder().join("all");
    let all = Mounted::start(&target, "db@latest", &at, &["--allow-other"]);
    assert_eq!(all.names(), ["data.raw", "os.raw"]);
    assert!(std::fs::read(all.file("os.raw")).expect("read") == os.content());
    assert!(std::fs::read(all.file("data.raw")).expect("read") == data.content());
    let mode = |path: &Path| std::fs::metadata(path).expect("there").mode() & 0o7777;
    assert_eq!((mode(&at), mode(&at.join("os.raw"))), (0o555, 0o444));
    as_nobody(&["cmp", &all.file("os.raw"), text(os.path())]).ok();

    // The head of a branch, as it was when it was mounted.
    let at = target.folder().join("branch");
    let branch = Mounted::start(&target, "db~b/os", &at, &["--format", "vhdx"]);
    assert_eq!(branch.names(), ["os.raw", "os.vhdx"]);
    let mut expected = os.content().to_vec();
    expected[1 << 20..][..4096].fill(0x5a);
    let head = target.folder().join("head.raw");
    std::fs::write(&head, &expected).expect("written");
    run("qemu-io", &["-f", "raw", "-c", "write -P 0x77 2M 4k", &target.uri("db~b/os")]);
    assert!(std::fs::read(branch.file("os.raw")).expect("read") == expected);
    same(&head, &branch.file("os.raw"));
    let refused = as_nobody(&["cat", &branch.file("os.raw")]);
    assert!(refused.err.contains("Permission denied"), "{refused:?}");
    for (mounted, folder) in [(all, "all"), (branch, "branch")] {
        run("umount", &[text(&target.folder().join(folder))]);
        mounted.ends_well();
    }
}
