//! VMDK images that stand on others, made by either side.

use crate::image::{self, Folder, MIB, landfall, same};
use crate::qemu;
use crate::writer::Writer;
use landfall_tests::harness::{attempt, run};

const SIZE: u64 = 16 << 20;

fn child_of_qemu(child: &str, parent: &str, options: &str) {
    let options = format!("backing_file={parent},backing_fmt=vmdk{options}");
    run("qemu-img", &["create", "-q", "-f", "vmdk", "-o", &options, child]);
}

#[test]
fn three_generations_of_theirs() {
    for options in ["", ",zeroed_grain=on"] {
        let folder = Folder::new();
        let images = ["base.vmdk", "child.vmdk", "grandchild.vmdk"].map(|name| folder.at(name));
        let [base, child, grandchild] = &images;
        qemu::create(base, options.trim_start_matches(','), SIZE);
        qemu::io(base, &["write -P 1 0 4M", "write -P 2 10M 1M"]);
        child_of_qemu(child, base, options);
        qemu::io(child, &["write -P 3 1M 64k", "write -P 4 2560k 512", "write -z 10M 512k"]);
        child_of_qemu(grandchild, child, options);
        qemu::io(grandchild, &["write -P 5 12M 1M", "write -P 6 1000k 100k"]);
        for image in &images {
            image::check(image);
            same(&image::read(image), &qemu::read(image), image);
        }
        // Exactly the grains that were written, whole: QEMU fills them from the parent.
        let own = vec![(983_040, 1_179_648), (12 << 20, 13 << 20)];
        assert_eq!(image::data(grandchild, &["--own"]), own, "{options}");
        let told = landfall(&["info", "--json", grandchild]).json();
        assert_eq!(told["chain"].as_array().map(Vec::len), Some(3), "{told}");
    }
}

#[test]
fn children_of_ours_written_by_both_and_merged_by_qemu() {
    let folder = Folder::new();
    let raw = folder.raw("disk.raw", &image::content(16 * MIB, 12));
    let (base, child) = (folder.at("base.vmdk"), folder.at("child.vmdk"));
    landfall(&["convert", &raw, &base]).ok();
    landfall(&["create", &child, "--parent", &base]).ok();
    qemu::compare(&child, &raw);
    let writes = ["write -P 7 3M 100k", "write -P 8 9M 512", "write -z 5M 1M"];
    qemu::io(&child, &writes);
    qemu::io(&raw, &writes);
    let before = image::read(&child);
    same(&before, &std::fs::read(&raw).expect("read"), "written by QEMU");

    let mut writer = Writer::open(&child);
    for line in ["write 4096 300 5", "write 20001 3 5", "zero 8192 256 0", "flush"] {
        writer.tell(line);
    }
    writer.close();
    image::check(&child);
    qemu::check(&child);
    let ours = image::read(&child);
    assert!(ours != before, "nothing was written");
    same(&qemu::read(&child), &ours, "written by us");

    run("qemu-img", &["commit", "-q", "-f", "vmdk", &child]);
    same(&image::read(&base), &ours, "merged");
    image::check_behind_qemu(&base);
}

#[test]
fn a_parent_that_was_written_to_is_no_parent_any_more() {
    // By QEMU, then by us: each gives the content a new CID, which both sides see.
    for by_us in [false, true] {
        let folder = Folder::new();
        let (base, child) = (folder.at("base.vmdk"), folder.at("child.vmdk"));
        landfall(&["create", &base, "--size", "16MiB"]).ok();
        landfall(&["create", &child, "--parent", &base]).ok();
        qemu::info(&child);
        if by_us {
            let mut writer = Writer::open(&base);
            writer.tell("write 0 8 1");
            writer.close();
        } else {
            qemu::io(&base, &["write -P 1 0 4k"]);
        }
        landfall(&["info", &child]).refused(&["CID", "base.vmdk"]);
        let theirs = attempt("qemu-io", &["-f", "vmdk", "-c", "read 0 4k", &child]);
        let said = format!("{}{}", theirs.out, theirs.err);
        assert!(!said.contains("read 4096/4096"), "{said}");
    }
}

/// Samples of what only ESX makes, over a base of noise. Neither QEMU nor we write these kinds; both read them.
#[test]
fn deltas_of_esx_are_read_as_qemu_reads_them() {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/images/vmdk");
    for (kind, name) in [("vmfsSparse", "cowd"), ("seSparse", "sesparse")] {
        let folder = Folder::new();
        for file in [format!("{name}.vmdk"), format!("{name}-delta.bin")] {
            std::fs::copy(format!("{samples}/{file}"), folder.at(&file)).expect("copied");
        }
        let content: Vec<u8> = (100..=227).flat_map(|byte| [byte; 2 * MIB / 128]).collect();
        std::fs::write(folder.at("base-flat.vmdk"), &content).expect("written");
        let base = "# Disk DescriptorFile\nversion=1\nCID=5eed0001\nparentCID=ffffffff\n\
                    createType=\"monolithicFlat\"\nRW 4096 FLAT \"base-flat.vmdk\" 0\n\
                    ddb.adapterType = \"lsilogic\"\n";
        std::fs::write(folder.at("base.vmdk"), base).expect("written");
        let image = folder.at(&format!("{name}.vmdk"));
        let ours = image::read(&image);
        same(&ours, &qemu::read(&image), kind);
        let changed = ours.chunks(512).zip(content.chunks(512)).filter(|(one, other)| one != other);
        assert!(
            (4..=40).contains(&changed.count()),
            "{kind}: neither the base nor the delta alone"
        );
        assert_eq!(image::info(&image)["kind"], kind);
        image::check(&image);
    }
}
