//! Groups, how barriers are made for them, and what their machines have in common.

use super::stays;
use landfall_retention::ids::{GroupId, LineId, MachineId, Sequence};
use landfall_retention::manifest::groups::{Barriers, CommonMember, CommonPoint};
use landfall_retention::manifest::record::ManifestRecord;
use landfall_retention::name::{Label, Name};
use landfall_retention::point::PointKind;
use landfall_retention::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

const FIXTURE: &str = include_str!("../../../tests/fixtures/manifest-v1-groups.hex");

fn records() -> Vec<ManifestRecord> {
    let (group, patience) = (GroupId::new(9), Duration::from_millis(1500));
    let barriers = Barriers { every: Some(Duration::from_secs(10)), patience };
    let name = Name::parse("shop").expect("a name");
    let member = |line, sequence| CommonMember {
        line: LineId::new(line),
        sequence: Sequence::new(sequence),
    };
    let point = CommonPoint {
        number: 8,
        time: Timestamp::from_nanoseconds(1_795_000_000_000_000_008),
        kind: PointKind::App,
        label: Some(Label::parse("before the upgrade").expect("a label")),
        members: vec![member(2, 41), member(5, 17)],
    };
    vec![
        ManifestRecord::GroupAdded { group, name, barriers, last: 7 },
        ManifestRecord::GroupSet { group, barriers: Barriers { every: None, ..barriers } },
        ManifestRecord::MachineGrouped { machine: MachineId::new(4), group },
        ManifestRecord::CommonPointMade { group, point: Arc::new(point) },
        ManifestRecord::GroupRemoved { group: GroupId::new(3) },
    ]
}

#[test]
fn records_of_groups_are_read_and_written_as_ever() {
    stays(&records(), FIXTURE);
}
