//! The keys of section 13, one by one: what a value means, and what is answered.
//!
//! | result function | keys |
//! |---|---|
//! | first of the list that is known | `HeaderDigest` `DataDigest` `TaskReporting` |
//! | the smaller | `MaxConnections` `MaxBurstLength` `FirstBurstLength` `MaxOutstandingR2T` |
//! | | `DefaultTime2Retain` `ErrorRecoveryLevel` `iSCSIProtocolLevel` |
//! | the greater | `DefaultTime2Wait` |
//! | or | `InitialR2T` `DataPDUInOrder` `DataSequenceInOrder` |
//! | and | `ImmediateData` |
//! | declared, no answer | `MaxRecvDataSegmentLength` `InitiatorAlias`, names (the login's) |
//!
//! What the login itself deals with (`InitiatorName`, `AuthMethod`, `CHAP_*` …) does not come here.

use super::terms::{MIN_LENGTH, Offer, Terms};
use crate::iscsi::wire::LONGEST_SEGMENT;
use crate::iscsi::wire::keys::{Pair, append, number};
use std::collections::BTreeSet;

/// The highest protocol level that is spoken: RFC 7143 itself (section 13.24).
const PROTOCOL_LEVEL: u64 = 1;

/// The longest time that can be agreed upon, in seconds.
const LONGEST_TIME: u64 = 3600;

const NOT_UNDERSTOOD: &str = "NotUnderstood";
const REJECT: &str = "Reject";

/// When a key is talked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Before the session.
    Login,
    /// During it.
    FullFeature,
}

/// Why a negotiation ends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// A key came a second time (section 6.3).
    #[error("{0} was negotiated twice")]
    Repeated(String),
    /// A value that the key cannot have.
    #[error("{0} cannot have the value it was given")]
    Value(&'static str),
}

/// A negotiation of operational keys, and what has come of it so far.
#[derive(Clone, Debug)]
pub struct Negotiation {
    offer: Offer,
    terms: Terms,
    seen: BTreeSet<String>,
}

impl Negotiation {
    /// One that starts from the defaults of the standard.
    pub fn new(offer: Offer) -> Self {
        Self::with_terms(offer, Terms::default())
    }

    /// One that changes what holds already.
    pub fn with_terms(offer: Offer, terms: Terms) -> Self {
        Self { offer: offer.clamped(), terms, seen: BTreeSet::new() }
    }

    /// What holds.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Declares the longest segment that is received here, once.
    pub fn declare(&mut self, answer: &mut Vec<u8>) {
        if self.terms.max_receive_segment != self.offer.max_receive_segment {
            self.terms.max_receive_segment = self.offer.max_receive_segment;
            let length = self.offer.max_receive_segment.to_string();
            append(answer, "MaxRecvDataSegmentLength", &length);
        }
    }

    /// Takes the pairs of a request and appends what is answered. `FirstBurstLength` comes last: it
    /// must not exceed `MaxBurstLength` (section 13.14), whichever of them was said first.
    pub fn take_all<'a>(
        &mut self,
        pairs: impl Iterator<Item = Pair<'a>>,
        phase: Phase,
        answer: &mut Vec<u8>,
    ) -> Result<(), KeyError> {
        let (last, first): (Vec<_>, Vec<_>) =
            pairs.partition(|pair| pair.key == "FirstBurstLength");
        first.into_iter().chain(last).try_for_each(|pair| self.take(pair, phase, answer))
    }

    /// Takes a pair of the initiator and appends what is answered.
    pub fn take(
        &mut self,
        pair: Pair<'_>,
        phase: Phase,
        answer: &mut Vec<u8>,
    ) -> Result<(), KeyError> {
        // Nothing is asked of the initiator here, so these answer nothing.
        if [NOT_UNDERSTOOD, REJECT, "Irrelevant"].contains(&pair.value) {
            return Ok(());
        }
        // Declared, not negotiated: whoever says it in each stage harms nobody.
        if pair.key == "InitiatorAlias" {
            return Ok(());
        }
        if !self.seen.insert(pair.key.to_owned()) {
            return Err(KeyError::Repeated(pair.key.to_owned()));
        }
        let said = match phase {
            Phase::Login => self.in_login(pair)?,
            Phase::FullFeature => self.in_full_feature(pair)?,
        };
        if let Some(value) = said {
            append(answer, pair.key, &value);
        }
        Ok(())
    }

    fn in_full_feature(&mut self, pair: Pair<'_>) -> Result<Option<String>, KeyError> {
        match pair.key {
            "MaxRecvDataSegmentLength" => self.in_login(pair),
            // Known, but of the login only.
            key if is_known(key) => Ok(Some(REJECT.to_owned())),
            _ => Ok(Some(NOT_UNDERSTOOD.to_owned())),
        }
    }

    fn in_login(&mut self, pair: Pair<'_>) -> Result<Option<String>, KeyError> {
        let Pair { key, value } = pair;
        let (offer, terms) = (&self.offer, &mut self.terms);
        let said = match key {
            "HeaderDigest" => digest("HeaderDigest", value, &mut terms.header_digest)?,
            "DataDigest" => digest("DataDigest", value, &mut terms.data_digest)?,
            "MaxConnections" => {
                within("MaxConnections", value, 1, 65_535)?;
                "1".to_owned()
            }
            "InitialR2T" => {
                // No is what is wanted here, so the initiator decides.
                terms.initial_r2t = boolean("InitialR2T", value)?;
                yes_or_no(terms.initial_r2t)
            }
            "ImmediateData" => {
                terms.immediate_data = boolean("ImmediateData", value)?;
                yes_or_no(terms.immediate_data)
            }
            "MaxRecvDataSegmentLength" => {
                terms.max_send_segment = length("MaxRecvDataSegmentLength", value)?;
                return Ok(None);
            }
            "MaxBurstLength" => {
                terms.max_burst = length("MaxBurstLength", value)?.min(offer.max_burst);
                terms.max_burst.to_string()
            }
            "FirstBurstLength" => {
                let most = offer.first_burst.min(terms.max_burst);
                terms.first_burst = length("FirstBurstLength", value)?.min(most);
                terms.first_burst.to_string()
            }
            "MaxOutstandingR2T" => {
                let most = within("MaxOutstandingR2T", value, 1, 65_535)?;
                let most = u16::try_from(most).unwrap_or(u16::MAX);
                terms.max_outstanding_r2t = most.min(offer.max_outstanding_r2t);
                terms.max_outstanding_r2t.to_string()
            }
            "DefaultTime2Wait" => {
                let theirs = within("DefaultTime2Wait", value, 0, LONGEST_TIME)?;
                terms.time_to_wait = u16::try_from(theirs).unwrap_or(u16::MAX);
                terms.time_to_wait.to_string()
            }
            "DefaultTime2Retain" => {
                // At this level of error recovery no task outlives its connection.
                within("DefaultTime2Retain", value, 0, LONGEST_TIME)?;
                "0".to_owned()
            }
            "DataPDUInOrder" => {
                boolean("DataPDUInOrder", value)?;
                yes_or_no(true)
            }
            "DataSequenceInOrder" => {
                boolean("DataSequenceInOrder", value)?;
                yes_or_no(true)
            }
            "ErrorRecoveryLevel" => {
                within("ErrorRecoveryLevel", value, 0, 2)?;
                "0".to_owned()
            }
            "iSCSIProtocolLevel" => {
                let level = within("iSCSIProtocolLevel", value, 0, 31)?;
                level.min(PROTOCOL_LEVEL).to_string()
            }
            "TaskReporting" => match value.split(',').any(|one| one == "RFC3720") {
                true => "RFC3720".to_owned(),
                false => REJECT.to_owned(),
            },
            key if is_known(key) => REJECT.to_owned(),
            _ => NOT_UNDERSTOOD.to_owned(),
        };
        Ok(Some(said))
    }

    /// What holds at the end of a login: what was not talked about has its default.
    pub fn agreed(&self) -> Terms {
        let mut terms = self.terms;
        // If it was left out, or said before MaxBurstLength, it may exceed that.
        terms.first_burst = terms.first_burst.min(terms.max_burst);
        terms
    }
}

/// Whether it is a key of the standard.
fn is_known(key: &str) -> bool {
    const KNOWN: &[&str] = &[
        "AuthMethod",
        "CHAP_A",
        "CHAP_C",
        "CHAP_I",
        "CHAP_N",
        "CHAP_R",
        "DataDigest",
        "DataPDUInOrder",
        "DataSequenceInOrder",
        "DefaultTime2Retain",
        "DefaultTime2Wait",
        "ErrorRecoveryLevel",
        "FirstBurstLength",
        "HeaderDigest",
        // Obsolete (section 13.25): SHOULD be answered with Reject, MUST NOT with NotUnderstood.
        "IFMarkInt",
        "IFMarker",
        "ImmediateData",
        "InitialR2T",
        "InitiatorName",
        "MaxBurstLength",
        "MaxConnections",
        "MaxOutstandingR2T",
        "OFMarkInt",
        "OFMarker",
        // Of text requests only; whoever deals with them takes it first.
        "SendTargets",
        "SessionType",
        // The target's to declare.
        "TargetAddress",
        "TargetAlias",
        "TargetName",
        "TargetPortalGroupTag",
        "TaskReporting",
        "iSCSIProtocolLevel",
    ];
    KNOWN.contains(&key)
}

fn yes_or_no(yes: bool) -> String {
    if yes { "Yes" } else { "No" }.to_owned()
}

fn boolean(key: &'static str, value: &str) -> Result<bool, KeyError> {
    match value {
        "Yes" => Ok(true),
        "No" => Ok(false),
        _ => Err(KeyError::Value(key)),
    }
}

fn within(key: &'static str, value: &str, least: u64, most: u64) -> Result<u64, KeyError> {
    number(value).filter(|number| (least..=most).contains(number)).ok_or(KeyError::Value(key))
}

fn length(key: &'static str, value: &str) -> Result<u32, KeyError> {
    let bytes = within(key, value, MIN_LENGTH.into(), LONGEST_SEGMENT.into())?;
    u32::try_from(bytes).map_err(|_| KeyError::Value(key))
}

/// The first of the list that is known here. A list without any ends the login: nothing would be
/// agreed upon.
fn digest(key: &'static str, value: &str, on: &mut bool) -> Result<String, KeyError> {
    let known = value.split(',').find(|one| ["CRC32C", "None"].contains(one));
    let chosen = known.ok_or(KeyError::Value(key))?;
    *on = chosen == "CRC32C";
    Ok(chosen.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::wire::keys::parse;
    use proptest::prelude::*;

    fn ask(negotiation: &mut Negotiation, text: &str) -> Result<String, KeyError> {
        let (key, value) = text.split_once('=').expect("a pair");
        let mut answer = Vec::new();
        negotiation.take(Pair { key, value }, Phase::Login, &mut answer)?;
        let said = String::from_utf8(answer).expect("text");
        Ok(said.trim_end_matches('\0').to_owned())
    }

    fn answered(text: &str) -> Result<String, KeyError> {
        ask(&mut Negotiation::new(Offer::default()), text)
    }

    #[test]
    fn every_key_has_its_answer() {
        for (asked, said) in [
            ("HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C"),
            ("HeaderDigest=None,CRC32C", "HeaderDigest=None"),
            ("DataDigest=X-foo,CRC32C", "DataDigest=CRC32C"),
            ("MaxConnections=8", "MaxConnections=1"),
            ("InitialR2T=Yes", "InitialR2T=Yes"),
            ("InitialR2T=No", "InitialR2T=No"),
            ("ImmediateData=Yes", "ImmediateData=Yes"),
            ("ImmediateData=No", "ImmediateData=No"),
            ("MaxRecvDataSegmentLength=262144", ""),
            ("MaxBurstLength=16776192", "MaxBurstLength=16776192"),
            ("MaxBurstLength=0x40000", "MaxBurstLength=262144"),
            ("FirstBurstLength=1048576", "FirstBurstLength=262144"),
            ("MaxOutstandingR2T=1", "MaxOutstandingR2T=1"),
            ("MaxOutstandingR2T=64", "MaxOutstandingR2T=4"),
            ("DefaultTime2Wait=0", "DefaultTime2Wait=0"),
            ("DefaultTime2Retain=20", "DefaultTime2Retain=0"),
            ("DataPDUInOrder=No", "DataPDUInOrder=Yes"),
            ("DataSequenceInOrder=No", "DataSequenceInOrder=Yes"),
            ("ErrorRecoveryLevel=2", "ErrorRecoveryLevel=0"),
            ("OFMarker=No", "OFMarker=Reject"),
            ("IFMarker=Yes", "IFMarker=Reject"),
            ("OFMarkInt=2048~8192", "OFMarkInt=Reject"),
            ("IFMarkInt=2048", "IFMarkInt=Reject"),
            ("TaskReporting=FastAbort,RFC3720", "TaskReporting=RFC3720"),
            ("TaskReporting=FastAbort", "TaskReporting=Reject"),
            ("iSCSIProtocolLevel=2", "iSCSIProtocolLevel=1"),
            ("iSCSIProtocolLevel=0", "iSCSIProtocolLevel=0"),
            ("InitiatorAlias=a host", ""),
            ("TargetAlias=mine", "TargetAlias=Reject"),
            ("TargetPortalGroupTag=1", "TargetPortalGroupTag=Reject"),
            ("SendTargets=All", "SendTargets=Reject"),
            ("X-com.example.own=1", "X-com.example.own=NotUnderstood"),
            ("Frobnicate=1", "Frobnicate=NotUnderstood"),
            ("MaxBurstLength=Irrelevant", ""),
        ] {
            assert_eq!(answered(asked), Ok(said.to_owned()), "{asked}");
        }
    }

    #[test]
    fn a_value_that_a_key_cannot_have_ends_it() {
        for asked in [
            "HeaderDigest=MD5",
            "MaxConnections=0",
            "MaxConnections=65536",
            "InitialR2T=yes",
            "ImmediateData=1",
            "MaxRecvDataSegmentLength=511",
            "MaxRecvDataSegmentLength=16777216",
            "MaxBurstLength=many",
            "FirstBurstLength=-1",
            "MaxOutstandingR2T=0",
            "DefaultTime2Wait=3601",
            "DefaultTime2Retain=3601",
            "DataPDUInOrder=",
            "DataSequenceInOrder=No,Yes",
            "ErrorRecoveryLevel=3",
            "iSCSIProtocolLevel=32",
        ] {
            assert!(matches!(answered(asked), Err(KeyError::Value(_))), "{asked}");
        }
    }

    #[test]
    fn nothing_is_negotiated_twice() {
        let mut negotiation = Negotiation::new(Offer::default());
        ask(&mut negotiation, "MaxConnections=4").expect("once");
        let again = ask(&mut negotiation, "MaxConnections=4");
        assert_eq!(again, Err(KeyError::Repeated("MaxConnections".into())));
        // libiscsi says its alias in every stage.
        for _ in 0..2 {
            assert_eq!(ask(&mut negotiation, "InitiatorAlias=a host"), Ok(String::new()));
        }
    }

    #[test]
    fn what_was_agreed_holds_and_the_rest_has_its_default() {
        let mut negotiation = Negotiation::new(Offer::default());
        assert_eq!(negotiation.agreed(), Terms::default());
        for text in ["HeaderDigest=CRC32C", "MaxBurstLength=4096", "InitialR2T=No"] {
            ask(&mut negotiation, text).expect("a value it may have");
        }
        let expected = Terms {
            header_digest: true,
            max_burst: 4096,
            first_burst: 4096,
            initial_r2t: false,
            ..Terms::default()
        };
        assert_eq!(negotiation.agreed(), expected);
    }

    #[test]
    fn the_first_burst_is_answered_as_it_holds() {
        let (burst, first) = (("MaxBurstLength", "65536"), ("FirstBurstLength", "262144"));
        for pairs in [[burst, first], [first, burst]] {
            let mut negotiation = Negotiation::new(Offer::default());
            let mut answer = Vec::new();
            let pairs = pairs.into_iter().map(|(key, value)| Pair { key, value });
            negotiation.take_all(pairs, Phase::Login, &mut answer).expect("values they may have");
            assert_eq!(answer, b"MaxBurstLength=65536\0FirstBurstLength=65536\0");
            assert_eq!(negotiation.agreed().first_burst, 65536);
        }
    }

    #[test]
    fn the_longest_segment_is_declared_once() {
        let mut negotiation = Negotiation::new(Offer::default());
        let mut answer = Vec::new();
        negotiation.declare(&mut answer);
        negotiation.declare(&mut answer);
        assert_eq!(answer, b"MaxRecvDataSegmentLength=1048576\0");
        assert_eq!(negotiation.terms().max_receive_segment, 1 << 20);
    }

    #[test]
    fn in_a_session_little_is_negotiated() {
        let mut negotiation = Negotiation::with_terms(Offer::default(), Terms::default());
        let mut answer = Vec::new();
        for (key, value) in [
            ("MaxRecvDataSegmentLength", "4096"),
            ("MaxBurstLength", "512"),
            ("X-own", "1"),
            ("InitiatorName", "iqn.2026-11.com.example"),
        ] {
            negotiation
                .take(Pair { key, value }, Phase::FullFeature, &mut answer)
                .expect("no value is wrong");
        }
        assert_eq!(answer, b"MaxBurstLength=Reject\0X-own=NotUnderstood\0InitiatorName=Reject\0");
        assert_eq!(negotiation.terms().max_send_segment, 4096);
        assert_eq!(negotiation.terms().max_burst, Terms::default().max_burst);
    }

    proptest! {
        #[test]
        fn whatever_is_said_the_terms_are_within_bounds(
            pairs in prop::collection::vec((
                prop::sample::select(&["MaxBurstLength", "FirstBurstLength", "MaxOutstandingR2T",
                    "MaxRecvDataSegmentLength", "DefaultTime2Wait", "HeaderDigest", "Other"][..]),
                prop_oneof!["[0-9]{1,9}", Just("CRC32C".to_owned()), "[ -~]{0,9}"],
            ), 0..9),
        ) {
            let offer = Offer::default();
            let mut negotiation = Negotiation::new(offer);
            let mut answer = Vec::new();
            for (key, value) in &pairs {
                if negotiation.take(Pair { key, value }, Phase::Login, &mut answer).is_err() {
                    break;
                }
            }
            let terms = negotiation.agreed();
            prop_assert!(terms.first_burst <= terms.max_burst && terms.max_burst <= offer.max_burst);
            prop_assert!(terms.first_burst >= MIN_LENGTH && terms.max_send_segment >= MIN_LENGTH);
            prop_assert!((1..=offer.max_outstanding_r2t).contains(&terms.max_outstanding_r2t));
            prop_assert!(parse(&answer).is_ok());
        }
    }
}
