//! The bytes of what is sealed, kept: a segment of the journal, and a manifest with data keys, as they stand in
//! `tests/fixtures/`. They are made with keys that stand here, so the ciphers are kept as well.
//!
//! The fixtures are never edited. A change that makes this fail cannot read what is on people's disks.

mod fixture_text;

use fixture_text::{bytes_of, text_of};
use landfall_disks::{BLOCK_BYTES, Block, ByteRange};
use landfall_retention::ids::*;
use landfall_retention::journal::format::{
    Chain, ExtentContent, Record, RecordExtent, RecordKind, RecordSeal, SegmentHeader,
};
use landfall_retention::manifest::format::{
    HEADER_BYTES, encode_frame, encode_header, parse_frame,
};
use landfall_retention::manifest::keys::{KeyMaterial, KeyRecord};
use landfall_retention::manifest::record::ManifestRecord;
use landfall_retention::manifest::state::ManifestState;
use landfall_retention::name::Name;
use landfall_retention::sealing::{
    BlockIdentity, DataKey, KeyEncryptionKey, KeyOwner, SegmentCipher,
};
use landfall_retention::time::Timestamp;

const SEGMENT: &str = include_str!("../../tests/fixtures/journal-v1-sealed.hex");
const MANIFEST: &str = include_str!("../../tests/fixtures/manifest-v1-keys.hex");
const SALT: u64 = 0x0123_4567_89ab_cdef;
const FOLDER: [u8; 16] = *b"fedcba9876543210";
const KEY: KeyId = KeyId::new(7);
const KEK: &[u8] = b"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn data_key() -> DataKey {
    DataKey::from_random(|bytes| (0u8..).zip(bytes).for_each(|(at, byte)| *byte = 0xc0 ^ at))
}

fn identity(block: u64) -> BlockIdentity {
    BlockIdentity {
        line: LineId::new(2),
        sequence: Sequence::new(42),
        disk: DiskId::new(4),
        block: Block::new(block),
    }
}

fn plain(block: u64) -> Vec<u8> {
    format!("block {block}; ").bytes().cycle().take(BLOCK_BYTES).collect()
}

/// A segment with one record: block 3 becomes zeroes, 8 and 9 content.
fn segment() -> Vec<u8> {
    let (id, size_bytes) = (SegmentId::new(17), 64 << 20);
    let header = SegmentHeader {
        lane: LaneId::new(0),
        segment: id,
        salt: SALT,
        first: LaneSequence::new(1000),
        size_bytes,
        created: Timestamp::from_nanoseconds(1_700_000_000_000_000_000),
    };
    let cipher = SegmentCipher::new(&data_key(), id, SALT);
    let (mut tags, mut body) = (Vec::new(), Vec::new());
    for (unit, block) in [(2, 8), (3, 9)] {
        let mut bytes = plain(block);
        tags.push(cipher.seal(unit, &identity(block), &mut bytes));
        body.extend(bytes);
    }
    let range = |block: u64, blocks: u64| {
        ByteRange::at(Block::new(block).offset(), blocks * 4096).expect("on a disk")
    };
    let hash = *blake3::hash(&body).as_bytes();
    let extent = |range, content| RecordExtent { disk: DiskId::new(4), range, content };
    let record = Record {
        kind: RecordKind::Batch,
        boundary: true,
        lane_sequence: LaneSequence::new(1000),
        durable_through: LaneSequence::new(999),
        group: GroupId::new(1),
        line: LineId::new(2),
        sequence: Sequence::new(42),
        generation: Generation::new(3),
        stream: StreamId::new([0x5a; 16]),
        position: Position::new(77),
        source_time: Timestamp::from_nanoseconds(1_700_000_000_000_000_001),
        commit_time: Timestamp::from_nanoseconds(1_700_000_000_000_000_002),
        previous_chain: Chain([0xc4; 32]),
        extents: vec![
            extent(range(3, 1), ExtentContent::Zero),
            extent(range(8, 2), ExtentContent::Data { body: 4096, hash }),
        ],
        seal: Some(RecordSeal { key: KEY, segment: id, unit: 1, tags }),
    };
    let mut bytes = vec![0; 8192];
    header.encode(&mut bytes[..4096]);
    record.encode(SALT, &mut bytes[4096..]);
    bytes.extend(body);
    bytes
}

#[test]
fn a_sealed_segment_is_written_as_ever_and_opens() {
    assert_eq!(text_of(&segment()), SEGMENT);
    let bytes = bytes_of(SEGMENT);
    let header = SegmentHeader::parse(&bytes).expect("a segment");
    let record = Record::parse(&bytes[4096..], header.salt).expect("a record");
    let (origin, tags) = record.seal_of(1, 0, header.salt).expect("it is sealed");
    assert_eq!((origin.key, origin.segment, origin.unit), (KEY, SegmentId::new(17), 2));
    let cipher = SegmentCipher::new(&data_key(), origin.segment, origin.salt);
    for (at, block) in [(0, 8), (1, 9)] {
        let start = 8192 + at * BLOCK_BYTES;
        let mut sealed = bytes[start..start + BLOCK_BYTES].to_vec();
        let unit = origin.skip(u32::try_from(at).expect("small")).unit;
        cipher.open(unit, &identity(block), tags[at], &mut sealed).expect("it is proven");
        assert_eq!(sealed, plain(block));
    }
}

/// A machine that gets two keys, one of which is wrapped anew, and another whose keys were destroyed.
fn frames() -> [Vec<ManifestRecord>; 3] {
    let (one, two) = (MachineId::new(1), MachineId::new(2));
    let machine = |machine: MachineId| ManifestRecord::MachineAdded {
        machine,
        name: Name::parse(&format!("web-{machine}")).expect("a name"),
        display_name: String::new(),
        group: GroupId::new(machine.number()),
        trunk: LineId::new(machine.number()),
        lane: LaneId::new(0),
    };
    let at = Timestamp::from_nanoseconds(1_700_000_000_000_000_003);
    let kek = KeyEncryptionKey::parse(KEK).expect("a key");
    let wrap = |machine, key, nonce: u8| {
        kek.wrap(&data_key(), &KeyOwner { folder: FOLDER, machine, key }, [nonce; 12])
    };
    let added =
        |key, machine| KeyRecord::Added { key, machine, at, wrapped: wrap(machine, key, 1) };
    let [first, second] = [5, 6].map(KeyId::new);
    let keys = [added(first, one), added(second, two), added(KEY, one)].map(ManifestRecord::Key);
    let changed = [
        KeyRecord::Rewrapped { key: KEY, wrapped: wrap(one, KEY, 2) },
        KeyRecord::Destroyed { machine: two, at },
        KeyRecord::Given { key: KeyId::new(8) },
        KeyRecord::Gone { key: KeyId::new(9), machine: two, at, destroyed: at },
    ];
    let changed = changed.map(ManifestRecord::Key).to_vec();
    [vec![machine(one), machine(two)], keys.to_vec(), changed]
}

#[test]
fn a_manifest_with_keys_is_written_as_ever_and_unwraps() {
    let mut written = encode_header(FOLDER).to_vec();
    for (number, records) in (0..).zip(frames()) {
        encode_frame(number, &records, &mut written);
    }
    assert_eq!(text_of(&written), MANIFEST);
    let bytes = bytes_of(MANIFEST);
    let (mut rest, mut state) = (&bytes[HEADER_BYTES..], ManifestState::default());
    for (number, expected) in (0..).zip(frames()) {
        let (records, length) = parse_frame(rest, number).expect("a whole frame");
        assert_eq!(records, expected);
        records.iter().for_each(|record| state.apply(record).expect("it fits"));
        rest = &rest[length..];
    }
    let kek = KeyEncryptionKey::parse(KEK).expect("a key");
    assert_eq!(kek.id().to_string(), "cd389ef8b565724d");
    let newest = state.keys.of_machine(MachineId::new(1)).next_back().expect("it has two");
    let KeyMaterial::Wrapped(wrapped) = newest.material else { panic!("{newest:?}") };
    let owner = KeyOwner { folder: FOLDER, machine: newest.machine, key: newest.id };
    let key = kek.unwrap(&wrapped, &owner).expect("it is ours");
    let sealed_by = |key: &DataKey| {
        let mut zeroes = vec![0; BLOCK_BYTES];
        SegmentCipher::new(key, SegmentId::new(1), 2).seal(3, &identity(4), &mut zeroes)
    };
    assert_eq!(sealed_by(&key), sealed_by(&data_key()), "the very key");
    assert!(state.keys.destroyed(MachineId::new(2)).is_some());
    assert_eq!(state.keys.next(), KeyId::new(10));
}
