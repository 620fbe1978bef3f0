//! Contexts that an export brings along, beside `base:allocation`, with compact and with extended headers.

use crate::memory::Server;
use crate::peers::{newer, run};
use crate::raw::Raw;
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, ready};
use landfall_disks::{BLOCK_SIZE, ByteRange, IoFuture};
use landfall_protocols::nbd::session::lists;
use landfall_protocols::nbd::{BlockContext, Contexts, Described};
use std::sync::Arc;
use std::time::Instant;

const SIZE: u64 = 64 << 20;

/// Contexts that any export can tell. `test:every:N` says of each block which multiple of N blocks it lies in.
pub(crate) struct Tellers {
    pub(crate) open: Arc<()>,
}

enum Tells {
    Every(u64),
    /// The largest number there is.
    Most,
    Nothing,
}

struct Teller {
    tells: Tells,
    _open: Arc<()>,
}

const LISTED: [&str; 4] = ["test:every:1", "test:every:3", "test:most", "other:nothing"];

impl Contexts for Tellers {
    fn list<'a>(&'a self, queries: &'a [String]) -> LocalBoxFuture<'a, Vec<String>> {
        let asked =
            |name: &&str| queries.is_empty() || queries.iter().any(|query| lists(query, name));
        ready(LISTED.into_iter().filter(asked).map(str::to_owned).collect()).boxed_local()
    }

    fn open<'a>(&'a self, name: &'a str) -> LocalBoxFuture<'a, Option<Arc<dyn BlockContext>>> {
        let tells = match name {
            "test:most" => Some(Tells::Most),
            "other:nothing" => Some(Tells::Nothing),
            name => name
                .strip_prefix("test:every:")
                .and_then(|number| number.parse().ok())
                .map(Tells::Every),
        };
        let open = |tells| {
            Arc::new(Teller { tells, _open: Arc::clone(&self.open) }) as Arc<dyn BlockContext>
        };
        ready(tells.map(open)).boxed_local()
    }
}

impl BlockContext for Teller {
    fn describe(&self, range: ByteRange) -> IoFuture<'_, Vec<Described>> {
        let blocks = range.chunks(BLOCK_SIZE).take(5);
        let described = match self.tells {
            Tells::Every(number) => blocks
                .map(|range| Described {
                    range,
                    status: (range.start().block().index() / number) as u32,
                })
                .collect(),
            Tells::Most => vec![Described { range, status: u32::MAX }],
            Tells::Nothing => Vec::new(),
        };
        ready(Ok(described)).boxed_local()
    }
}

fn counted(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("short");
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

/// `NBD_OPT_SET_META_CONTEXT`: the number of each context that was selected, or the error.
fn select(raw: &mut Raw, export: &str, queries: &[&str]) -> Result<Vec<(u32, String)>, u32> {
    let count = u32::try_from(queries.len()).expect("few");
    let mut data = [counted(export), count.to_be_bytes().to_vec()].concat();
    queries.iter().for_each(|query| data.extend(counted(query)));
    raw.option(10, &data);
    let mut selected = Vec::new();
    loop {
        match raw.option_reply(10) {
            (1, _) => return Ok(selected),
            (4, data) => {
                let (id, name) = data.split_first_chunk().expect("a number");
                let name = String::from_utf8(name.to_vec()).expect("text");
                selected.push((u32::from_be_bytes(*id), name));
            }
            (error, _) => return Err(error),
        }
    }
}

fn greeted(server: &Server, replies: u32) -> Raw {
    let mut raw = Raw::connect(server);
    raw.receive(18);
    raw.send(&3u32.to_be_bytes());
    raw.option(replies, &[]);
    assert_eq!(raw.option_reply(replies).0, 1);
    raw
}

const STRUCTURED: u32 = 8;
const EXTENDED: u32 = 11;

fn go(raw: &mut Raw, export: &str) {
    raw.option(7, &[counted(export), vec![0, 0]].concat());
    while raw.option_reply(7).0 != 1 {}
}

/// Asks for the status of blocks, over structured replies: each context's number with its descriptors.
fn status(raw: &mut Raw, flags: u16, blocks: (u64, u32)) -> Vec<(u32, Vec<(u32, u32)>)> {
    raw.request(flags, 7, 9, blocks.0 * BLOCK_SIZE, blocks.1 * 4096);
    let mut told = Vec::new();
    loop {
        let head = raw.receive(20);
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four"));
        assert_eq!((&head[..4], &head[6..8]), (&[0x66, 0x8e, 0x33, 0xef][..], &[0, 5][..]));
        let payload = raw.receive(number(&head[16..]) as usize);
        let (id, rest) = payload.split_at(4);
        let descriptors = rest.chunks(8).map(|one| (number(&one[..4]) / 4096, number(&one[4..])));
        told.push((number(id), descriptors.collect()));
        if head[5] == 1 {
            return told;
        }
    }
}

#[test]
fn a_status_has_a_chunk_for_each_context() {
    let server = Server::start(SIZE);
    server.disk.put(8 * BLOCK_SIZE, &[7; 4096]);
    let mut raw = greeted(&server, STRUCTURED);
    let queries = ["test:every:3", "no:such", "base:allocation", "test:most", "test:every:x"];
    let selected = select(&mut raw, "disk", &queries).expect("selected");
    let named = |id: u32, name: &str| (id, name.to_owned());
    let expected = [named(1, "test:every:3"), named(2, "base:allocation"), named(3, "test:most")];
    assert_eq!(selected, expected);
    go(&mut raw, "disk");
    let told = [
        (1, vec![(2, 2), (3, 3), (3, 4), (1, 5)]),
        (2, vec![(1, 3), (1, 0), (7, 3)]),
        (3, vec![(9, u32::MAX)]),
    ];
    assert_eq!(status(&mut raw, 0, (7, 9)), told);
    let one = [(1, vec![(2, 2)]), (2, vec![(1, 3)]), (3, vec![(9, u32::MAX)])];
    assert_eq!(status(&mut raw, 1 << 3, (7, 9)), one, "one each");
    server.stop();
}

#[test]
fn what_was_opened_for_contexts_goes_with_the_selection_and_the_connection() {
    let server = Server::start(SIZE);
    let open = || Arc::strong_count(&server.shelf.contexts) - 1;
    // An export that was opened has a clone of its own: those of the name that is held.
    let mut raw = greeted(&server, STRUCTURED);
    let queries: Vec<String> = (1..=17).map(|number| format!("test:every:{number}")).collect();
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    assert_eq!(select(&mut raw, "disk", &queries), Err(0x8000_0009), "too many");
    assert_eq!(select(&mut raw, "disk", &queries[..16]).map(|all| all.len()), Ok(16));
    let some = open();
    assert!(some >= 16, "{some}");
    assert_eq!(select(&mut raw, "disk", &queries[..2]).map(|all| all.len()), Ok(2));
    assert_eq!(open(), some - 14);
    go(&mut raw, "disk");
    assert_eq!(status(&mut raw, 0, (0, 2)), [(1, vec![(1, 0), (1, 1)]), (2, vec![(2, 0)])]);
    drop(raw);
    let begun = Instant::now();
    while open() > 0 {
        assert!(begun.elapsed() < crate::memory::PATIENCE, "{} are open", open());
        std::thread::yield_now();
    }
    server.stop();
}

#[test]
fn a_name_that_contexts_were_selected_of_means_the_same_until_the_end() {
    let server = Server::start(SIZE);
    let mut raw = greeted(&server, STRUCTURED);
    assert!(select(&mut raw, "disk", &["test:most"]).is_ok());
    // More names than a connection holds open: all but this one are resolved anew when they come up again.
    for round in 0..2 {
        for number in 0..12 {
            raw.option(6, &[counted(&format!("frozen#{number}")), vec![0, 0]].concat());
            while raw.option_reply(6).0 != 1 {}
        }
        let opened = server.shelf.opened.lock().len();
        assert_eq!(opened, 1 + 12 * (round + 1));
    }
    go(&mut raw, "disk");
    assert_eq!(status(&mut raw, 0, (0, 1)), [(1, vec![(1, u32::MAX)])]);
    assert_eq!(server.shelf.opened.lock().iter().filter(|name| *name == "disk").count(), 1);
    server.stop();
}

#[test]
fn a_context_that_fails_fails_its_request_alone() {
    let server = Server::start(SIZE);
    let mut raw = greeted(&server, EXTENDED);
    let selected = select(&mut raw, "disk", &["test:most", "other:nothing"]).expect("selected");
    assert_eq!(selected.len(), 2);
    go(&mut raw, "disk");
    let mut ask = |contexts: &[u32]| {
        let mut request = [0x21, 0xe4, 0x1c, 0x71, 0, 1 << 5, 0, 7].to_vec();
        let length = 8 + 4 * contexts.len() as u64;
        for number in [5, 0, length, 3 * BLOCK_SIZE] {
            request.extend(number.to_be_bytes());
        }
        contexts.iter().for_each(|context| request.extend(context.to_be_bytes()));
        raw.send(&request);
        let head = raw.receive(32);
        let length = u64::from_be_bytes(head[24..].try_into().expect("eight"));
        (u16::from_be_bytes([head[6], head[7]]), raw.receive(length as usize))
    };
    let (kind, payload) = ask(&[2]);
    assert_eq!((kind, &payload[..4]), (0x8001, &[0, 0, 0, 5][..]), "EIO");
    assert!(String::from_utf8_lossy(&payload).contains("other:nothing says nothing"));
    assert_eq!(ask(&[1, 2]).0, 0x8001);
    let (kind, payload) = ask(&[1]);
    let mut expected = vec![0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x30, 0];
    expected.extend([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!((kind, payload), (6, expected), "the upper half is zero");
    server.stop();
}

/// Through libnbd, with its own checks of the server's replies.
const SCRIPT: &str = r#"
listed = []
h.set_opt_mode(True)
h.connect_uri(uri)
h.add_meta_context("test:")
h.add_meta_context("base:")
h.opt_list_meta_context(lambda name: listed.append(name))
assert listed == ["base:allocation", "test:every:1", "test:every:3", "test:most"], listed
h.clear_meta_contexts()
for name in ["test:every:3", "test:every:0x", "base:allocation"]:
    h.add_meta_context(name)
h.opt_go()
assert h.can_meta_context("test:every:3") and h.can_meta_context("base:allocation")
assert not h.can_meta_context("test:every:0x")
told = {}
def status(name, offset, entries, error):
    told[name] = entries
h.block_status(8 * 4096, 4096, status)
assert told == {"test:every:3": [2 * 4096, 0, 3 * 4096, 1, 3 * 4096, 2], "base:allocation": [8 * 4096, 3]}, told
h.block_status(8 * 4096, 4096, status, nbd.CMD_FLAG_REQ_ONE)
assert told == {"test:every:3": [2 * 4096, 0], "base:allocation": [8 * 4096, 3]}, told
h.shutdown()
"#;

#[test]
fn both_generations_list_and_select_contexts_of_an_export() {
    let server = Server::start(SIZE);
    let script = SCRIPT.replace("(uri)", &format!("({:?})", server.uri("disk")));
    let script = format!("import nbd\nh = nbd.NBD()\n{script}");
    run("/usr/bin/python3", &["-c", &script]);
    run(&newer("python3"), &["-c", &script]);
    let told = run("/usr/bin/nbdinfo", &["--map=test:every:3", &server.uri("disk")]);
    let first: Vec<&str> = told.lines().next().expect("a line").split_whitespace().collect();
    assert_eq!(first, ["0", "12288", "0"]);
    server.stop();
}
