//! Records about standby files.

use super::stays;
use landfall_disks::image::Format;
use landfall_retention::ids::{LineId, MachineId, Sequence};
use landfall_retention::manifest::record::ManifestRecord;
use landfall_retention::manifest::standby::{HeldMoment, StandbyKept};
use landfall_retention::time::Timestamp;
use std::time::Duration;

const FIXTURE: &str = include_str!("../../../tests/fixtures/manifest-v1-standby.hex");

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
    stays(&records(), FIXTURE);
}
