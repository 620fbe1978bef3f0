//! GET LBA STATUS (SBC-4 5.7): which blocks are mapped.
//!
//! What a disk knows to be zeroes is deallocated: a hole, and what somebody unmapped or zeroed, of
//! which a branch keeps no more than that. What is deallocated reads as zeroes (LBPRZ), and there
//! are no anchored blocks to tell it from (ANC_SUP is zero). A block of which a part is data is
//! mapped.

use super::cdb::block_range;
use super::decide::{Request, Step};
use super::execute::Run;
use super::failure::Failure;
use super::operation::Operation;
use super::sense::Sense;
use super::task::DataIn;
use landfall_disks::{ByteOffset, ByteRange, Content, MappedRange};

const HEADER_BYTES: usize = 8;
const DESCRIPTOR_BYTES: usize = 16;

/// Most descriptors in an answer: the initiator goes on from the last one.
const MAX_DESCRIPTORS: usize = 4096;

/// Longest answer.
const MAX_BYTES: usize = HEADER_BYTES + MAX_DESCRIPTORS * DESCRIPTOR_BYTES;

/// How often the disk is asked for one answer.
const MAX_LOOKS: usize = 64;

/// What GET LBA STATUS asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StatusQuery {
    /// From the first block to the end of the disk.
    range: ByteRange,
    /// Bytes the initiator has room for.
    pub(super) allocation: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Provisioning {
    Mapped = 0,
    Deallocated = 1,
}

/// A stretch of blocks of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stretch {
    /// In bytes, whole blocks.
    end: ByteOffset,
    provisioning: Provisioning,
}

pub(super) fn lba_status(request: &Request<'_>) -> Result<Step, Sense> {
    let first = block_range(&request.geometry, request.cdb.u64(2), 1)?;
    let end = ByteOffset::new(request.geometry.size_bytes);
    let range = ByteRange::new(first.start(), end).expect("it starts within the disk");
    // An answer never has more, so no more is promised.
    let allocation = request.cdb.length(10, 4).min(MAX_BYTES);
    Ok(Step::Do(Operation::LbaStatus(StatusQuery { range, allocation })))
}

pub(super) async fn perform(run: &Run<'_>, query: StatusQuery) -> Result<DataIn, Failure> {
    let block = u64::try_from(run.unit.block_length()).expect("512 or 4096");
    let room = query.allocation.saturating_sub(HEADER_BYTES) / DESCRIPTOR_BYTES;
    let room = room.clamp(1, MAX_DESCRIPTORS);
    let mut stretches = Stretches { at: query.range.start(), block, found: Vec::new() };
    let mut rest = query.range;
    for _ in 0..MAX_LOOKS {
        if rest.is_empty() || stretches.found.len() > room {
            break;
        }
        run.proceed()?;
        let map = run.disk().map(rest).await.map_err(|error| run.failure(&error, rest))?;
        let end = map.last().map_or(rest.start(), |last| last.range.end().min(rest.end()));
        if end <= rest.start() {
            break;
        }
        for mapped in map {
            stretches.add(mapped);
        }
        (_, rest) = rest.split_at(end);
    }
    if stretches.found.is_empty() {
        // Nothing is known of it, or less than a block: mapped is always true.
        let first = ByteOffset::new(query.range.start().bytes() + block);
        stretches.push(first, Provisioning::Mapped);
    }
    let mut bytes = encode(query.range.start(), &stretches.found[..], block, room);
    bytes.truncate(query.allocation);
    Ok(DataIn::Bytes(bytes))
}

/// Collects what is said of blocks, in order.
struct Stretches {
    at: ByteOffset,
    block: u64,
    found: Vec<Stretch>,
}

impl Stretches {
    fn add(&mut self, mapped: MappedRange) {
        let end = mapped.range.end().bytes();
        let (end, provisioning) = match mapped.content {
            // Zeroes are worth only their whole blocks.
            Content::Hole | Content::Zero => {
                (end / self.block * self.block, Provisioning::Deallocated)
            }
            Content::Data => (end.next_multiple_of(self.block), Provisioning::Mapped),
        };
        if end > self.at.bytes() {
            self.push(ByteOffset::new(end), provisioning);
        }
    }

    fn push(&mut self, end: ByteOffset, provisioning: Provisioning) {
        self.at = end;
        match self.found.last_mut() {
            Some(last) if last.provisioning == provisioning => last.end = end,
            _ => self.found.push(Stretch { end, provisioning }),
        }
    }
}

/// The parameter data: as many of `stretches`, from `start`, as there is room for.
fn encode(start: ByteOffset, stretches: &[Stretch], block: u64, room: usize) -> Vec<u8> {
    let mut descriptors = Vec::new();
    let mut lba = start.bytes() / block;
    for stretch in stretches {
        let end = stretch.end.bytes() / block;
        // A descriptor has 32 bits for its length.
        while lba < end && descriptors.len() < room * DESCRIPTOR_BYTES {
            let blocks = u32::try_from(end - lba).unwrap_or(u32::MAX);
            descriptors.extend(lba.to_be_bytes());
            descriptors.extend(blocks.to_be_bytes());
            descriptors.extend([stretch.provisioning as u8, 0, 0, 0]);
            lba += u64::from(blocks);
        }
    }
    // The length counts what follows it: four reserved bytes, too.
    let length = u32::try_from(4 + descriptors.len()).expect("limited");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(descriptors);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(start: u64, end: u64, content: Content) -> MappedRange {
        let range = ByteRange::new(ByteOffset::new(start), ByteOffset::new(end));
        MappedRange { range: range.expect("ordered"), content }
    }

    #[test]
    fn neighbours_of_a_kind_are_one_stretch() {
        let mut stretches = Stretches { at: ByteOffset::new(0), block: 512, found: Vec::new() };
        stretches.add(mapped(0, 1024, Content::Data));
        stretches.add(mapped(1024, 2048, Content::Data));
        // Holes that begin or end within a block do not own it.
        stretches.add(mapped(2048, 3000, Content::Hole));
        stretches.add(mapped(3000, 3100, Content::Data));
        stretches.add(mapped(3100, 3700, Content::Hole));
        stretches.add(mapped(3700, 4096, Content::Zero));
        let ends: Vec<_> =
            stretches.found.iter().map(|one| (one.end.bytes(), one.provisioning)).collect();
        assert_eq!(
            ends,
            [
                (2048, Provisioning::Mapped),
                (2560, Provisioning::Deallocated),
                (3584, Provisioning::Mapped),
                (4096, Provisioning::Deallocated)
            ]
        );
        let bytes = encode(ByteOffset::new(512), &stretches.found, 512, 2);
        assert_eq!(bytes.len(), 40);
        assert_eq!(bytes[..8], [0, 0, 0, 36, 0, 0, 0, 0]);
        assert_eq!(bytes[8..24], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0]);
        assert_eq!(bytes[24..40], [0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 1, 0, 0, 0]);
    }

    #[test]
    fn a_long_stretch_has_several_descriptors() {
        let end = ByteOffset::new(512 * 0x1_8000_0000);
        let long = [Stretch { end, provisioning: Provisioning::Deallocated }];
        let bytes = encode(ByteOffset::new(0), &long, 512, 10);
        assert_eq!(bytes.len(), 8 + 32);
        assert_eq!(bytes[16..20], [0xff; 4]);
        assert_eq!(bytes[24..36], [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x80, 0, 0, 1]);
    }
}
