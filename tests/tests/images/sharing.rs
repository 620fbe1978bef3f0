//! Conversions that need no copy: raw files of one file system whose files can share blocks.

use crate::image::{Folder, MIB, content, landfall, same};
use landfall_tests::harness::{Mount, Stretches};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Size of the file system; the file behind it has holes.
const SPACE: u64 = 512 << 20;
/// Of the disk: its end is not one of a block of the file system.
const SIZE: usize = 24 * MIB + 512;

#[test]
fn raw_files_share_their_blocks_where_they_can() {
    let folder = Folder::new();
    let mount = Mount::xfs(Path::new(&folder.at("")), SPACE);
    let at = |name: &str| mount.at().join(name).to_str().expect("text").to_owned();
    let expected = content(SIZE, 3);
    let (source, shared, own, far) =
        (at("source.raw"), at("shared.raw"), at("own.raw"), folder.at("far.raw"));
    std::fs::write(&source, &expected).expect("written");
    assert_eq!(Stretches::of(&source).shared, 0, "nobody shares it yet");

    // On another file system, and where it was not wanted: as ever.
    let said = landfall(&["convert", &source, &far]).ok();
    assert!(!said.contains("shared"), "{said}");
    let said = landfall(&["convert", "--no-share", &source, &own]).ok();
    assert!(!said.contains("shared"), "{said}");
    assert_eq!((Stretches::of(&source).shared, Stretches::of(&own).shared), (0, 0));

    let said = landfall(&["convert", &source, &shared]).ok();
    assert!(said.contains(&format!("on disk shared with {source}")), "{said}");
    let stretches = Stretches::of(&shared);
    assert!(stretches.shared == stretches.all && stretches.all > 0, "{stretches:?}");
    for file in [&far, &own, &shared] {
        same(&std::fs::read(file).expect("read"), &expected, file);
    }

    // What is written to one of the two is not in the other.
    let file = std::fs::File::options().write(true).open(&source).expect("opened");
    file.write_all_at(&[0x77; 8192], 4096).expect("written");
    file.write_all_at(&[0x78; 512], (SIZE - 512) as u64).expect("written");
    same(&std::fs::read(&shared).expect("read"), &expected, "the source was written");
    let written = landfall(&["convert", "--force", &source, &shared]).ok();
    assert!(written.contains("shared with"), "{written}");
    assert!(std::fs::read(&shared).expect("read") == std::fs::read(&source).expect("read"));
    // Another format has its own layout.
    let said = landfall(&["convert", &source, &at("disk.vhdx")]).ok();
    assert!(!said.contains("shared"), "{said}");
}
