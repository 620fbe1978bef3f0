//! Negotiation, the client's side.
//!
//! ```text
//!   Greeting ─▶ StructuredReply ─▶ MetaContext ─▶ Go ─▶ ready
//!                      └── refused: simple replies, no block status ──▶ Go
//! ```

use super::{Breach, ClientError};
use crate::nbd::session::{ContextId, Replies};
use crate::nbd::wire::handshake::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, Greeting, InfoKind, OptionReplyHeader, TransmissionFlags,
};
use crate::nbd::wire::option::{InfoRequest, MetaRequest, OptionRequest};
use crate::nbd::wire::reply::{BlockSizes, Info, OptionReply};
use crate::nbd::wire::{MAGIC, MAX_OPTION, MAX_REQUEST, OPTION_MAGIC, OPTION_REPLY_MAGIC};
use zerocopy::FromBytes;

const ALLOCATION: &str = "base:allocation";

/// What the caller has to do next.
#[derive(Debug)]
pub enum ClientStep {
    /// Receive exactly this many bytes and hand them to [`Negotiation::received`].
    Receive(usize),
    /// Requests may be sent.
    Ready(RemoteExport),
}

/// What the server told of the export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteExport {
    /// Size in bytes.
    pub size_bytes: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
    /// Sizes requests keep to, in bytes.
    pub sizes: BlockSizes,
    /// The server's own name for it; the one asked for if it said nothing else.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// How it replies.
    pub replies: Replies,
    /// Number of `base:allocation`, if it was granted.
    pub allocation: Option<ContextId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    StructuredReply,
    MetaContext,
    Go,
    Ready,
}

/// Negotiation of one connection.
pub struct Negotiation {
    stage: Stage,
    /// Header of the reply whose data is awaited.
    header: Option<OptionReplyHeader>,
    output: Vec<u8>,
    export: RemoteExport,
    /// Whether the size has been told.
    sized: bool,
}

impl Negotiation {
    /// A negotiation for the export `name`, which is at most 4096 bytes long.
    pub fn new(name: &str) -> Self {
        let export = RemoteExport {
            size_bytes: 0,
            flags: TransmissionFlags::default(),
            // What the specification lets clients assume of a server that says nothing.
            sizes: BlockSizes { minimum: 1, preferred: 4096, maximum_payload: MAX_REQUEST },
            name: name.to_owned(),
            description: String::new(),
            replies: Replies::Simple,
            allocation: None,
        };
        Self { stage: Stage::Greeting, header: None, output: Vec::new(), export, sized: false }
    }

    /// What must be sent before the next step is done.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// What to do next.
    pub fn step(&self) -> ClientStep {
        match (self.stage, &self.header) {
            (Stage::Ready, _) => ClientStep::Ready(self.export.clone()),
            (Stage::Greeting, _) => ClientStep::Receive(size_of::<Greeting>()),
            (_, None) => ClientStep::Receive(size_of::<OptionReplyHeader>()),
            (_, Some(header)) => ClientStep::Receive(
                usize::try_from(header.length.get()).expect("32 bits fit a usize"),
            ),
        }
    }

    /// The bytes that [`ClientStep::Receive`] asked for. After an error the connection is of no use.
    pub fn received(&mut self, data: &[u8]) -> Result<(), ClientError> {
        if self.stage == Stage::Greeting {
            return self.greeting(data);
        }
        let header = match self.header.take() {
            Some(header) => header,
            None => {
                let header =
                    OptionReplyHeader::read_from_bytes(data).expect("its length was asked for");
                self.check(&header)?;
                if header.length.get() > 0 {
                    self.header = Some(header);
                    return Ok(());
                }
                return self.reply(OptionReply::parse(header.kind.get(), &[])?);
            }
        };
        self.reply(OptionReply::parse(header.kind.get(), data)?)
    }

    fn greeting(&mut self, data: &[u8]) -> Result<(), ClientError> {
        let greeting = Greeting::read_from_bytes(data).expect("its length was asked for");
        let (magic, option_magic) = (greeting.magic.get(), greeting.option_magic.get());
        if (magic, option_magic) != (MAGIC, OPTION_MAGIC) {
            return Err(ClientError::NotNbd { magic, option_magic });
        }
        let offered = greeting.flags.get();
        if offered & FLAG_FIXED_NEWSTYLE == 0 {
            return Err(ClientError::NotFixed);
        }
        let echoed = u32::from(offered & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES));
        self.output.extend(echoed.to_be_bytes());
        self.ask(Stage::StructuredReply);
        Ok(())
    }

    fn request(&self, stage: Stage) -> Option<OptionRequest> {
        let name = self.export.name.clone();
        match stage {
            Stage::Greeting | Stage::Ready => None,
            Stage::StructuredReply => Some(OptionRequest::StructuredReply),
            Stage::MetaContext => Some(OptionRequest::SetMetaContext(MetaRequest {
                name,
                queries: vec![ALLOCATION.to_owned()],
            })),
            Stage::Go => Some(OptionRequest::Go(InfoRequest {
                name,
                items: vec![InfoKind::BlockSize, InfoKind::Name, InfoKind::Description],
            })),
        }
    }

    fn ask(&mut self, stage: Stage) {
        self.stage = stage;
        if let Some(request) = self.request(stage) {
            request.encode(&mut self.output);
        }
    }

    fn check(&self, header: &OptionReplyHeader) -> Result<(), ClientError> {
        if header.magic.get() != OPTION_REPLY_MAGIC {
            return Err(ClientError::Breach(Breach::Magic(header.magic.get())));
        }
        let asked = self.request(self.stage).map(|request| request.kind().number());
        if asked != Some(header.option.get()) {
            return Err(ClientError::Breach(Breach::Option(header.option.get())));
        }
        if header.length.get() > MAX_OPTION {
            return Err(ClientError::Breach(Breach::Length(header.length.get())));
        }
        Ok(())
    }

    fn reply(&mut self, reply: OptionReply) -> Result<(), ClientError> {
        match (self.stage, reply) {
            (Stage::StructuredReply, OptionReply::Ack) => {
                self.export.replies = Replies::Structured;
                self.ask(Stage::MetaContext);
            }
            (Stage::StructuredReply, OptionReply::Refused { .. }) => self.ask(Stage::Go),
            (Stage::MetaContext, OptionReply::MetaContext { id, name }) if name == ALLOCATION => {
                self.export.allocation = Some(ContextId::new(id));
            }
            (Stage::MetaContext, OptionReply::Ack) => self.ask(Stage::Go),
            (Stage::MetaContext, OptionReply::Refused { .. }) => {
                // Without an answer there is no block status; whether the export exists, GO will say.
                self.export.allocation = None;
                self.ask(Stage::Go);
            }
            (Stage::Go, OptionReply::Info(info)) => self.info(info),
            (Stage::Go, OptionReply::Ack) if self.sized => self.stage = Stage::Ready,
            (Stage::Go, OptionReply::Ack) => return Err(ClientError::Breach(Breach::NoExport)),
            (Stage::Go, OptionReply::Refused { refusal, message }) => {
                return Err(ClientError::Refused { refusal, message });
            }
            _ => return Err(ClientError::Breach(Breach::OptionReply)),
        }
        Ok(())
    }

    fn info(&mut self, info: Info) {
        match info {
            Info::Export { size_bytes, flags } => {
                (self.export.size_bytes, self.export.flags) = (size_bytes, flags);
                self.sized = true;
            }
            Info::Name(name) => self.export.name = name,
            Info::Description(description) => self.export.description = description,
            Info::BlockSize(sizes) => self.export.sizes = sizes,
            Info::Unknown(_) => {}
        }
    }
}
