//! Texts beside standby files.
//!
//! Oracle: a text that is understood is written again byte for byte, and says whether to boot in its first line; what follows
//! from a change of one byte is not understood.

#![no_main]

use landfall_retention::standby::sidecar::{MAX_BYTES, Sidecar};
use libfuzzer_sys::fuzz_target;

/// The input with sentences and checksum that fit, so that what is behind them is reached: whatever it says, said properly.
fn sealed(input: &[u8]) -> Vec<u8> {
    let mut text = input.to_vec();
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    let checksum = crc32c::crc32c(&text);
    text.extend_from_slice(format!("crc32c: {checksum:08x}\n").as_bytes());
    text
}

fn check(text: &[u8]) {
    let Ok(sidecar) = Sidecar::parse(text) else { return };
    assert!(text.len() <= MAX_BYTES);
    assert_eq!(sidecar.encode().as_bytes(), text);
    assert_eq!(text.starts_with(b"# DO NOT BOOT"), sidecar.moment().is_none());
    let mut changed = text.to_vec();
    let at = text.len() / 2;
    changed[at] ^= 1;
    assert!(Sidecar::parse(&changed).is_err());
}

fuzz_target!(|input: &[u8]| {
    check(input);
    check(&sealed(input));
});
