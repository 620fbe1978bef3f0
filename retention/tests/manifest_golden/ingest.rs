//! Machines that are fed through their disks.

use super::stays;
use landfall_retention::IngestMode;
use landfall_retention::ids::MachineId;
use landfall_retention::manifest::record::ManifestRecord;

const FIXTURE: &str = include_str!("../../../tests/fixtures/manifest-v1-ingest.hex");

#[test]
fn records_of_ingest_are_read_and_written_as_ever() {
    let set = |machine, mode| ManifestRecord::IngestSet { machine: MachineId::new(machine), mode };
    let records = [set(4, Some(IngestMode::Sync)), set(5, Some(IngestMode::Ordered)), set(4, None)];
    stays(&records, FIXTURE);
}
