//! The bytes of version 1, kept: frames of the manifest, a subject each, as they stand in `tests/fixtures/`.
//!
//! The fixtures are never edited. A change that makes this fail cannot read what is on people's disks.

mod aborts;
mod groups;
mod ingest;
mod iscsi;
mod scrubbed;
mod standby;

use landfall_retention::manifest::format::{encode_frame, parse_frame};
use landfall_retention::manifest::record::ManifestRecord;

/// That the first frame of a manifest with these records is read from the fixture, and written as it.
fn stays(records: &[ManifestRecord], fixture: &str) {
    let text = fixture.trim_end();
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    let bytes: Vec<u8> = (0..text.len()).step_by(2).map(byte).collect();
    assert_eq!(parse_frame(&bytes, 0), Ok((records.to_vec(), bytes.len())));
    let mut written = Vec::new();
    encode_frame(0, records, &mut written);
    assert_eq!(written, bytes);
}
