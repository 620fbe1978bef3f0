//! An initiator of iSCSI that aborts, logs in and is told of its end when a test says so, which those of others do as they please.

use landfall_protocols::iscsi::wire::command::{Attribute, ScsiCommand};
use landfall_protocols::iscsi::wire::control::{LogoutReason, LogoutRequest, NopOut};
use landfall_protocols::iscsi::wire::data::{DataIn, DataOut, ReadyToTransfer};
use landfall_protocols::iscsi::wire::header::{DataLength, Lengths, padding};
use landfall_protocols::iscsi::wire::login::{LoginRequest, LoginStatus, Stage};
use landfall_protocols::iscsi::wire::notice::Event;
use landfall_protocols::iscsi::wire::number::{
    Cid, CmdSn, DataSn, InitiatorTaskTag, Isid, LunField, StatSn, TargetTransferTag, Tsih,
};
use landfall_protocols::iscsi::wire::pdu::{Request, Response};
use landfall_protocols::iscsi::wire::task::{Function, TaskAnswer, TaskRequest};
use landfall_protocols::iscsi::wire::{CDB, HEADER, HeaderBytes};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a logical block.
const BLOCK: usize = 512;
/// Bytes of data in one PDU.
const SEGMENT: usize = 8192;

/// A session with unit 0 of a target.
pub struct Initiator {
    stream: TcpStream,
    cmd_sn: u32,
    tags: u32,
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
        let stream = TcpStream::connect(portal).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("set");
        let mut initiator = Self { stream, cmd_sn: 1, tags: 0, events: Vec::new() };
        let request = LoginRequest {
            transit: Some(Stage::FullFeature),
            continues: false,
            stage: Stage::Operational,
            version_max: 0,
            version_min: 0,
            isid: Isid([0, 2, 0x3d, 0, 0, number]),
            tsih: Tsih::NEW,
            task_tag: InitiatorTaskTag::new(0),
            cid: Cid::new(1),
            cmd_sn: CmdSn::new(1),
            exp_stat_sn: StatSn::new(0),
        };
        let text = format!("InitiatorName=iqn.2026-11.example:host{number}\0TargetName={target}\0");
        initiator.send(&Request::Login(request), text.as_bytes());
        match initiator.receive() {
            (Response::Login(response), _) if response.status == LoginStatus::Success => {
                Ok(initiator)
            }
            (Response::Login(response), _) => Err(response.status),
            other => panic!("{other:?}"),
        }
    }

    /// Sends WRITE(10).
    pub fn write(&mut self, lba: u32, data: &[u8]) -> Sent {
        let length = u32::try_from(data.len()).expect("small");
        let command = self.command(&ten(0x2a, lba, data.len()), 0, length);
        self.start(command, data)
    }

    /// Sends READ(10).
    pub fn read(&mut self, lba: u32, bytes: usize) -> Sent {
        let command = self.command(&ten(0x28, lba, bytes), u32::try_from(bytes).expect("small"), 0);
        self.start(command, &[])
    }

    /// Sends COMPARE AND WRITE of one block.
    pub fn compare_and_write(&mut self, lba: u32, from: &[u8], to: &[u8]) -> Sent {
        let [a, b, c, d] = lba.to_be_bytes();
        let cdb = [0x89, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, 1, 0, 0];
        let command = self.command(&cdb, 0, 1024);
        self.start(command, &[from, to].concat())
    }

    /// The status of TEST UNIT READY.
    #[track_caller]
    pub fn test_unit_ready(&mut self) -> u8 {
        let command = self.command(&[0; 6], 0, 0);
        let sent = self.start(command, &[]);
        self.finish(&sent).0
    }

    /// Logs out, which is answered.
    #[track_caller]
    pub fn logout(mut self) {
        let request = LogoutRequest {
            immediate: true,
            reason: LogoutReason::CloseSession,
            task_tag: self.tag(),
            cid: Cid::new(1),
            cmd_sn: CmdSn::new(self.cmd_sn),
            exp_stat_sn: StatSn::new(0),
        };
        self.send(&Request::Logout(request), &[]);
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
                (Response::Ready(ready), _) => self.give(&ready, &all[of(ready.task_tag)].data),
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
                    self.give(&ready, &sent.data);
                    given = ready.offset as usize + ready.length as usize;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Task management; the answer must be the next thing that comes.
    #[track_caller]
    pub fn manage(&mut self, function: Function, of: Option<&Sent>) -> TaskAnswer {
        let tag = self.tag();
        let command = of.map(|sent| &sent.command);
        let request = TaskRequest {
            immediate: true,
            function,
            lun: LunField::default(),
            task_tag: tag,
            referenced_tag: command.map_or(InitiatorTaskTag::RESERVED, |of| of.task_tag),
            cmd_sn: CmdSn::new(self.cmd_sn),
            exp_stat_sn: StatSn::new(0),
            referenced_cmd_sn: command.map_or(CmdSn::default(), |of| of.cmd_sn),
            exp_data_sn: DataSn::default(),
        };
        self.send(&Request::Task(request), &[]);
        match self.receive() {
            (Response::Task(response), _) if response.task_tag == tag => response.answer,
            other => panic!("{other:?}"),
        }
    }

    /// Whether nothing comes for a while.
    pub fn hears_nothing(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a time-out");
        let silent = match self.stream.peek(&mut [0]) {
            Ok(_) => false,
            Err(error) => [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()),
        };
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        silent
    }

    fn tag(&mut self) -> InitiatorTaskTag {
        self.tags += 1;
        InitiatorTaskTag::new(self.tags)
    }

    fn command(&mut self, cdb: &[u8], reads: u32, writes: u32) -> ScsiCommand {
        let mut whole = [0; CDB];
        whole[..cdb.len()].copy_from_slice(cdb);
        self.cmd_sn += 1;
        ScsiCommand {
            immediate: false,
            is_final: true,
            reads: reads > 0,
            writes: writes > 0,
            attribute: Attribute::Simple,
            lun: LunField::default(),
            task_tag: self.tag(),
            expected_length: reads.max(writes),
            cmd_sn: CmdSn::new(self.cmd_sn - 1),
            exp_stat_sn: StatSn::new(0),
            cdb: whole,
        }
    }

    /// Sends a command without data: the target asks for all of it.
    fn start(&mut self, command: ScsiCommand, data: &[u8]) -> Sent {
        self.send(&Request::Command(command), &[]);
        Sent { command, data: data.to_vec() }
    }

    fn give(&mut self, ready: &ReadyToTransfer, data: &[u8]) {
        let from = ready.offset as usize;
        let end = from + ready.length as usize;
        for (number, start) in (0..).zip((from..end).step_by(SEGMENT)) {
            let until = (start + SEGMENT).min(end);
            let pdu = DataOut {
                is_final: until == end,
                lun: ready.lun,
                task_tag: ready.task_tag,
                transfer_tag: ready.transfer_tag,
                exp_stat_sn: StatSn::new(0),
                data_sn: DataSn::new(number),
                offset: u32::try_from(start).expect("small"),
            };
            self.send(&Request::Data(pdu), &data[start..until]);
        }
    }

    fn send(&mut self, request: &Request, data: &[u8]) {
        let length = DataLength::new(data.len()).expect("short");
        let mut bytes = request.encode(length).to_vec();
        bytes.extend(data);
        bytes.extend(&[0; 3][..padding(data.len())]);
        self.stream.write_all(&bytes).expect("sent");
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
            let mut header: HeaderBytes = [0; HEADER];
            match self.stream.read_exact(&mut header) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
                read => read.expect("an answer in time"),
            }
            let length = Lengths::of(&header).data.bytes() as usize;
            let mut data = vec![0; length + padding(length)];
            self.stream.read_exact(&mut data).expect("its data");
            data.truncate(length);
            match Response::parse(&header).expect("it has a meaning") {
                Response::Async(message) => self.events.push(message.event),
                Response::Nop(ping) => self.pong(ping.transfer_tag),
                response => return Some((response, data)),
            }
        }
    }

    fn pong(&mut self, transfer_tag: TargetTransferTag) {
        if transfer_tag == TargetTransferTag::RESERVED {
            return;
        }
        let pong = NopOut {
            immediate: true,
            lun: LunField::default(),
            task_tag: InitiatorTaskTag::RESERVED,
            transfer_tag,
            cmd_sn: CmdSn::new(self.cmd_sn),
            exp_stat_sn: StatSn::new(0),
        };
        self.send(&Request::Nop(pong), &[]);
    }
}

fn ten(opcode: u8, lba: u32, bytes: usize) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = u16::try_from(bytes / BLOCK).expect("few").to_be_bytes();
    [opcode, 0, a, b, c, d, 0, high, low, 0]
}
