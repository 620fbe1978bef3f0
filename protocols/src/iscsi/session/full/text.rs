//! Text in a session: `SendTargets`, and the few keys that may be negotiated in it (sections 11.10
//! and 11.11, appendix C).

use super::{Effect, Session, Which};
use crate::iscsi::session::login::Want;
use crate::iscsi::session::negotiate::{Negotiation, Phase};
use crate::iscsi::session::text::{Assembly, Outpour};
use crate::iscsi::wire::HeaderBytes;
use crate::iscsi::wire::control::TextRequest;
use crate::iscsi::wire::keys::{append, parse};
use crate::iscsi::wire::notice::RejectReason;
use crate::iscsi::wire::number::{InitiatorTaskTag, TargetTransferTag};

/// One negotiation under way.
pub(super) struct Talk {
    tag: InitiatorTaskTag,
    transfer_tag: TargetTransferTag,
    assembly: Assembly,
    negotiation: Negotiation,
    /// The initiator has nothing more to say.
    is_final: bool,
    /// What is answered, until all of it is known.
    answer: Vec<u8>,
    /// Somebody looks for targets.
    looking: bool,
    /// What is being sent.
    outpour: Option<Outpour>,
}

impl<T> Session<T> {
    /// A text request whose turn it is.
    pub(super) fn text(&mut self, request: &TextRequest, header: &HeaderBytes, data: &[u8]) {
        if self.talk.as_ref().is_some_and(|talk| talk.looking) {
            return self.reject(RejectReason::Protocol, header);
        }
        if request.transfer_tag == TargetTransferTag::RESERVED {
            // A new one; the old one, if it did not end, is given up (section 11.10.4).
            let talk = Talk {
                tag: request.task_tag,
                transfer_tag: self.new_tag(),
                assembly: Assembly::default(),
                negotiation: Negotiation::with_terms(self.offer, self.terms),
                is_final: false,
                answer: Vec::new(),
                looking: false,
                outpour: None,
            };
            self.talk = Some(talk);
        }
        let Some(talk) = self.talk.as_mut().filter(|talk| {
            let known = talk.transfer_tag == request.transfer_tag;
            let new = request.transfer_tag == TargetTransferTag::RESERVED;
            talk.tag == request.task_tag && (known || new)
        }) else {
            return self.reject(RejectReason::InvalidField, header);
        };
        if talk.outpour.as_ref().is_some_and(|outpour| !outpour.is_over()) {
            self.take_number(request.immediate);
            return self.pour();
        }
        talk.is_final = request.is_final && !request.continues;
        let whole = match talk.assembly.add(data, request.continues) {
            Ok(Some(text)) => text,
            Ok(None) => {
                let (tag, next) = (talk.tag, talk.transfer_tag);
                self.take_number(request.immediate);
                return self.send_text(tag, Some(next), false, &[]);
            }
            Err(_) => return self.give_up(header),
        };
        self.hear(&whole, request.immediate, header);
    }

    fn hear(&mut self, text: &[u8], immediate: bool, header: &HeaderBytes) {
        let Some(talk) = &mut self.talk else { return };
        let Ok(pairs) = parse(text) else { return self.give_up(header) };
        let mut which = None;
        for pair in pairs {
            if pair.key == "SendTargets" {
                match sought(&self.want, pair.value) {
                    Some(found) if which.is_none() => which = Some(found),
                    _ => append(&mut talk.answer, "SendTargets", "Reject"),
                }
            } else if talk.negotiation.take(pair, Phase::FullFeature, &mut talk.answer).is_err() {
                return self.give_up(header);
            }
        }
        talk.looking = which.is_some();
        self.take_number(immediate);
        match which {
            Some(which) => {
                self.effects.push_back(Effect::Discover(which));
            }
            None => self.begin_pouring(),
        }
    }

    /// These targets were found: `TargetName` and `TargetAddress` pairs.
    pub fn discovered(&mut self, targets: &[u8]) {
        let Some(talk) = self.talk.as_mut().filter(|talk| talk.looking) else { return };
        talk.looking = false;
        talk.answer.extend_from_slice(targets);
        self.begin_pouring();
    }

    fn begin_pouring(&mut self) {
        let Some(talk) = &mut self.talk else { return };
        talk.outpour = Some(Outpour::new(std::mem::take(&mut talk.answer)));
        self.pour();
    }

    /// Sends the next segment.
    fn pour(&mut self) {
        let most = usize::try_from(self.terms.max_send_segment).expect("32 bits fit a usize");
        let Some(talk) = &mut self.talk else { return };
        let Some(outpour) = &mut talk.outpour else { return };
        let segment = outpour.next(most).to_vec();
        let (tag, more, transfer_tag) = (talk.tag, !outpour.is_over(), talk.transfer_tag);
        let is_final = talk.is_final && !more;
        self.send_text(tag, (!is_final).then_some(transfer_tag), more, &segment);
        if is_final {
            let talk = self.talk.take().expect("it was here just now");
            // What was declared holds from here on.
            self.terms.max_send_segment = talk.negotiation.terms().max_send_segment;
        }
    }

    /// What was said is not understood: all of it is forgotten.
    fn give_up(&mut self, header: &HeaderBytes) {
        self.talk = None;
        self.reject(RejectReason::Protocol, header);
    }
}

/// Whom `SendTargets=value` means (appendix C): all and by name in discovery, its own in a session.
fn sought(want: &Want, value: &str) -> Option<Which> {
    match (want, value) {
        (Want::Discovery, "All") => Some(Which::All),
        (Want::Discovery, "") | (Want::Target(_), "All") => None,
        (Want::Discovery, name) => Some(Which::Named(name.to_owned())),
        (Want::Target(_), "") => Some(Which::Own),
        (Want::Target(own), name) if own.as_str().eq_ignore_ascii_case(name) => Some(Which::Own),
        (Want::Target(_), _) => None,
    }
}
