//! The client over a tokio stream: one task moves the bytes, handles ask it.
//!
//! ```text
//!   Client ──Submission──▶ Connection::run ──▶ stream
//!     ▲                        │
//!     └──────── oneshot ◀──────┘   by cookie, in the order the server answers
//! ```
//!
//! The task owns the state and selects one event at a time. It ends when the last handle is gone (after a polite
//! disconnect), or when the stream or the server fails; every request in flight then learns why.

use super::negotiation::{ClientStep, Negotiation, RemoteExport};
use super::transactions::{Outcome, Query, Transactions};
use super::{ClientError, ServerError};
use crate::nbd::wire::handshake::TransmissionFlags;
use crate::nbd::wire::transmission::{Command, CommandFlags, Cookie, Request};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability, MappedRange};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf,
};
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the connection to take them.
const QUEUE: usize = 64;

/// Requests sent and not answered.
const MAX_IN_FLIGHT: usize = 256;

/// Bytes waiting to be sent, beyond which no request is taken.
const MAX_UNSENT: usize = 1 << 20;

type Answer = oneshot::Sender<Result<Outcome, ServerError>>;

struct Submission {
    command: Command,
    flags: CommandFlags,
    offset: u64,
    length: u64,
    query: Query,
    payload: Option<Buffer>,
    answer: Answer,
}

/// A handle to a connection. Clones share it; the connection disconnects when the last one is dropped.
#[derive(Clone)]
pub struct Client {
    submissions: mpsc::Sender<Submission>,
    export: Arc<RemoteExport>,
    failure: Arc<OnceLock<String>>,
}

/// The other half: [`Connection::run`] has to be polled, by a task of its own or beside the callers.
pub struct Connection<S> {
    reader: BufReader<ReadHalf<S>>,
    writer: WriteHalf<S>,
    submissions: mpsc::Receiver<Submission>,
    failure: Arc<OnceLock<String>>,
    transactions: Transactions,
    answers: HashMap<Cookie, Answer>,
    next_cookie: u64,
    unsent: Vec<u8>,
    sent: usize,
}

/// Negotiates the export `name` over `stream`.
pub async fn negotiate<S>(stream: S, name: &str) -> Result<(Client, Connection<S>), ClientError>
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let mut negotiation = Negotiation::new(name);
    let export = loop {
        let output = negotiation.take_output();
        if !output.is_empty() {
            writer.write_all(&output).await?;
            writer.flush().await?;
        }
        match negotiation.step() {
            ClientStep::Ready(export) => break export,
            ClientStep::Receive(length) => {
                let mut data = vec![0; length];
                reader.read_exact(&mut data).await?;
                negotiation.received(&data)?;
            }
        }
    };
    let (sender, submissions) = mpsc::channel(QUEUE);
    let failure = Arc::new(OnceLock::new());
    let client =
        Client { submissions: sender, export: Arc::new(export), failure: Arc::clone(&failure) };
    let connection = Connection {
        reader,
        writer,
        submissions,
        failure,
        transactions: Transactions::default(),
        answers: HashMap::new(),
        next_cookie: 1,
        unsent: Vec::new(),
        sent: 0,
    };
    Ok((client, connection))
}

impl Client {
    /// What the server told of the export.
    pub fn export(&self) -> &RemoteExport {
        &self.export
    }

    /// Size of the export in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.export.size_bytes
    }

    /// Longest read or write, in bytes.
    pub fn maximum_payload(&self) -> u64 {
        u64::from(self.export.sizes.maximum_payload)
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.export.flags.contains(TransmissionFlags::READ_ONLY)
    }

    /// The bytes of `range`, which is at most [`Client::maximum_payload`] long.
    pub async fn read(&self, range: ByteRange) -> Result<Buffer, ClientError> {
        self.check_payload(range.length())?;
        if range.is_empty() {
            return Ok(Buffer::zeroed(0));
        }
        let query = Query::Read(range);
        match self.ask(Command::Read, CommandFlags::NONE, range, query, None).await? {
            Outcome::Read(data) => Ok(data),
            Outcome::BlockStatus(_) | Outcome::Done => unreachable!("a read reads"),
        }
    }

    /// What the server knows of `range`, which is not empty: consecutive stretches from its start on, at least one. They
    /// may end before the range does; ask on from there.
    pub async fn block_status(&self, range: ByteRange) -> Result<Vec<MappedRange>, ClientError> {
        let context = self.export.allocation.ok_or(ClientError::NoBlockStatus)?;
        let length = range.length().min(u64::from(u32::MAX));
        let range = ByteRange::at(range.start(), length).expect("not longer than the range");
        let query = Query::BlockStatus(range, context);
        match self.ask(Command::BlockStatus, CommandFlags::NONE, range, query, None).await? {
            Outcome::BlockStatus(status) => Ok(status),
            Outcome::Read(_) | Outcome::Done => unreachable!("a status tells a status"),
        }
    }

    /// Stores `data` at `at`.
    pub async fn write(
        &self,
        at: ByteOffset,
        data: Buffer,
        durability: Durability,
    ) -> Result<(), ClientError> {
        let length = u64::try_from(data.len()).expect("a usize fits 64 bits");
        self.check_payload(length)?;
        let range = ByteRange::at(at, length)
            .ok_or(ClientError::TooLong { length, maximum: u64::MAX - at.bytes() })?;
        let flags = match durability {
            Durability::Cached => CommandFlags::NONE,
            Durability::Durable => CommandFlags::FUA,
        };
        self.ask(Command::Write, flags, range, Query::Plain, Some(data)).await.map(drop)
    }

    /// Makes completed writes durable.
    pub async fn flush(&self) -> Result<(), ClientError> {
        let nothing = ByteRange::up_to(0);
        self.ask(Command::Flush, CommandFlags::NONE, nothing, Query::Plain, None).await.map(drop)
    }

    fn check_payload(&self, length: u64) -> Result<(), ClientError> {
        let maximum = self.maximum_payload();
        if length > maximum { Err(ClientError::TooLong { length, maximum }) } else { Ok(()) }
    }

    async fn ask(
        &self,
        command: Command,
        flags: CommandFlags,
        range: ByteRange,
        query: Query,
        payload: Option<Buffer>,
    ) -> Result<Outcome, ClientError> {
        let (answer, answered) = oneshot::channel();
        let (offset, length) = (range.start().bytes(), range.length());
        let submission = Submission { command, flags, offset, length, query, payload, answer };
        if self.submissions.send(submission).await.is_err() {
            return Err(self.closed());
        }
        match answered.await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(self.closed()),
        }
    }

    fn closed(&self) -> ClientError {
        let why = self.failure.get().map_or("it was not kept running", String::as_str);
        ClientError::Closed(why.to_owned())
    }
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    /// Moves requests and replies until the last [`Client`] is gone or something fails.
    pub async fn run(mut self) -> Result<(), ClientError> {
        let outcome = self.exchange().await;
        if let Err(error) = &outcome {
            // Set once, here; the requests in flight see it when their answers are dropped with `self`.
            let _ = self.failure.set(error.to_string());
        }
        outcome
    }

    async fn exchange(&mut self) -> Result<(), ClientError> {
        let mut open = true;
        while open || !self.answers.is_empty() || !self.transactions.is_idle() {
            let room = self.answers.len() < MAX_IN_FLIGHT && self.unsent.len() < MAX_UNSENT;
            tokio::select! {
                submission = self.submissions.recv(), if open && room => match submission {
                    Some(submission) => self.submit(submission),
                    None => open = false,
                },
                count = self.writer.write(&self.unsent[self.sent..]),
                    if self.sent < self.unsent.len() => self.written(count?)?,
                count = self.reader.read(self.transactions.target()) => match count? {
                    0 => return Err(ClientError::Closed("the server closed it".to_owned())),
                    count => {
                        if let Some((cookie, outcome)) = self.transactions.advance(count)? {
                            self.answer(cookie, outcome);
                        }
                    }
                },
            }
        }
        self.disconnect().await
    }

    fn submit(&mut self, submission: Submission) {
        let cookie = Cookie::new(self.next_cookie);
        self.next_cookie += 1;
        let Submission { command, flags, offset, length, query, payload, answer } = submission;
        let request = Request { command, flags, cookie, offset, length };
        let encoded = request.encode().expect("lengths are limited to 32 bits before");
        self.unsent.extend(encoded);
        if let Some(payload) = payload {
            self.unsent.extend(&*payload);
        }
        self.transactions.begin(cookie, query);
        self.answers.insert(cookie, answer);
    }

    fn written(&mut self, count: usize) -> Result<(), ClientError> {
        if count == 0 {
            return Err(ClientError::Io(std::io::ErrorKind::WriteZero.into()));
        }
        self.sent += count;
        if self.sent == self.unsent.len() {
            self.unsent.clear();
            self.sent = 0;
        }
        Ok(())
    }

    fn answer(&mut self, cookie: Cookie, outcome: Result<Outcome, ServerError>) {
        let answer = self.answers.remove(&cookie).expect("begun together");
        // Whoever asked may have lost interest; the answer is then nobody's.
        let _ = answer.send(outcome);
    }

    async fn disconnect(&mut self) -> Result<(), ClientError> {
        let request = Request {
            command: Command::Disconnect,
            flags: CommandFlags::NONE,
            cookie: Cookie::new(self.next_cookie),
            offset: 0,
            length: 0,
        };
        self.writer.write_all(&request.encode().expect("no length")).await?;
        self.writer.shutdown().await?;
        Ok(())
    }
}
