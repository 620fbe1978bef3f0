//! `landfall restore` writes what was there, sparse, and never half of it.

use crate::machine::{SIZE, Web, text};
use landfall_tests::harness::{MIB, Mount, Source, Stretches, Target};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).expect("it is there").blocks() * 512
}

#[test]
fn a_restored_disk_equals_the_copy_and_stays_sparse() {
    let web = Web::with_points(3);
    for kept in &web.kept {
        let output = web.target.folder().join("restored.raw");
        let name = format!("web@{}", kept.time);
        let said = web.target.landfall(&["restore", &name, "--output", text(&output), "--force"]);
        assert!(said.ok().contains("disk os restored to"), "no word of it");
        let (restored, copy) =
            (std::fs::read(&output).unwrap(), std::fs::read(&kept.copy).unwrap());
        assert!(restored == copy, "{name} differs");
        let zero = copy.chunks(64 << 10).filter(|c| c.iter().all(|b| *b == 0)).count() as u64;
        let most = SIZE - (zero << 16) + MIB;
        assert!(allocated(&output) <= most, "{} bytes, {most} expected", allocated(&output));
    }
    let output = web.target.folder().join("restored.raw");
    let again = web.target.landfall(&["restore", "web", "--output", text(&output)]);
    again.refused(&["restored.raw", "--force"]);
}

#[test]
fn several_disks_go_into_a_folder() {
    let target = Target::start();
    let os = Source::create(target.folder(), "os.raw", 8 * MIB, 1);
    let data = Source::create(target.folder(), "data.raw", 3 * MIB + 512, 2);
    let sizes = [format!("name=os,size={}", os.size()), format!("name=data,size={}", data.size())];
    target.landfall(&["machine", "add", "db", "--disk", &sizes[0], "--disk", &sizes[1]]).ok();
    let (first, second) = (os.as_disk("os"), data.as_disk("data"));
    target.landfall(&["replicate", "db", "--disk", &first, "--disk", &second]).ok();
    let folder = target.folder().join("restored");
    target.landfall(&["restore", "db@latest", "--output", text(&folder)]).ok();
    assert!(std::fs::read(folder.join("os.raw")).unwrap() == os.content());
    assert!(std::fs::read(folder.join("data.raw")).unwrap() == data.content());
    let one = target.folder().join("one.raw");
    target.landfall(&["restore", "db", "--disk", "data", "--output", text(&one)]).ok();
    assert!(std::fs::read(&one).unwrap() == data.content());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "nothing partial is left");
}

/// Needs the rights of root, for the file system.
#[test]
fn a_restore_beside_the_image_shares_what_is_unchanged() {
    // Dropped behind the target, which has a file of it open.
    let folder = tempfile::tempdir().expect("a folder");
    let mount = Mount::xfs(folder.path(), 512 * MIB);
    let mut target = Target::start();
    let mut source = Source::create(target.folder(), "os.raw", 32 * MIB + 512, 5);
    let image = mount.at().join("image.raw");
    let disk = format!("name=os,size={},path={}", source.size(), text(&image));
    target.landfall(&["machine", "add", "web", "--disk", &disk]).ok();
    let replicate = |source: &Source| {
        target.landfall(&["replicate", "web", "--disk", &source.as_disk("os"), "--once"]).ok();
    };
    replicate(&source);
    let before = source.content().to_vec();
    let at = |name: &str| mount.at().join(name);
    let restore = |name: &str, output: &Path| -> String {
        target.landfall(&["restore", name, "--output", text(output)]).ok()
    };

    let first = at("first.raw");
    let said = restore("web", &first);
    assert!(said.contains("0 B of data") && said.contains("shared with the image"), "{said}");
    assert!(std::fs::read(&first).unwrap() == before);
    let stretches = Stretches::of(text(&first));
    assert!(stretches.shared == stretches.all && stretches.all > 0, "{stretches:?}");

    // Bytes that change, that come where nothing was, and that go.
    source.write_noise(MIB, MIB / 2);
    source.write_noise(16 * MIB, MIB);
    source.punch(4 * MIB, 2 * MIB);
    replicate(&source);
    let second = at("second.raw");
    let said = restore("web", &second);
    assert!(said.contains("1.5 MiB of data") && said.contains("shared with the image"), "{said}");
    assert!(std::fs::read(&second).unwrap() == source.content());
    let stretches = Stretches::of(text(&second));
    assert!(stretches.shared > 0 && stretches.shared < stretches.all, "{stretches:?}");
    // The one that changed and the one that came, and nothing for what went.
    assert!(allocated(&second) < allocated(&first), "zeroes take space");

    // Nothing of that reached the image, and on another file system nothing is shared.
    assert!(std::fs::read(&image).unwrap() == before);
    let far = target.folder().join("far.raw");
    let said = restore("web", &far);
    assert!(!said.contains("shared"), "{said}");
    assert!(std::fs::read(&far).unwrap() == source.content());
    target.stop();
}
