use super::*;
use crate::ids::{LineId, Sequence};
use proptest::prelude::*;

const GOLDEN: [&str; 3] = [
    include_str!("../../../../tests/fixtures/standby-v1-whole.landfall"),
    include_str!("../../../../tests/fixtures/standby-v1-between.landfall"),
    include_str!("../../../../tests/fixtures/standby-v1-unknown.landfall"),
];

fn point(sequence: u64, kind: Option<PointKind>, label: Option<&str>) -> HeldPoint {
    let time = Timestamp::from_nanoseconds(1_795_000_000_123_456_789 + sequence);
    let at = HeldMoment { line: LineId::new(1), sequence: Sequence::new(sequence), time };
    HeldPoint { at, kind, label: label.map(|text| Label::parse(text).expect("a label")) }
}

fn stamp(name: &str) -> FileStamp {
    let (length_bytes, modified, changed) = (42_949_672_960, 1_795_000_001, 1_795_000_002);
    FileStamp { name: name.into(), inode: 77, length_bytes, modified, changed }
}

fn sidecar(holds: Holds) -> Sidecar {
    let name = |text: &str| Name::parse(text).expect("a name");
    Sidecar {
        target: std::array::from_fn(|at| u8::try_from(at).expect("small")),
        machine: name("web"),
        machine_id: MachineId::new(3),
        disk: name("os"),
        disk_id: DiskId::new(4),
        format: Format::Vmdk,
        set: vec!["web-os.vmdk".into(), "web-data.vmdk".into()],
        written: Timestamp::from_nanoseconds(1_795_000_003_000_000_000),
        holds,
    }
}

fn examples() -> [Sidecar; 3] {
    let (from, to) = (point(42, Some(PointKind::Crash), Some("before it")), point(50, None, None));
    let files = vec![stamp("web-os.vmdk"), stamp("web-os-flat.vmdk")];
    let content = Some("CID fffffffe".to_owned());
    [
        sidecar(Holds::Moment { moment: from.clone(), size_bytes: 42_949_672_960, content, files }),
        sidecar(Holds::Between { from, to: to.clone() }),
        sidecar(Holds::Unknown { to }),
    ]
}

#[test]
fn sidecars_are_read_and_written_as_ever() {
    for (sidecar, golden) in examples().iter().zip(GOLDEN) {
        assert_eq!(sidecar.encode(), golden);
        assert_eq!(Sidecar::parse(golden.as_bytes()).as_ref(), Ok(sidecar));
    }
}

#[test]
fn a_person_reads_first_whether_to_boot_it() {
    let [whole, between, unknown] = examples().map(|sidecar| sidecar.encode());
    assert!(whole.starts_with("# Disk os of web as it was at 2026-11-18T"), "{whole}");
    assert!(whole.contains("(seq:42, crash, before it)"), "{whole}");
    assert!(whole.contains("Boot it only together with all files of its set"), "{whole}");
    assert!(between.starts_with("# DO NOT BOOT") && unknown.starts_with("# DO NOT BOOT"));
    let mut alone = examples()[0].clone();
    alone.set.pop();
    assert!(alone.encode().contains("It may be booted."));
    assert_eq!(Sidecar::parse(alone.encode().as_bytes()), Ok(alone));
}

#[test]
fn whatever_was_changed_is_noticed() {
    for golden in GOLDEN {
        for at in 0..golden.len() {
            let mut bytes = golden.as_bytes().to_vec();
            bytes[at] ^= 1;
            assert!(Sidecar::parse(&bytes).is_err(), "byte {at} of {golden}");
            assert!(Sidecar::parse(&golden.as_bytes()[..at]).is_err(), "cut at {at}");
        }
        assert!(Sidecar::parse(format!("{golden}\n").as_bytes()).is_err());
    }
    let long = vec![b'#'; MAX_BYTES + 1];
    assert_eq!(Sidecar::parse(&long), Err(SidecarFault::TooLong(MAX_BYTES + 1)));
    assert_eq!(Sidecar::parse(b""), Err(SidecarFault::Field("format")));
}

#[test]
fn a_file_is_told_from_what_was_left() {
    let left = stamp("a");
    assert_eq!(left.compare(&left.clone()), StampChange::None);
    let written = FileStamp { modified: left.modified + 1, ..left.clone() };
    assert_eq!(left.compare(&written), StampChange::Written);
    let longer = FileStamp { length_bytes: 1, ..left.clone() };
    assert_eq!(left.compare(&longer), StampChange::Written);
    let moved = FileStamp { inode: 1, ..left.clone() };
    assert_eq!(left.compare(&moved), StampChange::Moved);
    let given = FileStamp { changed: 1, ..left.clone() };
    assert_eq!(left.compare(&given), StampChange::Moved);
}

proptest! {
    #[test]
    fn anything_else_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(sidecar) = Sidecar::parse(&bytes) {
            prop_assert_eq!(sidecar.encode().into_bytes(), bytes);
        }
    }
}
