//! Extended headers, byte by byte.

use crate::memory::Server;
use crate::raw::Raw;

const MIB: u64 = 1 << 20;
/// Larger than any length of 32 bits.
const SIZE: u64 = 12 << 30;

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

const FUA: u16 = 1;
const REQ_ONE: u16 = 1 << 3;
const PAYLOAD: u16 = 1 << 5;

/// One chunk of a reply, its head checked.
#[derive(Debug)]
struct Chunk {
    done: bool,
    kind: u16,
    payload: Vec<u8>,
}

/// A connection with extended headers and `base:allocation`, the latter as context 1.
struct Extended(Raw);

impl Extended {
    fn entered(server: &Server, export: &str) -> Self {
        let mut raw = Raw::connect(server);
        raw.receive(18);
        raw.send(&3u32.to_be_bytes());
        let counted = |text: &str| {
            let length = u32::try_from(text.len()).expect("short");
            [&length.to_be_bytes()[..], text.as_bytes()].concat()
        };
        let queries = [counted(export), 1u32.to_be_bytes().to_vec(), counted("base:allocation")];
        for (option, data) in
            [(11, Vec::new()), (10, queries.concat()), (7, [counted(export), vec![0, 0]].concat())]
        {
            raw.option(option, &data);
            while raw.option_reply(option).0 != 1 {}
        }
        Self(raw)
    }

    fn request(&mut self, flags: u16, command: u16, offset: u64, length: u64) {
        let mut header = 0x21e4_1c71u32.to_be_bytes().to_vec();
        header.extend(flags.to_be_bytes());
        header.extend(command.to_be_bytes());
        for number in [offset ^ 0x5555, offset, length] {
            header.extend(number.to_be_bytes());
        }
        self.0.send(&header);
    }

    /// The reply to the request at `offset`, chunk by chunk.
    fn reply(&mut self, offset: u64) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        loop {
            let head = self.0.receive(32);
            assert_eq!(head[..4], [0x6e, 0x8a, 0x27, 0x8c]);
            let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("8"));
            assert_eq!((number(8), number(16)), (offset ^ 0x5555, offset));
            let payload = self.0.receive(usize::try_from(number(24)).expect("small"));
            let kind = u16::from_be_bytes([head[6], head[7]]);
            chunks.push(Chunk { done: head[5] == 1, kind, payload });
            if head[5] == 1 {
                return chunks;
            }
        }
    }

    /// The error of the only chunk of the reply, 0 for success.
    fn error(&mut self, offset: u64) -> u32 {
        match self.reply(offset).as_slice() {
            [Chunk { done: true, kind: 0, payload }] if payload.is_empty() => 0,
            [Chunk { done: true, kind: 0x8001, payload }] => {
                u32::from_be_bytes(payload[..4].try_into().expect("a code"))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Length and status of every descriptor of the only chunk of the reply.
    fn status(&mut self, offset: u64) -> Vec<(u64, u64)> {
        let chunks = self.reply(offset);
        let [Chunk { done: true, kind: 6, payload }] = chunks.as_slice() else {
            panic!("{chunks:?}")
        };
        let (head, descriptors) = payload.split_at(8);
        assert_eq!(head[..4], 1u32.to_be_bytes());
        assert_eq!(
            u32::from_be_bytes(head[4..].try_into().expect("4")) as usize * 16,
            descriptors.len()
        );
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("8"));
        descriptors.chunks(16).map(|one| (number(&one[..8]), number(&one[8..]))).collect()
    }
}

#[test]
fn every_reply_is_a_chunk_and_repeats_the_offset() {
    let server = Server::start(SIZE);
    let mut client = Extended::entered(&server, "disk");
    client.request(PAYLOAD | FUA, WRITE, 8192, 5);
    client.0.send(b"hello");
    assert_eq!(client.error(8192), 0);
    client.request(0, READ, 8190, 9);
    let chunks = client.reply(8190);
    let [Chunk { done: true, kind: 1, payload }] = chunks.as_slice() else { panic!("{chunks:?}") };
    assert_eq!(payload[..8], 8190u64.to_be_bytes());
    assert_eq!(&payload[8..], b"\0\0hello\0\0");
    client.request(0, READ, 0, MIB);
    let kinds: Vec<u16> = client.reply(0).iter().map(|chunk| chunk.kind).collect();
    assert_eq!(kinds, [1, 2], "data, and a hole");
    client.request(0, FLUSH, 0, 0);
    assert_eq!(client.error(0), 0);
    server.stop();
}

#[test]
fn effects_reach_beyond_32_bits() {
    let server = Server::start(SIZE);
    server.disk.put(6 << 30, b"far behind");
    let mut client = Extended::entered(&server, "disk");
    client.request(0, BLOCK_STATUS, 4096, SIZE - 4096);
    let told = client.status(4096);
    assert_eq!(told, [((6 << 30) - 4096, 3), (4096, 0), (SIZE - (6 << 30) - 4096, 3)]);
    client.request(REQ_ONE, BLOCK_STATUS, 0, SIZE);
    assert_eq!(client.status(0), [(6 << 30, 3)]);
    client.request(0, CACHE, 0, SIZE);
    assert_eq!(client.error(0), 0);
    client.request(0, WRITE_ZEROES, 0, SIZE);
    assert_eq!(client.error(0), 0);
    client.request(REQ_ONE, BLOCK_STATUS, 0, SIZE);
    assert_eq!(client.status(0), [(SIZE, 3)], "the write far behind was zeroed");
    client.request(0, TRIM, 0, SIZE);
    assert_eq!(client.error(0), 0);
    client.request(0, TRIM, 1, SIZE);
    assert_eq!(client.error(1), 22);
    client.request(0, WRITE_ZEROES, 1, SIZE);
    assert_eq!(client.error(1), 28);
    client.request(0, READ, 0, 5 << 30);
    assert_eq!(client.error(0), 75);
    server.stop();
}

#[test]
fn a_payload_out_of_place_is_taken_and_refused() {
    let server = Server::start(SIZE);
    let mut client = Extended::entered(&server, "disk");
    for (command, offset) in [(READ, 1), (TRIM, 2), (CACHE, 3), (WRITE_ZEROES, 4), (77, 5)] {
        client.request(PAYLOAD, command, offset, 2 * MIB + 3);
        client.0.send(&vec![7; 2 * MIB as usize + 3]);
        assert_eq!(client.error(offset), 22, "command {command}");
    }
    // As QEMU writes: no flag, and the payload all the same.
    client.request(0, WRITE, 6, 3);
    client.0.send(b"abc");
    assert_eq!(client.error(6), 0, "a write without the flag");
    // Past the end, with the payload behind it.
    client.request(PAYLOAD, WRITE, SIZE, 3);
    client.0.send(b"abc");
    assert_eq!(client.error(SIZE), 28);
    client.request(0, FLUSH, 0, 0);
    assert_eq!(client.error(0), 0, "the connection goes on");
    // What is longer than was announced is not even read.
    client.request(PAYLOAD, WRITE, 0, 32 * MIB + 1);
    assert!(client.0.is_closed());
    server.stop();
}

#[test]
fn a_status_is_filtered_by_context() {
    let server = Server::start(SIZE);
    let mut client = Extended::entered(&server, "frozen");
    let filter = |length: u64, contexts: &[u32]| {
        let mut payload = length.to_be_bytes().to_vec();
        payload.extend(contexts.iter().flat_map(|number| number.to_be_bytes()));
        payload
    };
    let mut ask = |offset: u64, payload: &[u8]| {
        client.request(PAYLOAD, BLOCK_STATUS, offset, payload.len() as u64);
        client.0.send(payload);
    };
    ask(512, &filter(6 << 30, &[1]));
    ask(513, &filter(1 << 30, &[]));
    ask(514, &filter(4096, &[2]));
    ask(515, &filter(4096, &[1, 1]));
    ask(516, &filter(4096, &[1, 2, 3])[..15]);
    ask(517, &filter(4096, &[1; 1000]));
    ask(518, &filter(SIZE, &[1]));
    let mut replies: Vec<(u64, u16, u32)> = (512..519)
        .map(|offset| {
            // Refusals overtake nothing here, but answers may: whatever comes first is looked at by its own offset.
            let _ = offset;
            let head = client.0.receive(32);
            let at = u64::from_be_bytes(head[16..24].try_into().expect("8"));
            let length = u64::from_be_bytes(head[24..].try_into().expect("8"));
            let payload = client.0.receive(usize::try_from(length).expect("small"));
            let kind = u16::from_be_bytes([head[6], head[7]]);
            let code = payload.first_chunk().map_or(0, |code| u32::from_be_bytes(*code));
            (at, kind, code)
        })
        .collect();
    replies.sort_unstable();
    let refused = |offset| (offset, 0x8001, 22);
    // The first one tells of context 1.
    let mut expected = vec![(512, 6, 1)];
    expected.extend((513..519).map(refused));
    assert_eq!(replies, expected);
    server.stop();
}
