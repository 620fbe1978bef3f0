//! UNMAP (SBC-4 5.31).
//!
//! Blocks that were unmapped read as zeroes (LBPRZ), whatever the granularity in which the disk
//! gives space back: parts of its blocks are zeroed and stay mapped. All descriptors are checked
//! before the first is acted upon.
//!
//! Descriptors that touch are one range: what they say has no order, a disk zeroes one range at the
//! cost of one write, and blocks of the disk that only several descriptors together cover are given
//! back.

use super::cdb::block_range;
use super::decide::{Request, Step};
use super::execute::Run;
use super::failure::Failure;
use super::limits::{MAX_UNMAP_DESCRIPTORS, ZERO_STRIDE};
use super::operation::Operation;
use super::sense::{Additional, Sense};
use super::verify::strides;
use landfall_disks::{ByteRange, Change, Geometry, ZeroMode};

const HEADER_BYTES: usize = 8;
const DESCRIPTOR_BYTES: usize = 16;

pub(super) fn unmap(request: &Request<'_>) -> Step {
    match request.cdb.length(7, 2) {
        0 => Step::GOOD,
        list_bytes => Step::Do(Operation::Unmap { list_bytes }),
    }
}

/// What `list` names, of which `announced` bytes were to come: ranges that do not touch, in order.
fn parse(list: &[u8], announced: usize, geometry: &Geometry) -> Result<Vec<ByteRange>, Sense> {
    let short = Sense::illegal(Additional::PARAMETER_LIST_LENGTH);
    if list.len() < announced || list.len() < HEADER_BYTES {
        return Err(short);
    }
    let described = usize::from(u16::from_be_bytes([list[2], list[3]]));
    // An incomplete descriptor at the end is not looked at (SBC-4 5.31.2).
    let described = described / DESCRIPTOR_BYTES * DESCRIPTOR_BYTES;
    if described / DESCRIPTOR_BYTES > usize::from(MAX_UNMAP_DESCRIPTORS) {
        return Err(Sense::invalid_parameter(2));
    }
    let descriptors = list[HEADER_BYTES..].get(..described).ok_or(short)?;
    let (descriptors, _) = descriptors.as_chunks::<DESCRIPTOR_BYTES>();
    let range = |descriptor: &[u8; DESCRIPTOR_BYTES]| {
        let (lba, rest) = descriptor.split_first_chunk().expect("sixteen bytes");
        let (count, _) = rest.split_first_chunk().expect("eight bytes");
        block_range(geometry, u64::from_be_bytes(*lba), u64::from(u32::from_be_bytes(*count)))
    };
    let ranges: Result<Vec<_>, _> = descriptors.iter().map(range).collect();
    ranges.map(joined)
}

/// `ranges` in order, those that touch or overlap as one.
fn joined(mut ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start());
    let mut joined: Vec<ByteRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start() <= last.end() => {
                let end = last.end().max(range.end());
                *last = ByteRange::new(last.start(), end).expect("in order");
            }
            _ => joined.push(range),
        }
    }
    joined
}

pub(super) async fn perform(run: &Run<'_>, list: &[u8], announced: usize) -> Result<(), Failure> {
    for range in parse(list, announced, &run.unit.geometry())? {
        zero(run, range, ZeroMode::Unmap).await?;
    }
    Ok(())
}

/// Makes `range` zeroes, in strides that another command that wants some of the blocks can come
/// between.
pub(super) async fn zero(run: &Run<'_>, range: ByteRange, mode: ZeroMode) -> Result<(), Failure> {
    let durability = run.durability();
    for stride in strides(range, ZERO_STRIDE) {
        let _held = run.shared(stride).await;
        run.change(Change::WriteZeroes { range: stride, mode, durability }, stride).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry {
        size_bytes: 100 * 512,
        logical_sector: 512,
        physical_sector: 4096,
        read_only: false,
    };

    fn list(descriptors: &[(u64, u32)]) -> Vec<u8> {
        let length = u16::try_from(descriptors.len() * DESCRIPTOR_BYTES).expect("few");
        let mut bytes = (length + 6).to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.extend([0; 4]);
        for (lba, count) in descriptors {
            bytes.extend(lba.to_be_bytes());
            bytes.extend(count.to_be_bytes());
            bytes.extend([0; 4]);
        }
        bytes
    }

    fn parsed(bytes: &[u8]) -> Result<Vec<ByteRange>, Sense> {
        parse(bytes, bytes.len(), &GEOMETRY)
    }

    #[test]
    fn descriptors_become_ranges() {
        let ranges = parsed(&list(&[(0, 8), (99, 1), (100, 0)])).expect("right");
        let ends: Vec<_> = ranges.iter().map(|range| range.end().bytes()).collect();
        assert_eq!(ends, [8 * 512, 100 * 512], "nothing is no range");
        assert_eq!(parsed(&list(&[])), Ok(Vec::new()));
        let mut odd = list(&[(0, 1)]);
        odd[3] += 7;
        odd.extend([A_BYTE; 7]);
        assert_eq!(parsed(&odd).map(|ranges| ranges.len()), Ok(1), "the rest is no descriptor");
    }

    const A_BYTE: u8 = 0xaa;

    #[test]
    fn descriptors_that_touch_are_one_range() {
        let each: Vec<_> = (0..64).rev().map(|lba| (lba, 1)).collect();
        let ends = |descriptors: &[(u64, u32)]| -> Vec<_> {
            let ranges = parsed(&list(descriptors)).expect("right").into_iter();
            ranges.map(|range| (range.start().bytes() / 512, range.end().bytes() / 512)).collect()
        };
        assert_eq!(ends(&each), [(0, 64)]);
        assert_eq!(ends(&[(50, 10), (4, 4), (52, 2), (0, 4), (9, 1)]), [(0, 8), (9, 10), (50, 60)]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let short = Sense::illegal(Additional::PARAMETER_LIST_LENGTH);
        let right = list(&[(0, 8)]);
        assert_eq!(parsed(&right[..7]), Err(short));
        assert_eq!(parsed(&right[..20]), Err(short), "it says sixteen and has twelve");
        assert_eq!(parse(&right, right.len() + 1, &GEOMETRY), Err(short));
        let behind = Sense::illegal(Additional::LBA_OUT_OF_RANGE);
        for wrong in [(100, 1), (101, 0), (u64::MAX, 1), (0, 101)] {
            assert_eq!(parsed(&list(&[(0, 1), wrong])), Err(behind));
        }
        let many = vec![(0, 0); usize::from(MAX_UNMAP_DESCRIPTORS) + 1];
        assert_eq!(parsed(&list(&many)), Err(Sense::invalid_parameter(2)));
        assert!(parsed(&list(&many[1..])).is_ok());
    }
}
