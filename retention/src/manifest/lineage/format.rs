//! How the records of lineages are stored.

use crate::ids::{DiskId, Generation, LineId, Sequence};
use crate::manifest::format::{FrameError, Reader, Writer};
use crate::manifest::lineage::Inherited;
use crate::manifest::record::ManifestRecord;
use crate::name::Name;
use crate::time::Timestamp;
use landfall_disks::MAX_DISK_SIZE;

mod kind {
    pub(super) const BRANCH_STARTED: u16 = 68;
    pub(super) const BRANCH_PROMOTED: u16 = 69;
    pub(super) const LINE_INHERITS: u16 = 70;
    pub(super) const LINE_SETTLED: u16 = 71;
    pub(super) const BRANCH_DISK_GROWN: u16 = 72;
    pub(super) const BRANCH_DISK_ENDS: u16 = 73;
}

/// What an end that is not there stores in its sequence field.
const NO_SEQUENCE: u64 = u64::MAX;

impl ManifestRecord {
    /// Encodes the kinds of this module; `false` for any other.
    pub(in crate::manifest) fn encode_lineage(&self, to: &mut Writer<'_>) -> bool {
        match self {
            Self::BranchStarted { line, name, parent, origin, origin_time } => {
                to.u16(kind::BRANCH_STARTED);
                to.u32(line.number());
                to.text(name.as_str());
                to.u32(parent.number());
                to.u64(origin.number());
                to.u64(origin_time.nanoseconds());
            }
            Self::BranchPromoted { line, old, instants, generation } => {
                to.u16(kind::BRANCH_PROMOTED);
                to.u32(line.number());
                to.text(old.as_str());
                to.u64(instants.number());
                to.u64(generation.number());
            }
            Self::LineInherits { line, stretch } => {
                to.u16(kind::LINE_INHERITS);
                to.u32(line.number());
                to.u32(stretch.from.number());
                to.u64(stretch.up_to.number());
            }
            Self::LineSettled { line, sealed, born } => {
                to.u16(kind::LINE_SETTLED);
                to.u32(line.number());
                to.u8(u8::from(*sealed));
                to.u64(born.nanoseconds());
            }
            Self::BranchDiskGrown { line, disk, above, size_bytes } => {
                to.u16(kind::BRANCH_DISK_GROWN);
                to.u32(line.number());
                to.u32(disk.number());
                to.u64(above.number());
                to.u64(*size_bytes);
            }
            Self::BranchDiskEnds { line, disk, since, until } => {
                to.u16(kind::BRANCH_DISK_ENDS);
                to.u32(line.number());
                to.u32(disk.number());
                to.u64(since.map_or(NO_SEQUENCE, Sequence::number));
                to.u64(until.map_or(NO_SEQUENCE, Sequence::number));
            }
            _ => return false,
        }
        true
    }

    /// Decodes the kinds of this module.
    pub(in crate::manifest) fn decode_lineage(
        kind: u16,
        from: &mut Reader<'_>,
    ) -> Result<Self, FrameError> {
        let line = |from: &mut Reader<'_>| from.u32().map(LineId::new);
        let disk = |from: &mut Reader<'_>| from.u32().map(DiskId::new);
        let sequence = |from: &mut Reader<'_>| from.u64().map(Sequence::new);
        let end = |from: &mut Reader<'_>| {
            let number = from.u64()?;
            Ok::<_, FrameError>((number != NO_SEQUENCE).then(|| Sequence::new(number)))
        };
        match kind {
            kind::BRANCH_STARTED => Ok(Self::BranchStarted {
                line: line(from)?,
                name: name(from)?,
                parent: line(from)?,
                origin: sequence(from)?,
                origin_time: Timestamp::from_nanoseconds(from.u64()?),
            }),
            kind::BRANCH_PROMOTED => Ok(Self::BranchPromoted {
                line: line(from)?,
                old: name(from)?,
                instants: sequence(from)?,
                generation: Generation::new(from.u64()?),
            }),
            kind::LINE_INHERITS => {
                let line = line(from)?;
                let stretch = Inherited { from: LineId::new(from.u32()?), up_to: sequence(from)? };
                Ok(Self::LineInherits { line, stretch })
            }
            kind::LINE_SETTLED => Ok(Self::LineSettled {
                line: line(from)?,
                sealed: match from.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(FrameError::Field("sealed")),
                },
                born: Timestamp::from_nanoseconds(from.u64()?),
            }),
            kind::BRANCH_DISK_GROWN => {
                let (line, disk, above) = (line(from)?, disk(from)?, sequence(from)?);
                let size_bytes = from.u64()?;
                if size_bytes > MAX_DISK_SIZE {
                    return Err(FrameError::Field("size_bytes"));
                }
                Ok(Self::BranchDiskGrown { line, disk, above, size_bytes })
            }
            kind::BRANCH_DISK_ENDS => Ok(Self::BranchDiskEnds {
                line: line(from)?,
                disk: disk(from)?,
                since: end(from)?,
                until: end(from)?,
            }),
            _ => Self::decode_keys(kind, from),
        }
    }
}

fn name(from: &mut Reader<'_>) -> Result<Name, FrameError> {
    Name::parse(from.text()?).map_err(|_| FrameError::Field("name"))
}
