//! SCSI commands of two initiators to one logical unit, with any bytes as CDB and as data-out, and what happens to the unit meanwhile.
//!
//! Oracle: the model of the command tests, which restates from the standards what is answered to each command and what the
//! unit holds afterwards. No answer is longer than was said or wanted; nothing panics.

#![no_main]
#![allow(dead_code)]

#[path = "../../../protocols/tests/scsi/model/mod.rs"]
mod model;

use arbitrary::Arbitrary;
use landfall_disks::Content;
use libfuzzer_sys::fuzz_target;
use model::bench::{Bench, Event, Kind, NEXUSES};
use model::disk::{BLOCK, Blocks};
use model::rules::BITS;

const BLOCKS: usize = 48;
/// The disk may grow up to that.
const MOST_BLOCKS: usize = 96;
const MOST_STEPS: usize = 100;

#[derive(Arbitrary, Debug)]
struct Input {
    removable: bool,
    write_protected: bool,
    volatile_cache: bool,
    knows_space: bool,
    /// What is not mapped is called zeroes, and not a hole.
    zeroes: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// Any bytes.
    Raw {
        who: u8,
        cdb: [u8; 16],
        data: Data,
    },
    /// A command there is, with none but its bits, and a place near the disk.
    Known {
        who: u8,
        command: u8,
        fields: [u8; 16],
        lba: u8,
        count: u8,
        data: Data,
    },
    Event {
        kind: u8,
        value: u8,
    },
}

#[derive(Arbitrary, Debug)]
enum Data {
    /// As it is.
    Raw(Vec<u8>),
    /// So many blocks of this byte.
    Blocks(u8, u8),
    /// What the unit holds from this block on, followed by a block of this byte.
    Held(u8, u8, u8),
}

impl Data {
    fn bytes(&self, bench: &Bench) -> Vec<u8> {
        match self {
            Self::Raw(bytes) => bytes.clone(),
            Self::Blocks(count, byte) => vec![*byte; usize::from(count % 16) * BLOCK],
            Self::Held(from, count, byte) => {
                let held = bench.model.blocks.bytes.chunks(BLOCK).skip(usize::from(*from));
                let mut bytes: Vec<u8> =
                    held.take(usize::from(count % 8)).flatten().copied().collect();
                bytes.resize(2 * bytes.len(), *byte);
                bytes
            }
        }
    }
}

fn put(cdb: &mut [u8; 16], at: usize, bytes: usize, value: u64) {
    cdb[at..at + bytes].copy_from_slice(&value.to_be_bytes()[8 - bytes..]);
}

/// `fields` as a command of the list.
fn known(command: u8, fields: &[u8; 16], lba: u8, count: u8) -> [u8; 16] {
    let (code, action, bits) = BITS[usize::from(command) % BITS.len()];
    let mut cdb = [0; 16];
    let mut length = 0;
    for (place, allowed) in bits.split(' ').enumerate() {
        let allowed = u8::from_str_radix(allowed, 16).expect("hexadecimal");
        cdb[place] = fields[place] & allowed;
        length = place + 1;
    }
    let (lba, count) = (u64::from(lba) % (MOST_BLOCKS as u64 + 2), u64::from(count % 16));
    match (length, code) {
        (6, 0x08 | 0x0a) => {
            put(&mut cdb, 1, 3, lba);
            put(&mut cdb, 4, 1, count);
        }
        (10, 0x28..=0x35 | 0x41) => {
            put(&mut cdb, 2, 4, lba);
            put(&mut cdb, 7, 2, count);
        }
        (12, 0xa8..=0xaf) => {
            put(&mut cdb, 2, 4, lba);
            put(&mut cdb, 6, 4, count);
        }
        (16, 0x89) => {
            put(&mut cdb, 2, 8, lba);
            put(&mut cdb, 13, 1, count);
        }
        (16, _) if action != Some(0x10) => {
            put(&mut cdb, 2, 8, lba);
            put(&mut cdb, 10, 4, count * if code == 0x9e { 16 } else { 1 });
        }
        _ => {}
    }
    cdb[0] = code;
    if let Some(action) = action {
        cdb[1] = cdb[1] & 0xe0 | action;
    }
    cdb
}

fn event(kind: u8, value: u8, bench: &Bench) -> Option<Event> {
    let blocks = bench.model.blocks.mapped.len();
    let who = usize::from(value) % NEXUSES;
    Some(match kind % 10 {
        0 => Event::UnitReset,
        1 => Event::TargetReset,
        2 => Event::Relogin(who),
        3 => Event::Reinstate(who),
        4 => Event::Grow(usize::from(value % 8)),
        5 => Event::Damage(usize::from(value) % blocks),
        6 => Event::Room(usize::from(value)),
        7 => Event::SoftThreshold,
        8 => Event::Neighbour(value),
        _ => Event::Cleared(who),
    })
    .filter(|event| !matches!(event, Event::Grow(_)) || blocks + 8 <= MOST_BLOCKS)
}

fuzz_target!(|input: Input| {
    let mut blocks = Blocks::new(BLOCKS);
    blocks.unmapped = if input.zeroes { Content::Zero } else { Content::Hole };
    let kind = Kind {
        removable: input.removable,
        write_protected: input.write_protected,
        volatile_cache: input.volatile_cache,
        knows_space: input.knows_space,
    };
    let mut bench = Bench::new(blocks, kind);
    for step in input.steps.iter().take(MOST_STEPS) {
        match step {
            Step::Raw { who, cdb, data } => {
                let data = data.bytes(&bench);
                bench.command(usize::from(*who) % NEXUSES, cdb, &data);
            }
            Step::Known { who, command, fields, lba, count, data } => {
                let cdb = known(*command, fields, *lba, *count);
                let data = data.bytes(&bench);
                bench.command(usize::from(*who) % NEXUSES, &cdb, &data);
            }
            Step::Event { kind, value } => {
                if let Some(event) = event(*kind, *value, &bench) {
                    bench.event(event);
                }
            }
        }
    }
});
