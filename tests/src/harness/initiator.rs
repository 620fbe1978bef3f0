//! An initiator of iSCSI that aborts, logs in and is told of its end when a test says so, which those of others do as they please.
//!
//! A session on a [`Connection`]: it answers pings, and keeps what it is told without having asked.

use landfall_protocols::iscsi::initiator::{Initiator as Connection, Opening, PATIENCE};
use landfall_protocols::iscsi::wire::command::ScsiCommand;
use landfall_protocols::iscsi::wire::data::DataIn;
use landfall_protocols::iscsi::wire::login::LoginStatus;
use landfall_protocols::iscsi::wire::notice::Event;
use landfall_protocols::iscsi::wire::number::TargetTransferTag;
use landfall_protocols::iscsi::wire::pdu::Response;
use landfall_protocols::iscsi::wire::task::{Function, TaskAnswer};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Bytes of a logical block.
const BLOCK: usize = 512;

/// A session with unit 0 of a target.
pub struct Initiator {
    connection: Connection,
    /// What it was told without having asked.
    events: Vec<Event>,
}

/// A command that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    command: ScsiCommand,
    data: Vec<u8>,
}

impl Initiator {
    /// Logs in as the `number`th initiator, and takes what greets it.
    #[track_caller]
    pub fn login(portal: SocketAddr, target: &str, number: u8) -> Self {
        let mut initiator = Self::try_login(portal, target, number).expect("it may");
        assert_eq!(initiator.test_unit_ready(), 2, "the attention that greets it");
        initiator
    }

    /// Logs in as the `number`th initiator, or is told why it may not.
    #[track_caller]
    pub fn try_login(portal: SocketAddr, target: &str, number: u8) -> Result<Self, LoginStatus> {
        let name = format!("iqn.2026-11.example:host{number}");
        let opening = Opening { isid: number, ..Opening::new(name, target.to_owned()) };
        let mut connection = Connection::connect(portal);
        match connection.login(&opening).0.status {
            LoginStatus::Success => Ok(Self { connection, events: Vec::new() }),
            refused => Err(refused),
        }
    }

    /// Sends WRITE(10).
    #[track_caller]
    pub fn write(&mut self, lba: u32, data: &[u8]) -> Sent {
        let command = self.connection.write_command(lba, blocks(data.len()));
        self.start(command, data)
    }

    /// Sends READ(10).
    #[track_caller]
    pub fn read(&mut self, lba: u32, bytes: usize) -> Sent {
        let command = self.connection.read_command(lba, blocks(bytes));
        self.start(command, &[])
    }

    /// Sends COMPARE AND WRITE of one block.
    #[track_caller]
    pub fn compare_and_write(&mut self, lba: u32, from: &[u8], to: &[u8]) -> Sent {
        let [a, b, c, d] = lba.to_be_bytes();
        let cdb = [0x89, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, 1, 0, 0];
        let command = self.connection.make(&cdb, 0, 1024);
        self.start(command, &[from, to].concat())
    }

    /// The status of TEST UNIT READY.
    #[track_caller]
    pub fn test_unit_ready(&mut self) -> u8 {
        let command = self.connection.make(&[0; 6], 0, 0);
        let sent = self.start(command, &[]);
        self.finish(&sent).0
    }

    /// Logs out, which is answered.
    #[track_caller]
    pub fn logout(mut self) {
        self.connection.ask_to_log_out();
        assert!(matches!(self.receive(), (Response::Logout(_), _)));
    }

    /// Waits until the target has closed the connection; what it was told until then without having asked.
    #[track_caller]
    pub fn until_closed(mut self) -> Vec<Event> {
        let other = self.next();
        assert!(other.is_none(), "nobody waits for {other:?}");
        self.events
    }

    /// Sense key and additional code of a command that fails; nothing if it does not.
    #[track_caller]
    pub fn sense(&mut self, sent: &Sent) -> Option<(u8, u8, u8)> {
        let (status, sense) = self.finish(sent);
        // Two bytes say how long it is; it is in the fixed format.
        (status == 2).then(|| (sense[4] & 0xf, sense[14], sense[15]))
    }

    /// Gives the data that is asked for, until `sent` has ended: its status, and what it read or how it failed.
    #[track_caller]
    pub fn finish(&mut self, sent: &Sent) -> (u8, Vec<u8>) {
        self.finish_all(&[sent]).pop().expect("one")
    }

    /// The same for several, which end in any order.
    #[track_caller]
    pub fn finish_all(&mut self, all: &[&Sent]) -> Vec<(u8, Vec<u8>)> {
        let mut ends: Vec<_> = all.iter().map(|_| (None, Vec::new())).collect();
        let of = |tag| {
            let place = all.iter().position(|sent| sent.command.task_tag == tag);
            place.unwrap_or_else(|| panic!("an answer to {tag:?}, which nobody waits for"))
        };
        while ends.iter().any(|(status, _)| status.is_none()) {
            match self.receive() {
                (Response::Ready(ready), _) => {
                    self.connection.give(&ready, &all[of(ready.task_tag)].data)
                }
                (Response::Data(pdu), data) => {
                    let (status, read) = &mut ends[of(pdu.task_tag)];
                    read.extend(data);
                    if let DataIn { end: Some(end), .. } = pdu {
                        *status = Some(end.status);
                    }
                }
                (Response::Command(response), sense) => {
                    let (status, said) = &mut ends[of(response.task_tag)];
                    *status = Some(response.status);
                    said.extend(sense);
                }
                other => panic!("{other:?}"),
            }
        }
        ends.into_iter().map(|(status, read)| (status.expect("it has ended"), read)).collect()
    }

    /// Gives all data of a write, and does not wait for its end.
    #[track_caller]
    pub fn give_all(&mut self, sent: &Sent) {
        let mut given = 0;
        while given < sent.data.len() {
            match self.receive() {
                (Response::Ready(ready), _) if ready.task_tag == sent.command.task_tag => {
                    self.connection.give(&ready, &sent.data);
                    given = ready.offset as usize + ready.length as usize;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Task management; the answer must be the next thing that comes.
    #[track_caller]
    pub fn manage(&mut self, function: Function, of: Option<&Sent>) -> TaskAnswer {
        let tag = self.connection.request(function, of.map(|sent| &sent.command));
        match self.receive() {
            (Response::Task(response), _) if response.task_tag == tag => response.answer,
            other => panic!("{other:?}"),
        }
    }

    /// ABORT TASK of a command that may end meanwhile: its status if it did, and the answer.
    #[track_caller]
    pub fn abort(&mut self, sent: &Sent) -> (Option<u8>, TaskAnswer) {
        let tag = self.connection.request(Function::AbortTask, Some(&sent.command));
        let mut status = None;
        loop {
            match self.receive() {
                (Response::Command(response), _)
                    if response.task_tag == sent.command.task_tag && status.is_none() =>
                {
                    status = Some(response.status);
                }
                (Response::Task(response), _) if response.task_tag == tag => {
                    return (status, response.answer);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Whether nothing comes for a while.
    #[track_caller]
    pub fn hears_nothing(&mut self, time: Duration) -> bool {
        self.connection.hears_nothing(time)
    }

    /// Sends a command without data: the target asks for all of it.
    #[track_caller]
    fn start(&mut self, command: ScsiCommand, data: &[u8]) -> Sent {
        self.connection.start(&command, &[]);
        Sent { command, data: data.to_vec() }
    }

    #[track_caller]
    fn receive(&mut self) -> (Response, Vec<u8>) {
        self.next().expect("the connection is open")
    }

    /// What comes next, unless the target has closed. Pings are answered, and what was not asked for is kept.
    #[track_caller]
    fn next(&mut self) -> Option<(Response, Vec<u8>)> {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "nothing comes but what was not asked for");
            match self.connection.next_pdu()? {
                (Response::Async(message), _) => self.events.push(message.event),
                (Response::Nop(ping), _) if ping.transfer_tag == TargetTransferTag::RESERVED => {}
                (Response::Nop(ping), _) => self.connection.pong(ping.transfer_tag),
                other => return Some(other),
            }
        }
    }
}

fn blocks(bytes: usize) -> u16 {
    u16::try_from(bytes / BLOCK).expect("few")
}
