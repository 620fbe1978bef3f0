//! That the journal has aborts.

use super::stays;
use landfall_retention::manifest::record::ManifestRecord;

const FIXTURE: &str = include_str!("../../../tests/fixtures/manifest-v1-aborts.hex");

#[test]
fn that_the_journal_has_aborts_is_read_and_written_as_ever() {
    stays(&[ManifestRecord::AbortsBegun], FIXTURE);
}
