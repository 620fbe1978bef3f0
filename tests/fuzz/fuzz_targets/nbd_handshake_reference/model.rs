//! What a server knows of a client that negotiates, and what it owes it for every option.

use super::option::{Asked, read};
use super::{CONTEXTS, EXPORTS, MAX_SELECTED, facts, is_listed, is_there};
use landfall_protocols::nbd::OpenError;
use landfall_protocols::nbd::session::{
    Access, Context, ContextId, ExportFacts, Negotiated, Replies, TlsMode, Transmission,
};
use landfall_protocols::nbd::wire::handshake::TransmissionFlags;
use landfall_protocols::nbd::wire::reply::{BlockSizes, Info, OptionReply, Refusal};
use landfall_protocols::nbd::wire::{MAX_OPTION, MAX_SKIPPED_OPTION, OPTION_MAGIC};

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const START_TLS: u32 = 5;
const SET_META_CONTEXT: u32 = 10;

#[derive(Default)]
pub struct Model {
    structured: bool,
    extended: bool,
    /// Whether the server is to stop.
    pub stopping: bool,
    /// Of TLS; `None` where the client can have none.
    tls: Option<TlsMode>,
    /// Export and what was selected of it.
    selection: Option<(String, Vec<String>)>,
}

/// What has to come: replies but for texts of errors, and the end of negotiation if it ends.
pub struct Due {
    pub replies: Vec<OptionReply>,
    pub end: Option<Result<Option<Negotiated>, ()>>,
}

fn refused(refusal: Refusal) -> Due {
    Due { replies: vec![OptionReply::Refused { refusal, message: String::new() }], end: None }
}

fn broken() -> Due {
    Due { replies: Vec::new(), end: Some(Err(())) }
}

fn acknowledged(mut replies: Vec<OptionReply>) -> Due {
    replies.push(OptionReply::Ack);
    Due { replies, end: None }
}

fn context(id: u32, name: &str) -> OptionReply {
    OptionReply::MetaContext { id, name: name.into() }
}

fn not_available(error: &OpenError) -> Due {
    refused(match error {
        OpenError::NotAllowed(_) => Refusal::Policy,
        OpenError::Unknown(_) | OpenError::Failed(_) => Refusal::Unknown,
    })
}

impl Model {
    /// At the start, of a client that can have TLS as this says.
    pub fn new(tls: Option<TlsMode>) -> Self {
        Self { tls, ..Self::default() }
    }

    /// What is due for the bytes of one option.
    pub fn due(&mut self, bytes: &[u8]) -> Due {
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four"));
        if bytes[..8] != OPTION_MAGIC.to_be_bytes() {
            return broken();
        }
        let (option, length) = (number(8), number(12));
        if length > MAX_SKIPPED_OPTION || (length > MAX_OPTION && option == EXPORT_NAME) {
            return broken();
        }
        if option == SET_META_CONTEXT {
            self.selection = None;
        }
        if let Some(refusal) = self.turns_away(option) {
            return if option == EXPORT_NAME { broken() } else { refused(refusal) };
        }
        if length <= MAX_OPTION {
            return match read(option, &bytes[16..]) {
                Ok(asked) => self.answer(asked),
                Err(_) if option == EXPORT_NAME => broken(),
                Err(refusal) => refused(refusal),
            };
        }
        match option {
            ABORT => self.answer(Asked::Abort),
            0 | 4 | 12.. => refused(Refusal::Unsupported),
            _ => refused(Refusal::TooBig),
        }
    }

    /// Why an option is not even looked at.
    fn turns_away(&self, option: u32) -> Option<Refusal> {
        match option {
            ABORT => None,
            START_TLS => self.stopping.then_some(Refusal::Shutdown),
            _ if self.tls == Some(TlsMode::Required) => Some(Refusal::TlsRequired),
            _ => self.stopping.then_some(Refusal::Shutdown),
        }
    }

    fn answer(&mut self, asked: Asked) -> Due {
        match asked {
            Asked::Abort => Due { replies: vec![OptionReply::Ack], end: Some(Ok(None)) },
            Asked::List => acknowledged(EXPORTS[..2].iter().map(|name| listed(name)).collect()),
            Asked::StartTls => self.start_tls(),
            Asked::StructuredReply if self.extended => refused(Refusal::ExtendedHeadersRequired),
            Asked::StructuredReply => {
                self.structured = true;
                acknowledged(Vec::new())
            }
            Asked::ExtendedHeaders => {
                self.extended = true;
                acknowledged(Vec::new())
            }
            Asked::ExportName(name) => self.enter_by_name(name),
            Asked::Info(name, items) => self.inform(&name, &items),
            Asked::Go(name, items) => {
                let mut due = self.inform(&name, &items);
                if let Ok(facts) = facts(&name) {
                    due.end = Some(Ok(Some(self.enter(name, &facts))));
                }
                due
            }
            Asked::ListContexts(..) | Asked::SetContexts(..)
                if !self.structured && !self.extended =>
            {
                refused(Refusal::Invalid)
            }
            Asked::ListContexts(name, queries) => match facts(&name) {
                Ok(_) => list_contexts(&queries),
                Err(error) => not_available(&error),
            },
            Asked::SetContexts(name, queries) => match facts(&name) {
                Ok(_) => self.set_contexts(name, queries),
                Err(error) => not_available(&error),
            },
            Asked::Unknown => refused(Refusal::Unsupported),
        }
    }

    fn start_tls(&mut self) -> Due {
        match self.tls {
            None | Some(TlsMode::Off) => refused(Refusal::Policy),
            Some(TlsMode::Running) => refused(Refusal::Invalid),
            Some(TlsMode::Offered | TlsMode::Required) => {
                let stopping = self.stopping;
                *self = Self { tls: Some(TlsMode::Running), stopping, ..Self::default() };
                acknowledged(Vec::new())
            }
        }
    }

    fn set_contexts(&mut self, name: String, queries: Vec<String>) -> Due {
        let mut chosen: Vec<String> = Vec::new();
        for query in queries {
            if is_there(&query) && !chosen.contains(&query) {
                chosen.push(query);
            }
        }
        if chosen.len() > MAX_SELECTED {
            return refused(Refusal::TooBig);
        }
        let replies = (1..).zip(&chosen).map(|(id, name)| context(id, name)).collect();
        self.selection = Some((name, chosen));
        acknowledged(replies)
    }

    fn inform(&self, name: &str, items: &[u16]) -> Due {
        let facts = match facts(name) {
            Ok(facts) => facts,
            Err(error) => return not_available(&error),
        };
        let flags = self.flags(name, &facts);
        let sizes =
            BlockSizes { minimum: 1, preferred: facts.preferred_block, maximum_payload: 32 << 20 };
        let mut infos =
            vec![Info::Export { size_bytes: facts.size_bytes, flags }, Info::BlockSize(sizes)];
        if items.contains(&1) || name != facts.name {
            infos.push(Info::Name(facts.name));
        }
        if !facts.description.is_empty() {
            infos.push(Info::Description(facts.description));
        }
        acknowledged(infos.into_iter().map(OptionReply::Info).collect())
    }

    fn enter_by_name(&mut self, name: String) -> Due {
        match facts(&name) {
            Ok(facts) if !self.extended => {
                let end = Some(Ok(Some(self.enter(name, &facts))));
                Due { replies: Vec::new(), end }
            }
            _ => broken(),
        }
    }

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

    fn enter(&self, name: String, facts: &ExportFacts) -> Negotiated {
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
}

fn listed(name: &str) -> OptionReply {
    OptionReply::Server { name: name.into(), description: format!("this is {name}") }
}

fn list_contexts(queries: &[String]) -> Due {
    let asked =
        |name: &&str| queries.is_empty() || queries.iter().any(|query| is_listed(query, name));
    acknowledged(CONTEXTS.into_iter().filter(asked).map(|name| context(0, name)).collect())
}
