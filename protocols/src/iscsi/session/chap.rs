//! CHAP, in one direction or both (section 12.1.3, RFC 1994): who knows a secret, without saying
//! it.
//!
//! ```text
//!   initiator                                target
//!   CHAP_A=7,5                   ─▶ Algorithm
//!                                ◀─ CHAP_A=7 CHAP_I=… CHAP_C=…         Response
//!   CHAP_N=… CHAP_R=…            ─▶
//!   [CHAP_I=… CHAP_C=…]          ─▶ known?
//!                                ◀─ [CHAP_N=… CHAP_R=…]                Done
//! ```
//!
//! Both secrets are those of one target. A challenge comes from outside (random bytes, fresh for
//! every connection) and is used once. Whoever sends this side's own challenge back wants its
//! answer from this very side, and is refused, as is a target whose two secrets are the same
//! (section 9.2.1).

use crate::iscsi::wire::keys::{Pair, append, binary, number, to_hexadecimal};
use md5::{Digest, Md5};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of a challenge sent from here.
pub const CHALLENGE: usize = 32;

/// Longest challenge that is answered, in bytes (section 12.1.3).
const MAX_CHALLENGE: usize = 1024;

/// Longest response of any algorithm, in bytes.
const MAX_RESPONSE: usize = 32;

/// A secret. Wiped when it is dropped, and never shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The secret with these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A user and its secret.
#[derive(Clone, Debug)]
pub struct Credential {
    /// `CHAP_N`.
    pub user: String,
    /// What both sides know.
    pub secret: Secret,
}

/// Both directions have the same secret: whoever is asked could be made to answer for the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the secrets of both directions of CHAP are the same")]
pub struct SameSecret;

/// What an initiator has to prove, and what the target proves if it is asked to.
#[derive(Clone, Debug)]
pub struct Chap {
    initiator: Credential,
    target: Option<Credential>,
}

impl Chap {
    /// The initiator is `initiator`; the target, if it can prove who it is, `target`.
    pub fn new(initiator: Credential, target: Option<Credential>) -> Result<Self, SameSecret> {
        let same = |target: &Credential| same(&target.secret.0, &initiator.secret.0);
        if target.as_ref().is_some_and(same) {
            return Err(SameSecret);
        }
        Ok(Self { initiator, target })
    }
}

fn same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// How a response is computed (the IANA registry of PPP authentication algorithms).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    const fn number(self) -> u64 {
        match self {
            Self::Md5 => 5,
            Self::Sha256 => 7,
        }
    }

    /// The hash of identifier, secret and challenge (RFC 1994, 4.1).
    fn response(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        match self {
            Self::Md5 => {
                let hash = Md5::new().chain_update([identifier]).chain_update(&*secret.0);
                hash.chain_update(challenge).finalize().to_vec()
            }
            Self::Sha256 => {
                let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
                hash.update(&[identifier]);
                hash.update(&secret.0);
                hash.update(challenge);
                hash.finish().as_ref().to_vec()
            }
        }
    }
}

/// Random bytes for one exchange.
#[derive(Clone, Copy)]
pub struct Challenge {
    /// `CHAP_I`.
    pub identifier: u8,
    /// `CHAP_C`.
    pub bytes: [u8; CHALLENGE],
}

/// Why an initiator was not recognised. It is told none of this.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChapError {
    /// It lists no algorithm that is known here.
    #[error("no algorithm of CHAP_A is known here")]
    Algorithm,
    /// A key of CHAP is missing, out of turn, or has a value it cannot have.
    #[error("{0} is missing, came out of turn, or has a value it cannot have")]
    Key(&'static str),
    /// The user or the response is another one.
    #[error("the user or the response is wrong")]
    Wrong,
    /// The challenge is the one that was sent.
    #[error("the challenge that was sent came back")]
    Reflected,
    /// It wants the target to prove itself, which has no secret to do so.
    #[error("the target is to prove itself, and has no secret for that")]
    NoSecret,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// `CHAP_A` comes next.
    Algorithm,
    /// The response comes next.
    Response(Algorithm),
    /// It is known who it is.
    Done,
}

/// One exchange.
pub struct Exchange {
    chap: Chap,
    challenge: Challenge,
    state: State,
}

impl Exchange {
    /// An exchange that has not begun. `challenge` must be fresh.
    pub fn new(chap: Chap, challenge: Challenge) -> Self {
        Self { chap, challenge, state: State::Algorithm }
    }

    /// Whether the initiator is known.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whom it proved to be.
    pub fn user(&self) -> &str {
        &self.chap.initiator.user
    }

    /// Takes the pairs of CHAP in one request and appends what is answered. Without any, nothing
    /// happens.
    pub fn take(&mut self, pairs: &[Pair<'_>], answer: &mut Vec<u8>) -> Result<(), ChapError> {
        if pairs.is_empty() {
            return Ok(());
        }
        match self.state {
            State::Algorithm => self.begin(pairs, answer),
            State::Response(algorithm) => self.end(algorithm, pairs, answer),
            State::Done => Err(ChapError::Key("CHAP")),
        }
    }

    fn begin(&mut self, pairs: &[Pair<'_>], answer: &mut Vec<u8>) -> Result<(), ChapError> {
        let [Pair { key: "CHAP_A", value }] = pairs else { return Err(ChapError::Key("CHAP_A")) };
        // The initiator lists them by preference.
        let known = |one: &str| {
            let number = number(one)?;
            [Algorithm::Sha256, Algorithm::Md5].into_iter().find(|known| known.number() == number)
        };
        let algorithm = value.split(',').find_map(known).ok_or(ChapError::Algorithm)?;
        append(answer, "CHAP_A", &algorithm.number().to_string());
        append(answer, "CHAP_I", &self.challenge.identifier.to_string());
        append(answer, "CHAP_C", &to_hexadecimal(&self.challenge.bytes));
        self.state = State::Response(algorithm);
        Ok(())
    }

    fn end(
        &mut self,
        algorithm: Algorithm,
        pairs: &[Pair<'_>],
        answer: &mut Vec<u8>,
    ) -> Result<(), ChapError> {
        let user = value(pairs, "CHAP_N")?.ok_or(ChapError::Key("CHAP_N"))?;
        let response = value(pairs, "CHAP_R")?.ok_or(ChapError::Key("CHAP_R"))?;
        let response = binary(response, MAX_RESPONSE).ok_or(ChapError::Key("CHAP_R"))?;
        let Challenge { identifier, bytes } = &self.challenge;
        let expected = algorithm.response(*identifier, &self.chap.initiator.secret, bytes);
        // Both are compared, so that time does not tell which one was wrong.
        let right_user = user.as_bytes().ct_eq(self.chap.initiator.user.as_bytes());
        if !bool::from(right_user & expected.ct_eq(&response)) {
            return Err(ChapError::Wrong);
        }
        match (value(pairs, "CHAP_I")?, value(pairs, "CHAP_C")?) {
            (None, None) => {}
            (Some(identifier), Some(challenge)) => {
                self.prove(algorithm, identifier, challenge, answer)?;
            }
            (None, Some(_)) => return Err(ChapError::Key("CHAP_I")),
            (Some(_), None) => return Err(ChapError::Key("CHAP_C")),
        }
        self.state = State::Done;
        Ok(())
    }

    /// The target proves who it is.
    fn prove(
        &self,
        algorithm: Algorithm,
        identifier: &str,
        challenge: &str,
        answer: &mut Vec<u8>,
    ) -> Result<(), ChapError> {
        let identifier = number(identifier).and_then(|number| u8::try_from(number).ok());
        let identifier = identifier.ok_or(ChapError::Key("CHAP_I"))?;
        let challenge = binary(challenge, MAX_CHALLENGE).ok_or(ChapError::Key("CHAP_C"))?;
        if challenge == self.challenge.bytes {
            return Err(ChapError::Reflected);
        }
        let target = self.chap.target.as_ref().ok_or(ChapError::NoSecret)?;
        let response = algorithm.response(identifier, &target.secret, &challenge);
        append(answer, "CHAP_N", &target.user);
        append(answer, "CHAP_R", &to_hexadecimal(&response));
        Ok(())
    }
}

/// The value of a key that comes at most once.
fn value<'a>(pairs: &[Pair<'a>], key: &'static str) -> Result<Option<&'a str>, ChapError> {
    let mut found = pairs.iter().filter(|pair| pair.key == key).map(|pair| pair.value);
    let first = found.next();
    if found.next().is_some() { Err(ChapError::Key(key)) } else { Ok(first) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::wire::keys::parse;

    fn credential(user: &str, secret: &str) -> Credential {
        Credential { user: user.into(), secret: Secret::new(secret.into()) }
    }

    fn exchange(target: Option<Credential>) -> Exchange {
        let chap = Chap::new(credential("host", "a secret of some length"), target);
        let challenge = Challenge { identifier: 0x27, bytes: [0x5a; CHALLENGE] };
        Exchange::new(chap.expect("two secrets"), challenge)
    }

    fn say(exchange: &mut Exchange, text: &str) -> Result<String, ChapError> {
        let mut answer = Vec::new();
        let pairs = parse(text.as_bytes()).expect("pairs");
        exchange.take(&pairs, &mut answer)?;
        Ok(String::from_utf8(answer).expect("text"))
    }

    fn response(algorithm: Algorithm, identifier: u8, secret: &str, challenge: &[u8]) -> String {
        to_hexadecimal(&algorithm.response(identifier, &Secret::new(secret.into()), challenge))
    }

    fn right(algorithm: Algorithm) -> String {
        let response = response(algorithm, 0x27, "a secret of some length", &[0x5a; CHALLENGE]);
        format!("CHAP_N=host\0CHAP_R={response}\0")
    }

    #[test]
    fn hashes_are_those_of_others() {
        // printf '\x01secretchallenge' | md5sum, sha256sum
        let secret = Secret::new(b"secret".to_vec());
        let md5 = Algorithm::Md5.response(1, &secret, b"challenge");
        assert_eq!(to_hexadecimal(&md5), "0x46e47770030e2b4e26a0db72a7efec00");
        let sha256 = Algorithm::Sha256.response(1, &secret, b"challenge");
        assert_eq!(
            to_hexadecimal(&sha256),
            "0x2dfa0526f4764864b7c3c5bc6596bcead3d8dbd984f4fc1d9f330299f0beced4"
        );
    }

    #[test]
    fn who_knows_the_secret_is_known() {
        for (list, algorithm) in [
            ("5", Algorithm::Md5),
            ("7", Algorithm::Sha256),
            ("7,5", Algorithm::Sha256),
            ("5,7", Algorithm::Md5),
            ("6,8,0x5", Algorithm::Md5),
        ] {
            let mut exchange = exchange(None);
            let said = say(&mut exchange, &format!("CHAP_A={list}\0")).expect("one is known");
            let challenge = to_hexadecimal(&[0x5a; CHALLENGE]);
            let number = algorithm.number();
            assert_eq!(said, format!("CHAP_A={number}\0CHAP_I=39\0CHAP_C={challenge}\0"));
            assert!(!exchange.is_done());
            assert_eq!(say(&mut exchange, &right(algorithm)), Ok(String::new()));
            assert!(exchange.is_done());
            assert_eq!(exchange.user(), "host");
        }
    }

    #[test]
    fn who_does_not_is_refused() {
        let other = response(Algorithm::Md5, 0x27, "another secret", &[0x5a; CHALLENGE]);
        let mine = response(Algorithm::Md5, 0x27, "a secret of some length", &[0x5a; CHALLENGE]);
        for (text, error) in [
            (format!("CHAP_N=host\0CHAP_R={other}\0"), ChapError::Wrong),
            (format!("CHAP_N=host\0CHAP_R={}\0", &mine[..mine.len() - 2]), ChapError::Wrong),
            (format!("CHAP_N=guest\0CHAP_R={mine}\0"), ChapError::Wrong),
            (format!("CHAP_R={mine}\0"), ChapError::Key("CHAP_N")),
            ("CHAP_N=host\0".to_owned(), ChapError::Key("CHAP_R")),
            ("CHAP_N=host\0CHAP_R=0x\0".to_owned(), ChapError::Key("CHAP_R")),
            ("CHAP_A=5\0".to_owned(), ChapError::Key("CHAP_N")),
            (format!("CHAP_N=host\0CHAP_N=host\0CHAP_R={mine}\0"), ChapError::Key("CHAP_N")),
        ] {
            let mut exchange = exchange(None);
            say(&mut exchange, "CHAP_A=5\0").expect("known");
            assert_eq!(say(&mut exchange, &text), Err(error), "{text}");
            assert!(!exchange.is_done());
        }
    }

    #[test]
    fn nothing_comes_before_the_algorithm() {
        assert_eq!(say(&mut exchange(None), "CHAP_A=6\0"), Err(ChapError::Algorithm));
        let early = say(&mut exchange(None), &right(Algorithm::Md5));
        assert_eq!(early, Err(ChapError::Key("CHAP_A")));
    }

    #[test]
    fn the_target_proves_itself_too() {
        let mut exchange = exchange(Some(credential("disks", "another secret")));
        say(&mut exchange, "CHAP_A=7\0").expect("known");
        let text = format!("{}CHAP_I=200\0CHAP_C=0x0102030405\0", right(Algorithm::Sha256));
        let expected = response(Algorithm::Sha256, 200, "another secret", &[1, 2, 3, 4, 5]);
        let said = say(&mut exchange, &text);
        assert_eq!(said, Ok(format!("CHAP_N=disks\0CHAP_R={expected}\0")));
        assert!(exchange.is_done());
    }

    #[test]
    fn a_challenge_that_comes_back_is_an_attack() {
        let mut exchange = exchange(Some(credential("disks", "another secret")));
        say(&mut exchange, "CHAP_A=5\0").expect("known");
        let challenge = to_hexadecimal(&[0x5a; CHALLENGE]);
        let text = format!("{}CHAP_I=1\0CHAP_C={challenge}\0", right(Algorithm::Md5));
        assert_eq!(say(&mut exchange, &text), Err(ChapError::Reflected));
        assert!(!exchange.is_done());
    }

    #[test]
    fn who_has_no_secret_proves_nothing() {
        let mut exchange = exchange(None);
        say(&mut exchange, "CHAP_A=5\0").expect("known");
        let text = format!("{}CHAP_I=1\0CHAP_C=0x01\0", right(Algorithm::Md5));
        assert_eq!(say(&mut exchange, &text), Err(ChapError::NoSecret));
    }

    #[test]
    fn both_directions_have_secrets_of_their_own() {
        let chap = Chap::new(credential("host", "one"), Some(credential("disks", "one")));
        assert_eq!(chap.map(|_| ()), Err(SameSecret));
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", credential("host", "hidden"));
        assert!(!shown.contains("hidden") && !shown.contains("104"), "{shown}");
    }
}
