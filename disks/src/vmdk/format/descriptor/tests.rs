//! Descriptors as various programs write them, and as nobody should.

use super::*;
use proptest::prelude::*;

/// As Workstation writes it, with lines nobody here knows.
const HOSTED: &str = "# Disk DescriptorFile\r
version=1\r
encoding=\"windows-1252\"\r
CID=3160ee93\r
parentCID=ffffffff\r
isNativeSnapshot=\"no\"\r
createType=\"twoGbMaxExtentSparse\"\r
\r
# Extent description\r
RW 4192256 SPARSE \"disk-s001.vmdk\"\r
RW 63 ZERO\r
RW 2048 FLAT \"disk-f003.vmdk\" 128\r
\r
# The Disk Data Base \r
#DDB\r
\r
ddb.adapterType = \"lsilogic\"\r
ddb.longContentID = \"0123456789abcdef012345673160ee93\"\r
ddb.uuid = \"60 00 C2 9a 11 22 33 44-55 66 77 88 99 aa bb cc\"\r
who.knows = what\r
nonsense\r
";

fn parse(text: &str) -> Result<Descriptor, Malformed> {
    Descriptor::parse(text.as_bytes(), 512)
}

fn complaint(from: &str, to: &str) -> String {
    assert!(HOSTED.contains(from), "{from}");
    parse(&HOSTED.replacen(from, to, 1)).expect_err("malformed").to_string()
}

#[test]
fn everything_is_found_and_kept() {
    let descriptor = parse(HOSTED).expect("sound");
    assert_eq!(descriptor.cid(), ContentId::new(0x3160_ee93));
    assert_eq!(descriptor.parent_cid(), ContentId::NONE);
    assert_eq!(descriptor.create_type(), &CreateType::TwoGbMaxExtentSparse);
    assert_eq!(descriptor.sectors(), 4_192_256 + 63 + 2048);
    assert_eq!(descriptor.setting("ddb.adaptertype"), Some("lsilogic"));
    assert_eq!(descriptor.setting("who.knows"), Some("what"));
    assert_eq!(descriptor.parent_hint(), None);
    let extents: Vec<&ExtentLine> = descriptor.extents().collect();
    assert_eq!(extents[0].file, "disk-s001.vmdk");
    assert_eq!((&extents[1].kind, extents[1].file.as_str()), (&ExtentKind::Zero, ""));
    assert_eq!((&extents[2].kind, extents[2].start), (&ExtentKind::Flat, 128));
    assert_eq!(descriptor.print().expect("printed"), HOSTED.as_bytes());
}

#[test]
fn a_new_identity_changes_its_digits_alone() {
    let mut descriptor = parse(HOSTED).expect("sound");
    descriptor.renew_cid(|| 0x3160_ee93);
    let text = String::from_utf8(descriptor.print().expect("printed")).expect("ASCII");
    assert_eq!(text, HOSTED.replace("3160ee93", "3160ee94"));
    assert_eq!(descriptor.cid(), ContentId::new(0x3160_ee94));
    let mut short = parse(&HOSTED.replace("CID=3160ee93", "CID=1a2b")).expect("sound");
    short.renew_cid(|| 0x1234_ffff);
    assert_eq!(short.setting("CID"), Some("ffff"));
    assert_eq!(short.cid(), ContentId::new(0xffff));
    let mut reserved = parse(HOSTED).expect("sound");
    reserved.renew_cid(|| 0xffff_fffe);
    assert_eq!(reserved.cid(), ContentId::new(1), "two values mean something else");
}

#[test]
fn values_and_extents_are_set_and_added() {
    let mut descriptor = parse(HOSTED).expect("sound");
    descriptor.set("ddb.adapterType", "ide");
    descriptor.set("ddb.thinProvisioned", "1");
    descriptor.set_extent_sectors(0, 128);
    let mut extent = descriptor.extents().next().expect("there is one").clone();
    extent.file = "disk-s004.vmdk".to_owned();
    descriptor.push_extent(extent);
    let text = String::from_utf8(descriptor.print().expect("printed")).expect("ASCII");
    let expected = HOSTED
        .replace("4192256", "128")
        .replace("lsilogic", "ide")
        .replace(" 128\r\n\r\n", " 128\r\nRW 128 SPARSE \"disk-s004.vmdk\"\r\n\r\n")
        + "ddb.thinProvisioned = \"1\"\r\n";
    assert_eq!(text, expected);
    assert_eq!(parse(&text).expect("sound"), descriptor);
}

#[test]
fn every_rule_has_its_message() {
    for (from, to, line, message) in [
        ("version=1", "version=4", "version=1", "version is 4; expected 1, 2 or 3"),
        ("version=1", "verse=1", "version=1", "first setting is verse=1; expected version=1"),
        ("CID=3160ee93", "CID=3160ee931", "CID=", "CID is 3160ee931; expected a number of 1 to 8"),
        ("CID=3160ee93", "CID=+160ee93", "CID=", "CID is +160ee93; expected a number"),
        ("CID=3160ee93", "CED=3160ee93", "", "CID is missing; expected a number"),
        (
            "parentCID=ffffffff",
            "parentCID=none",
            "parentCID",
            "parentCID is none; expected a number",
        ),
        ("createType", "createTypo", "", "createType is missing; expected a kind of disk"),
        (
            "isNativeSnapshot=\"no\"",
            "CID=1",
            "isNative",
            "second value is CID=1; expected CID once",
        ),
        ("RW 4192256", "RW 0", "RW 4192256", "size of an extent is 0; expected 1 sector"),
        ("RW 4192256", "RW -5", "RW 4192256", "size of an extent is -5; expected 1 sector"),
        (
            "RW 4192256",
            "RW 99999999999999999999",
            "RW 4192256",
            "size of an extent is 99999999999999999999",
        ),
        ("RW 4192256 SPARSE", "RW 137438953472 SPARSE", "RW 63", "sum of extents is 137438953535"),
        (
            "\"disk-s001.vmdk\"",
            "disk",
            "RW 4192256",
            "file of an extent is disk; expected a name in quotes",
        ),
        (
            "\"disk-s001.vmdk\"",
            "\"\"",
            "RW 4192256",
            "file of an extent is ; expected a name in quotes",
        ),
        ("s001.vmdk\"", "s001.vmdk\" 7", "RW 4192256", "offset of an extent is 7; expected none"),
        (" 128\r", " x\r", "RW 2048", "offset of an extent is x; expected a number of sectors"),
    ] {
        let found = complaint(from, to);
        let changed = HOSTED.replacen(from, to, 1);
        let at = 512 + changed.find(line).or(HOSTED.find(line)).expect("a line of it");
        let expected = format!("VMDK descriptor at {at}: {message}");
        assert!(found.starts_with(&expected), "{found}\n{expected}");
    }
    let empty = parse("# Disk DescriptorFile\n").expect_err("empty").to_string();
    assert_eq!(empty, "VMDK descriptor at 512: version is missing; expected version=1");
    let bare = parse("version=1\nCID=1\ncreateType=\"vmfs\"\n").expect_err("bare").to_string();
    assert_eq!(bare, "VMDK descriptor at 512: extents is missing; expected at least one");
}

#[test]
fn lengths_are_limited() {
    let long = format!("version=1\n#{}\n", "x".repeat(MAX_LINE_BYTES));
    let found = parse(&long).expect_err("long").to_string();
    assert_eq!(
        found,
        "VMDK descriptor at 522: length of a line is 8194; expected at most 8192 bytes"
    );
    let huge = vec![b'\n'; MAX_DESCRIPTOR_BYTES + 1];
    Descriptor::parse(&huge, 0).expect_err("huge");
    let mut many = "version=1\nCID=1\ncreateType=\"custom\"\n".to_owned();
    many += &"RW 1 ZERO\n".repeat(MAX_EXTENTS);
    assert_eq!(parse(&many).expect("as many as there may be").sectors(), MAX_EXTENTS as u64);
    many += "RW 1 ZERO\n";
    let found = parse(&many).expect_err("one too many").to_string();
    assert!(found.contains("number of extents is 4097; expected at most 4096"), "{found}");
}

#[test]
fn text_follows_the_encoding() {
    let name = b"RW 1 FLAT \"b\xfcro-\x80.vmdk\" 0\n";
    let with = |encoding: &str| {
        let mut bytes = format!("version=1\n{encoding}CID=1\ncreateType=\"vmfs\"\n").into_bytes();
        bytes.extend_from_slice(name);
        bytes
    };
    let bytes = with("encoding=\"windows-1252\"\n");
    let descriptor = Descriptor::parse(&bytes, 0).expect("sound");
    assert_eq!(descriptor.extents().next().expect("one").file, "büro-€.vmdk");
    assert_eq!(descriptor.print().expect("printed"), bytes);
    let found = Descriptor::parse(&with(""), 0).expect_err("not UTF-8").to_string();
    assert_eq!(found, "VMDK descriptor at 46: character is 0xfc; expected UTF-8");
    let found = Descriptor::parse(&with("encoding=\"GBK\"\n"), 0).expect_err("unknown").to_string();
    assert!(found.ends_with("expected ASCII, as the encoding gbk is not known"), "{found}");
}

#[test]
fn the_padding_of_an_embedded_descriptor_is_no_part_of_it() {
    let mut bytes = HOSTED.as_bytes().to_vec();
    bytes.resize(20 * 512, 0);
    bytes.extend_from_slice(b"garbage");
    assert_eq!(Descriptor::parse(&bytes, 512), parse(HOSTED));
}

#[test]
fn descriptors_are_recognised() {
    for start in ["# Disk DescriptorFile\nversion=1\n", "\n \r\nversion = 3", "version=1\r\n"] {
        assert!(looks_like_descriptor(start.as_bytes()), "{start}");
    }
    for start in ["", "#", "# version=1", "KDMV", "CID=1\nversion=1\n", "version 1"] {
        assert!(!looks_like_descriptor(start.as_bytes()), "{start}");
    }
}

proptest! {
    #[test]
    fn what_was_parsed_is_printed_as_it_was(
        lines in prop::collection::vec(
            prop::sample::select(HOSTED.lines().chain([" CID2 =x", "a=\"b\" c", "=", "RDONLY 5 ZERO rest"]).collect::<Vec<_>>()),
            0..20,
        ),
        last in prop::sample::select(vec!["", "end", "\r"]),
        windows in any::<bool>(),
    ) {
        let end = if windows { "\r\n" } else { "\n" };
        let text = format!("version=1{end}CID=1{end}createType=x{end}RW 1 ZERO{end}{}{end}{last}", lines.join(end));
        if let Ok(descriptor) = Descriptor::parse(text.as_bytes(), 0) {
            prop_assert_eq!(descriptor.print().expect("printed"), text.as_bytes());
        }
    }

    #[test]
    fn nothing_panics(text in "(version=1\n|CID=|RW |1 |SPARSE|\"|\n|=|ZERO|[a-z]|\\PC){0,60}") {
        if let Ok(descriptor) = Descriptor::parse(text.as_bytes(), u64::from(u32::MAX)) {
            let again = Descriptor::parse(&descriptor.print().expect("printed"), u64::from(u32::MAX));
            prop_assert_eq!(again, Ok(descriptor));
        }
    }
}
