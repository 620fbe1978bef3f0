//! A login without a socket, for tests and fuzzing: requests go in as bytes, and what is answered
//! comes out with its meaning.
//!
//! What the login wants besides ([`Step`](super::Step)) is left to whoever talks.

use super::Login;
use crate::iscsi::initiator::login_request;
use crate::iscsi::session::chap::{CHALLENGE, Challenge};
use crate::iscsi::session::terms::Offer;
use crate::iscsi::wire::header::DataLength;
use crate::iscsi::wire::login::{LoginRequest, LoginResponse};
use crate::iscsi::wire::number::{CmdSn, Isid, PortalGroup};
use crate::iscsi::wire::pdu::{Request, Response};

/// An initiator's half of a login, and the other one.
pub struct Talk {
    /// The target's half.
    pub login: Login,
    /// What is said next, beside its text.
    pub request: LoginRequest,
}

impl Talk {
    /// One in which nothing was said yet; with the default offer, and a challenge that is always
    /// the same.
    pub fn begun() -> Self {
        let challenge = Challenge { identifier: 7, bytes: [3; CHALLENGE] };
        Self {
            login: Login::new(Offer::default(), PortalGroup::new(1), challenge),
            request: login_request(Isid([0, 2, 0x3d, 1, 2, 3]), CmdSn::new(100)),
        }
    }

    /// Sends the request, with `text`.
    pub fn say(&mut self, text: &[u8]) {
        let length = DataLength::new(text.len()).expect("short");
        self.login.received(&Request::Login(self.request).encode(length), text);
    }

    /// What is answered and was not taken yet; it has to be the answer to a login.
    pub fn take_answer(&mut self) -> Option<(LoginResponse, Vec<u8>)> {
        let (header, text) = self.login.take_output()?;
        match Response::parse(&header) {
            Ok(Response::Login(response)) => Some((response, text)),
            other => panic!("it is no answer to a login: {other:?}"),
        }
    }
}
