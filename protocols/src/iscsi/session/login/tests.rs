//! Logins as initiators begin them, and as they must not.

use super::talk::Talk;
use super::*;
use crate::iscsi::session::chap::{Credential, Secret};
use crate::iscsi::wire::keys::{binary, to_hexadecimal};
use md5::{Digest, Md5};
use proptest::prelude::*;

const HOST: &str = "InitiatorName=iqn.2026-11.com.example:host\0";
const WEB: &str = "TargetName=iqn.2026-11.internal.landfall:web\0";

fn demand(chap: bool) -> Demand {
    if !chap {
        return Demand::Nothing;
    }
    let credential = |user: &str, secret: &str| Credential {
        user: user.into(),
        secret: Secret::new(secret.into()),
    };
    let chap = Chap::new(credential("host", "a secret"), Some(credential("web", "another")));
    Demand::Chap(chap.expect("two secrets"))
}

impl Talk {
    fn in_operational() -> Self {
        let mut talk = Self::begun();
        talk.request.stage = Stage::Operational;
        talk
    }

    fn send(&mut self, transit: Option<Stage>, text: &str) -> Step {
        self.request.transit = transit;
        self.say(text.as_bytes());
        self.login.step()
    }

    fn answer(&mut self) -> (LoginResponse, String) {
        let (response, text) = self.take_answer().expect("an answer");
        (response, String::from_utf8(text).expect("text"))
    }

    fn status(&mut self) -> LoginStatus {
        self.answer().0.status
    }

    /// Knocks, and is told that `chap` has to be proved or nothing.
    fn knocks(&mut self, transit: Option<Stage>, text: &str, chap: bool) -> Step {
        let Step::Knock(knock) = self.send(transit, text) else {
            panic!("{:?}", self.login.step())
        };
        assert_eq!(knock.initiator.as_str(), "iqn.2026-11.com.example:host");
        self.login.answered(Ok(demand(chap)));
        self.login.step()
    }
}

fn refused(step: &Step) -> &LoginError {
    match step {
        Step::End(End::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_in_one_request() {
    let mut talk = Talk::in_operational();
    let text = format!("{HOST}{WEB}SessionType=Normal\0HeaderDigest=None\0MaxBurstLength=4096\0");
    let step = talk.knocks(Some(Stage::FullFeature), &text, false);
    let Step::Enter(entering) = step else { panic!("{step:?}") };
    assert!(matches!(&entering.want, Want::Target(name) if name.as_str().ends_with(":web")));
    assert_eq!((entering.user, entering.isid), (None, talk.request.isid));
    talk.login.opened(Ok(Tsih::new(9)));
    let (response, text) = talk.answer();
    let expected = "TargetPortalGroupTag=1\0HeaderDigest=None\0MaxBurstLength=4096\0\
                    MaxRecvDataSegmentLength=1048576\0";
    assert_eq!(text, expected);
    assert_eq!((response.status, response.tsih), (LoginStatus::Success, Tsih::new(9)));
    assert_eq!(response.transit, Some(Stage::FullFeature));
    assert_eq!(response.task_tag, talk.request.task_tag);
    assert_eq!(response.numbers.exp_cmd_sn, CmdSn::new(100), "a login is immediate");
    assert_eq!(response.numbers.max_cmd_sn, CmdSn::new(227));
    let Step::End(End::Entered(entered)) = talk.login.step() else { panic!("not over") };
    assert_eq!(entered.terms.max_burst, 4096);
    assert_eq!(
        (entered.cmd_sn, entered.stat_sn),
        (CmdSn::new(100), response.numbers.stat_sn.next())
    );
    assert_eq!(entered.entering.tsih, Tsih::new(9));
}

#[test]
fn a_session_by_way_of_both_stages() {
    let mut talk = Talk::begun();
    let text = format!("{HOST}{WEB}AuthMethod=CHAP,None\0");
    talk.knocks(Some(Stage::Operational), &text, false);
    let (response, text) = talk.answer();
    assert_eq!(text, "TargetPortalGroupTag=1\0AuthMethod=None\0");
    assert_eq!((response.stage, response.transit), (Stage::Security, Some(Stage::Operational)));
    talk.request.stage = Stage::Operational;
    assert_eq!(talk.send(None, "ImmediateData=No\0"), Step::Receive);
    let (response, text) = talk.answer();
    assert_eq!(text, "ImmediateData=No\0MaxRecvDataSegmentLength=1048576\0");
    assert_eq!((response.stage, response.transit), (Stage::Operational, None));
    assert!(matches!(talk.send(Some(Stage::FullFeature), ""), Step::Enter(_)));
    talk.login.opened(Ok(Tsih::new(1)));
    assert_eq!(talk.answer().1, "");
}

#[test]
fn discovery_names_no_target() {
    let mut talk = Talk::in_operational();
    let text = format!("{HOST}SessionType=Discovery\0");
    let step = talk.knocks(Some(Stage::FullFeature), &text, false);
    assert!(matches!(step, Step::Enter(Entering { want: Want::Discovery, .. })));
    talk.login.opened(Ok(Tsih::new(2)));
    assert!(!talk.answer().1.contains("TargetPortalGroupTag"));
}

/// The response to the challenge in `text`, of `secret`.
fn response(text: &str, secret: &str) -> String {
    let value = |key: &str| {
        let pair = text.split('\0').find_map(|pair| pair.strip_prefix(key));
        pair.expect("the key is there").to_owned()
    };
    let identifier: u8 = value("CHAP_I=").parse().expect("a number");
    let challenge = binary(&value("CHAP_C="), 1024).expect("bytes");
    let hash = Md5::new().chain_update([identifier]).chain_update(secret);
    to_hexadecimal(&hash.chain_update(challenge).finalize())
}

#[test]
fn who_has_to_prove_itself_does() {
    let mut talk = Talk::begun();
    let text = format!("{HOST}{WEB}AuthMethod=None,CHAP\0");
    assert_eq!(talk.knocks(Some(Stage::Operational), &text, true), Step::Receive);
    let (first, text) = talk.answer();
    assert_eq!(text, "TargetPortalGroupTag=1\0AuthMethod=CHAP\0");
    assert_eq!(first.transit, None, "nothing is proved yet");
    assert_eq!(talk.send(None, "CHAP_A=5\0"), Step::Receive);
    let (_, text) = talk.answer();
    let proof = format!("CHAP_N=host\0CHAP_R={}\0", response(&text, "a secret"));
    let proof = format!("{proof}CHAP_I=1\0CHAP_C=0xabcd\0");
    assert_eq!(talk.send(Some(Stage::FullFeature), &proof), {
        let entering = talk.login.entering();
        assert_eq!(entering.user.as_deref(), Some("host"));
        Step::Enter(entering)
    });
    talk.login.opened(Ok(Tsih::new(3)));
    let (last, text) = talk.answer();
    assert_eq!(last.status, LoginStatus::Success);
    assert!(text.starts_with("CHAP_N=web\0CHAP_R=0x"), "{text}");
    assert!(matches!(talk.login.step(), Step::End(End::Entered(_))));
}

#[test]
fn who_cannot_prove_itself_is_not_told_why() {
    let first = format!("{HOST}{WEB}AuthMethod=CHAP\0");
    for (talk_about, transit) in [
        (format!("{HOST}{WEB}"), Some(Stage::FullFeature)),
        (format!("{HOST}{WEB}"), Some(Stage::Operational)),
        (format!("{HOST}{WEB}AuthMethod=None\0"), None),
        (format!("{HOST}{WEB}AuthMethod=KRB5,SRP\0"), None),
        (format!("{HOST}{WEB}CHAP_A=5\0"), None),
    ] {
        let mut talk = Talk::begun();
        talk.knocks(transit, &talk_about, true);
        let (response, text) = talk.answer();
        let told = (response.status, text.as_str(), response.transit);
        assert_eq!(told, (LoginStatus::AuthenticationFailure, "", None), "{talk_about}");
    }
    let mut talk = Talk::in_operational();
    talk.knocks(Some(Stage::FullFeature), &format!("{HOST}{WEB}"), true);
    assert_eq!(talk.status(), LoginStatus::AuthenticationFailure, "the stage was left out");
    let mut talk = Talk::begun();
    talk.knocks(None, &first, true);
    talk.answer();
    talk.send(None, "CHAP_A=5\0");
    let (_, text) = talk.answer();
    talk.send(None, &format!("CHAP_N=host\0CHAP_R={}\0", response(&text, "a guess")));
    assert_eq!(talk.status(), LoginStatus::AuthenticationFailure);
    assert_eq!(*refused(&talk.login.step()), LoginError::Chap(ChapError::Wrong));
    let mut talk = Talk::begun();
    talk.knocks(None, &format!("{HOST}{WEB}AuthMethod=CHAP\0"), false);
    assert_eq!(talk.status(), LoginStatus::AuthenticationFailure, "there is nobody to prove it to");
}

#[test]
fn a_proof_is_not_passed_over() {
    let mut talk = Talk::begun();
    talk.knocks(None, &format!("{HOST}{WEB}AuthMethod=CHAP\0"), true);
    talk.answer();
    // The transition is not granted; the next stage cannot be begun all the same.
    assert_eq!(talk.send(Some(Stage::FullFeature), ""), Step::Receive);
    assert_eq!(talk.answer().0.transit, None);
    talk.request.stage = Stage::Operational;
    talk.send(Some(Stage::FullFeature), "");
    assert_eq!(talk.status(), LoginStatus::InitiatorError);
}

#[test]
fn text_in_several_requests() {
    let mut talk = Talk::in_operational();
    talk.request.continues = true;
    let (head, tail) = HOST.split_at(20);
    assert_eq!(talk.send(None, head), Step::Receive);
    let (response, text) = talk.answer();
    assert_eq!((response.continues, response.transit, text.as_str()), (false, None, ""));
    talk.request.continues = false;
    let step = talk.knocks(Some(Stage::FullFeature), &format!("{tail}{WEB}"), false);
    assert!(matches!(step, Step::Enter(_)));
    talk.login.opened(Ok(Tsih::new(1)));
    let (response, text) = talk.answer();
    assert_eq!(response.transit, Some(Stage::FullFeature));
    assert!(text.starts_with("TargetPortalGroupTag=1\0"), "{text}");
    let end = talk.login.step();
    let Step::End(End::Entered(entered)) = end else { panic!("{end:?}") };
    assert_eq!(entered.entering.initiator.as_str(), "iqn.2026-11.com.example:host");
}

#[test]
fn each_fault_has_its_status() {
    let long = format!("{HOST}{WEB}X-{}=1\0", "a".repeat(100));
    for (text, status) in [
        (WEB.to_owned(), LoginStatus::MissingParameter),
        (HOST.to_owned(), LoginStatus::MissingParameter),
        (format!("{HOST}SessionType=Normal\0"), LoginStatus::MissingParameter),
        (format!("{HOST}{WEB}SessionType=Other\0"), LoginStatus::SessionTypeNotSupported),
        (format!("InitiatorName=a host\0{WEB}"), LoginStatus::InitiatorError),
        (format!("{HOST}TargetName=web\0"), LoginStatus::NotFound),
        (format!("{HOST}{WEB}nonsense\0"), LoginStatus::InitiatorError),
        (format!("{HOST}{WEB}A=1"), LoginStatus::InitiatorError),
        (long, LoginStatus::InitiatorError),
    ] {
        let mut talk = Talk::in_operational();
        let step = talk.send(Some(Stage::FullFeature), &text);
        refused(&step);
        assert_eq!(talk.status(), status, "{text}");
    }
    for (text, status) in [
        ("MaxBurstLength=none\0", LoginStatus::InitiatorError),
        ("ImmediateData=No\0ImmediateData=No\0", LoginStatus::InitiatorError),
    ] {
        let mut talk = Talk::in_operational();
        let step = talk.knocks(Some(Stage::FullFeature), &format!("{HOST}{WEB}{text}"), false);
        refused(&step);
        assert_eq!(talk.status(), status, "{text}");
    }
}

#[test]
fn who_is_turned_away_is_told_so() {
    for status in [LoginStatus::NotFound, LoginStatus::AuthorizationFailure] {
        let mut talk = Talk::in_operational();
        talk.send(Some(Stage::FullFeature), &format!("{HOST}{WEB}"));
        talk.login.answered(Err(status));
        assert_eq!(talk.status(), status);
        let mut talk = Talk::in_operational();
        talk.knocks(Some(Stage::FullFeature), &format!("{HOST}{WEB}"), false);
        talk.login.opened(Err(status));
        let (response, _) = talk.answer();
        assert_eq!((response.status, response.transit), (status, None));
        assert_eq!(*refused(&talk.login.step()), LoginError::Denied(status));
    }
}

#[test]
fn stages_follow_each_other() {
    let text = format!("{HOST}{WEB}");
    for (stage, transit) in [
        (Stage::Operational, Some(Stage::Security)),
        (Stage::Operational, Some(Stage::Operational)),
        (Stage::FullFeature, None),
        (Stage::FullFeature, Some(Stage::FullFeature)),
    ] {
        let mut talk = Talk::begun();
        talk.request.stage = stage;
        let step = talk.send(transit, &text);
        assert_eq!(*refused(&step), LoginError::Transition, "{stage:?} {transit:?}");
        assert_eq!(talk.status(), LoginStatus::InitiatorError);
    }
    let mut talk = Talk::in_operational();
    talk.request.continues = true;
    assert_eq!(*refused(&talk.send(Some(Stage::FullFeature), &text)), LoginError::Transition);
    // Nobody goes back, and nobody goes on before the target agrees.
    let mut talk = Talk::in_operational();
    talk.knocks(None, &text, false);
    talk.answer();
    talk.request.stage = Stage::Security;
    assert_eq!(*refused(&talk.send(None, "")), LoginError::Transition);
}

#[test]
fn a_login_stays_itself() {
    type Change = fn(&mut LoginRequest);
    let changes: [(Change, &str); 5] = [
        (|request| request.isid = Isid([9; 6]), "the ISID"),
        (|request| request.tsih = Tsih::new(4), "the TSIH"),
        (|request| request.cid = Cid::new(4), "the connection's number"),
        (|request| request.task_tag = InitiatorTaskTag::new(4), "the task tag"),
        (|request| request.cmd_sn = CmdSn::new(4), "CmdSN"),
    ];
    for (change, what) in changes {
        let mut talk = Talk::in_operational();
        talk.knocks(None, &format!("{HOST}{WEB}"), false);
        talk.answer();
        change(&mut talk.request);
        let step = talk.send(None, "");
        assert_eq!(*refused(&step), LoginError::Changed(what));
        assert_eq!(talk.status(), LoginStatus::InitiatorError);
    }
    let mut talk = Talk::in_operational();
    talk.knocks(None, &format!("{HOST}{WEB}"), false);
    talk.answer();
    let other = "InitiatorName=iqn.2026-11.com.example:other\0";
    assert_eq!(*refused(&talk.send(None, other)), LoginError::Changed("InitiatorName"));
}

#[test]
fn only_this_version_is_spoken() {
    let mut talk = Talk::begun();
    (talk.request.version_min, talk.request.version_max) = (1, 2);
    refused(&talk.send(None, ""));
    assert_eq!(talk.status(), LoginStatus::UnsupportedVersion);
}

#[test]
fn nothing_but_a_login_comes_first() {
    let mut talk = Talk::begun();
    let mut header = [0; 48];
    talk.login.received(&header, &[]);
    assert_eq!(*refused(&talk.login.step()), LoginError::NotLogin(None));
    assert!(talk.login.take_output().is_none(), "it would not be understood");
    // In the middle of a login it is told.
    // A command, an opcode that nobody knows, and a PDU of a target.
    for opcode in [0x01, 0x1c, 0x23] {
        let mut talk = Talk::in_operational();
        talk.knocks(None, &format!("{HOST}{WEB}"), false);
        talk.answer();
        header[0] = opcode;
        talk.login.received(&header, &[]);
        assert_eq!(talk.status(), LoginStatus::InvalidDuringLogin, "{opcode:#x}");
    }
}

#[test]
fn a_stage_that_there_is_not_is_told() {
    // CSG 2; NSG 2 with T.
    for flags in [0x08, 0x86] {
        for later in [false, true] {
            let mut talk = Talk::in_operational();
            if later {
                talk.knocks(None, &format!("{HOST}{WEB}"), false);
                talk.answer();
            }
            let mut header = Request::Login(talk.request).encode(DataLength::NONE);
            header[1] = flags;
            talk.login.received(&header, &[]);
            assert_eq!(*refused(&talk.login.step()), LoginError::Transition, "{flags:#x}");
            let (response, _) = talk.answer();
            let told = (response.status, response.task_tag, response.isid);
            assert_eq!(
                told,
                (LoginStatus::InitiatorError, talk.request.task_tag, talk.request.isid)
            );
        }
    }
}

#[test]
fn a_login_ends_some_time() {
    let mut talk = Talk::in_operational();
    talk.knocks(None, &format!("{HOST}{WEB}"), false);
    for _ in 1..MAX_REQUESTS {
        talk.answer();
        assert_eq!(talk.send(None, ""), Step::Receive);
    }
    talk.answer();
    assert_eq!(*refused(&talk.send(None, "")), LoginError::TooMany);
}

proptest! {
    /// Whatever comes, nobody enters without the secret, and every answer is one that an initiator
    /// can read.
    #[test]
    fn nobody_enters_unproven(
        requests in prop::collection::vec((
            0u8..3, prop::option::of(0u8..3),
            prop::collection::vec(prop::sample::select(&[
                HOST, WEB, "AuthMethod=CHAP,None\0", "AuthMethod=None\0", "CHAP_A=5\0", "CHAP_A=7\0",
                "CHAP_N=host\0", "CHAP_R=0x00112233445566778899aabbccddeeff\0", "CHAP_I=1\0",
                "CHAP_C=0x01\0", "SessionType=Discovery\0", "MaxBurstLength=512\0", "X-a=1\0",
            ][..]), 0..5),
        ), 1..9),
    ) {
        let stage = |number| [Stage::Security, Stage::Operational, Stage::FullFeature][usize::from(number)];
        let mut talk = Talk::begun();
        for (current, next, text) in requests {
            talk.request.stage = stage(current);
            talk.send(next.map(stage), &text.concat());
            if matches!(talk.login.step(), Step::Knock(_)) {
                talk.login.answered(Ok(demand(true)));
            }
            let step = talk.login.step();
            prop_assert!(!matches!(step, Step::Enter(_)), "{step:?}");
            if let Some((_, text)) = talk.take_answer() {
                prop_assert!(parse(&text).is_ok());
            }
            if matches!(step, Step::End(_)) {
                break;
            }
        }
    }
}
