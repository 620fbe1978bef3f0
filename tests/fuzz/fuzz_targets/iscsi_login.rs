//! Login to an iSCSI target, by an initiator that says anything at all.
//!
//! Oracle: nobody enters without the secret where one is asked for, nor through a stage that was not granted; every answer can be
//! read, is numbered one by one and answers what was asked; the portal group is told once; what was agreed lies within what was offered
//! and is what was answered; a login ends. No panic, and no more memory than the sanitizer allows.

#![no_main]

use arbitrary::Arbitrary;
use landfall_protocols::iscsi::session::chap::{Chap, Credential, Secret};
use landfall_protocols::iscsi::session::login::talk::Talk;
use landfall_protocols::iscsi::session::login::{Demand, End, Step, Want};
use landfall_protocols::iscsi::session::terms::{Offer, Terms};
use landfall_protocols::iscsi::wire::keys::parse;
use landfall_protocols::iscsi::wire::login::{LoginResponse, LoginStatus, Stage};
use landfall_protocols::iscsi::wire::number::{Cid, CmdSn, InitiatorTaskTag, Isid, StatSn, Tsih};
use landfall_protocols::iscsi::wire::{DEFAULT_SEGMENT, HEADER};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

const PAIRS: [&str; 24] = [
    "InitiatorName=iqn.2026-11.com.example:host\0",
    "TargetName=iqn.2026-11.internal.landfall:web\0",
    "SessionType=Discovery\0",
    "SessionType=Normal\0",
    "AuthMethod=CHAP,None\0",
    "AuthMethod=None\0",
    "CHAP_A=5\0",
    "CHAP_A=7,5\0",
    "CHAP_N=host\0",
    "CHAP_R=0x00112233445566778899aabbccddeeff\0",
    "CHAP_I=1\0",
    "CHAP_C=0x01\0",
    "InitiatorAlias=a host\0",
    "MaxBurstLength=65536\0",
    "MaxBurstLength=16776192\0",
    "FirstBurstLength=262144\0",
    "FirstBurstLength=512\0",
    "HeaderDigest=CRC32C,None\0",
    "ImmediateData=No\0",
    "InitialR2T=No\0",
    "MaxRecvDataSegmentLength=512\0",
    "MaxOutstandingR2T=65535\0",
    "X-com.example.own=1\0",
    "SendTargets=All\0",
];

#[derive(Arbitrary, Debug)]
struct Input {
    /// The target wants a proof.
    chap: bool,
    /// The target does not open.
    closed: bool,
    requests: Vec<Said>,
}

#[derive(Arbitrary, Debug)]
enum Said {
    /// A request with some of the pairs.
    Pairs { stage: u8, next: Option<u8>, continues: bool, pairs: Vec<u8> },
    /// A request with any text.
    Text { stage: u8, next: Option<u8>, continues: bool, text: Vec<u8> },
    /// A request that says it is another one.
    Changed { which: u8 },
    /// Bytes that may be anything.
    Raw { header: [u8; HEADER], data: Vec<u8> },
}

fn stage(number: u8) -> Stage {
    [Stage::Security, Stage::Operational, Stage::FullFeature][usize::from(number % 3)]
}

fn demand(chap: bool) -> Demand {
    if !chap {
        return Demand::Nothing;
    }
    let secret = Secret::new(b"a secret that no input has".to_vec());
    let chap = Chap::new(Credential { user: "host".to_owned(), secret }, None);
    Demand::Chap(chap.expect("one secret"))
}

struct Model {
    talk: Talk,
    chap: bool,
    closed: bool,
    stat_sn: u32,
    /// What the target answered of each key.
    said: BTreeMap<String, String>,
    groups: usize,
    normal: bool,
    /// The stage that the target granted, if it granted one.
    granted: Option<Stage>,
}

impl Model {
    fn new(input: &Input) -> Self {
        let mut talk = Talk::begun();
        talk.request.cmd_sn = CmdSn::new(u32::MAX);
        Self {
            talk,
            chap: input.chap,
            closed: input.closed,
            stat_sn: 1,
            said: BTreeMap::new(),
            groups: 0,
            normal: false,
            granted: None,
        }
    }

    fn next_request(&mut self, current: u8, next: Option<u8>, continues: bool) {
        let request = &mut self.talk.request;
        (request.stage, request.transit) = (stage(current), next.map(stage));
        request.continues = continues;
    }

    fn hears(&mut self, said: &Said) {
        let most = DEFAULT_SEGMENT as usize;
        match said {
            Said::Pairs { stage: current, next, continues, pairs } => {
                self.next_request(*current, *next, *continues);
                let text: String = pairs
                    .iter()
                    .take(40)
                    .map(|pick| PAIRS[usize::from(*pick) % PAIRS.len()])
                    .collect();
                self.talk.say(text.as_bytes());
            }
            Said::Text { stage: current, next, continues, text } => {
                self.next_request(*current, *next, *continues);
                self.talk.say(&text[..text.len().min(most)]);
            }
            Said::Changed { which } => {
                match which % 5 {
                    0 => self.talk.request.isid = Isid([9; 6]),
                    1 => self.talk.request.tsih = Tsih::new(4),
                    2 => self.talk.request.cid = Cid::new(4),
                    3 => self.talk.request.task_tag = InitiatorTaskTag::new(4),
                    _ => self.talk.request.version_min = 1,
                }
                self.talk.say(b"");
            }
            Said::Raw { header, data } => {
                self.talk.login.received(header, &data[..data.len().min(most)])
            }
        }
    }

    /// Does what the login wants, to the point where it waits or is over.
    fn follows(&mut self) -> Option<End> {
        loop {
            self.look_at_answer();
            match self.talk.login.step() {
                Step::Receive => return None,
                Step::Knock(knock) => {
                    self.normal = matches!(knock.want, Want::Target(_));
                    self.talk.login.answered(Ok(demand(self.chap)));
                }
                Step::Enter(entering) => {
                    assert!(!self.chap, "{entering:?} has proved nothing");
                    let tsih =
                        if self.closed { Err(LoginStatus::TargetError) } else { Ok(Tsih::new(5)) };
                    self.talk.login.opened(tsih);
                }
                Step::End(end) => {
                    self.look_at_answer();
                    return Some(end);
                }
            }
        }
    }

    fn look_at_answer(&mut self) {
        let Some((response, text)) = self.talk.take_answer() else { return };
        assert_eq!(response.numbers.stat_sn, StatSn::new(self.stat_sn), "numbered one by one");
        self.stat_sn += 1;
        assert!(text.len() <= DEFAULT_SEGMENT as usize);
        let LoginResponse { transit, status, .. } = response;
        if status != LoginStatus::Success {
            assert!(text.is_empty() && transit.is_none(), "whoever is refused is told no more");
            return;
        }
        self.granted = transit.or(self.granted);
        for pair in parse(&text).expect("text") {
            if pair.key == "TargetPortalGroupTag" {
                self.groups += 1;
            }
            self.said.insert(pair.key.to_owned(), pair.value.to_owned());
        }
        assert_eq!(
            self.groups,
            usize::from(self.normal && self.has_answered()),
            "once, and at once"
        );
    }

    /// Whether the first whole text was answered.
    fn has_answered(&self) -> bool {
        self.groups > 0 || !self.said.is_empty()
    }

    fn agreed(&self, terms: &Terms) {
        let offer = Offer::default();
        assert!(terms.first_burst <= terms.max_burst && terms.max_burst <= offer.max_burst);
        assert!((1..=offer.max_outstanding_r2t).contains(&terms.max_outstanding_r2t));
        let number = |key: &str| self.said.get(key).and_then(|said| said.parse::<u32>().ok());
        assert!(number("MaxBurstLength").is_none_or(|said| said == terms.max_burst));
        // Said before MaxBurstLength, in a request of its own, it may have been more.
        assert!(number("FirstBurstLength").is_none_or(|said| said >= terms.first_burst));
        let digest = self.said.get("HeaderDigest").is_some_and(|said| said == "CRC32C");
        assert_eq!(digest, terms.header_digest);
        assert_eq!(self.granted, Some(Stage::FullFeature));
    }
}

fuzz_target!(|input: Input| {
    let mut model = Model::new(&input);
    for said in input.requests.iter().take(100) {
        model.hears(said);
        match model.follows() {
            None => {}
            Some(End::Refused(_)) => return,
            Some(End::Entered(entered)) => {
                assert!(!model.chap && !model.closed);
                return model.agreed(&entered.terms);
            }
        }
    }
    // 64 requests are more than any login has.
    assert!(input.requests.len() < 100, "it goes on for ever");
});
