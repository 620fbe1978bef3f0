//! Whole sessions over live sockets, chosen by a seed: several connections with many requests in flight, that end in any way
//! and are made anew.
//!
//! ```text
//!   seed ─▶ requests, right and wrong ──▶ server ──▶ disk in memory
//!             │                             │              │
//!             └──▶ model: what each must get, and what the disk must hold, byte by byte and block by block
//! ```
//!
//! **The oracle is exact.** Requests that change a block never run beside others that look at it, so what each must get is known
//! when it is sent. Only what a connection left unanswered when it went away may have been done or not.
//!
//! `LANDFALL_NBD_SEEDS` says how many seeds, `LANDFALL_SEED` picks one.

mod model;
mod wire;

use self::model::*;
use self::wire::{CONTEXTS, Connection, Form, Reply, Request};
use crate::memory::{MemoryDisk, Server};
use crate::serve::wait_until;
use landfall_disks::faults::Seed;
use landfall_disks::{ByteOffset, ByteRange};
use landfall_protocols::nbd::serve::Settings;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// Seeds that are tried unless told otherwise.
const SEEDS: u64 = 200;
const STEPS: u64 = 250;
const CONNECTIONS: usize = 3;
/// Requests in flight on a connection.
const MOST: usize = 12;
/// Permits of a gate that is open.
const OPEN: usize = 1_000_000;

#[test]
fn sessions_of_any_kind_get_what_is_due_and_leave_what_they_wrote() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seeds = match number("LANDFALL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LANDFALL_NBD_SEEDS").unwrap_or(SEEDS),
    };
    assert!(!seeds.is_empty(), "no seed was tried");
    for seed in seeds {
        let failed = std::panic::catch_unwind(|| Sessions::run(seed));
        if let Err(failed) = failed {
            eprintln!(
                "seed {seed} failed; alone: make unit SEED={seed} TEST='test(sessions_of_any)'"
            );
            std::panic::resume_unwind(failed);
        }
    }
}

/// A request whose reply has not come.
struct InFlight {
    request: Request,
    error: Option<u32>,
    error_at: Option<u64>,
    /// What it looks at or changes, in whole blocks.
    touches: Range<u64>,
    before: Option<Before>,
    /// Contexts that a block status is to tell of.
    contexts: Vec<u32>,
}

/// A connection and what it waits for.
struct Client {
    connection: Connection,
    /// In the exports of [`Sessions`].
    export: usize,
    in_flight: BTreeMap<u64, InFlight>,
}

struct Export {
    name: &'static str,
    disk: Arc<MemoryDisk>,
    model: Model,
}

struct Sessions {
    seed: Seed,
    server: Server,
    exports: [Export; 2],
    clients: Vec<Client>,
    /// Whether reads and flushes wait.
    stalled: bool,
    answered: u64,
}

impl Sessions {
    fn run(seed: u64) {
        let mut seed = Seed::new(seed);
        let requests_in_flight = *seed.pick(&[1, 3, 256]);
        let settings = Settings { requests_in_flight, ..Settings::default() };
        let server = Server::with_settings(SIZE, settings);
        let export = |name, disk: &Arc<MemoryDisk>| Export {
            name,
            disk: Arc::clone(disk),
            model: Model::new(),
        };
        let exports = [export("disk", &server.disk), export("frozen", &server.frozen)];
        let mut sessions =
            Self { seed, server, exports, clients: Vec::new(), stalled: false, answered: 0 };
        sessions.fill();
        for _ in 0..STEPS {
            sessions.step();
        }
        sessions.finish();
    }

    /// Something to find from the start.
    fn fill(&mut self) {
        for export in &mut self.exports {
            for _ in 0..12 {
                let offset = self.seed.below(SIZE - 20_000);
                let mut data = vec![0; self.seed.index(20_000)];
                self.seed.fill(&mut data);
                export.disk.put(offset, &data);
                let length = data.len() as u64;
                let write = Request { flags: 0, command: WRITE, offset, length };
                export.model.apply(&write, &data);
            }
        }
    }

    fn step(&mut self) {
        if self.clients.len() < CONNECTIONS {
            return self.connect();
        }
        let client = self.seed.index(self.clients.len());
        let waiting = self.clients[client].in_flight.len();
        match self.seed.below(100) {
            0..3 if self.stalled => self.resume(),
            0..3 => self.stall(),
            3..6 => self.change_the_disk(),
            6..9 => self.end(client),
            9..40 if waiting > 0 && !self.stalled => self.take_reply(client),
            _ if waiting >= MOST => {
                self.resume();
                self.take_reply(client);
            }
            _ => self.ask(client),
        }
    }

    fn connect(&mut self) {
        let form = *self.seed.pick(&[Form::Simple, Form::Structured, Form::Extended]);
        let export = usize::from(self.seed.chance(1, 4));
        let socket = self.server.socket();
        let connection = Connection::open(&socket, form, self.exports[export].name);
        self.clients.push(Client { connection, export, in_flight: BTreeMap::new() });
    }

    /// Reads and flushes wait from now on, so that what comes after them is done before.
    fn stall(&mut self) {
        self.stalled = true;
        for export in &self.exports {
            export.disk.gate.forget_permits(OPEN);
            export.disk.flush_gate.forget_permits(OPEN);
        }
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.stalled) {
            for export in &self.exports {
                export.disk.gate.add_permits(OPEN);
                export.disk.flush_gate.add_permits(OPEN);
            }
        }
    }

    /// Everything is answered; then the disk becomes full, damaged, or sound, and holds what it must before that.
    fn change_the_disk(&mut self) {
        self.answer_all();
        let [Export { disk, model, .. }, _] = &mut self.exports;
        model.full = self.seed.chance(1, 3);
        disk.room.store(if model.full { 0 } else { u64::MAX }, SeqCst);
        let start = self.seed.below(SIZE - 10_000);
        let length = self.seed.below(9000) + 1;
        model.damaged = self.seed.chance(1, 2).then(|| start..start + length);
        *disk.damaged.lock() = model
            .damaged
            .as_ref()
            .map(|_| ByteRange::at(ByteOffset::new(start), length).expect("small"));
    }

    fn answer_all(&mut self) {
        self.resume();
        for client in 0..self.clients.len() {
            while !self.clients[client].in_flight.is_empty() {
                self.take_reply(client);
            }
        }
        for Export { disk, model, .. } in &self.exports {
            model.check(disk);
            assert_eq!(disk.flushes.load(SeqCst), model.flushes, "what was made durable");
        }
    }

    /// Whether nothing in flight has to do with it.
    fn is_free(&self, export: usize, touches: &Range<u64>, changes: bool) -> bool {
        let mut of_export = self.clients.iter().filter(|client| client.export == export);
        of_export.all(|client| {
            client.in_flight.values().all(|other| {
                let apart =
                    touches.end <= other.touches.start || other.touches.end <= touches.start;
                apart || !changes && other.before.is_none()
            })
        })
    }

    fn ask(&mut self, client: usize) {
        let form = self.clients[client].connection.form;
        let request = self.some_request(form);
        let export = self.clients[client].export;
        let model = &self.exports[export].model;
        let long = request.command == READ && request.length >= 64 << 10;
        if long && model.damages(&request.range()).is_some() {
            // Of so long a read holes are not read, damaged or not.
            return;
        }
        let (mut asked, mut payload, mut contexts) = (request, Vec::new(), vec![1, 2]);
        let mut error = model.error(form, export == 0, &request);
        if has_payload(form, &request) {
            payload = vec![0; usize::try_from(request.length).expect("chosen to be short")];
            self.seed.fill(&mut payload);
        }
        if form == Form::Extended && request.command == BLOCK_STATUS && request.flags & PAYLOAD != 0
        {
            (payload, contexts) = self.some_filter(request.length);
            asked = Request { length: payload.len() as u64, ..request };
            let plain = Request { flags: request.flags & !PAYLOAD, ..request };
            error = self.exports[export].model.error(form, export == 0, &plain);
            error = error.or(contexts.is_empty().then_some(22));
        }
        let touches = whole_blocks(&request.range());
        let changes = error.is_none() && matches!(request.command, WRITE | WRITE_ZEROES | TRIM);
        if error.is_none() && !self.is_free(export, &touches, changes) {
            return;
        }
        let model = &mut self.exports[export].model;
        let reads = error == Some(5);
        let error_at = if reads { model.damages(&request.range()) } else { None };
        let before = if error.is_none() { model.apply(&request, &payload) } else { None };
        let connection = &mut self.clients[client].connection;
        let cookie = connection.cookie(&request);
        let mut bytes = connection.header(&asked, cookie);
        bytes.extend(payload);
        connection.send(&bytes);
        let waiting = InFlight { request, error, error_at, touches, before, contexts };
        self.clients[client].in_flight.insert(cookie, waiting);
    }

    /// Mostly in order, with flags that mean something; now and then wrong in some way.
    fn some_request(&mut self, form: Form) -> Request {
        let seed = &mut self.seed;
        let command = *seed.pick(&[
            READ,
            READ,
            READ,
            READ,
            WRITE,
            WRITE,
            WRITE,
            WRITE_ZEROES,
            TRIM,
            FLUSH,
            CACHE,
            BLOCK_STATUS,
            BLOCK_STATUS,
            8,
            77,
        ]);
        let unit = *seed.pick(&[1, 512, BLOCK, BLOCK]);
        let offset = seed.below(SIZE / unit + 1) * unit;
        let longest = *seed.pick(&[1, 3 * BLOCK, 3 * BLOCK, 60 << 10, SIZE]);
        let length = seed.below(longest / unit + 2) * unit;
        let fits = command == READ || length <= 60 << 10;
        let mut request = Request {
            flags: 0,
            command,
            offset,
            // Whatever is sent along is short.
            length: if fits || !carries(command) { length } else { 60 << 10 },
        };
        if command == FLUSH && !seed.chance(1, 8) {
            (request.offset, request.length) = (0, 0);
        }
        if !seed.chance(1, 10) && command != FLUSH {
            request.length = request.length.min(SIZE.saturating_sub(request.offset));
        }
        for flag in [FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD] {
            let belongs = match command {
                READ => DF,
                WRITE => PAYLOAD,
                WRITE_ZEROES => NO_HOLE | FAST_ZERO,
                BLOCK_STATUS => REQ_ONE | PAYLOAD,
                _ => 0,
            } | FUA;
            let often = if belongs & flag != 0 { 3 } else { 60 };
            // Without extended headers it means no payload, which is refused without one.
            if seed.chance(1, often) && (flag != PAYLOAD || form == Form::Extended) {
                request.flags |= flag;
            }
        }
        if has_payload(form, &request) && command != BLOCK_STATUS {
            request.length = request.length.min(60 << 10);
        }
        if seed.chance(1, 50) {
            request.flags |= 1 << 9;
        }
        request
    }

    /// The payload of a block status of `length` bytes, and what it names; nothing, if it is not in order.
    fn some_filter(&mut self, length: u64) -> (Vec<u8>, Vec<u32>) {
        let any: [&[u32]; 7] = [&[1], &[2], &[2, 1], &[1, 2], &[], &[3], &[1, 1]];
        let named = *self.seed.pick(&any);
        let mut payload = length.to_be_bytes().to_vec();
        payload.extend(named.iter().flat_map(|number| number.to_be_bytes()));
        let mut right = named.to_vec();
        right.sort_unstable();
        right.dedup();
        let is_right = right.len() == named.len() && right.iter().all(|number| *number < 3);
        if self.seed.chance(1, 10) {
            payload.push(0);
            return (payload, Vec::new());
        }
        (payload, if is_right { right } else { Vec::new() })
    }

    fn take_reply(&mut self, client: usize) {
        let Client { connection, export, in_flight } = &mut self.clients[client];
        let reply = connection.reply();
        let due = in_flight.remove(&reply.cookie).expect("a reply to something asked, and one");
        let model = &self.exports[*export].model;
        check(model, connection.form, &due, &reply);
        self.answered += 1;
    }

    /// A connection ends, politely or not.
    fn end(&mut self, client: usize) {
        // What waits would be waited for.
        self.resume();
        match self.seed.below(5) {
            // Everything in flight is answered, and then the connection ends.
            0 => self.part(client, |connection| {
                let leave = Request { flags: 0, command: 2, offset: 0, length: 0 };
                connection.header(&leave, 0)
            }),
            1 => self.part(client, |_| vec![0x55; 32]),
            // A request of which a part is missing, and a write whose payload does not come.
            2 => self.break_off(client, |connection| {
                let flush = Request { flags: 0, command: FLUSH, offset: 0, length: 0 };
                let mut header = connection.header(&flush, 1);
                header.pop();
                header
            }),
            3 => self.break_off(client, |connection| {
                let write = Request { flags: 0, command: WRITE, offset: 0, length: 10_000 };
                let mut bytes = connection.header(&write, 1);
                bytes.extend([7; 9999]);
                bytes
            }),
            _ => self.break_off(client, |_| Vec::new()),
        }
    }

    fn part(&mut self, client: usize, last: impl FnOnce(&Connection) -> Vec<u8>) {
        let bytes = last(&self.clients[client].connection);
        self.clients[client].connection.send(&bytes);
        while !self.clients[client].in_flight.is_empty() {
            self.take_reply(client);
        }
        self.clients.remove(client).connection.ends();
    }

    fn break_off(&mut self, client: usize, last: impl FnOnce(&Connection) -> Vec<u8>) {
        let Client { mut connection, export, in_flight } = self.clients.remove(client);
        let bytes = last(&connection);
        connection.send(&bytes);
        connection.vanish();
        let counters = self.server.service.counters();
        let left = self.clients.len() as u64;
        wait_until(|| counters.connections.open.load(SeqCst) == left);
        // Flushes that others have asked for are not told from those that were cut off.
        let Export { disk, model, .. } = &mut self.exports[export];
        for due in in_flight.values() {
            if let Some(before) = &due.before {
                model.settle(before, disk);
            }
        }
        let durable = |due: &InFlight| {
            let is_flush = due.request.command == FLUSH || due.request.flags & FUA != 0;
            due.error.is_none() && is_flush
        };
        if in_flight.values().any(durable) {
            self.answer_others(export);
        }
    }

    /// After flushes of which nobody knows whether they came about.
    fn answer_others(&mut self, export: usize) {
        for client in 0..self.clients.len() {
            while !self.clients[client].in_flight.is_empty() {
                self.take_reply(client);
            }
        }
        let Export { disk, model, .. } = &mut self.exports[export];
        let flushes = disk.flushes.load(SeqCst);
        assert!(flushes <= model.flushes, "{flushes} of {}", model.flushes);
        model.flushes = flushes;
    }

    fn finish(mut self) {
        self.answer_all();
        while let Some(client) = self.clients.pop() {
            self.clients.push(client);
            let last = self.clients.len() - 1;
            self.part(last, |connection| {
                let leave = Request { flags: 0, command: 2, offset: 0, length: 0 };
                connection.header(&leave, 0)
            });
        }
        assert!(self.answered > STEPS / 10, "only {} requests were answered", self.answered);
        for Export { disk, model, .. } in &self.exports {
            model.check(disk);
        }
        self.server.stop();
    }
}

/// Whether bytes come with a command in the way of its own.
fn carries(command: u16) -> bool {
    command == WRITE
}

fn has_payload(form: Form, request: &Request) -> bool {
    carries(request.command) || form == Form::Extended && request.flags & PAYLOAD != 0
}

fn whole_blocks(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK * BLOCK..range.end.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// The reply is what was due.
fn check(model: &Model, form: Form, due: &InFlight, reply: &Reply) {
    let InFlight { request, error, .. } = due;
    assert_eq!(reply.error, *error, "{request:?}: {reply:?}");
    assert_eq!(reply.offset, (form == Form::Extended).then_some(request.offset));
    if error.is_some() {
        let structured = form != Form::Simple;
        assert_eq!(reply.error_at, due.error_at.filter(|_| structured), "{request:?}");
        assert!(reply.pieces.is_empty() && reply.status.is_empty(), "an error and nothing else");
        return;
    }
    match request.command {
        READ => check_read(model, request, reply),
        BLOCK_STATUS => check_status(model, due, reply),
        _ => assert!(reply.chunks == 1 && reply.pieces.is_empty() && reply.status.is_empty()),
    }
}

fn check_read(model: &Model, request: &Request, reply: &Reply) {
    let mut at = request.offset;
    let mut whole = Vec::new();
    for (offset, bytes) in &reply.pieces {
        // Simple replies do not say where.
        assert!([at, u64::MAX].contains(offset), "{request:?}: a piece at {offset}, not at {at}");
        at += bytes.len() as u64;
        whole.extend_from_slice(bytes);
    }
    assert!(whole == model.bytes[slice(&request.range())], "{request:?} read something else");
    assert!(request.flags & DF == 0 || reply.chunks == 1, "DF forbids pieces");
}

fn check_status(model: &Model, due: &InFlight, reply: &Reply) {
    let request = &due.request;
    let told: Vec<u32> = reply.status.iter().map(|(context, _)| *context).collect();
    assert_eq!(told, due.contexts, "of {CONTEXTS:?}");
    assert_eq!(reply.chunks, told.len(), "one chunk for each");
    for (context, extents) in &reply.status {
        let one = request.flags & REQ_ONE != 0;
        assert!(!extents.is_empty() && (!one || extents.len() == 1));
        assert!(extents.windows(2).all(|pair| pair[0].1 != pair[1].1), "neighbours differ");
        let mut at = request.offset;
        for (length, meaning) in extents {
            assert!(*length > 0 && at + length <= request.range().end, "within the request");
            for (_, part) in blocks(&(at..at + length)) {
                assert_eq!(*meaning, model.status(*context, part.start), "{context} at {part:?}");
            }
            at += length;
        }
        // What an export tells may end early; what every disk tells here does not.
        assert!(one || *context != 1 || at == request.range().end, "ends early");
    }
}
