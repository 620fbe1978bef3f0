//! Files that others made, and files that are wrong.

use super::reference::{self, Builder, seal};
use super::{
    bytes_of, check, create, examine, filled, in_memory, location, open, open_disk, put, range,
    recipe, write,
};
use crate::disk::{Content, Durability, ZeroMode};
use crate::faults::FaultFolder;
use crate::file::FileError;
use crate::image::{Access, BesideTheImage, Format, ImageError, MAX_PARENTS, Opener, Repair};
use crate::vhd::NewKind;
use std::path::Path;

/// The texts of the files in `tests/fixtures/images/vhd`, without their names.
const WRONG: [(&str, &str); 22] = [
    (
        "block-of-3-sectors",
        "VHD dynamic header at 512: block size is 1536; expected a power of two from 512 bytes to 256 MiB",
    ),
    (
        "child-without-names",
        "VHD dynamic header at 512: parent locators is none; expected at least one name",
    ),
    ("disk-type-6", "VHD footer at 11264: disk type is 6; expected 2 (fixed), 3 (dynamic) or 4"),
    (
        "entries-overlap",
        "VHD BAT at 1536: entry is 0x0000000c (of block 2); expected a block that does not share bytes with block 0",
    ),
    (
        "entry-in-the-header",
        "VHD BAT at 1536: entry is 0x00000001 (of block 0); expected a block that does not share bytes with the dynamic header",
    ),
    (
        "entry-past-the-end",
        "VHD BAT at 1536: entry is 0x7fffffff (of block 1); expected a block that ends within the 11264 bytes of data",
    ),
    (
        "entry-twice",
        "VHD BAT at 1536: entry is 0x00000004 (of block 2); expected a block that does not share bytes with block 0",
    ),
    (
        "fixed-longer-than-file",
        "VHD footer at 4096: current size is 8192; expected at most 4096, the bytes before the footer",
    ),
    (
        "footers-damaged",
        "VHD footer at 11264: checksum is 0xfffff9c5; expected 0xfffff9c4, as of its bytes",
    ),
    (
        "header-cookie",
        "VHD dynamic header at 512: cookie is \"\\x00xsparse\"; expected \"cxsparse\"",
    ),
    (
        "header-damaged",
        "VHD dynamic header at 512: checksum is 0xfffff483; expected 0xfffff482, as of its bytes",
    ),
    (
        "header-past-the-end",
        "VHD footer at 11264: data offset is 1048576; expected a multiple of 512 within the file of 11776",
    ),
    (
        "larger-than-2040-gib",
        "VHD footer at 11264: current size is 2190433321472; expected whole sectors, at least one and at most 2040 GiB of them",
    ),
    (
        "name-of-4-gib",
        "VHD dynamic header at 512: platform data length is 4294967280; expected at most 65536",
    ),
    (
        "name-past-the-end",
        "VHD dynamic header at 512: platform data offset is 1125899906842624; expected a name within the file",
    ),
    ("no-footer", "VHD footer at 512: cookie is \"UUUUUUUU\"; expected \"conectix\""),
    (
        "table-in-the-header",
        "VHD dynamic header at 512: place is that of the BAT at 1024; expected bytes that the dynamic header does not have",
    ),
    (
        "table-of-4-billion",
        "VHD dynamic header at 512: max table entries is 4294967295; expected at most 16777216",
    ),
    (
        "table-past-the-end",
        "VHD dynamic header at 512: table offset is 1099511627776; expected a table of 16 bytes within the file of 11776",
    ),
    (
        "table-too-short",
        "VHD dynamic header at 512: max table entries is 3; expected at least 4, the blocks of the disk",
    ),
    (
        "truncated",
        "VHD footer at 188: cookie is \"\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\"; expected \"conectix\"",
    ),
    ("empty", "VHD footer at 0: length is 0; expected 512 bytes"),
];

fn fixture(name: &str) -> Vec<u8> {
    if name == "empty" {
        return Vec::new();
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images/vhd");
    std::fs::read(folder.join(name).with_extension("vhd")).expect("a fixture")
}

async fn open_error(folder: &FaultFolder, name: &str, access: Access) -> ImageError {
    match open(&location(folder, name), access).await {
        Ok(_) => panic!("{name} was opened"),
        Err(error) => error,
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    in_memory(1, async |folder| {
        for (name, text) in WRONG {
            let location = location(folder, name);
            put(&location, &fixture(name)).await;
            for access in [Access::Read, Access::Write] {
                let error = open_error(folder, name, access).await.to_string();
                // What a child names is read before it is refused for writing.
                let child = access == Access::Write && error.contains("differencing VHDs");
                assert!(child || error == format!("(memory)/{name}: {text}"), "{name}: {error}");
            }
            for repair in [false, true] {
                let report = examine(&location, repair).await;
                let [finding, ..] = &report.findings[..] else { panic!("{name}: nothing found") };
                assert_eq!(finding.problem.to_string(), text, "{name}");
                assert_eq!(finding.repair, Repair::Impossible, "{name}");
                assert!(!report.is_clean());
            }
            assert!(bytes_of(&location).await == fixture(name), "{name} was changed");
        }
    });
}

#[test]
fn a_footer_that_is_missing_is_replaced_by_its_copy() {
    in_memory(1, async |folder| {
        let (sound, missing) = (fixture("sound"), fixture("footer-missing"));
        let content = reference::read(&sound).expect("it is sound");
        let location = location(folder, "image");
        put(&location, &missing).await;
        let disk = open_disk(&location, Access::Read).await;
        assert!(*disk.read(disk.geometry().whole()).await.expect("read") == *content);
        drop(disk);
        let report = examine(&location, false).await;
        assert_eq!((report.blocks, report.placed), (4, 2));
        let [finding] = &report.findings[..] else { panic!("{report:?}") };
        assert_eq!(finding.repair, Repair::Possible);
        assert!(finding.problem.to_string().starts_with("VHD footer at 10752: cookie is"));
        assert!(bytes_of(&location).await == missing, "nobody asked for a repair");
        // Opening it for writing repairs it as well.
        for by_check in [true, false] {
            put(&location, &missing).await;
            if by_check {
                let report = examine(&location, true).await;
                assert!(report.is_clean() && report.findings[0].repair == Repair::Done);
            } else {
                drop(open_disk(&location, Access::Write).await);
            }
            assert!(bytes_of(&location).await == sound);
            assert!(examine(&location, false).await.findings.is_empty());
        }
    });
}

#[test]
fn a_copy_that_differs_is_made_the_same() {
    in_memory(1, async |folder| {
        let location = location(folder, "image");
        let mut bytes = fixture("sound");
        bytes[70] ^= 1;
        put(&location, &bytes).await;
        let report = examine(&location, false).await;
        assert!(report.findings[0].problem.to_string().starts_with("VHD footer at 0: checksum"));
        seal(&mut bytes[..512], 64);
        put(&location, &bytes).await;
        let report = examine(&location, true).await;
        let text = report.findings[0].problem.to_string();
        assert!(text.starts_with("VHD copy of the footer at 0: content is that of disk"), "{text}");
        assert!(bytes_of(&location).await == fixture("sound"));
    });
}

#[test]
fn sectors_without_their_bit_are_zeroes_and_get_it_when_they_are_written() {
    in_memory(1, async |folder| {
        let location = location(folder, "image");
        // Sectors 0, 2 and 9 of a block of 16; what is behind the others is of no account.
        let data = vec![7; 8192];
        put(&location, &Builder::new(16384, 8192).block(1, &data, &[0xa0, 0x40]).build()).await;
        let disk = open_disk(&location, Access::Write).await;
        let mut expected = vec![0; 16384];
        for sector in [0, 2, 9] {
            expected[8192 + sector * 512..][..512].fill(7);
        }
        assert!(*disk.read(disk.geometry().whole()).await.expect("read") == *expected);
        write(&*disk, 8192 + 600, filled(100, 9)).await.expect("written");
        expected[8792..8892].fill(9);
        disk.flush().await.expect("flushed");
        assert!(*disk.read(disk.geometry().whole()).await.expect("read") == *expected);
        drop(disk);
        let bytes = bytes_of(&location).await;
        assert_eq!(bytes[2048..2050], [0xe0, 0x40]);
        assert!(reference::read(&bytes).is_some_and(|read| read == expected));
    });
}

#[test]
fn old_footers_and_suspended_machines_are_for_reading() {
    in_memory(1, async |folder| {
        let sound = fixture("sound");
        let content = reference::read(&sound).expect("it is sound");
        let mut suspended = sound.clone();
        for at in [0, sound.len() - 512] {
            suspended[at + 84] = 1;
            seal(&mut suspended[at..at + 512], 64);
        }
        for (name, bytes, why) in [
            ("old", sound[..sound.len() - 1].to_vec(), "before Virtual PC 2004"),
            ("suspended", suspended, "a machine is suspended"),
        ] {
            put(&location(folder, name), &bytes).await;
            let disk = open_disk(&location(folder, name), Access::Read).await;
            assert!(*disk.read(disk.geometry().whole()).await.expect("read") == *content);
            drop(disk);
            let error = open_error(folder, name, Access::Write).await;
            assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
    });
}

#[test]
fn a_growth_of_a_fixed_disk_that_was_cut_short_is_undone_or_completed() {
    in_memory(1, async |folder| {
        let old = location(folder, "old");
        create(&old, &recipe(NewKind::Fixed, 8192)).await.expect("created");
        let disk = open_disk(&old, Access::Write).await;
        write(&*disk, 100, filled(8000, 5)).await.expect("written");
        drop(disk);
        let before = bytes_of(&old).await;
        let disk = open_disk(&old, Access::Write).await;
        disk.resize(1 << 20).await.expect("grown");
        drop(disk);
        let after = bytes_of(&old).await;
        // The length was there, the footer was not.
        let mut longer = before.clone();
        longer.resize(after.len(), 0);
        // The footer was there, and the old one as well.
        let mut both = after.clone();
        both[8192..8704].copy_from_slice(&before[8192..]);
        for (name, bytes, size, whole) in
            [("longer", longer, 8192, before), ("both", both, 1 << 20, after)]
        {
            let location = location(folder, name);
            put(&location, &bytes).await;
            let disk = open_disk(&location, Access::Read).await;
            assert_eq!(disk.geometry().size_bytes, size, "{name}");
            let content = disk.read(disk.geometry().whole()).await.expect("read");
            let length = content.len();
            assert!(*content == whole[..length], "{name}");
            drop(disk);
            let report = examine(&location, false).await;
            let [finding] = &report.findings[..] else { panic!("{name}: {report:?}") };
            assert_eq!(finding.repair, Repair::Possible);
            assert!(examine(&location, true).await.is_clean());
            assert!(bytes_of(&location).await == whole, "{name}");
        }
    });
}

/// A disk, its child and its grandchild.
async fn family(folder: &FaultFolder) {
    let base = Builder::new(40960, 8192)
        .unique_id([0xaa; 16])
        .block(0, &[1; 8192], &[0xff; 2])
        .block(2, &[2; 8192], &[0xff; 2]);
    // Sectors 1 and 15 of block 0, all of block 1.
    let child = Builder::new(40960, 8192)
        .unique_id([0xbb; 16])
        .child_of([0xaa; 16])
        .name(*b"W2ku", "C:\\vms\\base.vhd")
        .block(1, &[4; 8192], &[0xff; 2])
        .block(0, &[3; 8192], &[0x40, 0x01]);
    // It has grown, and names its parent in the header alone.
    let grandchild = Builder::new(49152, 8192)
        .unique_id([0xcc; 16])
        .child_of([0xbb; 16])
        .header_name("child.vhd")
        .block(2, &[5; 8192], &[0x80, 0x00]);
    for (name, builder) in
        [("base.vhd", base), ("child.vhd", child), ("grandchild.vhd", grandchild)]
    {
        put(&location(folder, name), &builder.build()).await;
    }
}

#[test]
fn a_chain_reads_as_one_disk_and_tells_what_each_has() {
    in_memory(1, async |folder| {
        family(folder).await;
        let image = open(&location(folder, "grandchild.vhd"), Access::Read).await.expect("opened");
        let mut expected = vec![0; 49152];
        expected[..8192].fill(1);
        expected[512..1024].fill(3);
        expected[7680..8192].fill(3);
        expected[8192..16384].fill(4);
        expected[16384..24576].fill(2);
        expected[16384..16896].fill(5);
        let disk = &image.disk;
        assert!(*disk.read(disk.geometry().whole()).await.expect("read") == *expected);
        assert!(disk.geometry().read_only);
        let chain: Vec<String> =
            image.chain().map(|image| image.files[0].display().to_string()).collect();
        assert_eq!(chain, ["(memory)/grandchild.vhd", "(memory)/child.vhd", "(memory)/base.vhd"]);
        let mut own = Vec::new();
        for image in image.chain() {
            let whole = image.disk.geometry().whole();
            let parts = image.disk.own(whole).await.expect("listed");
            let its: Vec<_> = parts
                .into_iter()
                .filter(|part| part.content == Some(Content::Data))
                .map(|part| part.range)
                .collect();
            own.push(its);
        }
        assert_eq!(own[0], [range(16384, 512)]);
        assert_eq!(own[1], [range(512, 512), range(7680, 512), range(8192, 8192)]);
        assert_eq!(own[2], [range(0, 8192), range(16384, 8192)]);
    });
}

#[test]
fn a_child_is_for_reading_and_needs_its_very_parent() {
    in_memory(1, async |folder| {
        family(folder).await;
        let error = open_error(folder, "child.vhd", Access::Write).await;
        assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");

        let other = Builder::new(40960, 8192).unique_id([0xdd; 16]).build();
        put(&location(folder, "base.vhd"), &other).await;
        let error = open_error(folder, "grandchild.vhd", Access::Read).await;
        assert!(matches!(error, ImageError::ParentMismatch { kind: "unique id", .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"), "{text}");
        assert!(text.contains("dddddddd-dddd-dddd-dddd-dddddddddddd"), "{text}");

        location(folder, "").folder.remove(Path::new("base.vhd")).await.expect("removed");
        let error = open_error(folder, "child.vhd", Access::Read).await;
        assert!(matches!(error, ImageError::Missing { .. }), "{error}");
        assert!(error.to_string().contains("C:\\\\vms\\\\base.vhd"), "{error}");
        let report = examine(&location(folder, "child.vhd"), false).await;
        assert!(report.findings.is_empty(), "a check needs no parent: {report:?}");
        assert_eq!((report.blocks, report.placed), (5, 2));
    });
}

#[test]
fn chains_end() {
    in_memory(1, async |folder| {
        let link = |parent: &str| {
            let builder = Builder::new(8192, 8192).unique_id([1; 16]).child_of([1; 16]);
            builder.name(*b"W2ru", parent).build()
        };
        put(&location(folder, "itself.vhd"), &link("itself.vhd")).await;
        put(&location(folder, "one.vhd"), &link(".\\two.vhd")).await;
        put(&location(folder, "two.vhd"), &link("one.vhd")).await;
        for name in ["itself.vhd", "one.vhd"] {
            let error = open_error(folder, name, Access::Read).await;
            assert!(matches!(error, ImageError::ChainLoop { .. }), "{error}");
        }
        for number in 0..=MAX_PARENTS + 1 {
            let parent = format!("{}.vhd", number + 1);
            put(&location(folder, &format!("{number}.vhd")), &link(&parent)).await;
        }
        let error = open_error(folder, "0.vhd", Access::Read).await;
        assert!(matches!(error, ImageError::ChainTooLong { .. }), "{error}");
        put(&location(folder, "out.vhd"), &link("..\\..\\etc\\passwd")).await;
        let error = open_error(folder, "out.vhd", Access::Read).await;
        assert!(matches!(error, ImageError::Refused { .. }), "{error}");
    });
}

#[test]
fn a_file_is_written_by_one_at_a_time() {
    in_memory(1, async |folder| {
        let location = location(folder, "image");
        create(&location, &recipe(NewKind::DYNAMIC, 1 << 20)).await.expect("created");
        let again = create(&location, &recipe(NewKind::DYNAMIC, 1 << 20)).await;
        assert!(matches!(again, Err(ImageError::File(FileError::Exists { .. }))), "{again:?}");
        let disk = open_disk(&location, Access::Write).await;
        for access in [Access::Write, Access::Read] {
            let error = open_error(folder, "image", access).await;
            assert!(matches!(error, ImageError::File(FileError::Locked { .. })), "{error}");
        }
        let checked = check(&mut Opener::new(&BesideTheImage), &location, true).await;
        assert!(checked.is_err(), "{checked:?}");
        drop(disk);
        let image = Opener::new(&BesideTheImage).open(&location, None, Access::Write).await;
        assert_eq!(image.expect("opened").format, Format::Vhd);
    });
}

#[test]
fn what_the_format_cannot_have_is_not_made() {
    in_memory(1, async |folder| {
        let dynamic = |block_bytes| NewKind::Dynamic { block_bytes };
        for (kind, size, why) in [
            (NewKind::Fixed, 0, "whole sectors"),
            (NewKind::DYNAMIC, 1000, "whole sectors"),
            (NewKind::DYNAMIC, (2040 << 30) + 512, "at most 2040 GiB"),
            (dynamic(3 << 20), 1 << 20, "a power of two"),
            (dynamic(256), 1 << 20, "a power of two"),
            (dynamic(512 << 20), 1 << 20, "a power of two"),
            (dynamic(4096), 2040 << 30, "more than 16777216 blocks"),
        ] {
            let refused = create(&location(folder, "image"), &recipe(kind, size)).await;
            let error = refused.expect_err(why);
            assert!(matches!(error, ImageError::CannotCreate { .. }), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(folder.files().is_empty());
    });
}

#[test]
fn the_largest_disk_takes_little_and_can_be_written_at_its_end() {
    in_memory(1, async |folder| {
        let location = location(folder, "image");
        create(&location, &recipe(NewKind::DYNAMIC, 2040 << 30)).await.expect("created");
        let disk = open_disk(&location, Access::Write).await;
        let last = range((2040 << 30) - 512, 512);
        disk.write(last.start(), filled(512, 6), Durability::Durable).await.expect("written");
        disk.resize((2040 << 30) + 512).await.expect_err("that is too large");
        disk.write_zeroes(range(0, 1 << 30), ZeroMode::Unmap, Durability::Cached)
            .await
            .expect("there is nothing");
        drop(disk);
        let disk = open_disk(&location, Access::Read).await;
        assert!(disk.read(last).await.expect("read").iter().all(|byte| *byte == 6));
        drop(disk);
        assert_eq!(examine(&location, false).await.placed, 1);
    });
}
