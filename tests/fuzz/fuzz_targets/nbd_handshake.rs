//! Negotiation of the NBD server, driven by a client that may say anything.
//!
//! Oracle: a model of the specification says for every option which replies come and whether the connection enters
//! transmission, with which rules, or ends; data that an option parser accepts, its encoder writes again.

#![no_main]

use arbitrary::Arbitrary;
use landfall_protocols::nbd::session::{
    Access, Context, ContextId, End, ExportFacts, Handshake, Negotiated, Replies, Step, TlsMode,
    Transmission,
};
use landfall_protocols::nbd::wire::handshake::{
    InfoKind, OptionHeader, OptionKind, OptionReplyHeader, TransmissionFlags,
};
use landfall_protocols::nbd::wire::option::{InfoRequest, MetaRequest, OptionError, OptionRequest};
use landfall_protocols::nbd::wire::reply::{Info, OptionReply, Refusal};
use landfall_protocols::nbd::wire::{
    MAX_OPTION, MAX_SKIPPED_OPTION, OPTION_MAGIC, OPTION_REPLY_MAGIC,
};
use landfall_protocols::nbd::{ExportEntry, OpenError};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 1 << 30;
const EXPORTS: [&str; 4] = ["disk", "disk@7", "locked", "nothing"];
/// What exports can tell, beside any `many:N`.
const CONTEXTS: [&str; 3] = ["base:allocation", "qemu:x", "qemu:x:y"];
const QUERIES: [&str; 8] =
    ["base:allocation", "base:", "qemu:x", "base:all", "qemu:", "qemu:x:", "qemu:x:y", "no:such"];
/// More are not selected at a time.
const MAX_SELECTED: usize = 16;

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
    Go(u8),
    ExportName(u8),
    ListMeta(u8, Vec<u8>),
    SetMeta(u8, Vec<u8>),
    NoMagic(u64),
}

fn facts(name: &str) -> Result<ExportFacts, OpenError> {
    match name {
        "disk" | "disk@7" => Ok(ExportFacts {
            name: "disk@7".into(),
            description: String::new(),
            size_bytes: SIZE,
            access: if name == "disk" { Access::Writable } else { Access::ReadOnly },
            multi_conn: name == "disk@7",
            preferred_block: 4096,
        }),
        "locked" => Err(OpenError::NotAllowed("not for you".into())),
        _ => Err(OpenError::Unknown("no such export".into())),
    }
}

#[derive(Default)]
struct Model {
    structured: bool,
    extended: bool,
    /// Of TLS; `None` where the client can have none.
    tls: Option<TlsMode>,
    /// Export and what was selected of it.
    selection: Option<(String, Vec<String>)>,
}

/// What has to come: replies but for texts, and the end of negotiation if it ends.
struct Due {
    replies: Vec<OptionReply>,
    end: Option<Result<Option<Negotiated>, ()>>,
}

fn refused(refusal: Refusal) -> Due {
    Due { replies: vec![OptionReply::Refused { refusal, message: String::new() }], end: None }
}

impl Model {
    fn selected(&self, name: &str) -> &[String] {
        let of_name = self.selection.as_ref().filter(|(of, _)| of == name);
        of_name.map_or(&[], |(_, chosen)| chosen)
    }

    fn flags(&self, name: &str, facts: &ExportFacts) -> TransmissionFlags {
        // HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_CACHE as the specification numbers them.
        let mut bits = 1 | 1 << 2 | 1 << 3 | 1 << 10;
        match facts.access {
            Access::ReadOnly => bits |= 1 << 1,
            Access::Writable => bits |= 1 << 5 | 1 << 6 | 1 << 11,
        }
        bits |= if self.structured || self.extended { 1 << 7 } else { 0 };
        bits |= if self.extended && !self.selected(name).is_empty() { 1 << 12 } else { 0 };
        bits |= if facts.multi_conn { 1 << 8 } else { 0 };
        TransmissionFlags::from_bits(bits)
    }

    fn enter(&mut self, name: String, facts: &ExportFacts) -> Negotiated {
        let context = |chosen: &String| match chosen.as_str() {
            "base:allocation" => Context::BaseAllocation,
            _ => Context::OfExport(chosen.clone()),
        };
        let contexts = self.selected(&name).iter().map(context);
        let transmission = Transmission {
            size_bytes: facts.size_bytes,
            access: facts.access,
            replies: match (self.extended, self.structured) {
                (true, _) => Replies::Extended,
                (false, true) => Replies::Structured,
                (false, false) => Replies::Simple,
            },
            contexts: (1..).map(ContextId::new).zip(contexts).collect(),
        };
        Negotiated { name, transmission }
    }

    fn answer(&mut self, kind: OptionKind, parsed: Result<OptionRequest, OptionError>) -> Due {
        if kind == OptionKind::SetMetaContext {
            self.selection = None;
        }
        let request = match parsed {
            Ok(request) => request,
            Err(_) if kind == OptionKind::ExportName => {
                return Due { replies: Vec::new(), end: Some(Err(())) };
            }
            Err(OptionError::TooMany(_)) => return refused(Refusal::TooBig),
            Err(_) => return refused(Refusal::Invalid),
        };
        let context = |id, name: &str| OptionReply::MetaContext { id, name: name.into() };
        let ack = |mut replies: Vec<OptionReply>| {
            replies.push(OptionReply::Ack);
            Due { replies, end: None }
        };
        let not_available = |error: &OpenError| match error {
            OpenError::NotAllowed(_) => refused(Refusal::Policy),
            OpenError::Unknown(_) | OpenError::Failed(_) => refused(Refusal::Unknown),
        };
        match request {
            OptionRequest::Abort => Due { replies: vec![OptionReply::Ack], end: Some(Ok(None)) },
            OptionRequest::List => {
                let server = |name: &str| OptionReply::Server {
                    name: name.into(),
                    description: String::new(),
                };
                ack(EXPORTS[..2].iter().map(|name| server(name)).collect())
            }
            OptionRequest::ExtendedHeaders => {
                self.extended = true;
                ack(Vec::new())
            }
            OptionRequest::StructuredReply if self.extended => {
                refused(Refusal::ExtendedHeadersRequired)
            }
            OptionRequest::StructuredReply => {
                self.structured = true;
                ack(Vec::new())
            }
            OptionRequest::StartTls => match self.tls {
                None | Some(TlsMode::Off) => refused(Refusal::Policy),
                Some(TlsMode::Running) => refused(Refusal::Invalid),
                Some(TlsMode::Offered | TlsMode::Required) => {
                    *self = Self { tls: Some(TlsMode::Running), ..Self::default() };
                    ack(Vec::new())
                }
            },
            OptionRequest::Unknown(_) => refused(Refusal::Unsupported),
            OptionRequest::ExportName(_) if self.extended => {
                Due { replies: Vec::new(), end: Some(Err(())) }
            }
            OptionRequest::ExportName(name) => match facts(&name) {
                Ok(facts) => {
                    let end = Some(Ok(Some(self.enter(name, &facts))));
                    Due { replies: Vec::new(), end }
                }
                Err(_) => Due { replies: Vec::new(), end: Some(Err(())) },
            },
            OptionRequest::Info(request) | OptionRequest::Go(request) => {
                match facts(&request.name) {
                    Err(error) => not_available(&error),
                    Ok(facts) => {
                        let flags = self.flags(&request.name, &facts);
                        let mut due = ack(vec![OptionReply::Info(Info::Export {
                            size_bytes: facts.size_bytes,
                            flags,
                        })]);
                        if kind == OptionKind::Go {
                            due.end = Some(Ok(Some(self.enter(request.name, &facts))));
                        }
                        due
                    }
                }
            }
            OptionRequest::ListMetaContext(_) | OptionRequest::SetMetaContext(_)
                if !self.structured && !self.extended =>
            {
                refused(Refusal::Invalid)
            }
            OptionRequest::ListMetaContext(request) => match facts(&request.name) {
                Err(error) => not_available(&error),
                Ok(_) => {
                    let asked = |name: &&str| {
                        let lists = |query: &String| is_listed(query, name);
                        request.queries.is_empty() || request.queries.iter().any(lists)
                    };
                    ack(CONTEXTS.into_iter().filter(asked).map(|name| context(0, name)).collect())
                }
            },
            OptionRequest::SetMetaContext(request) => match facts(&request.name) {
                Err(error) => not_available(&error),
                Ok(_) => {
                    let mut chosen: Vec<String> = Vec::new();
                    for query in request.queries {
                        if is_there(&query) && !chosen.contains(&query) {
                            chosen.push(query);
                        }
                    }
                    if chosen.len() > MAX_SELECTED {
                        return refused(Refusal::TooBig);
                    }
                    let replies = (1..).zip(&chosen).map(|(id, name)| context(id, name)).collect();
                    self.selection = Some((request.name, chosen));
                    ack(replies)
                }
            },
        }
    }
}

fn is_there(name: &str) -> bool {
    CONTEXTS.contains(&name) || name.starts_with("many:")
}

/// By name, or by any start of it that ends with a colon.
fn is_listed(query: &str, name: &str) -> bool {
    let starts = name.match_indices(':').map(|(at, _)| &name[..=at]);
    query == name || starts.into_iter().any(|start| start == query)
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
                let entry =
                    |name: &str| ExportEntry { name: name.into(), description: String::new() };
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

/// The replies without texts for people and infos that tell nothing new.
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
            OptionReply::Info(Info::Name(_) | Info::Description(_) | Info::BlockSize(_)) => {}
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
        Opt::NoMagic(magic) => return [&magic.to_be_bytes()[..], &[0; 8]].concat(),
        Opt::Structured => OptionRequest::StructuredReply,
        Opt::Extended => OptionRequest::ExtendedHeaders,
        Opt::StartTls => OptionRequest::StartTls,
        Opt::List => OptionRequest::List,
        Opt::Info(which, items) => OptionRequest::Info(InfoRequest {
            name: export(which),
            items: items.iter().take(100).map(|item| InfoKind::from(*item)).collect(),
        }),
        Opt::Go(which) => OptionRequest::Go(InfoRequest { name: export(which), items: Vec::new() }),
        Opt::ExportName(which) => OptionRequest::ExportName(export(which)),
        Opt::ListMeta(which, queries) => OptionRequest::ListMetaContext(meta(which, queries)),
        Opt::SetMeta(which, queries) => OptionRequest::SetMetaContext(meta(which, queries)),
    };
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    bytes
}

/// What is due for the bytes of one option.
fn due(model: &mut Model, bytes: &[u8]) -> Due {
    let broken = || Due { replies: Vec::new(), end: Some(Err(())) };
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four"));
    if bytes[..8] != OPTION_MAGIC.to_be_bytes() {
        return broken();
    }
    let (kind, length) = (OptionKind::from(number(8)), number(12));
    let in_the_clear = !matches!(kind, OptionKind::Abort | OptionKind::StartTls);
    if model.tls == Some(TlsMode::Required) && in_the_clear && length <= MAX_SKIPPED_OPTION {
        return match kind {
            OptionKind::ExportName => broken(),
            _ => refused(Refusal::TlsRequired),
        };
    }
    if length <= MAX_OPTION {
        let data = &bytes[size_of::<OptionHeader>()..];
        let parsed = OptionRequest::parse(kind, data);
        if let Ok(request) = &parsed {
            let ignored = matches!(request, OptionRequest::Abort | OptionRequest::Unknown(_));
            let mut again = Vec::new();
            request.encode(&mut again);
            assert!(ignored || again == bytes, "{request:?} is written differently");
        }
        return model.answer(kind, parsed);
    }
    if kind == OptionKind::SetMetaContext {
        model.selection = None;
    }
    match kind {
        _ if length > MAX_SKIPPED_OPTION => broken(),
        OptionKind::ExportName => broken(),
        OptionKind::Abort => Due { replies: vec![OptionReply::Ack], end: Some(Ok(None)) },
        OptionKind::Unknown(_) => refused(Refusal::Unsupported),
        _ => refused(Refusal::TooBig),
    }
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
    let mut model = Model { tls, ..Model::default() };
    for option in input.options.iter().take(64) {
        let bytes = encoded(option);
        let due = due(&mut model, &bytes);
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
