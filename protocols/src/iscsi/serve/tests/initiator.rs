//! An initiator by hand: it says what a test wants it to, right or wrong.

use super::PATIENCE;
use crate::iscsi::wire::command::{Attribute, ScsiCommand};
use crate::iscsi::wire::control::{LogoutReason, LogoutRequest, NopOut, TextRequest};
use crate::iscsi::wire::data::{DataIn, DataOut, ReadyToTransfer};
use crate::iscsi::wire::digest::Digest;
use crate::iscsi::wire::header::{DataLength, Lengths, padding};
use crate::iscsi::wire::login::{LoginRequest, LoginResponse, LoginStatus, Stage};
use crate::iscsi::wire::number::{
    Cid, CmdSn, DataSn, InitiatorTaskTag, Isid, LunField, StatSn, TargetTransferTag, Tsih,
};
use crate::iscsi::wire::pdu::{Request, Response};
use crate::iscsi::wire::task::{Function, TaskAnswer, TaskRequest};
use crate::iscsi::wire::{CDB, HEADER, HeaderBytes};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(super) const TARGET: &str = "iqn.2026-11.internal.landfall:web";
/// Not for who has [`TARGET`].
pub(super) const OTHER: &str = "iqn.2026-11.internal.landfall:other";
pub(super) const HOST: &str = "iqn.2026-11.com.example:host";

/// How an initiator begins.
#[derive(Clone)]
pub(super) struct Opening {
    pub(super) initiator: String,
    /// None for discovery.
    pub(super) target: Option<String>,
    pub(super) isid: u8,
    pub(super) tsih: u16,
    pub(super) cid: u16,
    /// Keys beside the names.
    pub(super) keys: String,
}

impl Default for Opening {
    fn default() -> Self {
        let (initiator, target) = (HOST.to_owned(), Some(TARGET.to_owned()));
        Self { initiator, target, isid: 1, tsih: 0, cid: 1, keys: String::new() }
    }
}

impl Opening {
    pub(super) fn with_keys(keys: &str) -> Self {
        Self { keys: keys.replace(' ', "\0") + "\0", ..Self::default() }
    }

    fn text(&self) -> String {
        let kind = match &self.target {
            Some(target) => format!("TargetName={target}\0"),
            None => "SessionType=Discovery\0".to_owned(),
        };
        format!("InitiatorName={}\0{kind}{}", self.initiator, self.keys)
    }
}

/// A connection.
pub(super) struct Initiator {
    stream: TcpStream,
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
    pub(super) cmd_sn: u32,
    tags: u32,
    pub(super) tsih: Tsih,
}

/// What a command came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) status: u8,
    /// Sense key and additional code.
    pub(super) sense: Option<(u8, u8, u8)>,
    pub(super) data: Vec<u8>,
}

impl Initiator {
    pub(super) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("set");
        Self {
            stream,
            header_digest: false,
            data_digest: false,
            cmd_sn: 1,
            tags: 0,
            tsih: Tsih::NEW,
        }
    }

    /// Logged in, and told of the unit attention that greets it.
    pub(super) fn in_session(address: SocketAddr, opening: &Opening) -> Self {
        let mut initiator = Self::logged_in(address, opening);
        assert_eq!(initiator.attention(), Some((6, 0x29)));
        initiator
    }

    pub(super) fn logged_in(address: SocketAddr, opening: &Opening) -> Self {
        let mut initiator = Self::connect(address);
        let (response, _) = initiator.login(opening);
        assert_eq!(response.status, LoginStatus::Success);
        initiator
    }

    /// A login in one request.
    pub(super) fn login(&mut self, opening: &Opening) -> (LoginResponse, String) {
        let request = self.login_request(opening, Stage::Operational, Some(Stage::FullFeature));
        let (response, text) = self.ask_login(request, &opening.text());
        if response.status == LoginStatus::Success {
            self.tsih = response.tsih;
            self.header_digest = opening.keys.contains("HeaderDigest=CRC32C");
            self.data_digest = opening.keys.contains("DataDigest=CRC32C");
        }
        (response, text)
    }

    pub(super) fn login_request(
        &self,
        opening: &Opening,
        stage: Stage,
        transit: Option<Stage>,
    ) -> LoginRequest {
        LoginRequest {
            transit,
            continues: false,
            stage,
            version_max: 0,
            version_min: 0,
            isid: Isid([0, 2, 0x3d, 0, 0, opening.isid]),
            tsih: Tsih::new(opening.tsih),
            task_tag: InitiatorTaskTag::new(0),
            cid: Cid::new(opening.cid),
            cmd_sn: CmdSn::new(self.cmd_sn),
            exp_stat_sn: StatSn::new(0),
        }
    }

    pub(super) fn ask_login(
        &mut self,
        request: LoginRequest,
        text: &str,
    ) -> (LoginResponse, String) {
        self.send(&Request::Login(request), text.as_bytes());
        match self.receive() {
            (Response::Login(response), text) => (response, String::from_utf8(text).expect("text")),
            other => panic!("{other:?}"),
        }
    }

    /// Sends a PDU, with the digests that were agreed.
    pub(super) fn send(&mut self, request: &Request, data: &[u8]) {
        let length = DataLength::new(data.len()).expect("short");
        let header = request.encode(length);
        self.send_bytes(&header, data, None);
    }

    /// Sends a header and data; with a wrong digest of either if that is wanted.
    pub(super) fn send_bytes(&mut self, header: &HeaderBytes, data: &[u8], spoil: Option<&str>) {
        let mut bytes = header.to_vec();
        if self.header_digest {
            bytes.extend(Digest::of(header).to_bytes());
            if spoil == Some("header") {
                *bytes.last_mut().expect("a digest") ^= 1;
            }
        }
        if !data.is_empty() {
            let fill = &[0; 3][..padding(data.len())];
            bytes.extend(data);
            bytes.extend(fill);
            if self.data_digest {
                bytes.extend(Digest::of(data).with(fill).to_bytes());
                if spoil == Some("data") {
                    *bytes.last_mut().expect("a digest") ^= 1;
                }
            }
        }
        self.stream.write_all(&bytes).expect("sent");
    }

    pub(super) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    fn receive_bytes(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The next PDU; none when the server has closed the connection.
    pub(super) fn next(&mut self) -> Option<(Response, Vec<u8>)> {
        let header = match self.receive_bytes(HEADER) {
            Ok(bytes) => HeaderBytes::try_from(bytes).expect("48 bytes"),
            Err(error) => {
                let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
                assert!(closed.contains(&error.kind()), "{error}");
                return None;
            }
        };
        if self.header_digest {
            let digest = self.receive_bytes(4).expect("a digest");
            assert!(Digest::of(&header).is(&digest), "the digest of a header is wrong");
        }
        let length = Lengths::of(&header).data.bytes() as usize;
        let mut data = self.receive_bytes(length + padding(length)).expect("data");
        if self.data_digest && length > 0 {
            let digest = self.receive_bytes(4).expect("a digest");
            assert!(Digest::of(&data).is(&digest), "the digest of a segment is wrong");
        }
        data.truncate(length);
        Some((Response::parse(&header).expect("it has a meaning"), data))
    }

    pub(super) fn receive(&mut self) -> (Response, Vec<u8>) {
        self.next().expect("the connection is open")
    }

    pub(super) fn tag(&mut self) -> InitiatorTaskTag {
        self.tags += 1;
        InitiatorTaskTag::new(self.tags)
    }

    /// A command of the next number. Writes unless `length` is of what it reads.
    pub(super) fn make(&mut self, cdb: &[u8], reads: u32, writes: u32) -> ScsiCommand {
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

    pub(super) fn start(&mut self, command: &ScsiCommand, data: &[u8]) {
        self.send(&Request::Command(*command), data);
    }

    /// READ(10) of `blocks` blocks.
    pub(super) fn read_command(&mut self, lba: u32, blocks: u16) -> ScsiCommand {
        self.make(&ten(0x28, lba, blocks), u32::from(blocks) * 512, 0)
    }

    /// WRITE(10) of `blocks` blocks.
    pub(super) fn write_command(&mut self, lba: u32, blocks: u16) -> ScsiCommand {
        self.make(&ten(0x2a, lba, blocks), 0, u32::from(blocks) * 512)
    }

    pub(super) fn read(&mut self, lba: u32, blocks: u16) -> Vec<u8> {
        let command = self.read_command(lba, blocks);
        self.start(&command, &[]);
        let done = self.finish(&command, &[]);
        assert_eq!((done.status, done.data.len()), (0, usize::from(blocks) * 512));
        done.data
    }

    pub(super) fn write(&mut self, lba: u32, data: &[u8]) {
        let blocks = u16::try_from(data.len() / 512).expect("small");
        let command = self.write_command(lba, blocks);
        self.start(&command, &[]);
        assert_eq!(self.finish(&command, data).status, 0);
    }

    /// Gives what is asked for, and waits for the end of `command`.
    pub(super) fn finish(&mut self, command: &ScsiCommand, data: &[u8]) -> Done {
        let mut done = Done::default();
        loop {
            match self.receive() {
                (Response::Ready(ready), _) if ready.task_tag == command.task_tag => {
                    self.give(&ready, data, 8192);
                }
                (Response::Data(pdu), data) if pdu.task_tag == command.task_tag => {
                    assert_eq!(pdu.offset as usize, done.data.len());
                    done.data.extend(data);
                    if let DataIn { end: Some(end), .. } = pdu {
                        done.status = end.status;
                        return done;
                    }
                }
                (Response::Command(response), sense) if response.task_tag == command.task_tag => {
                    done.status = response.status;
                    // Two bytes of length in front; fixed format.
                    done.sense = (!sense.is_empty()).then(|| (sense[4] & 15, sense[14], sense[15]));
                    return done;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Answers an R2T, in segments.
    pub(super) fn give(&mut self, ready: &ReadyToTransfer, data: &[u8], segment: usize) {
        let (from, length) = (ready.offset as usize, ready.length as usize);
        let mut at = from;
        let mut data_sn = 0;
        while at < from + length {
            let end = (at + segment).min(from + length);
            let pdu = DataOut {
                is_final: end == from + length,
                lun: ready.lun,
                task_tag: ready.task_tag,
                transfer_tag: ready.transfer_tag,
                exp_stat_sn: StatSn::new(0),
                data_sn: DataSn::new(data_sn),
                offset: at as u32,
            };
            self.send(&Request::Data(pdu), &data[at..end]);
            (at, data_sn) = (end, data_sn + 1);
        }
    }

    /// Sense key and additional code of TEST UNIT READY; nothing if it is.
    pub(super) fn attention(&mut self) -> Option<(u8, u8)> {
        let command = self.make(&[0; 6], 0, 0);
        self.start(&command, &[]);
        let done = self.finish(&command, &[]);
        done.sense.map(|(key, code, _)| (key, code))
    }

    /// Sends a request for task management; its tag.
    pub(super) fn request(
        &mut self,
        function: Function,
        of: Option<&ScsiCommand>,
    ) -> InitiatorTaskTag {
        let tag = self.tag();
        let request = TaskRequest {
            immediate: true,
            function,
            lun: LunField::default(),
            task_tag: tag,
            referenced_tag: of.map_or(InitiatorTaskTag::RESERVED, |command| command.task_tag),
            cmd_sn: CmdSn::new(self.cmd_sn),
            exp_stat_sn: StatSn::new(0),
            referenced_cmd_sn: of.map_or(CmdSn::default(), |command| command.cmd_sn),
            exp_data_sn: DataSn::default(),
        };
        self.send(&Request::Task(request), &[]);
        tag
    }

    pub(super) fn manage(&mut self, function: Function, of: Option<&ScsiCommand>) -> TaskAnswer {
        let tag = self.request(function, of);
        match self.receive() {
            (Response::Task(response), _) if response.task_tag == tag => response.answer,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn text(&mut self, text: &str) -> String {
        self.asks(text).expect("the connection is open")
    }

    /// What is answered to a text; nothing if the server has closed the connection.
    pub(super) fn asks(&mut self, text: &str) -> Option<String> {
        let request = TextRequest {
            immediate: false,
            is_final: true,
            continues: false,
            lun: LunField::default(),
            task_tag: self.tag(),
            transfer_tag: TargetTransferTag::RESERVED,
            cmd_sn: CmdSn::new(self.cmd_sn),
            exp_stat_sn: StatSn::new(0),
        };
        self.cmd_sn += 1;
        let length = DataLength::new(text.len()).expect("short");
        let fill = &[0; 3][..padding(text.len())];
        let bytes = [&Request::Text(request).encode(length)[..], text.as_bytes(), fill].concat();
        // Who closes may do so while this is on its way.
        self.stream.write_all(&bytes).ok()?;
        match self.next()? {
            (Response::Text(_), text) => Some(String::from_utf8(text).expect("text")),
            other => panic!("{other:?}"),
        }
    }

    /// Answers a ping.
    pub(super) fn pong(&mut self, transfer_tag: TargetTransferTag) {
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

    /// Logs out, and sees that the server closes.
    pub(super) fn logout(mut self) {
        self.ask_to_log_out();
        assert!(self.next().is_none());
    }

    /// Logs out, which is answered.
    pub(super) fn ask_to_log_out(&mut self) {
        let request = LogoutRequest {
            immediate: false,
            reason: LogoutReason::CloseSession,
            task_tag: self.tag(),
            cid: Cid::new(0),
            cmd_sn: CmdSn::new(self.cmd_sn),
            exp_stat_sn: StatSn::new(0),
        };
        self.send(&Request::Logout(request), &[]);
        assert!(matches!(self.receive(), (Response::Logout(_), _)));
    }

    /// Sends `most` PDUs, or as many as the server takes without being read from; how many that were. A part of one more may
    /// have been sent, so nothing can be sent after it.
    pub(super) fn sends_until_stuck(
        &mut self,
        most: u32,
        make: impl Fn(&Self, u32) -> (Request, Vec<u8>),
    ) -> u32 {
        self.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a time-out");
        for round in 0..most {
            let (request, data) = make(self, round);
            let length = DataLength::new(data.len()).expect("short");
            let bytes = [&request.encode(length)[..], &data].concat();
            match self.stream.write_all(&bytes) {
                Ok(()) => {}
                Err(error) => {
                    let stuck = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
                    assert!(stuck.contains(&error.kind()), "{error}");
                    return round;
                }
            }
        }
        most
    }

    /// Whether nothing comes for a while.
    pub(super) fn hears_nothing(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a time-out");
        let mut byte = [0];
        let silent = match self.stream.peek(&mut byte) {
            Ok(_) => false,
            Err(error) => [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()),
        };
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        silent
    }
}

fn ten(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = blocks.to_be_bytes();
    [opcode, 0, a, b, c, d, 0, high, low, 0]
}
