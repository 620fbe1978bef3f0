//! Arithmetic of byte ranges against sets of bytes.
//!
//! Oracle: for ranges within a disk of [`DISK`] bytes every operation is repeated on plain sets of
//! byte positions; for ranges anywhere in `u64` constructors must refuse what wraps.

#![no_main]

use std::collections::BTreeSet;

use arbitrary::Arbitrary;
use landfall_disks::{ByteOffset, ByteRange};
use libfuzzer_sys::fuzz_target;

/// Small enough that a range can be listed byte by byte.
const DISK: u64 = 256;

#[derive(Arbitrary, Debug)]
struct Input {
    far: (u64, u64),
    one: (u8, u8),
    two: (u8, u8),
    cut: u8,
    /// The unit is two to the power of this, modulo 8.
    unit: u8,
}

fn small((start, length): (u8, u8)) -> ByteRange {
    let start = u64::from(start);
    let end = (start + u64::from(length)).min(DISK);
    ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).expect("start comes before end")
}

fn bytes(range: ByteRange) -> BTreeSet<u64> {
    (range.start().bytes()..range.end().bytes()).collect()
}

fn constructors_refuse_what_wraps(start: u64, other: u64) {
    let ordered = ByteRange::new(ByteOffset::new(start), ByteOffset::new(other));
    assert_eq!(ordered.is_some(), start <= other);
    let sized = ByteRange::at(ByteOffset::new(start), other);
    let end = u128::from(start) + u128::from(other);
    assert_eq!(
        sized.map(|range| u128::from(range.end().bytes())),
        u64::try_from(end).ok().map(u128::from)
    );
    assert!(sized.is_none_or(|range| range.length() == other));
}

fuzz_target!(|input: Input| {
    constructors_refuse_what_wraps(input.far.0, input.far.1);

    let (one, two) = (small(input.one), small(input.two));
    let unit = 1u64 << (input.unit % 8);
    let common: BTreeSet<u64> = bytes(one).intersection(&bytes(two)).copied().collect();
    assert_eq!(bytes(one.intersection(two)), common);
    assert_eq!(one.overlaps(two), !common.is_empty());
    if !two.is_empty() {
        assert_eq!(one.contains(two), bytes(two).is_subset(&bytes(one)));
    }

    let wide = one.widen(unit);
    assert!(wide.is_aligned(unit) && wide.contains(one));
    assert!(wide.length() < one.length() + 2 * unit, "{wide} is more than {one} needs");

    let chunks: Vec<ByteRange> = one.chunks(unit).collect();
    let tiled: Vec<u64> = chunks.iter().copied().flat_map(bytes).collect();
    assert_eq!(tiled, bytes(one).into_iter().collect::<Vec<u64>>());
    for chunk in chunks {
        assert_eq!(chunk.widen(unit).length(), unit, "{chunk} crosses a multiple of {unit}");
    }

    let cut = ByteOffset::new(u64::from(input.cut).clamp(one.start().bytes(), one.end().bytes()));
    let (head, tail) = one.split_at(cut);
    assert_eq!(
        (head.start(), head.end(), tail.start(), tail.end()),
        (one.start(), cut, cut, one.end())
    );
});
