//! Frames of `MANIFEST`, and the state their records add up to.
//!
//! Oracle: a frame that is understood is written again byte for byte; a state that records add up to is the same after
//! it was written as a snapshot and read back; a record that does not fit changes nothing.

#![no_main]

use landfall_retention::manifest::format::{
    FRAME_HEAD_BYTES, encode_frame, encode_header, frame_number, parse_frame, parse_header,
};
use landfall_retention::manifest::state::ManifestState;
use libfuzzer_sys::fuzz_target;

fn seal(bytes: &mut [u8]) -> Option<u64> {
    let head = bytes.get(..FRAME_HEAD_BYTES)?;
    let length = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
    let number = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
    let end = FRAME_HEAD_BYTES.checked_add(length)?;
    let checksum = crc32c::crc32c(bytes.get(8..end)?);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    Some(number)
}

fn snapshot(state: &ManifestState) -> ManifestState {
    let mut bytes = Vec::new();
    for (number, records) in (0..).zip(state.records().chunks(64)) {
        encode_frame(number, records, &mut bytes);
    }
    let mut again = ManifestState::default();
    let (mut rest, mut number) = (&bytes[..], 0);
    while !rest.is_empty() {
        let (records, length) = parse_frame(rest, number).expect("our own frame");
        records.iter().for_each(|record| again.apply(record).expect("our own records"));
        (rest, number) = (&rest[length..], number + 1);
    }
    again
}

fuzz_target!(|input: &[u8]| {
    if let Ok(folder) = parse_header(input) {
        assert_eq!(encode_header(folder)[..], input[..32]);
    }
    // Frames one after another, sealed so that what is behind the checksum is reached.
    let mut bytes = input.to_vec();
    let mut rest = &mut bytes[..];
    let mut state = ManifestState::default();
    while let Some(number) = seal(rest) {
        let Ok((records, length)) = parse_frame(rest, number) else {
            // Anything but a whole frame.
            let _ = frame_number(rest);
            return;
        };
        assert_eq!(frame_number(rest), Some(number));
        assert!(parse_frame(rest, number.wrapping_add(1)).is_err());
        let mut written = Vec::new();
        encode_frame(number, &records, &mut written);
        let body = u32::from_le_bytes(rest[..4].try_into().expect("four bytes")) as usize;
        let end = FRAME_HEAD_BYTES + body;
        assert_eq!(written[..end], rest[..end]);
        assert_eq!(written.len(), length);
        for record in &records {
            let before = state.clone();
            if state.apply(record).is_err() {
                assert_eq!(state, before, "{record:?} changed something");
            }
        }
        assert_eq!(snapshot(&state), state);
        rest = &mut rest[length..];
    }
});
