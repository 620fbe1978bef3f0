//! An initiator by hand, for tests: it says what one wants it to, right or wrong, and waits for
//! nothing that it is not told to wait for.
//!
//! One connection over a blocking socket. Whatever comes has to have a meaning, with the digests
//! that were agreed; everything else is the test's to judge.
//!
//! Not for sessions in earnest: it ignores the window, and panics where a target misbehaves or is
//! late.

use super::wire::command::{Attribute, ScsiCommand};
use super::wire::control::{LogoutReason, LogoutRequest, NopOut};
use super::wire::data::{DataOut, ReadyToTransfer};
use super::wire::digest::{DIGEST, Digest};
use super::wire::header::{DataLength, Lengths, padding};
use super::wire::login::{LoginRequest, LoginResponse, LoginStatus, Stage};
use super::wire::number::{
    Cid, CmdSn, DataSn, InitiatorTaskTag, Isid, LunField, StatSn, TargetTransferTag, Tsih,
};
use super::wire::pdu::{Request, Response};
use super::wire::task::{Function, TaskRequest};
use super::wire::{CDB, DEFAULT_SEGMENT, HEADER, HeaderBytes};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long it waits for what has to come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of a logical block.
const BLOCK: u32 = 512;

/// How an initiator begins.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its name.
    pub initiator: String,
    /// The target's; none for discovery.
    pub target: Option<String>,
    /// The last byte of its ISID.
    pub isid: u8,
    /// The session it means; zero for a new one.
    pub tsih: u16,
    /// The connection.
    pub cid: u16,
    /// Keys beside the names, each with its zero byte.
    pub keys: String,
}

impl Opening {
    /// A new session with `target`.
    pub fn new(initiator: String, target: String) -> Self {
        Self { initiator, target: Some(target), isid: 1, tsih: 0, cid: 1, keys: String::new() }
    }

    fn text(&self) -> String {
        let kind = match &self.target {
            Some(target) => format!("TargetName={target}\0"),
            None => "SessionType=Discovery\0".to_owned(),
        };
        format!("InitiatorName={}\0{kind}{}", self.initiator, self.keys)
    }
}

/// A request that begins a new session, before anything is negotiated.
pub fn login_request(isid: Isid, cmd_sn: CmdSn) -> LoginRequest {
    LoginRequest {
        transit: None,
        continues: false,
        stage: Stage::Security,
        version_max: 0,
        version_min: 0,
        isid,
        tsih: Tsih::NEW,
        task_tag: InitiatorTaskTag::new(0x1234),
        cid: Cid::new(1),
        cmd_sn,
        exp_stat_sn: StatSn::new(0),
    }
}

/// A connection.
pub struct Initiator {
    pub(super) stream: TcpStream,
    /// Headers have digests.
    pub header_digest: bool,
    /// Data segments have digests.
    pub data_digest: bool,
    /// The number of the next command.
    pub cmd_sn: u32,
    tags: u32,
    /// The session's name, once it is logged in.
    pub tsih: Tsih,
}

impl Initiator {
    /// A connection on which nothing was said.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
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

    /// Asks for a login in one request; what is answered.
    #[track_caller]
    pub fn login(&mut self, opening: &Opening) -> (LoginResponse, String) {
        let request = self.login_request(opening, Stage::Operational, Some(Stage::FullFeature));
        let (response, text) = self.ask_login(request, &opening.text());
        if response.status == LoginStatus::Success {
            self.tsih = response.tsih;
            self.header_digest = opening.keys.contains("HeaderDigest=CRC32C");
            self.data_digest = opening.keys.contains("DataDigest=CRC32C");
        }
        (response, text)
    }

    /// A request of the login that begins so.
    pub fn login_request(
        &self,
        opening: &Opening,
        stage: Stage,
        transit: Option<Stage>,
    ) -> LoginRequest {
        LoginRequest {
            transit,
            stage,
            tsih: Tsih::new(opening.tsih),
            cid: Cid::new(opening.cid),
            ..login_request(Isid([0, 2, 0x3d, 0, 0, opening.isid]), CmdSn::new(self.cmd_sn))
        }
    }

    /// Sends a request of a login; what is answered.
    #[track_caller]
    pub fn ask_login(&mut self, request: LoginRequest, text: &str) -> (LoginResponse, String) {
        self.send(&Request::Login(request), text.as_bytes());
        match self.receive() {
            (Response::Login(response), text) => (response, String::from_utf8(text).expect("text")),
            other => panic!("{other:?}"),
        }
    }

    /// Sends a PDU, with the digests that were agreed.
    #[track_caller]
    pub fn send(&mut self, request: &Request, data: &[u8]) {
        let length = DataLength::new(data.len()).expect("short");
        self.send_bytes(&request.encode(length), data, None);
    }

    /// Sends a header and data; with a wrong digest of either if that is wanted.
    #[track_caller]
    pub fn send_bytes(&mut self, header: &HeaderBytes, data: &[u8], spoil: Option<&str>) {
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

    /// The next PDU; none when the target has closed the connection.
    #[track_caller]
    pub fn next_pdu(&mut self) -> Option<(Response, Vec<u8>)> {
        let header = match self.receive_bytes(HEADER) {
            Ok(bytes) => HeaderBytes::try_from(bytes).expect("48 bytes"),
            Err(error) => {
                let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
                assert!(closed.contains(&error.kind()), "{error}");
                return None;
            }
        };
        if self.header_digest {
            let digest = self.receive_bytes(DIGEST).expect("a digest");
            assert!(Digest::of(&header).is(&digest), "the digest of a header is wrong");
        }
        let length = Lengths::of(&header).data.bytes() as usize;
        let mut data = self.receive_bytes(length + padding(length)).expect("data");
        if self.data_digest && length > 0 {
            let digest = self.receive_bytes(DIGEST).expect("a digest");
            assert!(Digest::of(&data).is(&digest), "the digest of a segment is wrong");
        }
        data.truncate(length);
        Some((Response::parse(&header).expect("it has a meaning"), data))
    }

    /// The next PDU, which has to come.
    #[track_caller]
    pub fn receive(&mut self) -> (Response, Vec<u8>) {
        self.next_pdu().expect("the connection is open")
    }

    fn receive_bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A name for a task that no other has.
    pub fn tag(&mut self) -> InitiatorTaskTag {
        self.tags += 1;
        InitiatorTaskTag::new(self.tags)
    }

    /// A command of the next number, which reads or writes so many bytes.
    pub fn make(&mut self, cdb: &[u8], reads: u32, writes: u32) -> ScsiCommand {
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

    /// READ(10) of `blocks` blocks.
    pub fn read_command(&mut self, lba: u32, blocks: u16) -> ScsiCommand {
        self.make(&ten(0x28, lba, blocks), u32::from(blocks) * BLOCK, 0)
    }

    /// WRITE(10) of `blocks` blocks.
    pub fn write_command(&mut self, lba: u32, blocks: u16) -> ScsiCommand {
        self.make(&ten(0x2a, lba, blocks), 0, u32::from(blocks) * BLOCK)
    }

    /// Sends a command, with `data` as immediate data.
    #[track_caller]
    pub fn start(&mut self, command: &ScsiCommand, data: &[u8]) {
        self.send(&Request::Command(*command), data);
    }

    /// Gives what an R2T asks for of `data`, the whole data of its command.
    #[track_caller]
    pub fn give(&mut self, ready: &ReadyToTransfer, data: &[u8]) {
        let end = ready.offset + ready.length;
        let mut data_sn = DataSn::new(0);
        let mut offset = ready.offset;
        while offset < end {
            let until = (offset + DEFAULT_SEGMENT).min(end);
            let pdu = DataOut {
                is_final: until == end,
                lun: ready.lun,
                task_tag: ready.task_tag,
                transfer_tag: ready.transfer_tag,
                exp_stat_sn: StatSn::new(0),
                data_sn,
                offset,
            };
            self.send(&Request::Data(pdu), &data[offset as usize..until as usize]);
            (offset, data_sn) = (until, data_sn.next());
        }
    }

    /// Sends a request for task management; its tag.
    #[track_caller]
    pub fn request(&mut self, function: Function, of: Option<&ScsiCommand>) -> InitiatorTaskTag {
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

    /// Answers a ping.
    #[track_caller]
    pub fn pong(&mut self, transfer_tag: TargetTransferTag) {
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

    /// Sends a request to log out.
    #[track_caller]
    pub fn ask_to_log_out(&mut self) {
        let request = LogoutRequest {
            immediate: false,
            reason: LogoutReason::CloseSession,
            task_tag: self.tag(),
            cid: Cid::new(0),
            cmd_sn: CmdSn::new(self.cmd_sn),
            exp_stat_sn: StatSn::new(0),
        };
        self.send(&Request::Logout(request), &[]);
    }

    /// Whether nothing comes for a while.
    #[track_caller]
    pub fn hears_nothing(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a time-out");
        let silent = match self.stream.peek(&mut [0]) {
            Ok(_) => false,
            Err(error) => [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()),
        };
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        silent
    }
}

/// A CDB of ten bytes.
fn ten(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = blocks.to_be_bytes();
    [opcode, 0, a, b, c, d, 0, high, low, 0]
}
