//! What the manifest remembers of scrubbing: how far a round is, when the last one ended, and what was found damaged and
//! is not healed yet.

use super::format::{FrameError, Reader, Writer};
use super::state::Misfit;
use crate::ids::{DiskId, LineId, MachineId, SegmentId, Sequence};
use crate::time::Timestamp;
use landfall_disks::{ByteOffset, ByteRange, MAX_DISK_SIZE};

/// Most damaged places that are remembered; of more only the number.
pub const MAX_DAMAGE: usize = 1024;

/// How far a round is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ScrubPosition {
    /// At this segment of the journal, or the next one there is.
    Journal(SegmentId),
    /// At the index.
    Index,
    /// At this disk, or the next one there is; its image was looked at up to here.
    Image(DiskId, ByteOffset),
    /// At the end.
    Done,
}

/// A damaged place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DamagedPlace {
    /// Blocks of an image that are not what was written there.
    Image {
        /// Whose.
        disk: DiskId,
        /// First byte.
        start: ByteOffset,
        /// Length, in bytes.
        length: u64,
    },
    /// Bytes of a change in the journal that are not what was written.
    Version {
        /// The line that it is of.
        line: LineId,
        /// When in the line.
        sequence: Sequence,
        /// Whose blocks.
        disk: DiskId,
        /// First byte on the disk.
        start: ByteOffset,
        /// Length, in bytes.
        length: u64,
        /// The segment they lie in.
        segment: SegmentId,
        /// The first 4 KiB of it.
        unit: u32,
    },
    /// Bytes of a segment in which records began that cannot be read any more.
    Records {
        /// Which segment.
        segment: SegmentId,
        /// First byte.
        start: u64,
        /// One past the last.
        end: u64,
    },
}

/// Something that was found damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// When.
    pub found: Timestamp,
    /// What.
    pub place: DamagedPlace,
}

/// What is remembered of scrubbing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubEntry {
    /// When the round began that is under way, or was the last.
    pub begun: Timestamp,
    /// The newest machine there was then: later ones are for the next round.
    pub newest_machine: MachineId,
    /// How far it is.
    pub position: ScrubPosition,
    /// When a round last came to its end; zero if none did.
    pub ended: Timestamp,
    /// What is damaged, in order of place.
    pub damage: Vec<Damage>,
    /// How many more places are.
    pub unlisted: u64,
}

impl Default for ScrubEntry {
    fn default() -> Self {
        Self {
            begun: Timestamp::default(),
            newest_machine: MachineId::default(),
            position: ScrubPosition::Done,
            ended: Timestamp::default(),
            damage: Vec::new(),
            unlisted: 0,
        }
    }
}

impl ScrubEntry {
    pub(super) fn check(&self) -> Result<(), Misfit> {
        let misfit = |what: &str| Misfit { record: "Scrubbed", what: what.to_owned() };
        if self.damage.len() > MAX_DAMAGE {
            return Err(misfit("more damage than is listed"));
        }
        if self.damage.windows(2).any(|pair| pair[0].place >= pair[1].place) {
            return Err(misfit("places out of order"));
        }
        Ok(())
    }

    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        to.u64(self.begun.nanoseconds());
        to.u32(self.newest_machine.number());
        let (stage, id, offset) = match self.position {
            ScrubPosition::Journal(segment) => (1, segment.number(), 0),
            ScrubPosition::Index => (2, 0, 0),
            ScrubPosition::Image(disk, offset) => (3, disk.number(), offset.bytes()),
            ScrubPosition::Done => (4, 0, 0),
        };
        to.u16(stage);
        to.u32(id);
        to.u64(offset);
        to.u64(self.ended.nanoseconds());
        to.u64(self.unlisted);
        to.u32(u32::try_from(self.damage.len()).expect("at most MAX_DAMAGE"));
        for damage in &self.damage {
            to.u64(damage.found.nanoseconds());
            damage.place.encode(to);
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let begun = Timestamp::from_nanoseconds(from.u64()?);
        let newest_machine = MachineId::new(from.u32()?);
        let (stage, id, offset) = (from.u16()?, from.u32()?, from.u64()?);
        let position = match (stage, id, offset) {
            (1, segment, 0) => ScrubPosition::Journal(SegmentId::new(segment)),
            (2, 0, 0) => ScrubPosition::Index,
            (3, disk, offset) => ScrubPosition::Image(DiskId::new(disk), ByteOffset::new(offset)),
            (4, 0, 0) => ScrubPosition::Done,
            _ => return Err(FrameError::Field("position")),
        };
        let ended = Timestamp::from_nanoseconds(from.u64()?);
        let unlisted = from.u64()?;
        let count = from.u32()? as usize;
        if count > MAX_DAMAGE {
            return Err(FrameError::Field("damage count"));
        }
        let mut damage = Vec::with_capacity(count);
        for _ in 0..count {
            let found = Timestamp::from_nanoseconds(from.u64()?);
            damage.push(Damage { found, place: DamagedPlace::decode(from)? });
        }
        Ok(Self { begun, newest_machine, position, ended, damage, unlisted })
    }
}

impl DamagedPlace {
    /// The disk whose blocks are damaged, if it is known.
    pub fn disk(&self) -> Option<DiskId> {
        match self {
            Self::Image { disk, .. } | Self::Version { disk, .. } => Some(*disk),
            Self::Records { .. } => None,
        }
    }

    /// The blocks of the disk.
    pub fn range(&self) -> Option<ByteRange> {
        match self {
            Self::Image { start, length, .. } | Self::Version { start, length, .. } => {
                ByteRange::at(*start, *length)
            }
            Self::Records { .. } => None,
        }
    }

    fn encode(&self, to: &mut Writer<'_>) {
        match *self {
            Self::Image { disk, start, length } => {
                to.u16(1);
                to.u32(disk.number());
                to.u64(start.bytes());
                to.u64(length);
            }
            Self::Version { line, sequence, disk, start, length, segment, unit } => {
                to.u16(2);
                to.u32(line.number());
                to.u64(sequence.number());
                to.u32(disk.number());
                to.u64(start.bytes());
                to.u64(length);
                to.u32(segment.number());
                to.u32(unit);
            }
            Self::Records { segment, start, end } => {
                to.u16(3);
                to.u32(segment.number());
                to.u64(start);
                to.u64(end);
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(match from.u16()? {
            1 => {
                let disk = DiskId::new(from.u32()?);
                let (start, length) = range(from)?;
                Self::Image { disk, start, length }
            }
            2 => {
                let (line, sequence) = (LineId::new(from.u32()?), Sequence::new(from.u64()?));
                let disk = DiskId::new(from.u32()?);
                let (start, length) = range(from)?;
                let (segment, unit) = (SegmentId::new(from.u32()?), from.u32()?);
                Self::Version { line, sequence, disk, start, length, segment, unit }
            }
            3 => {
                let (segment, start, end) = (SegmentId::new(from.u32()?), from.u64()?, from.u64()?);
                if start >= end {
                    return Err(FrameError::Field("damaged bytes"));
                }
                Self::Records { segment, start, end }
            }
            _ => return Err(FrameError::Field("damaged place")),
        })
    }
}

fn range(from: &mut Reader<'_>) -> Result<(ByteOffset, u64), FrameError> {
    let (start, length) = (from.u64()?, from.u64()?);
    match start.checked_add(length) {
        Some(end) if length > 0 && end <= MAX_DISK_SIZE => Ok((ByteOffset::new(start), length)),
        _ => Err(FrameError::Field("damaged range")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{encode_frame, parse_frame};
    use super::super::record::ManifestRecord;
    use super::*;
    use std::sync::Arc;

    fn entry() -> ScrubEntry {
        let damage = |place| Damage { found: Timestamp::from_nanoseconds(9), place };
        let (disk, start) = (DiskId::new(4), ByteOffset::new(65536));
        ScrubEntry {
            begun: Timestamp::from_nanoseconds(5),
            newest_machine: MachineId::new(6),
            position: ScrubPosition::Image(DiskId::new(4), ByteOffset::new(1 << 20)),
            ended: Timestamp::from_nanoseconds(3),
            damage: vec![
                damage(DamagedPlace::Image { disk, start, length: 4096 }),
                damage(DamagedPlace::Version {
                    line: LineId::new(2),
                    sequence: Sequence::new(42),
                    disk,
                    start,
                    length: 8192,
                    segment: SegmentId::new(7),
                    unit: 20,
                }),
                damage(DamagedPlace::Records {
                    segment: SegmentId::new(7),
                    start: 4096,
                    end: 8192,
                }),
            ],
            unlisted: 3,
        }
    }

    fn read_back(entry: &ScrubEntry) -> Result<ScrubEntry, FrameError> {
        let mut frame = Vec::new();
        encode_frame(0, &[ManifestRecord::Scrubbed(Arc::new(entry.clone()))], &mut frame);
        match parse_frame(&frame, 0)?.0.as_slice() {
            [ManifestRecord::Scrubbed(entry)] => Ok((**entry).clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn entries_read_back() {
        for position in [
            entry().position,
            ScrubPosition::Journal(SegmentId::new(7)),
            ScrubPosition::Index,
            ScrubPosition::Done,
        ] {
            let entry = ScrubEntry { position, ..entry() };
            assert_eq!(read_back(&entry), Ok(entry.clone()));
            assert_eq!(entry.check(), Ok(()));
        }
    }

    #[test]
    fn what_nobody_writes_is_refused() {
        let mut long = entry();
        long.damage[0].place = DamagedPlace::Image {
            disk: DiskId::new(1),
            start: ByteOffset::new(MAX_DISK_SIZE),
            length: 1,
        };
        assert_eq!(read_back(&long), Err(FrameError::Field("damaged range")));
        let mut swapped = entry();
        swapped.damage.swap(0, 1);
        assert!(swapped.check().is_err());
        let mut many = entry();
        many.damage = vec![many.damage[0]; MAX_DAMAGE + 1];
        assert!(many.check().is_err());
        assert_eq!(read_back(&many), Err(FrameError::Field("damage count")));
    }
}
