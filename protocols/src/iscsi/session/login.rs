//! Login, the target's side (section 6.3).
//!
//! ```text
//!   Receive ─▶ Knock ─▶ Receive … ─▶ Enter ─▶ End(Entered)
//!      ▲  │      │         │           │
//!      └──┘      └─────────┴───────────┴──────▶ End(Refused)
//!
//!   stages    Security ─▶ Operational ─▶ FullFeature      each may be left out; the initiator
//!                                                        asks (T), the target agrees
//! ```
//!
//! The caller sends [`Login::take_output`], then does what [`Login::step`] says. Nobody is told why
//! it was not recognised.

use super::chap::{Challenge, Chap, ChapError, Exchange};
use super::negotiate::{KeyError, Negotiation, Phase};
use super::terms::{Offer, Terms};
use super::text::{Assembly, TooLong};
use crate::iscsi::name::{Name, NameError};
use crate::iscsi::wire::header::DataLength;
use crate::iscsi::wire::keys::{Pair, TextError, append, parse};
use crate::iscsi::wire::login::{LoginRequest, LoginResponse, LoginStatus, Stage};
use crate::iscsi::wire::number::{
    Cid, CmdSn, InitiatorTaskTag, Isid, PortalGroup, ResponseNumbers, StatSn, Tsih,
};
use crate::iscsi::wire::pdu::{HeaderError, Request, Response};
use crate::iscsi::wire::{DEFAULT_SEGMENT, HeaderBytes};

/// The version that is spoken (section 11.12.4).
const VERSION: u8 = 0;

/// Most requests of one login: stages, text in several PDUs, CHAP.
const MAX_REQUESTS: u32 = 64;

/// The number of the first response.
const FIRST_STAT_SN: StatSn = StatSn::new(1);

/// What an initiator wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Want {
    /// To know which targets there are.
    Discovery,
    /// This target.
    Target(Name),
}

/// Who is there, as it says, and what it wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Knock {
    /// The initiator.
    pub initiator: Name,
    /// What it wants.
    pub want: Want,
}

/// A session that is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entering {
    /// The initiator.
    pub initiator: Name,
    /// Whom it proved to be, if it had to.
    pub user: Option<String>,
    /// What it wants.
    pub want: Want,
    /// Its part of the session's name.
    pub isid: Isid,
    /// The session it belongs to, or a new one.
    pub tsih: Tsih,
    /// Number of the connection.
    pub cid: Cid,
}

/// A session that begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entered {
    /// What was asked for, with the name that the session has got.
    pub entering: Entering,
    /// What was agreed.
    pub terms: Terms,
    /// The first command.
    pub cmd_sn: CmdSn,
    /// The number of the next response.
    pub stat_sn: StatSn,
}

/// What the caller has to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Receive a PDU, of at most [`DEFAULT_SEGMENT`] bytes of data, and hand it to
    /// [`Login::received`].
    Receive,
    /// Say what this initiator has to prove: [`Login::answered`].
    Knock(Knock),
    /// Open what it wants and give the session a name: [`Login::opened`].
    Enter(Entering),
    /// Send the output; then the login is over.
    End(End),
}

/// How a login ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// A session begins with the next PDU.
    Entered(Box<Entered>),
    /// The connection must be closed.
    Refused(LoginError),
}

/// Why a login led nowhere.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoginError {
    /// Something other than a login came.
    #[error("not a login: {0:?}")]
    NotLogin(Option<HeaderError>),
    /// A version that is not spoken.
    #[error("versions from {0} on are wanted")]
    Version(u8),
    /// Another request than the one before it would have.
    #[error("{0} is not as it was before")]
    Changed(&'static str),
    /// A stage that does not follow, or flags that do not go together.
    #[error("a stage or flag that does not follow")]
    Transition,
    /// Text that is none.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Text without end.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// More requests than any login has.
    #[error("more than {MAX_REQUESTS} requests")]
    TooMany,
    /// A key that must be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A name that is none.
    #[error("{key}: {error}")]
    Name {
        /// Of which key.
        key: &'static str,
        /// What is wrong.
        error: NameError,
    },
    /// A kind of session that there is not.
    #[error("there is no such kind of session")]
    SessionType,
    /// A key went wrong.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It has to prove itself, and does not want to.
    #[error("it does not prove who it is")]
    Unproven,
    /// It could not prove itself.
    #[error(transparent)]
    Chap(#[from] ChapError),
    /// The caller refused it.
    #[error("refused: {0:?}")]
    Denied(LoginStatus),
}

impl LoginError {
    /// What the initiator is told; nothing if it speaks something else.
    fn status(&self) -> Option<LoginStatus> {
        Some(match self {
            Self::NotLogin(_) => return None,
            Self::Version(_) => LoginStatus::UnsupportedVersion,
            Self::Missing(_) => LoginStatus::MissingParameter,
            Self::SessionType => LoginStatus::SessionTypeNotSupported,
            Self::Unproven | Self::Chap(_) => LoginStatus::AuthenticationFailure,
            Self::Denied(status) => *status,
            // A target that cannot have that name is not there.
            Self::Name { key: "TargetName", .. } => LoginStatus::NotFound,
            Self::Changed(_)
            | Self::Transition
            | Self::Text(_)
            | Self::TooLong(_)
            | Self::TooMany
            | Self::Name { .. }
            | Self::Key(_) => LoginStatus::InitiatorError,
        })
    }
}

/// What stays the same through all requests.
#[derive(Clone, Copy)]
struct Identity {
    isid: Isid,
    tsih: Tsih,
    cid: Cid,
    task_tag: InitiatorTaskTag,
    cmd_sn: CmdSn,
}

impl Identity {
    fn of(request: &LoginRequest) -> Self {
        let LoginRequest { isid, tsih, cid, task_tag, cmd_sn, .. } = *request;
        Self { isid, tsih, cid, task_tag, cmd_sn }
    }

    fn check(&self, request: &LoginRequest) -> Result<(), LoginError> {
        for (same, what) in [
            (self.isid == request.isid, "the ISID"),
            (self.tsih == request.tsih, "the TSIH"),
            (self.cid == request.cid, "the connection's number"),
            (self.task_tag == request.task_tag, "the task tag"),
            (self.cmd_sn == request.cmd_sn, "CmdSN"),
        ] {
            if !same {
                return Err(LoginError::Changed(what));
            }
        }
        Ok(())
    }
}

/// What an initiator has to prove.
#[derive(Clone, Debug)]
pub enum Demand {
    /// Nothing.
    Nothing,
    /// That it knows a secret.
    Chap(Chap),
}

enum Proof {
    /// It is not known what there is to prove.
    Unasked,
    /// There is something to prove, and nothing was said of it.
    Asked(Demand),
    /// Nothing is to be proved, and both know it.
    NotNeeded,
    /// CHAP is under way, or done.
    Exchange(Box<Exchange>),
}

/// A login under way.
pub struct Login {
    offer: Offer,
    portal_group: PortalGroup,
    challenge: Option<Challenge>,
    step: Step,
    output: Option<(LoginResponse, Vec<u8>)>,
    identity: Option<Identity>,
    stage: Stage,
    stat_sn: StatSn,
    requests: u32,
    assembly: Assembly,
    knock: Option<Knock>,
    proof: Proof,
    negotiation: Negotiation,
    /// The request that is not answered yet, and its text.
    pending: Option<(LoginRequest, Vec<u8>)>,
    /// The text of the last answer, while the session is opened.
    farewell: Vec<u8>,
}

impl Login {
    /// A connection on which nothing was said. `challenge` is fresh random.
    pub fn new(offer: Offer, portal_group: PortalGroup, challenge: Challenge) -> Self {
        Self {
            offer: offer.clamped(),
            portal_group,
            challenge: Some(challenge),
            step: Step::Receive,
            output: None,
            identity: None,
            stage: Stage::Security,
            stat_sn: FIRST_STAT_SN,
            requests: 0,
            assembly: Assembly::default(),
            knock: None,
            proof: Proof::Unasked,
            negotiation: Negotiation::new(offer),
            pending: None,
            farewell: Vec::new(),
        }
    }

    /// What to do.
    pub fn step(&self) -> Step {
        self.step.clone()
    }

    /// What must be sent before the next step is done: a header, and its data, not yet padded.
    pub fn take_output(&mut self) -> Option<(HeaderBytes, Vec<u8>)> {
        let (response, text) = self.output.take()?;
        let length = DataLength::new(text.len()).expect("a login says little");
        Some((Response::Login(response).encode(length), text))
    }

    /// A PDU came.
    pub fn received(&mut self, header: &HeaderBytes, data: &[u8]) {
        assert_eq!(self.step, Step::Receive, "a PDU was handed over out of turn");
        let outcome = match Request::parse(header) {
            Ok(Request::Login(request)) => {
                let outcome = self.request(&request, data);
                outcome.map_err(|error| (Some(request), error))
            }
            // A login with a stage that there is not.
            Err(_) if LoginRequest::is_one(header) => {
                Err((Some(LoginRequest::without_stage(header)), LoginError::Transition))
            }
            Ok(_) | Err(_) if self.identity.is_some() => {
                Err((None, LoginError::Denied(LoginStatus::InvalidDuringLogin)))
            }
            Ok(_) => Err((None, LoginError::NotLogin(None))),
            Err(error) => Err((None, LoginError::NotLogin(Some(error)))),
        };
        if let Err((request, error)) = outcome {
            self.refuse(request.as_ref(), error);
        }
    }

    /// What the initiator has to prove, or why it is turned away.
    pub fn answered(&mut self, demand: Result<Demand, LoginStatus>) {
        assert!(matches!(self.step, Step::Knock(_)), "nobody knocked");
        let (request, text) = self.pending.take().expect("there is one while somebody knocks");
        let outcome = demand.map_err(LoginError::Denied).and_then(|demand| {
            self.proof = Proof::Asked(demand);
            let mut answer = Vec::new();
            if matches!(self.knock, Some(Knock { want: Want::Target(_), .. })) {
                // Section 13.9: in the response to the first request whose text is whole.
                let group = self.portal_group.number().to_string();
                append(&mut answer, "TargetPortalGroupTag", &group);
            }
            self.answer(&request, &text, answer)
        });
        if let Err(error) = outcome {
            self.refuse(Some(&request), error);
        }
    }

    /// The name of the session that was opened, or why there is none.
    pub fn opened(&mut self, session: Result<Tsih, LoginStatus>) {
        let Step::Enter(entering) = &self.step else { panic!("nothing was to be opened") };
        let mut entering = entering.clone();
        let (request, _) = self.pending.take().expect("there is one while a session is opened");
        match session {
            Err(status) => self.refuse(Some(&request), LoginError::Denied(status)),
            Ok(tsih) => {
                entering.tsih = tsih;
                let text = std::mem::take(&mut self.farewell);
                self.reply(&request, LoginStatus::Success, Some(Stage::FullFeature), text);
                self.step = Step::End(End::Entered(Box::new(Entered {
                    entering,
                    terms: self.negotiation.agreed(),
                    cmd_sn: request.cmd_sn,
                    stat_sn: self.stat_sn,
                })));
                if let Some((response, _)) = &mut self.output {
                    response.tsih = tsih;
                }
            }
        }
    }

    fn request(&mut self, request: &LoginRequest, data: &[u8]) -> Result<(), LoginError> {
        if request.version_min > VERSION {
            return Err(LoginError::Version(request.version_min));
        }
        match &self.identity {
            Some(identity) => identity.check(request)?,
            None => {
                self.identity = Some(Identity::of(request));
                // Whoever has nothing to prove begins where it likes.
                self.stage = request.stage;
            }
        }
        self.requests += 1;
        if self.requests > MAX_REQUESTS {
            return Err(LoginError::TooMany);
        }
        let forward = request.transit.is_none_or(|next| next > request.stage);
        if request.stage != self.stage
            || request.stage == Stage::FullFeature
            || !forward
            || (request.continues && request.transit.is_some())
        {
            return Err(LoginError::Transition);
        }
        match self.assembly.add(data, request.continues)? {
            None => {
                self.reply(request, LoginStatus::Success, None, Vec::new());
                Ok(())
            }
            Some(text) if self.knock.is_none() => {
                let knock = knock(&parse(&text)?)?;
                self.knock = Some(knock.clone());
                self.pending = Some((*request, text));
                self.step = Step::Knock(knock);
                Ok(())
            }
            Some(text) => self.answer(request, &text, Vec::new()),
        }
    }

    /// Answers a request whose text is complete, behind what `answer` has already.
    fn answer(
        &mut self,
        request: &LoginRequest,
        text: &[u8],
        mut answer: Vec<u8>,
    ) -> Result<(), LoginError> {
        let pairs = parse(text)?;
        self.check_names(&pairs)?;
        if request.stage == Stage::Security {
            self.prove(&pairs, &mut answer)?;
        }
        let operational = pairs.iter().copied().filter(|pair| is_operational(pair, request.stage));
        self.negotiation.take_all(operational, Phase::Login, &mut answer)?;
        if request.stage == Stage::Operational {
            self.negotiation.declare(&mut answer);
        }
        let transit = request.transit.filter(|_| self.is_proven());
        if request.transit.is_some() && transit.is_none() && !self.is_proving() {
            return Err(LoginError::Unproven);
        }
        if request.stage == Stage::Operational && !self.is_proven() {
            return Err(LoginError::Unproven);
        }
        if answer.len() > usize::try_from(DEFAULT_SEGMENT).expect("small") {
            return Err(LoginError::TooLong(TooLong));
        }
        if transit == Some(Stage::FullFeature) {
            self.farewell = answer;
            self.pending = Some((*request, Vec::new()));
            self.step = Step::Enter(self.entering());
        } else {
            self.stage = transit.unwrap_or(self.stage);
            self.reply(request, LoginStatus::Success, transit, answer);
        }
        Ok(())
    }

    fn entering(&self) -> Entering {
        let Knock { initiator, want } = self.knock.clone().expect("it has knocked");
        let Identity { isid, tsih, cid, .. } = self.identity.expect("there was a request");
        let user = match &self.proof {
            Proof::Exchange(exchange) => Some(exchange.user().to_owned()),
            Proof::Unasked | Proof::Asked(_) | Proof::NotNeeded => None,
        };
        Entering { initiator, user, want, isid, tsih, cid }
    }

    /// Names may be repeated, but not changed.
    fn check_names(&self, pairs: &[Pair<'_>]) -> Result<(), LoginError> {
        let known = self.knock.as_ref().expect("it has knocked");
        let initiator = named(pairs, "InitiatorName", Name::of_initiator)?;
        if initiator.is_some_and(|name| name != known.initiator) {
            return Err(LoginError::Changed("InitiatorName"));
        }
        match (named(pairs, "TargetName", Name::parse)?, &known.want) {
            (Some(name), Want::Target(target)) if name != *target => {
                Err(LoginError::Changed("TargetName"))
            }
            _ => Ok(()),
        }
    }

    fn prove(&mut self, pairs: &[Pair<'_>], answer: &mut Vec<u8>) -> Result<(), LoginError> {
        for pair in pairs.iter().filter(|pair| pair.key == "AuthMethod") {
            let Proof::Asked(demand) = &self.proof else {
                return Err(KeyError::Repeated("AuthMethod".into()).into());
            };
            let lists = |method| pair.value.split(',').any(|one| one == method);
            match demand {
                Demand::Nothing if lists("None") => {
                    append(answer, "AuthMethod", "None");
                    self.proof = Proof::NotNeeded;
                }
                Demand::Chap(chap) if lists("CHAP") => {
                    let challenge = self.challenge.take().expect("a proof begins once");
                    append(answer, "AuthMethod", "CHAP");
                    let exchange = Exchange::new(chap.clone(), challenge);
                    self.proof = Proof::Exchange(Box::new(exchange));
                }
                Demand::Nothing | Demand::Chap(_) => return Err(LoginError::Unproven),
            }
        }
        let chap: Vec<_> =
            pairs.iter().copied().filter(|pair| pair.key.starts_with("CHAP_")).collect();
        match &mut self.proof {
            Proof::Exchange(exchange) => exchange.take(&chap, answer)?,
            _ if chap.is_empty() => {}
            _ => return Err(ChapError::Key("AuthMethod").into()),
        }
        Ok(())
    }

    /// Whether all is proved that had to be.
    fn is_proven(&self) -> bool {
        match &self.proof {
            Proof::Unasked | Proof::Asked(Demand::Chap(_)) => false,
            Proof::Asked(Demand::Nothing) | Proof::NotNeeded => true,
            Proof::Exchange(exchange) => exchange.is_done(),
        }
    }

    /// Whether a proof is under way: then the stage simply goes on.
    fn is_proving(&self) -> bool {
        matches!(&self.proof, Proof::Exchange(exchange) if !exchange.is_done())
    }

    fn refuse(&mut self, request: Option<&LoginRequest>, error: LoginError) {
        if let Some(status) = error.status() {
            let (stage, identity) = (self.stage, self.identity);
            let request = request.copied().or_else(|| {
                let Identity { isid, tsih, cid, task_tag, cmd_sn } = identity?;
                Some(LoginRequest {
                    transit: None,
                    continues: false,
                    stage,
                    version_max: VERSION,
                    version_min: VERSION,
                    isid,
                    tsih,
                    task_tag,
                    cid,
                    cmd_sn,
                    exp_stat_sn: self.stat_sn,
                })
            });
            if let Some(request) = request {
                self.reply(&request, status, None, Vec::new());
            }
        }
        self.step = Step::End(End::Refused(error));
    }

    fn reply(
        &mut self,
        request: &LoginRequest,
        status: LoginStatus,
        transit: Option<Stage>,
        text: Vec<u8>,
    ) {
        let response = LoginResponse {
            transit,
            continues: false,
            stage: request.stage,
            version_max: VERSION,
            version_active: VERSION,
            isid: request.isid,
            tsih: request.tsih,
            task_tag: request.task_tag,
            numbers: ResponseNumbers {
                stat_sn: self.stat_sn,
                exp_cmd_sn: request.cmd_sn,
                max_cmd_sn: request.cmd_sn.plus(self.offer.window - 1),
            },
            status,
        };
        self.stat_sn = self.stat_sn.next();
        self.output = Some((response, text));
        self.step = Step::Receive;
    }
}

/// Whether a key is for [`Negotiation`].
fn is_operational(pair: &Pair<'_>, stage: Stage) -> bool {
    match pair.key {
        "InitiatorName" | "TargetName" | "SessionType" => false,
        "AuthMethod" => stage != Stage::Security,
        key if key.starts_with("CHAP_") => stage != Stage::Security,
        _ => true,
    }
}

fn named(
    pairs: &[Pair<'_>],
    key: &'static str,
    parse: fn(&str) -> Result<Name, NameError>,
) -> Result<Option<Name>, LoginError> {
    let found = pairs.iter().find(|pair| pair.key == key);
    let parsed = found.map(|pair| parse(pair.value)).transpose();
    parsed.map_err(|error| LoginError::Name { key, error })
}

/// Who is there and what it wants, as the first text says.
fn knock(pairs: &[Pair<'_>]) -> Result<Knock, LoginError> {
    let initiator = named(pairs, "InitiatorName", Name::of_initiator)?;
    let initiator = initiator.ok_or(LoginError::Missing("InitiatorName"))?;
    let kind = pairs.iter().find(|pair| pair.key == "SessionType").map(|pair| pair.value);
    let want = match kind {
        Some("Discovery") => Want::Discovery,
        None | Some("Normal") => {
            let target = named(pairs, "TargetName", Name::parse)?;
            Want::Target(target.ok_or(LoginError::Missing("TargetName"))?)
        }
        Some(_) => return Err(LoginError::SessionType),
    };
    Ok(Knock { initiator, want })
}

#[cfg(any(test, feature = "testing"))]
pub mod talk;

#[cfg(test)]
mod tests;
