//! `landfall restore` writes what was there, sparse, and never half of it.

use crate::machine::{SIZE, Web, text};
use landfall_tests::harness::{MIB, Source, Target};
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
