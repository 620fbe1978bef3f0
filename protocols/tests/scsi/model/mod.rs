//! What a logical unit must answer, restated from the standards without a line of what is tested: an exact oracle.
//!
//! It is slow and plain: bytes in a vector, unit attentions as numbers in order of their weight, mode pages as bytes. Data that
//! only describes the device (INQUIRY, supported operation codes) is not restated, but bounded.

pub mod bench;
pub mod disk;
mod mode;
pub mod rules;

use self::disk::{BLOCK, Blocks};
use self::rules::{Looked, look};
use landfall_protocols::iscsi::scsi::{Additional, Sense, SenseFormat, SenseKey};
use std::collections::BTreeSet;
use std::ops::Range;

/// What has to come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expected {
    /// GOOD with these bytes.
    Good(Vec<u8>),
    /// GOOD with some bytes, this many at most.
    Some(usize),
    /// CHECK CONDITION.
    Check(Sense),
}

/// What becomes of a command.
#[derive(Debug)]
pub struct Told {
    /// Bytes of data-out it asks for, if it is executed.
    pub wanted: Option<usize>,
    pub expected: Expected,
}

/// Unit attentions, the gravest first. The first four make all others pointless.
pub const ATTENTIONS: [Additional; 10] = [
    Additional::POWER_ON,
    Additional::TARGET_RESET,
    Additional::UNIT_RESET,
    Additional::NEXUS_LOSS,
    Additional::COMMANDS_CLEARED,
    Additional::MEDIUM_CHANGED,
    Additional::REPORTED_LUNS_CHANGED,
    Additional::CAPACITY_CHANGED,
    Additional::MODE_PARAMETERS_CHANGED,
    Additional::SOFT_THRESHOLD,
];

/// Values initiators can change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Modes {
    pub d_sense: bool,
    pub swp: bool,
    pub wce: bool,
}

impl Modes {
    /// Of a unit whose cache loses what it holds with the power, or that has none.
    pub fn new(volatile: bool) -> Self {
        Self { d_sense: false, swp: false, wce: volatile }
    }
}

pub struct Model {
    pub blocks: Blocks,
    /// Blocks that initiators know of.
    known_blocks: usize,
    pub modes: Modes,
    /// The disk keeps what was answered in a cache.
    volatile: bool,
    /// Somebody knows how much space is left: `SPACE`.
    pub knows_space: bool,
    pub write_protected: bool,
    pub removable: bool,
    ejected: bool,
    preventing: BTreeSet<usize>,
    /// Numbers of units of the target.
    pub units: BTreeSet<u8>,
    /// Of each nexus, as places in `ATTENTIONS`.
    pending: Vec<BTreeSet<usize>>,
}

/// Available, used, and where that it is little is told: in sets of 2048 blocks.
pub const SPACE: [u8; 3] = [5, 7, 3];

const MAX_TRANSFER: usize = 32 << 20;

fn field(byte: u16, bit: u8) -> Sense {
    Sense::invalid_field(byte, bit)
}

fn illegal(additional: Additional) -> Sense {
    Sense::illegal(additional)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn short(bytes: &[u8]) -> usize {
    usize::try_from(number(bytes)).expect("at most four bytes")
}

impl Model {
    /// A unit that `nexuses` initiators have not spoken to yet.
    pub fn new(blocks: Blocks, volatile: bool, nexuses: usize) -> Self {
        Self {
            known_blocks: blocks.mapped.len(),
            blocks,
            modes: Modes::new(volatile),
            volatile,
            knows_space: false,
            write_protected: false,
            removable: false,
            ejected: false,
            preventing: BTreeSet::new(),
            units: BTreeSet::from([0]),
            pending: vec![BTreeSet::from([0]); nexuses],
        }
    }

    pub fn sense_format(&self) -> SenseFormat {
        if self.modes.d_sense { SenseFormat::Descriptor } else { SenseFormat::Fixed }
    }

    pub fn tell(&mut self, what: Additional, whom: impl Fn(usize) -> bool) {
        let place = ATTENTIONS.iter().position(|known| *known == what).expect("it is listed");
        for (_, pending) in self.pending.iter_mut().enumerate().filter(|(who, _)| whom(*who)) {
            if place < 4 {
                pending.clear();
            }
            pending.insert(place);
        }
    }

    /// The nexus `who` was replaced by a new one.
    pub fn renew(&mut self, who: usize, what: Additional) {
        self.preventing.remove(&who);
        self.pending[who].clear();
        self.tell(what, |nexus| nexus == who);
    }

    pub fn reset(&mut self, what: Additional) {
        self.modes = Modes::new(self.volatile);
        self.preventing.clear();
        self.tell(what, |_| true);
    }

    fn next_attention(&mut self, who: usize) -> Option<Sense> {
        let first = self.pending[who].pop_first()?;
        Some(Sense::new(SenseKey::UnitAttention, ATTENTIONS[first]))
    }

    /// `data` is all the data-out the initiator has.
    pub fn command(&mut self, who: usize, cdb: &[u8; 16], data: &[u8]) -> Told {
        if self.known_blocks != self.blocks.mapped.len() {
            self.known_blocks = self.blocks.mapped.len();
            self.tell(Additional::CAPACITY_CHANGED, |_| true);
        }
        let mut told = Told { wanted: None, expected: Expected::Good(Vec::new()) };
        match self.outcome(who, cdb, data, &mut told.wanted) {
            Ok(expected) => told.expected = expected,
            Err(sense) => told.expected = Expected::Check(sense),
        }
        told
    }

    fn outcome(
        &mut self,
        who: usize,
        cdb: &[u8; 16],
        data: &[u8],
        wanted: &mut Option<usize>,
    ) -> Result<Expected, Sense> {
        if !matches!(cdb[0], 0x03 | 0x12 | 0xa0)
            && let Some(attention) = self.next_attention(who)
        {
            return Err(attention);
        }
        let length = match look(cdb) {
            Looked::Known(length) => length,
            Looked::UnknownCode => return Err(illegal(Additional::INVALID_OPERATION_CODE)),
            Looked::UnknownAction => return Err(field(1, 4)),
            Looked::Strange(byte, bit) => return Err(field(byte, bit)),
        };
        self.ready(cdb[0])?;
        match cdb[0] {
            0x00 => Ok(Expected::Good(Vec::new())),
            0x03 => Ok(Expected::Good(self.request_sense(who, cdb))),
            0x12 => inquiry(cdb),
            0x15 | 0x55 => self.mode_select(who, cdb, data, wanted),
            0x1a | 0x5a => self.mode_sense(cdb),
            0x1b => self.start_stop(who, cdb, wanted),
            0x1e => self.prevent_allow(who, cdb),
            0x25 => Ok(self.capacity(None)),
            0x37 => Ok(Expected::Some(short(&cdb[7..9]))),
            0xb7 => Ok(Expected::Some(short(&cdb[6..10]))),
            0x4d => self.log_sense(cdb),
            0x9e if cdb[1] & 0x1f == 0x10 => Ok(self.capacity(Some(short(&cdb[10..14])))),
            0x9e => self.lba_status(cdb, wanted),
            0xa0 => self.report_luns(who, cdb),
            0xa3 => maintenance(cdb),
            _ => self.medium(cdb, length, data, wanted),
        }
    }

    fn ready(&self, code: u8) -> Result<(), Sense> {
        let without = [0x03, 0x12, 0x15, 0x1a, 0x1b, 0x1e, 0x4d, 0x55, 0x5a, 0xa0, 0xa3];
        if self.ejected && !without.contains(&code) {
            return Err(Sense::new(SenseKey::NotReady, Additional::NO_MEDIUM));
        }
        let writes = [0x0a, 0x2a, 0x2e, 0x41, 0x42, 0x89, 0x8a, 0x8b, 0x8e, 0x93, 0xaa, 0xae];
        let protected = self.blocks.read_only || self.write_protected || self.modes.swp;
        if protected && writes.contains(&code) {
            return Err(Sense::new(SenseKey::DataProtect, Additional::WRITE_PROTECTED));
        }
        Ok(())
    }

    fn request_sense(&mut self, who: usize, cdb: &[u8; 16]) -> Vec<u8> {
        let sense = match self.next_attention(who) {
            Some(attention) => attention,
            None if self.ejected => Sense::new(SenseKey::NotReady, Additional::NO_MEDIUM),
            None => Sense::NONE,
        };
        let format = if cdb[1] & 1 != 0 { SenseFormat::Descriptor } else { SenseFormat::Fixed };
        cut(sense.encode(format), usize::from(cdb[4]))
    }

    fn start_stop(
        &mut self,
        who: usize,
        cdb: &[u8; 16],
        wanted: &mut Option<usize>,
    ) -> Result<Expected, Sense> {
        let (start, load) = (cdb[4] & 1 != 0, cdb[4] & 2 != 0);
        let nothing = Ok(Expected::Good(Vec::new()));
        // START VALID has no modifiers: they are not looked at.
        const CONDITIONS: [(u8, u8, bool); 6] = [
            (0x10, 0, false),
            (0x20, 2, true),
            (0x30, 1, true),
            (0x70, 0, false),
            (0xa0, 2, true),
            (0xb0, 1, true),
        ];
        if cdb[4] & 0xf0 != 0 {
            let known = CONDITIONS.iter().find(|(condition, ..)| *condition == cdb[4] & 0xf0);
            let Some((_, last, flushes)) = known else { return Err(field(4, 7)) };
            if cdb[3] & 0x0f > *last {
                return Err(field(3, 3));
            }
            if *flushes {
                *wanted = Some(0);
                self.blocks.durable = self.blocks.bytes.clone();
            }
            return nothing;
        }
        match (load, start) {
            (false, true) => nothing,
            (false, false) => {
                *wanted = Some(0);
                self.blocks.durable = self.blocks.bytes.clone();
                nothing
            }
            (true, _) if !self.removable => Err(field(4, 1)),
            (true, true) if !self.ejected => nothing,
            (true, _) if !self.preventing.is_empty() => Err(illegal(Additional::REMOVAL_PREVENTED)),
            (true, true) => {
                self.ejected = false;
                self.tell(Additional::MEDIUM_CHANGED, |nexus| nexus != who);
                nothing
            }
            (true, false) => {
                if !self.ejected {
                    *wanted = Some(0);
                    self.blocks.durable = self.blocks.bytes.clone();
                }
                self.ejected = true;
                nothing
            }
        }
    }

    fn prevent_allow(&mut self, who: usize, cdb: &[u8; 16]) -> Result<Expected, Sense> {
        match cdb[4] & 3 {
            0 => drop(self.preventing.remove(&who)),
            1 => drop(self.preventing.insert(who)),
            _ => return Err(field(4, 1)),
        }
        Ok(Expected::Good(Vec::new()))
    }

    fn capacity(&self, allocation: Option<usize>) -> Expected {
        let last = self.blocks.mapped.len() as u64 - 1;
        let Some(allocation) = allocation else {
            let mut bytes = (last as u32).to_be_bytes().to_vec();
            bytes.extend([0, 0, 2, 0]);
            return Expected::Good(bytes);
        };
        let mut bytes = last.to_be_bytes().to_vec();
        // 512 bytes, eight blocks to a physical one, thin, zeroes where nothing is mapped.
        bytes.extend([0, 0, 2, 0, 0, 3, 0xc0, 0]);
        bytes.resize(32, 0);
        Expected::Good(cut(bytes, allocation))
    }

    fn report_luns(&mut self, who: usize, cdb: &[u8; 16]) -> Result<Expected, Sense> {
        let units = self.units.iter().map(|unit| [0, *unit, 0, 0, 0, 0, 0, 0]);
        let known = [0xc1, 1, 0, 0, 0, 0, 0, 0];
        let list: Vec<[u8; 8]> = match cdb[2] {
            0 | 0x11 => units.collect(),
            1 => vec![known],
            2 => units.chain([known]).collect(),
            0x10 => Vec::new(),
            _ => return Err(field(2, 7)),
        };
        let place = ATTENTIONS.iter().position(|one| *one == Additional::REPORTED_LUNS_CHANGED);
        self.pending[who].remove(&place.expect("it is listed"));
        let mut bytes = (list.len() as u32 * 8).to_be_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(list.concat());
        Ok(Expected::Good(cut(bytes, short(&cdb[6..10]))))
    }

    fn lba_status(&self, cdb: &[u8; 16], wanted: &mut Option<usize>) -> Result<Expected, Sense> {
        let (mut at, allocation) = (self.range(number(&cdb[2..10]), 1)?.start, short(&cdb[10..14]));
        *wanted = Some(0);
        let room = (allocation.saturating_sub(8) / 16).clamp(1, 4096);
        let mut descriptors = Vec::new();
        while at < self.blocks.mapped.len() && descriptors.len() < room * 16 {
            let mapped = self.blocks.mapped[at];
            let same = self.blocks.mapped[at..].iter().take_while(|one| **one == mapped).count();
            descriptors.extend((at as u64).to_be_bytes());
            descriptors.extend((same as u32).to_be_bytes());
            descriptors.extend([u8::from(!mapped), 0, 0, 0]);
            at += same;
        }
        let mut bytes = (descriptors.len() as u32 + 4).to_be_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(descriptors);
        Ok(Expected::Good(cut(bytes, allocation)))
    }

    /// The blocks `count` from `lba`, if there are so many.
    fn range(&self, lba: u64, count: usize) -> Result<Range<usize>, Sense> {
        let blocks = self.blocks.mapped.len();
        let start = usize::try_from(lba).unwrap_or(usize::MAX);
        match start.checked_add(count) {
            Some(end) if end <= blocks => Ok(start..end),
            _ => Err(illegal(Additional::LBA_OUT_OF_RANGE)),
        }
    }

    /// Commands of blocks.
    fn medium(
        &mut self,
        cdb: &[u8; 16],
        length: usize,
        data: &[u8],
        wanted: &mut Option<usize>,
    ) -> Result<Expected, Sense> {
        let (lba, mut count, byte) = match length {
            6 => (number(&cdb[1..4]) & 0x1f_ffff, usize::from(cdb[4]), 4),
            10 => (number(&cdb[2..6]), short(&cdb[7..9]), 7),
            12 => (number(&cdb[2..6]), short(&cdb[6..10]), 6),
            _ if cdb[0] == 0x89 => (number(&cdb[2..10]), usize::from(cdb[13]), 13),
            _ => (number(&cdb[2..10]), short(&cdb[10..14]), 10),
        };
        if length == 6 && count == 0 {
            count = 256;
        }
        let durable = length > 6 && cdb[1] & 0x08 != 0 || !self.modes.wce;
        let check = cdb[1] >> 1 & 3;
        let verifies = matches!(cdb[0], 0x2e | 0x2f | 0x8e | 0x8f | 0xae | 0xaf);
        let writes_too = matches!(cdb[0], 0x2e | 0x8e | 0xae);
        if verifies && (check == 2 || check == 3 && writes_too) {
            return Err(field(1, 2));
        }
        if cdb[0] == 0x42 {
            return self.unmap(cdb, data, wanted);
        }
        let range = self.range(lba, count)?;
        if matches!(cdb[0], 0x41 | 0x93) {
            return self.write_same(cdb, range, data, wanted);
        }
        let moves = !matches!(cdb[0], 0x34 | 0x35 | 0x90 | 0x91);
        if moves && count * BLOCK > MAX_TRANSFER {
            return Err(field(byte, 7));
        }
        let bytes = count * BLOCK;
        let exactly = |bytes: usize| {
            let same = data.len() == bytes;
            if same { Ok(()) } else { Err(illegal(Additional::INVALID_INFORMATION_UNIT)) }
        };
        let mut take = |bytes: usize| {
            *wanted = Some(bytes);
            &data[..bytes.min(data.len())]
        };
        match cdb[0] {
            0x08 | 0x28 | 0x88 | 0xa8 => {
                take(0);
                return Ok(Expected::Good(self.read(range)?));
            }
            0x0a | 0x2a | 0x8a | 0xaa => {
                let given = take(bytes);
                let range = provided(range, given)?;
                self.store(range, given, durable)?;
            }
            0x2e | 0x8e | 0xae => {
                let given = take(bytes);
                let range = provided(range, given)?;
                self.store(range, given, true)?;
            }
            0x2f | 0x8f | 0xaf => match check {
                0 => {
                    take(0);
                    self.read(range)?;
                }
                1 => {
                    let given = take(bytes);
                    let range = provided(range, given)?;
                    same(&self.read(range)?, given)?;
                }
                _ if count == 0 => {}
                _ => {
                    exactly(BLOCK)?;
                    let given = take(BLOCK).repeat(count);
                    same(&self.read(range)?, &given)?;
                }
            },
            0x34 | 0x90 => {}
            0x35 | 0x91 => {
                take(0);
                self.blocks.durable = self.blocks.bytes.clone();
            }
            0x89 => {
                if count == 0 && !data.is_empty() {
                    return Err(field(13, 7));
                }
                exactly(2 * bytes)?;
                let (expected, new) = take(2 * bytes).split_at(bytes);
                same(&self.read(range.clone())?, expected)?;
                self.store(range, new, durable)?;
            }
            0x8b => {
                let given = take(bytes);
                let range = provided(range, given)?;
                let found = self.read(range.clone())?;
                let both: Vec<u8> = found.iter().zip(given).map(|(one, two)| one | two).collect();
                self.store(range, &both, durable)?;
            }
            code => panic!("{code:02x} is listed and not modelled"),
        }
        Ok(Expected::Good(Vec::new()))
    }

    fn unmap(
        &mut self,
        cdb: &[u8; 16],
        data: &[u8],
        wanted: &mut Option<usize>,
    ) -> Result<Expected, Sense> {
        let length = short(&cdb[7..9]);
        if length == 0 {
            return Ok(Expected::Good(Vec::new()));
        }
        *wanted = Some(length);
        let short_list = Err(illegal(Additional::PARAMETER_LIST_LENGTH));
        if data.len() < length || length < 8 {
            return short_list;
        }
        let count = short(&data[2..4]) / 16;
        if count > 256 {
            return Err(Sense::invalid_parameter(2));
        }
        let list = &data[8..length];
        if list.len() < count * 16 {
            return short_list;
        }
        let ranges: Result<Vec<_>, _> = list
            .chunks(16)
            .take(count)
            .map(|one| self.range(number(&one[..8]), short(&one[8..12])))
            .collect();
        for range in ranges? {
            self.zero(range, false)?;
        }
        Ok(Expected::Good(Vec::new()))
    }

    fn write_same(
        &mut self,
        cdb: &[u8; 16],
        mut range: Range<usize>,
        data: &[u8],
        wanted: &mut Option<usize>,
    ) -> Result<Expected, Sense> {
        let count = if cdb[0] == 0x41 { &cdb[7..9] } else { &cdb[10..14] };
        if number(count) == 0 {
            range.end = self.blocks.mapped.len();
            self.range(range.start as u64, 1)?;
        }
        let without = cdb[0] == 0x93 && cdb[1] & 1 != 0;
        if !without && data.len() != BLOCK {
            return Err(illegal(Additional::INVALID_INFORMATION_UNIT));
        }
        *wanted = Some(if without { 0 } else { BLOCK });
        let unmaps = cdb[1] & 0x08 != 0;
        // The one of ten bytes is told by a tool that sends ones to unmap.
        if without || unmaps && cdb[0] == 0x41 || data.iter().all(|byte| *byte == 0) {
            self.zero(range, !unmaps)?;
        } else {
            let all = data.repeat(range.len());
            self.store(range, &all, !self.modes.wce)?;
        }
        Ok(Expected::Good(Vec::new()))
    }

    fn read(&self, range: Range<usize>) -> Result<Vec<u8>, Sense> {
        if let Some(bad) = range.clone().find(|block| self.blocks.damaged[*block]) {
            let sense = Sense::new(SenseKey::MediumError, Additional::UNRECOVERED_READ_ERROR);
            return Err(sense.with_information(bad as u64));
        }
        Ok(self.blocks.bytes[range.start * BLOCK..range.end * BLOCK].to_vec())
    }

    fn zero(&mut self, range: Range<usize>, allocate: bool) -> Result<(), Sense> {
        let zeroes = vec![0; range.len() * BLOCK];
        if !allocate {
            let room = self.blocks.room;
            self.blocks.mapped[range.clone()].fill(true);
            self.store(range.clone(), &zeroes, !self.modes.wce)?;
            self.blocks.mapped[range].fill(false);
            assert_eq!(self.blocks.room, room, "everything was mapped");
            return Ok(());
        }
        self.store(range, &zeroes, !self.modes.wce)
    }

    fn store(&mut self, range: Range<usize>, data: &[u8], durable: bool) -> Result<(), Sense> {
        let more = range.clone().filter(|block| !self.blocks.mapped[*block]).count();
        if more > self.blocks.room {
            let full = Additional::SPACE_ALLOCATION_FAILED;
            return Err(Sense::new(SenseKey::DataProtect, full));
        }
        self.blocks.room -= more;
        for block in range.clone() {
            self.blocks.mapped[block] = true;
            self.blocks.damaged[block] = false;
        }
        let bytes = range.start * BLOCK..range.end * BLOCK;
        self.blocks.bytes[bytes.clone()].copy_from_slice(data);
        if durable {
            self.blocks.durable[bytes].copy_from_slice(data);
        }
        Ok(())
    }
}

/// The blocks of `range` for which there are bytes.
fn provided(range: Range<usize>, given: &[u8]) -> Result<Range<usize>, Sense> {
    if !given.len().is_multiple_of(BLOCK) {
        return Err(illegal(Additional::INVALID_INFORMATION_UNIT));
    }
    Ok(range.start..range.start + given.len() / BLOCK)
}

fn same(found: &[u8], given: &[u8]) -> Result<(), Sense> {
    match found.iter().zip(given).position(|(one, other)| one != other) {
        None => Ok(()),
        Some(at) => {
            Err(Sense::new(SenseKey::Miscompare, Additional::MISCOMPARE)
                .with_information(at as u64))
        }
    }
}

fn cut(mut bytes: Vec<u8>, allocation: usize) -> Vec<u8> {
    bytes.truncate(allocation);
    bytes
}

fn inquiry(cdb: &[u8; 16]) -> Result<Expected, Sense> {
    let pages = [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2];
    let known = if cdb[1] & 1 != 0 { pages.contains(&cdb[2]) } else { cdb[2] == 0 };
    if known { Ok(Expected::Some(short(&cdb[3..5]))) } else { Err(field(2, 7)) }
}

impl Model {
    fn log_sense(&self, cdb: &[u8; 16]) -> Result<Expected, Sense> {
        let mut last = 0;
        let from = short(&cdb[5..7]);
        let bytes = match (self.knows_space, cdb[2] & 0x3f, cdb[3]) {
            (false, 0, 0) => vec![0, 0, 0, 1, 0],
            (false, 0, 0xff) => vec![0x40, 0xff, 0, 4, 0, 0, 0, 0xff],
            (true, 0, 0) => vec![0, 0, 0, 2, 0, 0x0c],
            (true, 0, 0xff) => vec![0x40, 0xff, 0, 6, 0, 0, 0, 0xff, 0x0c, 0],
            (true, 0x0c, 0) => {
                last = 2;
                let mut bytes = vec![0x8c, 0, 0, 0];
                for (number, sets) in (1..).zip(&SPACE[..2]).skip(from.saturating_sub(1)) {
                    bytes.extend([0, number, 3, 8, 0, 0, 0, *sets, 2, 0, 0, 0]);
                }
                bytes[3] = bytes.len() as u8 - 4;
                bytes
            }
            (_, 0, _) | (true, 0x0c, _) => return Err(field(3, 7)),
            _ => return Err(field(2, 5)),
        };
        if from > last {
            return Err(field(5, 7));
        }
        Ok(Expected::Good(cut(bytes, short(&cdb[7..9]))))
    }
}

fn maintenance(cdb: &[u8; 16]) -> Result<Expected, Sense> {
    let allocation = short(&cdb[6..10]);
    match cdb[1] & 0x1f {
        0x0a if cdb[1] >> 5 > 1 => return Err(field(1, 7)),
        0x0d if allocation < 4 => return Err(field(6, 7)),
        0x0c => {
            let alike = || rules::BITS.iter().filter(|(code, ..)| *code == cdb[3]);
            let shared = alike().any(|(_, action, _)| action.is_some());
            match cdb[2] & 7 {
                1 if shared => return Err(field(3, 7)),
                2 if !shared && alike().next().is_some() => return Err(field(4, 7)),
                4.. => return Err(field(2, 2)),
                _ => {}
            }
        }
        _ => {}
    }
    Ok(Expected::Some(allocation))
}
