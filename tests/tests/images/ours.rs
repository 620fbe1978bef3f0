//! Images that we made: of every kind and with every option. QEMU reads and checks them, writes on, and we read that again.

use crate::image::{self, Folder, MIB, landfall, same};
use crate::qemu;

/// A kind of image: how its file is called, what is asked for, and what `landfall image info` calls it.
struct Kind {
    name: &'static str,
    options: &'static [&'static str],
    kind: &'static str,
}

const fn kind(name: &'static str, options: &'static [&'static str], kind: &'static str) -> Kind {
    Kind { name, options, kind }
}

/// What QEMU can write to as well.
const WRITABLE: &[Kind] = &[
    kind("disk.vmdk", &[], "monolithicSparse"),
    kind("disk.vmdk", &["--kind", "monolithicSparse", "--adapter", "ide"], "monolithicSparse"),
    kind("disk.vmdk", &["--kind", "monolithicFlat", "--adapter", "lsilogic"], "monolithicFlat"),
    kind("disk.vmdk", &["--kind", "vmfs", "--adapter", "pvscsi"], "vmfs"),
    kind("disk.vmdk", &["--kind", "twoGbMaxExtentSparse"], "twoGbMaxExtentSparse"),
    kind("disk.vmdk", &["--kind", "twoGbMaxExtentFlat"], "twoGbMaxExtentFlat"),
    kind("disk.vhdx", &[], "dynamic"),
    kind("disk.vhdx", &["--block-size", "1MiB"], "dynamic"),
    kind("disk.vhdx", &["--block-size", "2MiB"], "dynamic"),
    kind("disk.vhdx", &["--block-size", "32MiB"], "dynamic"),
    kind("disk.vhdx", &["--block-size", "256MiB"], "dynamic"),
    kind("disk.vhdx", &["--physical-sector", "512"], "dynamic"),
    kind("disk.vhdx", &["--kind", "fixed"], "fixed"),
    kind("disk.vhdx", &["--kind", "fixed", "--block-size", "1MiB"], "fixed"),
    kind("disk.vhd", &[], "dynamic"),
    kind("disk.vhd", &["--kind", "fixed"], "fixed"),
    kind("disk.raw", &[], "raw"),
];

const WRITES_OF_QEMU: &[&str] = &[
    "write -P 0x71 0 4k",
    "write -P 0x72 3M 2M",
    "write -P 0x73 7777k 1k",
    "write -z 10M 1M",
    "write -P 0x74 10500k 100k",
    "write -P 0x75 15M 1M",
    "flush",
];

impl Kind {
    /// All that a stranger sees of an image that holds `raw`, and our own check.
    #[track_caller]
    fn is_sound(&self, image: &str, raw: &str) {
        let what = format!("{} {:?}", self.name, self.options);
        image::check_behind_qemu(image);
        let told = image::info(image);
        assert_eq!(told["kind"], self.kind, "{what}");
        let theirs = qemu::info(image);
        assert_eq!(told["size_bytes"], theirs["virtual-size"], "{what}");
        assert_eq!(theirs["format"], qemu::format_of(image));
        if qemu::has_check(image) {
            qemu::check(image);
        }
        qemu::compare(image, raw);
        let expected = std::fs::read(raw).expect("read");
        same(&image::read(image), &expected, &what);
    }

    fn convert(&self, folder: &Folder, raw: &str) -> String {
        let image = folder.at(self.name);
        // The source of the raw kind has that name.
        let image = if image == raw { folder.at("other.raw") } else { image };
        landfall(&[&["convert", raw, &image], self.options].concat()).ok();
        image
    }
}

/// A copy of `raw` and `image`, both written to by QEMU in the same way.
#[track_caller]
fn write_on(folder: &Folder, kind: &Kind, image: &str, raw: &str) {
    let copy = folder.at("written.raw");
    std::fs::copy(raw, &copy).expect("copied");
    qemu::io(image, WRITES_OF_QEMU);
    qemu::io(&copy, WRITES_OF_QEMU);
    kind.is_sound(image, &copy);
}

fn converted(format: &str) {
    for kind in WRITABLE.iter().filter(|kind| kind.name.ends_with(format)) {
        let folder = Folder::new();
        let raw = folder.raw("disk.raw", &image::content(16 * MIB, 5));
        let image = kind.convert(&folder, &raw);
        kind.is_sound(&image, &raw);
        write_on(&folder, kind, &image, &raw);
    }
}

#[test]
fn vmdk_converted() {
    converted(".vmdk");
}

#[test]
fn vhdx_converted() {
    converted(".vhdx");
}

#[test]
fn vhd_and_raw_converted() {
    converted(".vhd");
    converted(".raw");
}

#[test]
fn created_and_written_by_qemu_alone() {
    for kind in WRITABLE {
        let folder = Folder::new();
        let raw = folder.raw("empty.raw", &vec![0; 16 * MIB]);
        let image = folder.at(kind.name);
        landfall(&[&["create", &image, "--size", "16MiB"], kind.options].concat()).ok();
        kind.is_sound(&image, &raw);
        write_on(&folder, kind, &image, &raw);
    }
}

#[test]
fn sizes_that_are_no_whole_blocks() {
    for sectors in [1, 2049, 16_427] {
        for kind in WRITABLE {
            let folder = Folder::new();
            let raw = folder.raw("disk.raw", &image::content(sectors * 512, 9));
            let image = kind.convert(&folder, &raw);
            kind.is_sound(&image, &raw);
        }
    }
}

#[test]
fn every_format_from_every_other() {
    let folder = Folder::new();
    let raw = folder.raw("disk.raw", &image::content(16 * MIB, 6));
    let mut images = vec![raw.clone()];
    for (index, kind) in WRITABLE.iter().enumerate().filter(|(index, _)| index % 3 != 1) {
        let (_, extension) = kind.name.rsplit_once('.').expect("a name with a format");
        let next = folder.at(&format!("{index}.{extension}"));
        let last = images.last().expect("at least one");
        landfall(&[&["convert", last, &next], kind.options].concat()).ok();
        qemu::compare(&next, &raw);
        images.push(next);
    }
}

#[test]
fn the_format_that_is_asked_for_is_that_of_the_new_image() {
    let folder = Folder::new();
    let raw = folder.raw("disk.raw", &image::content(4 * MIB, 10));
    let (image, copy) = (folder.at("image.bin"), folder.at("copy.bin"));
    landfall(&["convert", &raw, &image, "--format", "vhdx"]).ok();
    landfall(&["convert", &image, &copy, "--format", "vhd"]).ok();
    assert_eq!(image::info(&image)["format"], "vhdx");
    assert_eq!(image::info(&copy)["format"], "vhd");
    landfall(&["convert", &copy, &image, "--format", "raw", "--source-format", "vhd", "--force"])
        .ok();
    same(&std::fs::read(&image).expect("read"), &std::fs::read(&raw).expect("read"), "back again");
    let refused = ["convert", &raw, &copy, "--format", "raw", "--source-format", "vhdx", "--force"];
    landfall(&refused).refused(&["VHDX", "Signature"]);
}

#[test]
fn stream_optimized() {
    for size in [16 * MIB, 16 * MIB + 512 * 33] {
        let folder = Folder::new();
        let raw = folder.raw("disk.raw", &image::content(size, 7));
        let image = folder.at("disk.vmdk");
        landfall(&["convert", &raw, &image, "--kind", "streamOptimized"]).ok();
        let exported = kind("disk.vmdk", &["--kind", "streamOptimized"], "streamOptimized");
        exported.is_sound(&image, &raw);
        assert_eq!(image::data(&image, &[]), qemu::data(&image), "{size}");
    }
}

#[test]
fn maps_are_the_same_where_qemu_has_one() {
    for kind in WRITABLE.iter().filter(|kind| !kind.name.ends_with("vhdx")) {
        let folder = Folder::new();
        let raw = folder.raw("disk.raw", &image::content(16 * MIB, 8));
        let image = kind.convert(&folder, &raw);
        // Of a block with space QEMU says that it is data, we say which parts of it are holes of the file.
        let unit = match (kind.name, kind.kind) {
            ("disk.vhd", "dynamic") => 2 << 20,
            (_, "monolithicSparse" | "twoGbMaxExtentSparse") => 64 << 10,
            _ => 512,
        };
        let ours = image::widened(&image::data(&image, &[]), unit);
        assert_eq!(ours, qemu::data(&image), "{} {:?}", kind.name, kind.options);
    }
}

#[test]
fn sparse_extents_of_two_gibibytes_and_a_rest() {
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let folder = Folder::new();
        let image = folder.at("disk.vmdk");
        landfall(&["create", &image, "--size", "4099MiB", "--kind", kind]).ok();
        qemu::io(&image, &["write -P 1 2047M 2M", "write -P 2 4095M 2M", "write -P 3 4098M 1M"]);
        image::check_behind_qemu(&image);
        qemu::check(&image);
        let copy = folder.at("copy.raw");
        landfall(&["convert", &image, &copy]).ok();
        qemu::compare(&image, &copy);
        qemu::io(&copy, &["read -P 1 2047M 2M", "read -P 2 4095M 2M", "read -P 3 4098M 1M"]);
    }
}

#[test]
fn sizes_of_terabytes() {
    for (name, options, size) in [
        ("disk.vmdk", &[][..], 2040 << 30),
        ("disk.vhdx", &["--block-size", "256MiB"], 63 << 40),
        ("disk.vhdx", &[], 5 << 40),
        ("disk.vhd", &[], 2040 << 30),
        ("disk.raw", &[], 8 << 40),
    ] {
        let folder = Folder::new();
        let image = folder.at(name);
        let bytes = u64::to_string(&size);
        landfall(&[&["create", &image, "--size", &bytes], options].concat()).ok();
        let last = size - 512;
        qemu::io(&image, &[&format!("write -P 9 {last} 512"), &format!("read -P 9 {last} 512")]);
        image::check_behind_qemu(&image);
        assert_eq!(qemu::info(&image)["virtual-size"], size);
        let written = image::data(&image, &[]);
        let (start, end) = *written.last().expect("something was written");
        assert!(start <= last && end == size, "{name}: {written:?}");
        if qemu::has_check(&image) {
            qemu::check(&image);
        }
    }
}
