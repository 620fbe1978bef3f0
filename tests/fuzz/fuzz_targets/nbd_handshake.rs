//! Negotiation of the NBD server, driven by a client that may say anything.
//!
//! Oracle: the specification, stated once more beside this file with a parser of its own, says for every option which replies
//! come and whether the connection enters transmission, with which rules, or ends.

#![no_main]

mod nbd_handshake_reference;

use arbitrary::Arbitrary;
use landfall_protocols::nbd::ExportEntry;
use landfall_protocols::nbd::session::{End, Handshake, Step, TlsMode};
use landfall_protocols::nbd::wire::handshake::{InfoKind, OptionKind, OptionReplyHeader};
use landfall_protocols::nbd::wire::option::{InfoRequest, MetaRequest, OptionRequest};
use landfall_protocols::nbd::wire::reply::OptionReply;
use landfall_protocols::nbd::wire::{
    MAX_OPTION, MAX_SKIPPED_OPTION, OPTION_MAGIC, OPTION_REPLY_MAGIC,
};
use libfuzzer_sys::fuzz_target;
use nbd_handshake_reference::{CONTEXTS, EXPORTS, Model, facts, is_listed, is_there};

const QUERIES: [&str; 8] =
    ["base:allocation", "base:", "qemu:x", "base:all", "qemu:", "qemu:x:", "qemu:x:y", "no:such"];
#[derive(Arbitrary, Debug)]
struct Input {
    client_flags: u8,
    tls: u8,
    options: Vec<Opt>,
}

#[derive(Arbitrary, Debug)]
enum Opt {
    Raw(u8, Vec<u8>),
    Long(u8, u32),
    Structured,
    Extended,
    StartTls,
    List,
    Info(u8, Vec<u16>),
    Go(u8, Vec<u16>),
    ExportName(u8),
    ListMeta(u8, Vec<u8>),
    SetMeta(u8, Vec<u8>),
    NoMagic(u64),
    /// The server is to stop.
    Stop,
}

/// Feeds bytes and answers questions until the session wants more than there is, or ends. Gives what it did not take.
fn feed<'a>(session: &mut Handshake, mut bytes: &'a [u8]) -> &'a [u8] {
    loop {
        match session.step() {
            Step::Receive(wanted) => {
                assert!(wanted > 0 && wanted <= MAX_OPTION as usize, "{wanted} bytes at once");
                if wanted > bytes.len() {
                    return bytes;
                }
                session.received(&bytes[..wanted]);
                bytes = &bytes[wanted..];
            }
            Step::End(_) => return bytes,
            Step::StartTls => {
                // The answer goes out in the clear, and nothing but TLS may follow.
                assert!(bytes.is_empty());
                session.secured();
            }
            Step::List => {
                let entry = |name: &str| ExportEntry {
                    name: name.into(),
                    description: format!("this is {name}"),
                };
                session.listed(&[entry(EXPORTS[0]), entry(EXPORTS[1])]);
            }
            Step::Open(name) => session.opened(facts(&name).as_ref()),
            Step::ListContexts(request) => {
                let queries = &request.queries;
                assert!(queries.iter().all(|query| !query.starts_with("base:")));
                let asked = |name: &&str| {
                    queries.is_empty() || queries.iter().any(|query| is_listed(query, name))
                };
                let names = CONTEXTS[1..].iter().copied().filter(asked);
                session.contexts_listed(&names.map(str::to_owned).collect::<Vec<_>>());
            }
            Step::OpenContexts(mut request) => {
                request.queries.retain(|query| is_there(query));
                session.contexts_opened(&request.queries);
            }
        }
    }
}

/// The replies without the texts of errors.
fn replies(kind: OptionKind, mut output: &[u8]) -> Vec<OptionReply> {
    let mut replies = Vec::new();
    while !output.is_empty() {
        let (header, rest) = output.split_at(size_of::<OptionReplyHeader>());
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four"));
        assert_eq!(header[..8], OPTION_REPLY_MAGIC.to_be_bytes());
        assert_eq!(number(8), kind.number());
        let (data, rest) = rest.split_at(number(16) as usize);
        match OptionReply::parse(number(12), data).expect("a reply of the specification") {
            OptionReply::Refused { refusal, .. } => {
                replies.push(OptionReply::Refused { refusal, message: String::new() });
            }
            reply => replies.push(reply),
        }
        output = rest;
    }
    replies
}

fn encoded(option: &Opt) -> Vec<u8> {
    let export = |which: &u8| EXPORTS[usize::from(*which) % EXPORTS.len()].to_owned();
    let meta = |which: &u8, queries: &[u8]| MetaRequest {
        name: export(which),
        queries: queries
            .iter()
            .take(200)
            .map(|query| match QUERIES.get(usize::from(*query)) {
                Some(query) => (*query).to_owned(),
                None => format!("many:{query}"),
            })
            .collect(),
    };
    let request = match option {
        Opt::Raw(kind, data) => {
            let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
            bytes.extend(u32::from(kind % 13).to_be_bytes());
            bytes.extend(u32::try_from(data.len()).expect("small").to_be_bytes());
            bytes.extend(data);
            return bytes;
        }
        Opt::Long(kind, length) => {
            let length = MAX_OPTION + length % (2 * MAX_SKIPPED_OPTION);
            let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
            bytes.extend(u32::from(kind % 13).to_be_bytes());
            bytes.extend(length.to_be_bytes());
            bytes.resize(bytes.len() + length.min(MAX_SKIPPED_OPTION) as usize, 0);
            return bytes;
        }
        Opt::Stop => unreachable!("no option"),
        Opt::NoMagic(magic) => return [&magic.to_be_bytes()[..], &[0; 8]].concat(),
        Opt::Structured => OptionRequest::StructuredReply,
        Opt::Extended => OptionRequest::ExtendedHeaders,
        Opt::StartTls => OptionRequest::StartTls,
        Opt::List => OptionRequest::List,
        Opt::Info(which, items) => OptionRequest::Info(InfoRequest {
            name: export(which),
            items: items.iter().take(100).map(|item| InfoKind::from(*item)).collect(),
        }),
        Opt::Go(which, items) => OptionRequest::Go(InfoRequest {
            name: export(which),
            items: items.iter().take(100).map(|item| InfoKind::from(*item)).collect(),
        }),
        Opt::ExportName(which) => OptionRequest::ExportName(export(which)),
        Opt::ListMeta(which, queries) => OptionRequest::ListMetaContext(meta(which, queries)),
        Opt::SetMeta(which, queries) => OptionRequest::SetMetaContext(meta(which, queries)),
    };
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    bytes
}

fuzz_target!(|input: Input| {
    let mode = match input.tls % 3 {
        0 => TlsMode::Off,
        1 => TlsMode::Offered,
        _ => TlsMode::Required,
    };
    let mut session = Handshake::new(mode);
    assert_eq!(session.take_output().len(), 18);
    let flags = u32::from(input.client_flags % 8);
    assert!(feed(&mut session, &flags.to_be_bytes()).is_empty());
    if flags > 3 || (flags & 1 == 0 && mode == TlsMode::Required) {
        assert!(matches!(session.step(), Step::End(End::Broken(_))));
        return;
    }
    let tls = (flags & 1 != 0).then_some(mode);
    let mut model = Model::new(tls);
    for option in input.options.iter().take(64) {
        if matches!(option, Opt::Stop) {
            session.stop();
            model.stopping = true;
            continue;
        }
        let bytes = encoded(option);
        let due = model.due(&bytes);
        feed(&mut session, &bytes);
        let output = session.take_output();
        let kind = OptionKind::from(u32::from_be_bytes(bytes[8..12].try_into().expect("four")));
        let by_name = kind == OptionKind::ExportName && !output.is_empty();
        if by_name {
            assert_eq!(output.len(), if flags & 2 == 0 { 10 + 124 } else { 10 });
        } else {
            assert_eq!(replies(kind, &output), due.replies, "{option:?}");
        }
        match (due.end, session.step()) {
            (None, Step::Receive(16)) => continue,
            (Some(Ok(None)), Step::End(End::Aborted)) => {}
            (Some(Err(())), Step::End(End::Broken(_))) => assert!(output.is_empty()),
            (Some(Ok(Some(expected))), Step::End(End::Transmission(entered))) => {
                assert_eq!(entered, expected);
            }
            (expected, step) => panic!("{option:?}: {expected:?} was due, {step:?} came"),
        }
        return;
    }
});
