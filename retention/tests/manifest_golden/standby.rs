//! The bytes of version 1, kept: a frame of the manifest with records about standby files, as it stands in
//! `tests/fixtures/manifest-v1-standby.hex`.
//!
//! The fixture is never edited. A change that makes this fail cannot read what is on people's disks.

use landfall_disks::image::Format;
use landfall_retention::ids::{LineId, MachineId, Sequence};
use landfall_retention::manifest::format::{encode_frame, parse_frame};
use landfall_retention::manifest::record::ManifestRecord;
use landfall_retention::manifest::standby::{HeldMoment, StandbyKept};
use landfall_retention::time::Timestamp;
use std::time::Duration;

const FIXTURE: &str = include_str!("../../tests/fixtures/manifest-v1-standby.hex");

fn held(sequence: u64) -> HeldMoment {
    let time = Timestamp::from_nanoseconds(1_795_000_000_000_000_000 + sequence);
    HeldMoment { line: LineId::new(2), sequence: Sequence::new(sequence), time }
}

fn records() -> Vec<ManifestRecord> {
    let [machine, other] = [5, 6].map(MachineId::new);
    let folder = "/srv/standby/web".to_owned();
    let every = Duration::from_secs(300);
    let kept = StandbyKept { folder, format: Format::Vmdk, every, app_only: true };
    vec![
        ManifestRecord::StandbyAdded { machine, kept },
        ManifestRecord::StandbyPaused { machine, paused: true },
        ManifestRecord::StandbyMoves { machine, may_hold: vec![held(42), held(50)] },
        ManifestRecord::StandbyRemoved { machine: other },
    ]
}

#[test]
fn records_about_standby_files_are_read_and_written_as_ever() {
    let text = FIXTURE.trim_end();
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    let bytes: Vec<u8> = (0..text.len()).step_by(2).map(byte).collect();
    assert_eq!(parse_frame(&bytes, 0), Ok((records(), bytes.len())));
    let mut written = Vec::new();
    encode_frame(0, &records(), &mut written);
    assert_eq!(written, bytes);
}
