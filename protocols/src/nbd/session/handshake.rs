//! Negotiation, the server's side.
//!
//! ```text
//!   ClientFlags ─▶ Header ─▶ Data ──▶ Header …                      answered from what is known
//!                    │  ▲      ├────▶ Listing ─▶ Header             needs the list of exports
//!                    │  │      ├────▶ Opening ─▶ Header | Ended      needs an export
//!                    │  │      │         └────▶ Contexts ─▶ Header   needs what the export can tell
//!                    │  │      ├────▶ Securing ─▶ Header             needs TLS; forgets what was negotiated
//!                    ▼  │      └────▶ Ended
//!                   Skipping                                        data too long to look at
//! ```
//!
//! The caller sends [`Handshake::take_output`], then does what [`Handshake::step`] says and reports the outcome by the
//! method named there. One option is under way at a time; the specification forbids clients to send a second one before
//! the final reply, and bytes that come early wait in the socket.

use super::action::Transmission;
use super::terms::{Access, Context, ContextId, Replies, is_base, lists};
use crate::nbd::export::{ExportEntry, OpenError};
use crate::nbd::wire::handshake::{
    EXPORT_NAME_ZEROES, ExportNameReply, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, Greeting, InfoKind,
    OptionHeader, OptionKind, TransmissionFlags,
};
use crate::nbd::wire::option::{InfoRequest, MetaRequest, OptionError, OptionRequest};
use crate::nbd::wire::reply::{BlockSizes, Info, OptionReply, Refusal};
use crate::nbd::wire::{
    MAX_OPTION, MAX_REQUEST, MAX_SELECTED, MAX_SKIPPED_OPTION, MAX_STRING, OPTION_MAGIC, clip,
};
use zerocopy::{FromBytes, IntoBytes};

/// Most bytes of a list that are sent. The entries beyond are left out, against the letter of the specification, which wants
/// a reply for each: no client asks for megabytes of names, and names left out open all the same.
pub(super) const MAX_LIST_BYTES: usize = 1 << 20;

/// Options answered in one connection before it is cut off: a client needs a few per export it looks at.
pub(super) const MAX_OPTIONS: u32 = 65_536;

/// Whether there is TLS on a connection (section "Server-side requirements").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsMode {
    /// There is none, and will be none.
    Off,
    /// The client may have it.
    Offered,
    /// The client must have it before anything else.
    Required,
    /// It runs.
    Running,
}

/// What the caller has to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Receive exactly this many bytes (at most [`MAX_OPTION`]) and hand them to [`Handshake::received`].
    Receive(usize),
    /// Hand the list of exports to [`Handshake::listed`].
    List,
    /// Open the export of this name and hand the outcome to [`Handshake::opened`].
    Open(String),
    /// Hand the names of contexts that this asks the export for to [`Handshake::contexts_listed`]; without queries it asks
    /// for all.
    ListContexts(MetaRequest),
    /// Open the contexts of these names, of which each is asked for once, and hand the names of those that there are, in
    /// this order, to [`Handshake::contexts_opened`]. More than [`MAX_SELECTED`] are refused, so one more is enough.
    OpenContexts(MetaRequest),
    /// Send the output, then let TLS begin with the very next byte, and call [`Handshake::secured`] once it has.
    StartTls,
    /// Nothing: negotiation is over. Further calls return the same.
    End(End),
}

/// How negotiation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Requests follow.
    Transmission(Negotiated),
    /// The client left politely.
    Aborted,
    /// The connection must be closed.
    Broken(HandshakeError),
}

/// The outcome of a successful negotiation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// The export, by the name the client used.
    pub name: String,
    /// The rules for requests.
    pub transmission: Transmission,
}

/// What negotiation tells of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportFacts {
    /// Its absolute name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Whether it can be written.
    pub access: Access,
    /// Whether several connections may share it.
    pub multi_conn: bool,
    /// Unit that needs no reading around it, in bytes: a power of two of at least 512.
    pub preferred_block: u32,
}

/// Why a connection was closed during negotiation.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Flags that were not offered.
    #[error("client flags {0:#x} were not offered")]
    ClientFlags(u32),
    /// TLS is required, and a client of the first newstyle cannot ask for it.
    #[error("TLS is required, and the client does not speak fixed newstyle")]
    TlsOutOfReach,
    /// No option where one should start.
    #[error("an option starts with {0:#018x}, not with IHAVEOPT")]
    OptionMagic(u64),
    /// Option data longer than is even skipped.
    #[error("option {option} comes with {length} bytes")]
    OptionLength {
        /// Its number.
        option: u32,
        /// Its length.
        length: u32,
    },
    /// `NBD_OPT_EXPORT_NAME` cannot be answered with an error.
    #[error("export name refused: {0}")]
    ExportName(String),
    /// More options than any client has a use for.
    #[error("more than {MAX_OPTIONS} options")]
    TooManyOptions,
}

enum State {
    ClientFlags,
    Header,
    Data { option: OptionKind, length: u32 },
    Skipping { option: OptionKind, left: u32 },
    Listing,
    Opening(OptionRequest),
    ListingContexts(MetaRequest),
    OpeningContexts(Asked),
    Securing,
    Ended(End),
}

/// The contexts a client wants.
#[derive(Clone)]
struct Asked {
    /// Where `base:allocation` comes among the others, if it is wanted.
    base: Option<usize>,
    /// The others.
    of_export: MetaRequest,
}

/// The contexts a client selected, and for which export.
struct Selection {
    name: String,
    contexts: Vec<(ContextId, Context)>,
}

/// Negotiation of one connection.
pub struct Handshake {
    state: State,
    output: Vec<u8>,
    leave_out_zeroes: bool,
    replies: Replies,
    selection: Option<Selection>,
    options: u32,
    tls: TlsMode,
    stopping: bool,
}

impl Handshake {
    /// A fresh connection; the greeting is in the output.
    pub fn new(tls: TlsMode) -> Self {
        Self {
            state: State::ClientFlags,
            output: Greeting::newstyle().as_bytes().to_vec(),
            leave_out_zeroes: false,
            replies: Replies::Simple,
            selection: None,
            options: 0,
            tls,
            stopping: false,
        }
    }

    /// From here on everything but a farewell is refused: the server is being shut down.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// What must be sent before the next step is done. Empty if nothing has to be.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// What to do next; the same until the outcome is reported.
    pub fn step(&self) -> Step {
        match &self.state {
            State::ClientFlags => Step::Receive(4),
            State::Header => Step::Receive(size_of::<OptionHeader>()),
            State::Data { length, .. } => Step::Receive(bytes(*length)),
            State::Skipping { left, .. } => Step::Receive(bytes((*left).min(MAX_OPTION))),
            State::Listing => Step::List,
            State::Opening(request) => Step::Open(export_of(request).to_owned()),
            State::ListingContexts(request) => Step::ListContexts(request.clone()),
            State::OpeningContexts(asked) => Step::OpenContexts(asked.of_export.clone()),
            State::Securing => Step::StartTls,
            State::Ended(end) => Step::End(end.clone()),
        }
    }

    /// Whether requests follow if the export that [`Step::Open`] names opens; otherwise it is only asked about.
    pub fn is_entering(&self) -> bool {
        let enters = |request: &OptionRequest| {
            matches!(request.kind(), OptionKind::Go | OptionKind::ExportName)
        };
        matches!(&self.state, State::Opening(request) if enters(request))
    }

    /// The bytes that [`Step::Receive`] asked for. Panics on any other number of bytes, or at another step.
    pub fn received(&mut self, data: &[u8]) {
        assert_eq!(self.step(), Step::Receive(data.len()), "exactly what was asked for");
        match self.state {
            State::ClientFlags => self.client_flags(data),
            State::Header => self.option_header(data),
            State::Data { option, .. } => self.option_data(option, data),
            State::Skipping { option, left } => self.skipped(option, left, data.len()),
            State::Listing
            | State::Opening(_)
            | State::ListingContexts(_)
            | State::OpeningContexts(_)
            | State::Securing
            | State::Ended(_) => unreachable!("asserted above"),
        }
    }

    /// TLS runs, as [`Step::StartTls`] asked. Nothing is left of what was negotiated in the clear.
    pub fn secured(&mut self) {
        assert!(matches!(self.state, State::Securing), "only after Step::StartTls");
        self.tls = TlsMode::Running;
        self.replies = Replies::Simple;
        self.selection = None;
        self.state = State::Header;
    }

    /// The list that [`Step::List`] asked for.
    pub fn listed(&mut self, entries: &[ExportEntry]) {
        assert!(matches!(self.state, State::Listing), "only after Step::List");
        for entry in entries {
            if self.output.len() >= MAX_LIST_BYTES {
                break;
            }
            let reply = OptionReply::Server {
                name: clip(&entry.name).to_owned(),
                description: clip(&entry.description).to_owned(),
            };
            reply.encode(OptionKind::List, &mut self.output);
        }
        self.finish(OptionKind::List, &OptionReply::Ack);
    }

    /// The outcome of opening the export that [`Step::Open`] named.
    pub fn opened(&mut self, outcome: Result<&ExportFacts, &OpenError>) {
        let request = match std::mem::replace(&mut self.state, State::Header) {
            State::Opening(request) => request,
            _ => panic!("only after Step::Open"),
        };
        match (outcome, request) {
            (Err(error), OptionRequest::ExportName(_)) => {
                self.break_off(HandshakeError::ExportName(error.to_string()));
            }
            (Err(error), request) => self.refuse(request.kind(), refusal_of(error), error),
            (Ok(facts), OptionRequest::ExportName(name)) => self.enter_by_name(name, facts),
            (Ok(facts), OptionRequest::Info(request)) => {
                self.inform(OptionKind::Info, &request, facts);
            }
            (Ok(facts), OptionRequest::Go(request)) => {
                self.inform(OptionKind::Go, &request, facts);
                self.enter(request.name, facts);
            }
            (Ok(_), OptionRequest::ListMetaContext(request)) => self.list_contexts(request),
            (Ok(_), OptionRequest::SetMetaContext(request)) => self.select_contexts(request),
            (Ok(_), other) => unreachable!("{other:?} opens no export"),
        }
    }

    /// The names that [`Step::ListContexts`] asked for.
    pub fn contexts_listed(&mut self, names: &[String]) {
        assert!(matches!(self.state, State::ListingContexts(_)), "only after Step::ListContexts");
        for name in names.iter().filter(|name| name.len() <= MAX_STRING) {
            if self.output.len() >= MAX_LIST_BYTES {
                break;
            }
            self.tell_context(OptionKind::ListMetaContext, 0, name);
        }
        self.finish(OptionKind::ListMetaContext, &OptionReply::Ack);
    }

    /// The names of the contexts that [`Step::OpenContexts`] had opened.
    pub fn contexts_opened(&mut self, names: &[String]) {
        match std::mem::replace(&mut self.state, State::Header) {
            State::OpeningContexts(asked) => self.select(asked, names),
            _ => panic!("only after Step::OpenContexts"),
        }
    }

    fn client_flags(&mut self, data: &[u8]) {
        let flags = u32::from_be_bytes(data.try_into().expect("four bytes were asked for"));
        let offered = u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        if flags & !offered != 0 {
            return self.break_off(HandshakeError::ClientFlags(flags));
        }
        self.leave_out_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
        // A client that does not claim fixed newstyle may use it all the same, as the specification permits; but not TLS.
        let fixed = flags & u32::from(FLAG_FIXED_NEWSTYLE) != 0;
        match self.tls {
            TlsMode::Required if !fixed => return self.break_off(HandshakeError::TlsOutOfReach),
            TlsMode::Offered if !fixed => self.tls = TlsMode::Off,
            TlsMode::Off | TlsMode::Offered | TlsMode::Required | TlsMode::Running => {}
        }
        self.state = State::Header;
    }

    fn option_header(&mut self, data: &[u8]) {
        let header = OptionHeader::read_from_bytes(data).expect("its length was asked for");
        if header.magic.get() != OPTION_MAGIC {
            return self.break_off(HandshakeError::OptionMagic(header.magic.get()));
        }
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return self.break_off(HandshakeError::TooManyOptions);
        }
        let (option, length) = (OptionKind::from(header.option.get()), header.length.get());
        if option == OptionKind::SetMetaContext {
            // The command replaces the selection even when it fails.
            self.selection = None;
        }
        if length > MAX_SKIPPED_OPTION || (length > MAX_OPTION && option == OptionKind::ExportName)
        {
            let option = header.option.get();
            self.break_off(HandshakeError::OptionLength { option, length });
        } else if length > MAX_OPTION {
            self.state = State::Skipping { option, left: length };
        } else if length == 0 {
            self.option_data(option, &[]);
        } else {
            self.state = State::Data { option, length };
        }
    }

    fn skipped(&mut self, option: OptionKind, left: u32, length: usize) {
        let left = left - u32::try_from(length).expect("at most what was left");
        if left > 0 {
            self.state = State::Skipping { option, left };
        } else if option == OptionKind::Abort {
            self.act(OptionRequest::Abort);
        } else if let Some(refusal) = self.is_turned_away(option) {
            self.turn_away(option, refusal);
        } else if let OptionKind::Unknown(_) = option {
            self.refuse(option, Refusal::Unsupported, "the option is not known here");
        } else {
            self.refuse(option, Refusal::TooBig, format!("option data beyond {MAX_OPTION} bytes"));
        }
    }

    /// Why nothing is even looked at, if so.
    fn is_turned_away(&self, option: OptionKind) -> Option<Refusal> {
        match (option, self.tls) {
            (OptionKind::Abort, _) => None,
            // A rule, where the word for a stop is a piece of advice.
            (option, TlsMode::Required) if option != OptionKind::StartTls => {
                Some(Refusal::TlsRequired)
            }
            _ => self.stopping.then_some(Refusal::Shutdown),
        }
    }

    fn turn_away(&mut self, option: OptionKind, refusal: Refusal) {
        let why = match refusal {
            Refusal::Shutdown => "the server is being shut down",
            _ => "this listener asks for TLS first",
        };
        match option {
            OptionKind::ExportName => {
                self.break_off(HandshakeError::ExportName(why.to_owned()));
            }
            option => self.refuse(option, refusal, why),
        }
    }

    fn start_tls(&mut self) {
        match self.tls {
            TlsMode::Off => {
                self.refuse(OptionKind::StartTls, Refusal::Policy, "there is no TLS here");
            }
            TlsMode::Running => {
                self.refuse(OptionKind::StartTls, Refusal::Invalid, "TLS runs already");
            }
            TlsMode::Offered | TlsMode::Required => {
                OptionReply::Ack.encode(OptionKind::StartTls, &mut self.output);
                self.state = State::Securing;
            }
        }
    }

    fn option_data(&mut self, option: OptionKind, data: &[u8]) {
        if let Some(refusal) = self.is_turned_away(option) {
            return self.turn_away(option, refusal);
        }
        match OptionRequest::parse(option, data) {
            Ok(request) => self.act(request),
            Err(error) if option == OptionKind::ExportName => {
                self.break_off(HandshakeError::ExportName(error.to_string()));
            }
            Err(error @ OptionError::TooMany(_)) => self.refuse(option, Refusal::TooBig, error),
            Err(error) => self.refuse(option, Refusal::Invalid, error),
        }
    }

    fn act(&mut self, request: OptionRequest) {
        match request {
            OptionRequest::Abort => {
                OptionReply::Ack.encode(OptionKind::Abort, &mut self.output);
                self.state = State::Ended(End::Aborted);
            }
            OptionRequest::List => self.state = State::Listing,
            OptionRequest::StructuredReply if self.replies == Replies::Extended => {
                let why = "extended headers are in use, which structured replies cannot replace";
                self.refuse(request.kind(), Refusal::ExtendedHeadersRequired, why);
            }
            OptionRequest::ExtendedHeaders => {
                self.replies = Replies::Extended;
                self.finish(OptionKind::ExtendedHeaders, &OptionReply::Ack);
            }
            OptionRequest::StructuredReply => {
                self.replies = Replies::Structured;
                self.finish(OptionKind::StructuredReply, &OptionReply::Ack);
            }
            OptionRequest::StartTls => self.start_tls(),
            OptionRequest::Unknown(_) => {
                self.refuse(request.kind(), Refusal::Unsupported, "the option is not known here");
            }
            OptionRequest::ListMetaContext(_) | OptionRequest::SetMetaContext(_)
                if self.replies == Replies::Simple =>
            {
                let why = "metadata contexts need structured replies or extended headers first";
                self.refuse(request.kind(), Refusal::Invalid, why);
            }
            OptionRequest::ExportName(_) if self.replies == Replies::Extended => {
                let why = "extended headers are in use, and need NBD_OPT_GO";
                self.break_off(HandshakeError::ExportName(why.to_owned()));
            }
            OptionRequest::ExportName(_)
            | OptionRequest::Info(_)
            | OptionRequest::Go(_)
            | OptionRequest::ListMetaContext(_)
            | OptionRequest::SetMetaContext(_) => self.state = State::Opening(request),
        }
    }

    fn enter_by_name(&mut self, name: String, facts: &ExportFacts) {
        let flags = self.transmission_flags(&name, facts).bits().into();
        let reply = ExportNameReply { size: facts.size_bytes.into(), flags };
        self.output.extend(reply.as_bytes());
        if !self.leave_out_zeroes {
            self.output.extend([0; EXPORT_NAME_ZEROES]);
        }
        self.enter(name, facts);
    }

    fn inform(&mut self, option: OptionKind, request: &InfoRequest, facts: &ExportFacts) {
        let mut infos = vec![
            Info::Export {
                size_bytes: facts.size_bytes,
                flags: self.transmission_flags(&request.name, facts),
            },
            Info::BlockSize(BlockSizes {
                minimum: 1,
                preferred: facts.preferred_block,
                maximum_payload: MAX_REQUEST,
            }),
        ];
        if request.items.contains(&InfoKind::Name) || request.name != facts.name {
            infos.push(Info::Name(clip(&facts.name).to_owned()));
        }
        if !facts.description.is_empty() {
            infos.push(Info::Description(clip(&facts.description).to_owned()));
        }
        for info in infos {
            OptionReply::Info(info).encode(option, &mut self.output);
        }
        self.finish(option, &OptionReply::Ack);
    }

    fn list_contexts(&mut self, mut request: MetaRequest) {
        let name = Context::BASE_ALLOCATION;
        let all = request.queries.is_empty();
        if all || request.queries.iter().any(|query| lists(query, name)) {
            self.tell_context(OptionKind::ListMetaContext, 0, name);
        }
        request.queries.retain(|query| !is_base(query));
        if all || !request.queries.is_empty() {
            self.state = State::ListingContexts(request);
        } else {
            self.finish(OptionKind::ListMetaContext, &OptionReply::Ack);
        }
    }

    fn select_contexts(&mut self, request: MetaRequest) {
        let mut asked =
            Asked { base: None, of_export: MetaRequest { queries: Vec::new(), ..request } };
        for query in request.queries {
            let others = &mut asked.of_export.queries;
            if query == Context::BASE_ALLOCATION {
                asked.base.get_or_insert(others.len());
            } else if !is_base(&query) && !others.contains(&query) {
                others.push(query);
            }
        }
        if asked.of_export.queries.is_empty() {
            self.select(asked, &[]);
        } else {
            self.state = State::OpeningContexts(asked);
        }
    }

    /// Numbers what was asked for and is there, in the order it was asked for.
    fn select(&mut self, asked: Asked, opened: &[String]) {
        let option = OptionKind::SetMetaContext;
        let Asked { base, of_export: MetaRequest { name, queries } } = asked;
        let there = |name: &&String| opened.contains(name);
        let of_export = queries.iter().filter(there).cloned().map(Context::OfExport);
        let mut chosen: Vec<_> = of_export.collect();
        if let Some(place) = base {
            let before = queries[..place].iter().filter(there).count();
            chosen.insert(before, Context::BaseAllocation);
        }
        if chosen.len() > MAX_SELECTED {
            let why = format!("more than {MAX_SELECTED} contexts at a time");
            return self.refuse(option, Refusal::TooBig, why);
        }
        let contexts: Vec<_> = (1..).map(ContextId::new).zip(chosen).collect();
        for (id, context) in &contexts {
            self.tell_context(option, id.number(), context.name());
        }
        self.selection = Some(Selection { name, contexts });
        self.finish(option, &OptionReply::Ack);
    }

    fn tell_context(&mut self, option: OptionKind, id: u32, name: &str) {
        let reply = OptionReply::MetaContext { id, name: name.to_owned() };
        reply.encode(option, &mut self.output);
    }

    /// What the export that was asked for as `name` can do for this client.
    fn transmission_flags(&self, name: &str, facts: &ExportFacts) -> TransmissionFlags {
        let mut flags = TransmissionFlags::HAS_FLAGS
            .with(TransmissionFlags::SEND_FLUSH)
            .with(TransmissionFlags::SEND_FUA)
            .with(TransmissionFlags::SEND_CACHE);
        flags = flags.with(match facts.access {
            Access::ReadOnly => TransmissionFlags::READ_ONLY,
            Access::Writable => TransmissionFlags::SEND_TRIM
                .with(TransmissionFlags::SEND_WRITE_ZEROES)
                .with(TransmissionFlags::SEND_FAST_ZERO),
        });
        if self.replies != Replies::Simple {
            flags = flags.with(TransmissionFlags::SEND_DF);
        }
        let selected =
            |selection: &Selection| selection.name == name && !selection.contexts.is_empty();
        if self.replies == Replies::Extended && self.selection.as_ref().is_some_and(selected) {
            flags = flags.with(TransmissionFlags::BLOCK_STATUS_PAYLOAD);
        }
        if facts.multi_conn {
            flags = flags.with(TransmissionFlags::CAN_MULTI_CONN);
        }
        flags
    }

    fn enter(&mut self, name: String, facts: &ExportFacts) {
        // Contexts count only for the export they were selected for.
        let contexts = match self.selection.take() {
            Some(selection) if selection.name == name => selection.contexts,
            _ => Vec::new(),
        };
        let transmission = Transmission {
            size_bytes: facts.size_bytes,
            access: facts.access,
            replies: self.replies,
            contexts,
        };
        self.state = State::Ended(End::Transmission(Negotiated { name, transmission }));
    }

    fn refuse(&mut self, option: OptionKind, refusal: Refusal, why: impl ToString) {
        let message = clip(&why.to_string()).to_owned();
        self.finish(option, &OptionReply::Refused { refusal, message });
    }

    fn finish(&mut self, option: OptionKind, reply: &OptionReply) {
        reply.encode(option, &mut self.output);
        self.state = State::Header;
    }

    fn break_off(&mut self, error: HandshakeError) {
        self.state = State::Ended(End::Broken(error));
    }
}

fn bytes(length: u32) -> usize {
    usize::try_from(length).expect("32 bits fit a usize")
}

fn export_of(request: &OptionRequest) -> &str {
    match request {
        OptionRequest::ExportName(name) => name,
        OptionRequest::Info(request) | OptionRequest::Go(request) => &request.name,
        OptionRequest::ListMetaContext(request) | OptionRequest::SetMetaContext(request) => {
            &request.name
        }
        OptionRequest::Abort
        | OptionRequest::List
        | OptionRequest::StartTls
        | OptionRequest::StructuredReply
        | OptionRequest::ExtendedHeaders
        | OptionRequest::Unknown(_) => unreachable!("{request:?} opens no export"),
    }
}

fn refusal_of(error: &OpenError) -> Refusal {
    match error {
        // The specification's word for both is "not available"; the message tells them apart.
        OpenError::Unknown(_) | OpenError::Failed(_) => Refusal::Unknown,
        OpenError::NotAllowed(_) => Refusal::Policy,
    }
}
