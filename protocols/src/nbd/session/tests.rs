//! Negotiation from the client's side of the wire: options in, parsed replies out.

mod rules;

use super::*;
use crate::nbd::export::{ExportEntry, OpenError};
use crate::nbd::wire::handshake::{
    ExportNameReply, Greeting, InfoKind, OptionKind, OptionReplyHeader, TransmissionFlags,
};
use crate::nbd::wire::option::{InfoRequest, MetaRequest, OptionRequest};
use crate::nbd::wire::reply::{Info, OptionReply, Refusal};
use crate::nbd::wire::{
    MAX_OPTION, MAX_SELECTED, MAX_SKIPPED_OPTION, OPTION_MAGIC, OPTION_REPLY_MAGIC,
};
use proptest::prelude::*;
use zerocopy::FromBytes;

const SIZE: u64 = 1 << 30;

/// What its exports can tell, beside any `age:N`.
const CONTEXTS: [&str; 3] = ["age:1", "qemu:dirty-bitmap:1", "qemu:depth"];

/// A session with a server that has the exports `disk`, `frozen` and, for nobody, `locked`.
struct Talk {
    session: Handshake,
    opened: Vec<String>,
}

fn facts(name: &str) -> Result<ExportFacts, OpenError> {
    match name {
        "disk" | "disk@7" => Ok(ExportFacts {
            name: "disk@7".into(),
            description: "seven".into(),
            size_bytes: SIZE,
            access: Access::Writable,
            multi_conn: true,
            preferred_block: 4096,
        }),
        "frozen" => Ok(ExportFacts {
            name: "frozen".into(),
            description: String::new(),
            size_bytes: SIZE,
            access: Access::ReadOnly,
            multi_conn: false,
            preferred_block: 4096,
        }),
        "locked" => Err(OpenError::NotAllowed("not for you".into())),
        other => Err(OpenError::Unknown(format!("no export {other}; there is disk"))),
    }
}

impl Talk {
    fn new(client_flags: u32) -> Self {
        Self::with_tls(client_flags, TlsMode::Off)
    }

    fn with_tls(client_flags: u32, tls: TlsMode) -> Self {
        let mut session = Handshake::new(tls);
        let greeting = session.take_output();
        let greeting = Greeting::read_from_bytes(&greeting).expect("the greeting");
        assert_eq!(greeting.flags.get(), 3);
        session.received(&client_flags.to_be_bytes());
        Self { session, opened: Vec::new() }
    }

    /// Feeds bytes and answers questions until the session wants more bytes than there are, or ends.
    fn feed(&mut self, mut bytes: &[u8]) {
        loop {
            match self.session.step() {
                Step::Receive(wanted) if wanted <= bytes.len() => {
                    self.session.received(&bytes[..wanted]);
                    bytes = &bytes[wanted..];
                }
                Step::Receive(_) | Step::StartTls | Step::End(_) => return,
                Step::List => {
                    let entry = |name: &str| ExportEntry {
                        name: name.into(),
                        description: format!("this is {name}"),
                    };
                    self.session.listed(&[entry("disk"), entry("locked")]);
                }
                Step::Open(name) => {
                    let outcome = facts(&name);
                    self.opened.push(name);
                    self.session.opened(outcome.as_ref());
                }
                Step::ListContexts(request) => {
                    let wanted = |name: &&str| {
                        let queries = &request.queries;
                        queries.is_empty() || queries.iter().any(|query| lists(query, name))
                    };
                    let names: Vec<_> =
                        CONTEXTS.into_iter().filter(wanted).map(str::to_owned).collect();
                    self.session.contexts_listed(&names);
                }
                Step::OpenContexts(mut request) => {
                    request.queries.retain(|name| {
                        name.starts_with("age:") || CONTEXTS.contains(&name.as_str())
                    });
                    self.session.contexts_opened(&request.queries);
                }
            }
        }
    }

    fn ask(&mut self, request: &OptionRequest) -> Vec<OptionReply> {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        self.feed(&bytes);
        self.replies(request.kind())
    }

    fn ask_raw(&mut self, option: u32, data: &[u8]) -> Vec<OptionReply> {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).expect("small").to_be_bytes());
        bytes.extend(data);
        self.feed(&bytes);
        self.replies(OptionKind::from(option))
    }

    fn replies(&mut self, option: OptionKind) -> Vec<OptionReply> {
        let output = self.session.take_output();
        let mut rest = output.as_slice();
        let mut replies = Vec::new();
        while !rest.is_empty() {
            let (header, after) = OptionReplyHeader::read_from_prefix(rest).expect("a header");
            assert_eq!(header.magic.get(), OPTION_REPLY_MAGIC);
            assert_eq!(header.option.get(), option.number());
            let (data, after) = after.split_at(header.length.get() as usize);
            replies.push(OptionReply::parse(header.kind.get(), data).expect("a valid reply"));
            rest = after;
        }
        replies
    }

    fn end(&self) -> Option<End> {
        match self.session.step() {
            Step::End(end) => Some(end),
            _ => None,
        }
    }
}

fn info(name: &str) -> InfoRequest {
    InfoRequest { name: name.into(), items: vec![InfoKind::BlockSize] }
}

fn meta(name: &str, queries: &[&str]) -> MetaRequest {
    MetaRequest {
        name: name.into(),
        queries: queries.iter().map(|query| (*query).to_owned()).collect(),
    }
}

fn refusal(replies: &[OptionReply]) -> Option<Refusal> {
    match replies {
        [OptionReply::Refused { refusal, .. }] => Some(*refusal),
        _ => None,
    }
}

fn flags_in(replies: &[OptionReply]) -> TransmissionFlags {
    let flags = |reply: &OptionReply| match reply {
        OptionReply::Info(Info::Export { flags, .. }) => Some(*flags),
        _ => None,
    };
    replies.iter().find_map(flags).expect("an info about the export")
}

fn named(id: u32, name: &str) -> OptionReply {
    OptionReply::MetaContext { id, name: name.into() }
}

fn context(id: u32) -> OptionReply {
    named(id, "base:allocation")
}

#[test]
fn go_tells_everything_and_enters_transmission() {
    let mut talk = Talk::new(3);
    assert_eq!(talk.ask(&OptionRequest::StructuredReply), [OptionReply::Ack]);
    let chosen =
        talk.ask(&OptionRequest::SetMetaContext(meta("disk", &["base:allocation", "x:y"])));
    assert_eq!(chosen, [context(1), OptionReply::Ack]);
    let replies = talk.ask(&OptionRequest::Go(info("disk")));
    assert_eq!(replies.last(), Some(&OptionReply::Ack));
    assert!(replies.contains(&OptionReply::Info(Info::Name("disk@7".into()))));
    assert!(replies.contains(&OptionReply::Info(Info::Description("seven".into()))));
    let flags = flags_in(&replies);
    for flag in [
        TransmissionFlags::HAS_FLAGS,
        TransmissionFlags::SEND_DF,
        TransmissionFlags::CAN_MULTI_CONN,
        TransmissionFlags::SEND_FAST_ZERO,
    ] {
        assert!(flags.contains(flag), "{flag:?}");
    }
    assert!(!flags.contains(TransmissionFlags::READ_ONLY));
    let transmission = Transmission {
        size_bytes: SIZE,
        access: Access::Writable,
        replies: Replies::Structured,
        contexts: vec![(ContextId::new(1), Context::BaseAllocation)],
    };
    let negotiated = Negotiated { name: "disk".into(), transmission };
    assert_eq!(talk.end(), Some(End::Transmission(negotiated)));
}

#[test]
fn info_does_not_enter_and_df_waits_for_structured_replies() {
    let mut talk = Talk::new(3);
    let replies = talk.ask(&OptionRequest::Info(info("disk")));
    assert!(!flags_in(&replies).contains(TransmissionFlags::SEND_DF));
    assert_eq!(talk.end(), None);
}

#[test]
fn an_unknown_export_is_refused_with_what_exists_and_the_connection_goes_on() {
    let mut talk = Talk::new(3);
    let replies = talk.ask(&OptionRequest::Go(info("nothing")));
    let message = "no export nothing; there is disk".into();
    assert_eq!(replies, [OptionReply::Refused { refusal: Refusal::Unknown, message }]);
    let replies = talk.ask(&OptionRequest::Info(info("locked")));
    assert_eq!(refusal(&replies), Some(Refusal::Policy));
    assert_eq!(talk.ask(&OptionRequest::Go(info("disk"))).last(), Some(&OptionReply::Ack));
}

#[test]
fn export_name_is_answered_with_or_without_zeroes_or_the_connection_ends() {
    for (client_flags, length) in [(1, 10 + 124), (3, 10)] {
        let mut talk = Talk::new(client_flags);
        let mut bytes = Vec::new();
        OptionRequest::ExportName("disk".into()).encode(&mut bytes);
        talk.feed(&bytes);
        let output = talk.session.take_output();
        assert_eq!(output.len(), length);
        let (reply, _) = ExportNameReply::read_from_prefix(&output).expect("long enough");
        assert_eq!(reply.size.get(), SIZE);
        assert!(matches!(talk.end(), Some(End::Transmission(_))));
    }
    let mut talk = Talk::new(3);
    assert_eq!(talk.ask(&OptionRequest::ExportName("nothing".into())), []);
    assert!(matches!(talk.end(), Some(End::Broken(HandshakeError::ExportName(_)))));
}

#[test]
fn contexts_need_structured_replies_and_count_for_their_export_only() {
    let mut talk = Talk::new(3);
    let select = OptionRequest::SetMetaContext(meta("disk", &["base:allocation"]));
    assert_eq!(refusal(&talk.ask(&select)), Some(Refusal::Invalid));
    talk.ask(&OptionRequest::StructuredReply);
    assert_eq!(talk.ask(&select), [context(1), OptionReply::Ack]);
    talk.ask(&OptionRequest::Go(info("disk@7")));
    let Some(End::Transmission(negotiated)) = talk.end() else { panic!("not entered") };
    assert_eq!(negotiated.transmission.contexts, []);
}

#[test]
fn a_failed_selection_clears_the_one_before() {
    let mut talk = Talk::new(3);
    talk.ask(&OptionRequest::StructuredReply);
    talk.ask(&OptionRequest::SetMetaContext(meta("disk", &["base:allocation"])));
    assert_eq!(refusal(&talk.ask_raw(10, b"nonsense")), Some(Refusal::Invalid));
    talk.ask(&OptionRequest::Go(info("disk")));
    let Some(End::Transmission(negotiated)) = talk.end() else { panic!("not entered") };
    assert_eq!(negotiated.transmission.contexts, []);
}

#[test]
fn wildcards_list_and_do_not_select() {
    let mut talk = Talk::new(3);
    talk.ask(&OptionRequest::StructuredReply);
    let mut list = |queries: &[&str]| {
        let mut replies = talk.ask(&OptionRequest::ListMetaContext(meta("disk", queries)));
        assert_eq!(replies.pop(), Some(OptionReply::Ack));
        replies
    };
    for queries in [&["base:"][..], &["base:allocation", "base:"]] {
        assert_eq!(list(queries), [context(0)], "{queries:?}");
    }
    let of_export = CONTEXTS.map(|name| named(0, name));
    assert_eq!(list(&[]), [&[context(0)], &of_export[..]].concat());
    assert_eq!(list(&["base:other", "strange:"]), []);
    assert_eq!(list(&["qemu:", "base:"]), [&[context(0)], &of_export[1..]].concat());
    assert_eq!(list(&["qemu:dirty-bitmap:"]), of_export[1..2]);
    let none = talk.ask(&OptionRequest::SetMetaContext(meta("disk", &["base:", "qemu:"])));
    assert_eq!(none, [OptionReply::Ack]);
}

#[test]
fn contexts_are_numbered_as_they_were_asked_for_and_once() {
    let mut talk = Talk::new(3);
    talk.ask(&OptionRequest::StructuredReply);
    let queries = ["qemu:depth", "x:y", "base:allocation", "base:other", "age:1", "qemu:depth"];
    let select = OptionRequest::SetMetaContext(meta("disk", &queries));
    let depth = named(1, "qemu:depth");
    let chosen = talk.ask(&select);
    assert_eq!(chosen, [depth.clone(), context(2), named(3, "age:1"), OptionReply::Ack]);
    talk.ask(&OptionRequest::Go(info("disk")));
    let Some(End::Transmission(negotiated)) = talk.end() else { panic!("not entered") };
    let names =
        [1, 2, 3].map(ContextId::new).into_iter().zip(["qemu:depth", "base:allocation", "age:1"]);
    let contexts = negotiated.transmission.contexts;
    assert!(names.eq(contexts.iter().map(|(id, context)| (*id, context.name()))), "{contexts:?}");
    assert_eq!(contexts[1].1, Context::BaseAllocation);
}

#[test]
fn more_contexts_than_can_be_kept_are_refused_and_none_is_selected() {
    for (count, base) in [(MAX_SELECTED, true), (MAX_SELECTED + 1, false)] {
        let mut talk = Talk::new(3);
        talk.ask(&OptionRequest::StructuredReply);
        let names: Vec<_> = (0..count).map(|number| format!("age:{number}")).collect();
        let mut queries: Vec<_> = names.iter().map(String::as_str).collect();
        queries.extend(base.then_some("base:allocation"));
        let select = |queries: &[&str]| OptionRequest::SetMetaContext(meta("disk", queries));
        assert_eq!(talk.ask(&select(&queries[1..])).len(), MAX_SELECTED + 1);
        assert_eq!(refusal(&talk.ask(&select(&queries))), Some(Refusal::TooBig));
        talk.ask(&OptionRequest::Go(info("disk")));
        let Some(End::Transmission(negotiated)) = talk.end() else { panic!("not entered") };
        assert_eq!(negotiated.transmission.contexts, []);
    }
}

#[test]
fn what_is_not_supported_or_malformed_is_refused_and_the_connection_goes_on() {
    let mut talk = Talk::new(3);
    let unsupported = Some(Refusal::Unsupported);
    assert_eq!(refusal(&talk.ask_raw(5, b"")), Some(Refusal::Policy), "STARTTLS");
    assert_eq!(refusal(&talk.ask_raw(5, b"data")), Some(Refusal::Invalid), "STARTTLS");
    assert_eq!(refusal(&talk.ask_raw(12, b"")), unsupported, "no option of the specification");
    assert_eq!(refusal(&talk.ask_raw(4, b"data")), unsupported, "PEEK_EXPORT");
    assert_eq!(refusal(&talk.ask_raw(3, b"data")), Some(Refusal::Invalid), "LIST");
    assert_eq!(refusal(&talk.ask_raw(8, b"data")), Some(Refusal::Invalid), "STRUCTURED_REPLY");
    assert_eq!(refusal(&talk.ask_raw(11, b"data")), Some(Refusal::Invalid), "EXTENDED_HEADERS");
    assert_eq!(refusal(&talk.ask_raw(7, b"")), Some(Refusal::Invalid), "GO");
    let long = vec![0; MAX_OPTION as usize + 1];
    assert_eq!(refusal(&talk.ask_raw(7, &long)), Some(Refusal::TooBig));
    assert_eq!(refusal(&talk.ask_raw(99, &long)), unsupported);
    assert_eq!(talk.ask(&OptionRequest::Go(info("disk"))).last(), Some(&OptionReply::Ack));
}

#[test]
fn extended_headers_stand_in_for_structured_replies_and_cannot_be_left() {
    let mut talk = Talk::new(3);
    assert_eq!(talk.ask(&OptionRequest::ExtendedHeaders), [OptionReply::Ack]);
    let refused = talk.ask(&OptionRequest::StructuredReply);
    assert_eq!(refusal(&refused), Some(Refusal::ExtendedHeadersRequired));
    let filters = |replies: &[OptionReply]| {
        flags_in(replies).contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD)
    };
    let before = talk.ask(&OptionRequest::Info(info("disk")));
    assert!(flags_in(&before).contains(TransmissionFlags::SEND_DF));
    assert!(!filters(&before), "without a context there is nothing to choose");
    let select = OptionRequest::SetMetaContext(meta("disk", &["base:allocation"]));
    assert_eq!(talk.ask(&select), [context(1), OptionReply::Ack]);
    assert!(!filters(&talk.ask(&OptionRequest::Info(info("disk@7")))), "not for this export");
    assert!(filters(&talk.ask(&OptionRequest::Go(info("disk")))));
    let Some(End::Transmission(negotiated)) = talk.end() else { panic!("not entered") };
    assert_eq!(negotiated.transmission.replies, Replies::Extended);
    assert_eq!(negotiated.transmission.contexts, [(ContextId::new(1), Context::BaseAllocation)]);
}

#[test]
fn extended_headers_follow_structured_replies_and_end_export_name() {
    let mut talk = Talk::new(3);
    assert_eq!(talk.ask(&OptionRequest::StructuredReply), [OptionReply::Ack]);
    assert_eq!(talk.ask(&OptionRequest::ExtendedHeaders), [OptionReply::Ack]);
    assert_eq!(talk.ask(&OptionRequest::ExportName("disk".into())), []);
    assert!(matches!(talk.end(), Some(End::Broken(HandshakeError::ExportName(_)))));
    assert!(talk.opened.is_empty(), "nothing is opened for it");
}

#[test]
fn whoever_asks_while_the_server_stops_is_told_and_may_leave() {
    let mut talk = Talk::new(3);
    assert_eq!(talk.ask(&OptionRequest::StructuredReply), [OptionReply::Ack]);
    talk.session.stop();
    for request in
        [OptionRequest::List, OptionRequest::Go(info("disk")), OptionRequest::Unknown(99)]
    {
        assert_eq!(refusal(&talk.ask(&request)), Some(Refusal::Shutdown), "{request:?}");
    }
    let long = vec![0; MAX_OPTION as usize + 1];
    assert_eq!(refusal(&talk.ask_raw(7, &long)), Some(Refusal::Shutdown));
    assert_eq!(talk.ask(&OptionRequest::Abort), [OptionReply::Ack]);
    assert_eq!(talk.end(), Some(End::Aborted));
    let mut talk = Talk::new(3);
    talk.session.stop();
    assert_eq!(talk.ask(&OptionRequest::ExportName("disk".into())), []);
    assert!(matches!(talk.end(), Some(End::Broken(HandshakeError::ExportName(_)))));
}

#[test]
fn whoever_goes_over_to_tls_starts_anew() {
    for mode in [TlsMode::Offered, TlsMode::Required] {
        let mut talk = Talk::with_tls(3, mode);
        let select = OptionRequest::SetMetaContext(meta("disk", &["base:allocation"]));
        if mode == TlsMode::Offered {
            talk.ask(&OptionRequest::ExtendedHeaders);
            assert_eq!(talk.ask(&select), [context(1), OptionReply::Ack]);
        }
        assert_eq!(talk.ask(&OptionRequest::StartTls), [OptionReply::Ack]);
        assert_eq!(talk.session.step(), Step::StartTls);
        talk.session.secured();
        assert_eq!(refusal(&talk.ask(&OptionRequest::StartTls)), Some(Refusal::Invalid), "again");
        assert_eq!(refusal(&talk.ask(&select)), Some(Refusal::Invalid), "forgotten");
        let replies = talk.ask(&OptionRequest::Go(info("disk")));
        assert!(!flags_in(&replies).contains(TransmissionFlags::SEND_DF), "forgotten");
        let Some(End::Transmission(negotiated)) = talk.end() else { panic!("not entered") };
        assert_eq!(negotiated.transmission.replies, Replies::Simple);
        assert_eq!(negotiated.transmission.contexts, []);
    }
}

#[test]
fn where_tls_is_required_nothing_else_is_answered() {
    let required = || Talk::with_tls(3, TlsMode::Required);
    let mut talk = required();
    for option in [3, 6, 7, 8, 9, 10, 11, 99] {
        for data in [&b""[..], b"data"] {
            let refused = refusal(&talk.ask_raw(option, data));
            assert_eq!(refused, Some(Refusal::TlsRequired), "option {option}");
        }
    }
    let long = vec![0; MAX_OPTION as usize + 1];
    assert_eq!(refusal(&talk.ask_raw(7, &long)), Some(Refusal::TlsRequired));
    assert_eq!(refusal(&talk.ask_raw(5, b"data")), Some(Refusal::Invalid), "STARTTLS has none");
    assert!(talk.opened.is_empty(), "nothing is opened for a stranger");
    assert_eq!(talk.ask(&OptionRequest::Abort), [OptionReply::Ack]);
    let mut talk = required();
    assert_eq!(talk.ask(&OptionRequest::ExportName("disk".into())), []);
    assert!(matches!(talk.end(), Some(End::Broken(HandshakeError::ExportName(_)))));
    let talk = Talk::with_tls(2, TlsMode::Required);
    assert_eq!(talk.end(), Some(End::Broken(HandshakeError::TlsOutOfReach)));
}

#[test]
fn without_fixed_newstyle_there_is_no_tls() {
    let mut talk = Talk::with_tls(2, TlsMode::Offered);
    assert_eq!(refusal(&talk.ask(&OptionRequest::StartTls)), Some(Refusal::Policy));
}

#[test]
fn the_list_is_complete_and_abort_is_acknowledged() {
    let mut talk = Talk::new(3);
    let replies = talk.ask(&OptionRequest::List);
    assert_eq!(replies.len(), 3);
    assert_eq!(
        replies[0],
        OptionReply::Server { name: "disk".into(), description: "this is disk".into() }
    );
    assert_eq!(talk.ask(&OptionRequest::Abort), [OptionReply::Ack]);
    assert_eq!(talk.end(), Some(End::Aborted));
}

#[test]
fn breaches_end_the_connection() {
    let broken = |talk: Talk| match talk.end() {
        Some(End::Broken(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(broken(Talk::new(4)), HandshakeError::ClientFlags(4));
    let mut talk = Talk::new(3);
    talk.feed(&[0; 16]);
    assert_eq!(broken(talk), HandshakeError::OptionMagic(0));
    let mut talk = Talk::new(3);
    let length = MAX_SKIPPED_OPTION + 1;
    let header = [&OPTION_MAGIC.to_be_bytes()[..], &7u32.to_be_bytes(), &length.to_be_bytes()];
    talk.feed(&header.concat());
    assert_eq!(broken(talk), HandshakeError::OptionLength { option: 7, length });
}

proptest! {
    /// Whatever options with whatever data arrive, each is answered by exactly one final reply or ends the connection.
    #[test]
    fn every_option_is_answered_once_or_ends_the_connection(
        options in prop::collection::vec(
            (0u32..13, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let mut talk = Talk::new(3);
        for (option, data) in options {
            if talk.end().is_some() {
                break;
            }
            if option == 1 {
                // Not answered in the form of other options.
                continue;
            }
            let replies = talk.ask_raw(option, &data);
            let finals = replies.iter().filter(|reply| reply.is_final()).count();
            prop_assert_eq!(finals, 1);
            prop_assert!(replies.last().is_some_and(OptionReply::is_final));
        }
    }

    /// Any bytes at all: no panic, and no request for more than the limit.
    #[test]
    fn any_bytes_leave_the_session_sound(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut talk = Talk::new(3);
        talk.feed(&bytes);
        if let Step::Receive(wanted) = talk.session.step() {
            prop_assert!(wanted <= MAX_OPTION as usize);
        }
    }
}
