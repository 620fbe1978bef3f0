//! What the tests of the server want of an [`Initiator`] beside what one can do.

pub(super) use crate::iscsi::initiator::{Initiator, Opening};
use crate::iscsi::wire::command::ScsiCommand;
use crate::iscsi::wire::control::TextRequest;
use crate::iscsi::wire::data::DataIn;
use crate::iscsi::wire::header::{DataLength, padding};
use crate::iscsi::wire::login::LoginStatus;
use crate::iscsi::wire::number::{CmdSn, LunField, StatSn, TargetTransferTag};
use crate::iscsi::wire::pdu::{Request, Response};
use crate::iscsi::wire::task::{Function, TaskAnswer};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::Duration;

pub(super) const TARGET: &str = "iqn.2026-11.internal.landfall:web";
/// Not for who has [`TARGET`].
pub(super) const OTHER: &str = "iqn.2026-11.internal.landfall:other";
pub(super) const HOST: &str = "iqn.2026-11.com.example:host";

impl Default for Opening {
    fn default() -> Self {
        Self::new(HOST.to_owned(), TARGET.to_owned())
    }
}

impl Opening {
    pub(super) fn with_keys(keys: &str) -> Self {
        Self { keys: keys.replace(' ', "\0") + "\0", ..Self::default() }
    }
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

    pub(super) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
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
                    self.give(&ready, data);
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

    /// Sense key and additional code of TEST UNIT READY; nothing if it is.
    pub(super) fn attention(&mut self) -> Option<(u8, u8)> {
        let command = self.make(&[0; 6], 0, 0);
        self.start(&command, &[]);
        let done = self.finish(&command, &[]);
        done.sense.map(|(key, code, _)| (key, code))
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
        match self.next_pdu()? {
            (Response::Text(_), text) => Some(String::from_utf8(text).expect("text")),
            other => panic!("{other:?}"),
        }
    }

    /// Logs out, and sees that the server closes.
    pub(super) fn logout(mut self) {
        self.is_logged_out();
        assert!(self.next_pdu().is_none());
    }

    /// Logs out, which is answered.
    pub(super) fn is_logged_out(&mut self) {
        self.ask_to_log_out();
        assert!(matches!(self.receive(), (Response::Logout(_), _)));
    }

    /// Sends `most` PDUs, or as many as the server takes without being read from; how many that
    /// were. A part of one more may have been sent, so nothing can be sent after it.
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
}
