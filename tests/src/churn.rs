//! Writes whose every sector says where it belongs and when it was written, and what a disk may hold after them.
//!
//! ```text
//!   sector   [ its number u64 LE │ tag u64 LE ] × 32          all zeroes: never written, zeroed or discarded
//!   tag      session << 32 │ round + 1
//! ```
//!
//! A writer makes rounds of operations that do not overlap within a round, and flushes behind every round while the next one
//! is under way. So after "flushed N" has been read from it, rounds up to N are durable, and N + 1 and N + 2 may have
//! happened in any part. A [`Model`] knows which tags every sector may have then; a torn or misplaced sector has none.

use landfall_disks::faults::Seed;

/// Bytes of what is written whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// Most operations of a round.
const ROUND: usize = 24;
/// How many rounds may have begun behind the last one that is known to be durable.
pub const ROUNDS_AHEAD: u32 = 2;

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// Stamps of its round.
    Write,
    /// Zeroes, whose space may be given back.
    Zero,
    /// The content is no longer needed: zeroes, or as before.
    Discard,
}

/// One operation, in sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// The first sector.
    pub start: u64,
    /// How many.
    pub count: u64,
    /// What happens to them.
    pub deed: Deed,
}

/// The tag of what `session` writes in `round`.
pub fn tag(session: u32, round: u32) -> u64 {
    u64::from(session) << 32 | (u64::from(round) + 1)
}

/// The operations of a round; the same for the same arguments.
pub fn round(session: u32, round: u32, sectors: u64) -> Vec<Operation> {
    let mut seed = Seed::new(tag(session, round));
    let mut made: Vec<Operation> = Vec::new();
    for _ in 0..ROUND {
        // Blocks of 4 KiB, single sectors, and now and then half a mebibyte.
        let (unit, most) = *seed.pick(&[(8, 8), (8, 8), (8, 64), (1, 24), (8, 1024)]);
        let count = (unit * (1 + seed.below(most / unit))).min(sectors);
        let start = seed.below((sectors - count) / unit + 1) * unit;
        let deed = *seed.pick(&[Deed::Write, Deed::Write, Deed::Write, Deed::Zero, Deed::Discard]);
        let apart = |other: &Operation| start + count <= other.start || other.end() <= start;
        if made.iter().all(apart) {
            made.push(Operation { start, count, deed });
        }
    }
    made
}

/// The bytes of `count` sectors from `start` on with one tag.
pub fn stamped(start: u64, count: u64, tag: u64) -> Vec<u8> {
    let sector = |number: u64| [number.to_le_bytes(), tag.to_le_bytes()].concat();
    (start..start + count).flat_map(|number| sector(number).repeat(SECTOR_BYTES / 16)).collect()
}

/// The tag of sector `number`: 0 for zeroes, none for bytes that nobody wrote there.
fn tag_of(number: u64, bytes: &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_at(16);
    let repeated = rest.chunks(16).all(|part| part == head);
    let at = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
    let tag = u64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
    (repeated && (at == number && tag != 0 || at == 0 && tag == 0)).then_some(tag)
}

impl Operation {
    fn end(&self) -> u64 {
        self.start + self.count
    }
}

/// Which tags every sector of a disk may have.
#[derive(Clone, Debug)]
pub struct Model {
    allowed: Vec<Vec<u64>>,
}

impl Model {
    /// A disk of zeroes.
    pub fn zeroes(sectors: usize) -> Self {
        Self { allowed: vec![vec![0]; sectors] }
    }

    /// A disk that is known to hold `bytes`.
    pub fn of(bytes: &[u8]) -> Result<Self, String> {
        let mut allowed = Vec::new();
        for (number, sector) in (0..).zip(bytes.chunks(SECTOR_BYTES)) {
            let tag = tag_of(number, sector).ok_or_else(|| foreign(number, sector))?;
            allowed.push(vec![tag]);
        }
        Ok(Self { allowed })
    }

    /// How many sectors there are.
    pub fn sectors(&self) -> u64 {
        self.allowed.len() as u64
    }

    /// Operations that are complete.
    pub fn done(&mut self, operations: &[Operation], tag: u64) {
        for (operation, allowed) in self.touched(operations) {
            match operation.deed {
                Deed::Write => *allowed = vec![tag],
                Deed::Zero => *allowed = vec![0],
                Deed::Discard => allowed.push(0),
            }
        }
    }

    /// Operations of which any part may have happened.
    pub fn begun(&mut self, operations: &[Operation], tag: u64) {
        for (operation, allowed) in self.touched(operations) {
            allowed.push(if operation.deed == Deed::Write { tag } else { 0 });
        }
    }

    /// What `session` may have made of it when its last word was "flushed `last`".
    pub fn after(&mut self, session: u32, last: Option<u32>) {
        let durable = last.map_or(0, |last| last + 1);
        for number in 0..durable {
            self.done(&round(session, number, self.sectors()), tag(session, number));
        }
        for number in durable..durable + ROUNDS_AHEAD {
            self.begun(&round(session, number, self.sectors()), tag(session, number));
        }
    }

    /// Whether a disk that holds `bytes` keeps every promise; else the first sector that does not.
    pub fn check(&self, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() != self.allowed.len() * SECTOR_BYTES {
            return Err(format!("{} bytes instead of {}", bytes.len(), self.allowed.len() * 512));
        }
        for ((number, sector), allowed) in (0..).zip(bytes.chunks(SECTOR_BYTES)).zip(&self.allowed)
        {
            let tag = tag_of(number, sector).ok_or_else(|| foreign(number, sector))?;
            if !allowed.contains(&tag) {
                return Err(format!("sector {number} has tag {tag:#x}; it may have {allowed:#x?}"));
            }
        }
        Ok(())
    }

    fn touched(
        &mut self,
        operations: &[Operation],
    ) -> impl Iterator<Item = (Operation, &mut Vec<u64>)> {
        let of = |number: u64| {
            operations.iter().find(|one| one.start <= number && number < one.end()).copied()
        };
        let numbered = (0..).zip(&mut self.allowed);
        numbered.filter_map(move |(number, allowed)| Some((of(number)?, allowed)))
    }
}

fn foreign(number: u64, sector: &[u8]) -> String {
    format!("nobody wrote this into sector {number}: {:02x?}…", &sector[..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_known_by_their_place_and_whole() {
        let bytes = stamped(7, 2, 99);
        assert_eq!(tag_of(7, &bytes[..512]), Some(99));
        assert_eq!(tag_of(8, &bytes[512..]), Some(99));
        assert_eq!(tag_of(8, &bytes[..512]), None, "misplaced");
        assert_eq!(tag_of(7, &[&bytes[..256], &[0; 256]].concat()), None, "torn");
        assert_eq!(tag_of(7, &[0; 512]), Some(0));
    }

    #[test]
    fn a_model_tells_what_is_durable_from_what_may_be() {
        let sectors = 4096;
        let mut disk = Model::zeroes(sectors);
        disk.after(1, Some(0));
        let zeroes = vec![0; sectors * SECTOR_BYTES];
        disk.check(&zeroes).expect_err("round 0 is durable");
        let mut bytes = zeroes.clone();
        for operation in round(1, 0, sectors as u64) {
            let at = usize::try_from(operation.start).unwrap() * SECTOR_BYTES;
            if operation.deed == Deed::Write {
                let stamps = stamped(operation.start, operation.count, tag(1, 0));
                bytes[at..at + stamps.len()].copy_from_slice(&stamps);
            }
        }
        disk.check(&bytes).expect("as it has to be");
        let later = round(1, 1, sectors as u64);
        let written = later.iter().find(|one| one.deed == Deed::Write).expect("one of many");
        let at = usize::try_from(written.start).unwrap() * SECTOR_BYTES;
        bytes[at..at + 512].copy_from_slice(&stamped(written.start, 1, tag(1, 1)));
        disk.check(&bytes).expect("one that was begun");
        bytes[at..at + 512].copy_from_slice(&stamped(written.start, 1, tag(1, 9)));
        disk.check(&bytes).expect_err("one that was not");
        disk.check(&bytes[512..]).expect_err("too short");
    }
}
