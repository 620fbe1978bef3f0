//! What is remembered of scrubbing.

use super::stays;
use landfall_disks::ByteOffset;
use landfall_retention::ids::{DiskId, LineId, MachineId, SegmentId, Sequence};
use landfall_retention::manifest::integrity::{Damage, DamagedPlace, ScrubEntry, ScrubPosition};
use landfall_retention::manifest::record::ManifestRecord;
use landfall_retention::time::Timestamp;
use std::sync::Arc;

const FIXTURE: &str = include_str!("../../../tests/fixtures/manifest-v1-scrubbed.hex");

fn time(nanoseconds: u64) -> Timestamp {
    Timestamp::from_nanoseconds(1_795_000_000_000_000_000 + nanoseconds)
}

fn records() -> Vec<ManifestRecord> {
    let damage = |place| Damage { found: time(9), place };
    let (disk, segment, start) = (DiskId::new(4), SegmentId::new(7), ByteOffset::new(65536));
    let (line, sequence) = (LineId::new(2), Sequence::new(42));
    let version =
        DamagedPlace::Version { line, sequence, disk, start, length: 8192, segment, unit: 20 };
    let entry = Arc::new(ScrubEntry {
        begun: time(5),
        newest_machine: MachineId::new(6),
        position: ScrubPosition::Image(disk, ByteOffset::new(1 << 20)),
        ended: time(3),
        damage: vec![
            damage(DamagedPlace::Image { disk, start, length: 4096 }),
            damage(version),
            damage(DamagedPlace::Records { segment, start: 4096, end: 8192 }),
        ],
        unlisted: 3,
    });
    let machine = ManifestRecord::MachineScrubbed { machine: MachineId::new(5), ended: time(7) };
    vec![ManifestRecord::Scrubbed(entry), machine]
}

#[test]
fn what_is_remembered_of_scrubbing_is_read_and_written_as_ever() {
    stays(&records(), FIXTURE);
}
