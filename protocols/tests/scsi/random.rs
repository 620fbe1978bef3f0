//! Random commands and events against the model.

use crate::model::bench::{Bench, Event, Kind, NEXUSES};
use crate::model::disk::{BLOCK, Blocks};
use crate::model::rules::BITS;
use landfall_disks::Content;
use landfall_disks::faults::Seed;
use landfall_protocols::iscsi::scsi::Additional;

const BLOCKS: usize = 96;

/// A number that is often at an edge of the disk.
fn lba(seed: &mut Seed, bench: &Bench) -> u64 {
    let blocks = bench.model.blocks.mapped.len() as u64;
    match seed.below(12) {
        0 => blocks,
        1 => blocks - 1,
        2 => blocks + 1,
        3 => u64::MAX - seed.below(2),
        4 => seed.next_u64() >> seed.below(64),
        _ => seed.below(blocks),
    }
}

fn count(seed: &mut Seed) -> u64 {
    match seed.below(10) {
        0 => 0,
        1 => seed.next_u64() >> seed.below(64),
        2 => BLOCKS as u64,
        _ => 1 + seed.below(12),
    }
}

fn put(cdb: &mut [u8; 16], at: usize, bytes: usize, value: u64) {
    cdb[at..at + bytes].copy_from_slice(&value.to_be_bytes()[8 - bytes..]);
}

/// A CDB of the list: its fields are likely, its other bits now and then wrong.
fn cdb(seed: &mut Seed, bench: &Bench) -> [u8; 16] {
    let mut cdb = [0; 16];
    let (code, action, bits) = *seed.pick(BITS);
    let bits: Vec<u8> =
        bits.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    for (byte, allowed) in cdb.iter_mut().zip(&bits) {
        if seed.chance(1, 3) {
            *byte = allowed & seed.next_u64() as u8 & seed.next_u64() as u8;
        }
    }
    let (lba, count) = (lba(seed, bench), count(seed));
    match (bits.len(), code) {
        (6, 0x08 | 0x0a) => {
            put(&mut cdb, 1, 3, lba & 0x1f_ffff);
            cdb[4] = count as u8;
        }
        (10, 0x28..=0x35 | 0x41) => {
            put(&mut cdb, 2, 4, lba);
            put(&mut cdb, 7, 2, count);
        }
        (12, 0xa8..) => {
            put(&mut cdb, 2, 4, lba);
            put(&mut cdb, 6, 4, count);
        }
        (16, 0x89) => {
            put(&mut cdb, 2, 8, lba);
            cdb[13] = count as u8;
        }
        (16, 0x88..=0x9e) => {
            put(&mut cdb, 2, 8, lba);
            put(&mut cdb, 10, 4, count);
        }
        _ => {}
    }
    if code == 0x1b && seed.chance(3, 4) {
        cdb = [0; 16];
        cdb[4] = *seed.pick(&[0, 1, 2, 3, 3, 0x10, 0x20, 0x24, 0x30, 0x70, 0xa0, 0xb0]);
        cdb[3] = *seed.pick(&[0, 0, 0, 1, 2, 3]);
    }
    if matches!(code, 0x1a | 0x5a | 0x4d) && seed.chance(3, 4) {
        let pages: &[u8] = if code == 0x4d { &[0, 0x0c] } else { &[1, 2, 8, 0x0a, 0x1c, 0x3f] };
        cdb[2] = cdb[2] & 0xc0 | seed.pick(pages);
        cdb[3] = *seed.pick(&[0, 0, 2, 0xff, 0xff, 1]);
        cdb[if code == 0x1a { 4 } else { 8 }] = 200;
        if code == 0x4d {
            put(&mut cdb, 5, 2, *seed.pick(&[0, 0, 1, 2, 3]));
        }
    }
    if code == 0x9e {
        put(&mut cdb, 10, 4, seed.below(200));
        if action == Some(0x10) {
            put(&mut cdb, 2, 8, 0);
        }
    }
    cdb[0] = code;
    if let Some(action) = action {
        cdb[1] = cdb[1] & 0xe0 | action;
    }
    if seed.chance(1, 40) {
        cdb[seed.index(16)] ^= 1 << seed.below(8);
    }
    cdb
}

/// Data-out that a command of that kind may come with.
fn data(seed: &mut Seed, bench: &Bench, cdb: &mut [u8; 16]) -> Vec<u8> {
    let at = u64::from_be_bytes(*cdb[2..].first_chunk().expect("sixteen bytes"));
    let held = |lba: u64, blocks: usize| {
        let all = &bench.model.blocks.bytes;
        let start = usize::try_from(lba).unwrap_or(usize::MAX).min(all.len() / BLOCK) * BLOCK;
        all[start..].iter().copied().take(blocks * BLOCK).collect::<Vec<u8>>()
    };
    let mut bytes = match cdb[0] {
        0x42 => {
            let list = unmap_list(seed, bench);
            put(cdb, 7, 2, list.len() as u64);
            list
        }
        0x15 | 0x55 => {
            let list = mode_list(seed, cdb[0] == 0x55);
            let (place, bytes) = if cdb[0] == 0x55 { (7, 2) } else { (4, 1) };
            put(cdb, place, bytes, list.len() as u64);
            list
        }
        0x41 | 0x93 => match seed.below(3) {
            0 => vec![0; BLOCK],
            _ => vec![seed.next_u64() as u8; BLOCK],
        },
        0x89 => {
            let mut bytes = held(at, usize::from(cdb[13]));
            bytes.extend(vec![seed.next_u64() as u8; bytes.len()]);
            bytes
        }
        0x2e | 0x2f if cdb[1] & 6 != 6 => {
            held(at >> 32, usize::from(u16::from_be_bytes([cdb[7], cdb[8]])))
        }
        0x8e | 0x8f if cdb[1] & 6 != 6 => held(at, usize::from(cdb[13])),
        0xae | 0xaf if cdb[1] & 6 != 6 => held(at >> 32, usize::from(cdb[9])),
        0x2f | 0x8f | 0xaf => held(at, 1),
        _ => {
            let mut bytes = vec![0; BLOCK * seed.below(20) as usize];
            seed.fill(&mut bytes);
            bytes
        }
    };
    match seed.below(20) {
        0 => bytes.truncate(seed.below(bytes.len() as u64 + 1) as usize),
        1 => bytes.extend(vec![1; BLOCK]),
        2 if !bytes.is_empty() => {
            let place = seed.index(bytes.len());
            bytes[place] ^= 1;
        }
        _ => {}
    }
    bytes
}

fn unmap_list(seed: &mut Seed, bench: &Bench) -> Vec<u8> {
    let descriptors = if seed.chance(1, 30) { 257 } else { seed.below(4) };
    let mut list = (descriptors as u16 * 16 + 6).to_be_bytes().to_vec();
    list.extend((descriptors as u16 * 16).to_be_bytes());
    list.extend([0; 4]);
    for _ in 0..descriptors {
        let lba = if seed.chance(1, 10) { lba(seed, bench) } else { seed.below(BLOCKS as u64 - 9) };
        list.extend(lba.to_be_bytes());
        list.extend((seed.below(10) as u32).to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

fn mode_list(seed: &mut Seed, ten: bool) -> Vec<u8> {
    let mut list = vec![0; if ten { 8 } else { 4 }];
    if seed.chance(1, 3) {
        let last = list.len() - 1;
        list[last] = 8;
        list.extend((BLOCKS as u32).to_be_bytes());
        list.extend([0, 0, 2, 0]);
    }
    for _ in 0..seed.below(3) {
        let (code, length) =
            *seed.pick(&[(0x01, 10), (0x02, 14), (0x08, 18), (0x0a, 10), (0x1c, 10), (0x5c, 20)]);
        let header = if code == 0x5c { 4 } else { 2 };
        let mut page = vec![0; length + header];
        page[0] = code;
        page[header - 1] = length as u8;
        match code {
            0x08 => page[2] = *seed.pick(&[0, 4, 4]),
            0x0a => {
                page[2] = *seed.pick(&[2, 6, 2, 0]);
                page[3] = 0x10;
                page[4] = *seed.pick(&[0, 0, 0, 8]);
            }
            0x01 => page[7] = *seed.pick(&[0, 0x80]),
            0x1c => page[2] = 8,
            0x5c => {
                page[1] = *seed.pick(&[2, 2, 2, 3]);
                page[16..].copy_from_slice(&[0x82, 0x01, 0, 0, 0, 0, 0, 3]);
            }
            _ => {}
        }
        list.extend(page);
    }
    list
}

fn event(seed: &mut Seed, bench: &Bench) -> Event {
    let blocks = bench.model.blocks.mapped.len();
    let who = seed.index(NEXUSES);
    match seed.below(12) {
        0 => Event::UnitReset,
        1 => Event::TargetReset,
        2 => Event::Relogin(who),
        3 => Event::Reinstate(who),
        4 if blocks < 2 * BLOCKS => Event::Grow(1 + seed.index(8)),
        5 | 6 => Event::Damage(seed.index(blocks)),
        7 => Event::Room(seed.index(40)),
        8 => Event::SoftThreshold,
        9 => Event::Neighbour(seed.next_u64() as u8),
        10 => Event::Cleared(who),
        _ => Event::Room(usize::MAX),
    }
}

#[test]
fn whatever_is_sent_is_answered_as_the_model_says() {
    let mut seen = Vec::new();
    for number in 0..120 {
        println!("seed {number}");
        let mut seed = Seed::new(number);
        let mut blocks = Blocks::new(BLOCKS);
        blocks.unmapped = *seed.pick(&[Content::Hole, Content::Zero]);
        blocks.read_only = seed.chance(1, 12);
        let kind = Kind {
            removable: seed.chance(1, 2),
            write_protected: seed.chance(1, 8),
            volatile_cache: seed.chance(1, 2),
            knows_space: seed.chance(1, 2),
        };
        let mut bench = Bench::new(blocks, kind);
        for _ in 0..600 {
            if seed.chance(1, 40) {
                let event = event(&mut seed, &bench);
                bench.event(event);
            }
            let who = seed.index(NEXUSES);
            let mut cdb = cdb(&mut seed, &bench);
            let data = data(&mut seed, &bench, &mut cdb);
            bench.command(who, &cdb, &data);
        }
        seen.append(&mut bench.seen);
    }
    // All there is to be refused with has been seen; a change of the generator that no longer gets there would be silent.
    let elsewhere = [
        Additional::NONE,
        // The disk of this test never fails by itself and never goes away.
        Additional::NOT_READY,
        Additional::INTERNAL_FAILURE,
        // Told where there is no unit.
        Additional::NOT_SUPPORTED_LUN,
        // Of the transport.
        Additional::UNEXPECTED_UNSOLICITED_DATA,
        Additional::NOT_ENOUGH_UNSOLICITED_DATA,
        Additional::FAILED_RETRANSMISSION,
        Additional::PROTOCOL_SERVICE_CRC,
    ];
    for (code, text) in Additional::ALL {
        let told = seen.iter().any(|sense| sense.additional == *code);
        assert_eq!(told, !elsewhere.contains(code), "{text}");
    }
}
