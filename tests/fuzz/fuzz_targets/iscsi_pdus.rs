//! Headers, text and names of iSCSI: every parser, against its own encoder.
//!
//! Oracle: what a header means is what is read again of it when it was written (reserved bits are dropped, as the standard has it),
//! with the same length; nothing is a PDU of both sides. Pairs of text are read again as they were written, and names are
//! their own normal form.

#![no_main]

use landfall_protocols::iscsi::name::{MAX_NAME, Name};
use landfall_protocols::iscsi::wire::header::Lengths;
use landfall_protocols::iscsi::wire::keys::{
    MAX_KEY, MAX_PAIRS, append, binary, number, parse, to_hexadecimal,
};
use landfall_protocols::iscsi::wire::pdu::{Request, Response};
use landfall_protocols::iscsi::wire::{HEADER, HeaderBytes};
use libfuzzer_sys::fuzz_target;

fn header(bytes: &HeaderBytes) {
    let data = Lengths::of(bytes).data;
    let (request, response) = (Request::parse(bytes), Response::parse(bytes));
    assert!(request.is_err() || response.is_err(), "of both sides");
    if let Ok(request) = request {
        let written = request.encode(data);
        assert_eq!(Request::parse(&written), Ok(request));
        assert_eq!(written[0] & 0x3f, bytes[0] & 0x3f);
    }
    if let Ok(response) = response {
        let written = response.encode(data);
        assert_eq!(Response::parse(&written), Ok(response));
    }
}

fn text(bytes: &[u8]) {
    let Ok(pairs) = parse(bytes) else { return };
    assert!(pairs.len() <= MAX_PAIRS);
    let mut written = Vec::new();
    for pair in &pairs {
        assert!(pair.key.len() <= MAX_KEY && !pair.key.is_empty());
        append(&mut written, pair.key, pair.value);
        if let Some(found) = number(pair.value) {
            assert_eq!(number(&found.to_string()), Some(found));
        }
        if let Some(found) = binary(pair.value, 64) {
            assert!((1..=64).contains(&found.len()));
            assert_eq!(binary(&to_hexadecimal(&found), 64), Some(found));
        }
        if let Ok(name) = Name::parse(pair.value) {
            assert!(name.as_str().len() <= MAX_NAME);
            assert_eq!(Name::parse(name.as_str()), Ok(name));
        }
    }
    assert_eq!(parse(&written), Ok(pairs));
}

fuzz_target!(|bytes: &[u8]| {
    let (front, rest) = bytes.split_at(bytes.len().min(HEADER));
    if let Ok(front) = HeaderBytes::try_from(front) {
        header(&front);
    }
    text(rest);
});
