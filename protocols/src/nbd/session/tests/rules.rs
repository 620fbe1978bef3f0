//! Rules of negotiation one by one: what an export announces, what limits are answered with, what is forgotten when.

use super::*;
use crate::nbd::session::handshake::{MAX_LIST_BYTES, MAX_OPTIONS};
use crate::nbd::wire::reply::BlockSizes;

/// Section "Transmission phase": where the export of every kind stands in the bits of its flags.
#[test]
fn flags_tell_what_an_export_can_do_and_nothing_else() {
    // HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_CACHE; then READ_ONLY, or TRIM, WRITE_ZEROES and FAST_ZERO with it.
    let (all, frozen, writable) =
        (1 | 1 << 2 | 1 << 3 | 1 << 10, 1 << 1, 1 << 5 | 1 << 6 | 1 << 11);
    let (multi_conn, df, filter) = (1 << 8, 1 << 7, 1 << 12);
    for (name, of_export) in [("disk", writable | multi_conn), ("frozen", frozen)] {
        for (option, of_replies) in [
            (None, 0),
            (Some(OptionRequest::StructuredReply), df),
            (Some(OptionRequest::ExtendedHeaders), df),
        ] {
            let mut talk = Talk::new(3);
            let simple = option.is_none();
            let extended = option == Some(OptionRequest::ExtendedHeaders);
            if let Some(option) = option {
                assert_eq!(talk.ask(&option), [OptionReply::Ack]);
            }
            let mut bits = || flags_in(&talk.ask(&OptionRequest::Info(info(name)))).bits();
            assert_eq!(bits(), all | of_export | of_replies, "{name}");
            if !simple {
                let select = OptionRequest::SetMetaContext(meta(name, &["base:allocation"]));
                assert_eq!(talk.ask(&select), [context(1), OptionReply::Ack]);
                let of_context = if extended { filter } else { 0 };
                let bits = flags_in(&talk.ask(&OptionRequest::Go(info(name)))).bits();
                assert_eq!(bits, all | of_export | of_replies | of_context, "{name}");
            }
        }
    }
}

/// `NBD_OPT_INFO` and `NBD_OPT_GO` give the same answer, whatever else is asked for.
#[test]
fn info_and_go_answer_alike_and_what_is_not_understood_is_ignored() {
    let items = vec![InfoKind::BlockSize, InfoKind::Unknown(77), InfoKind::Export];
    let request = InfoRequest { name: "disk".into(), items };
    let mut talk = Talk::new(3);
    let told = talk.ask(&OptionRequest::Info(request.clone()));
    assert_eq!(told.len(), 5, "{told:?}");
    assert_eq!(talk.ask(&OptionRequest::Go(request)), told);
}

#[test]
fn the_name_is_told_where_it_is_asked_for_or_differs() {
    let named = |name: &str, items: Vec<InfoKind>| {
        let request = InfoRequest { name: name.into(), items };
        let told = Talk::new(3).ask(&OptionRequest::Info(request));
        told.contains(&OptionReply::Info(Info::Name("disk@7".into())))
    };
    assert!(!named("disk@7", vec![]) && !named("disk@7", vec![InfoKind::BlockSize]));
    assert!(named("disk@7", vec![InfoKind::Name]) && named("disk", vec![]));
}

/// Sizes hold for everybody, so everybody is told, asked or not.
#[test]
fn sizes_are_told_to_whoever_asks_for_nothing() {
    let request = InfoRequest { name: "disk".into(), items: vec![] };
    let told = Talk::new(3).ask(&OptionRequest::Info(request));
    let sizes = BlockSizes { minimum: 1, preferred: 4096, maximum_payload: 32 << 20 };
    assert!(told.contains(&OptionReply::Info(Info::BlockSize(sizes))), "{told:?}");
}

/// The 124 zeroes belong to `NBD_OPT_EXPORT_NAME`: replies to `NBD_OPT_GO` are parsed to their last byte.
#[test]
fn no_zeroes_follow_go_whatever_was_agreed_on() {
    for client_flags in [0, 1, 2, 3] {
        let mut talk = Talk::new(client_flags);
        let replies = talk.ask(&OptionRequest::Go(info("disk")));
        assert_eq!(replies.last(), Some(&OptionReply::Ack), "flags {client_flags}");
        assert!(matches!(talk.end(), Some(End::Transmission(_))));
    }
}

#[test]
fn options_of_a_client_without_fixed_newstyle_are_answered() {
    for client_flags in [0, 2] {
        let mut talk = Talk::new(client_flags);
        assert_eq!(talk.ask(&OptionRequest::List).len(), 3);
        assert_eq!(talk.ask(&OptionRequest::Go(info("disk"))).last(), Some(&OptionReply::Ack));
    }
}

#[test]
fn no_query_selects_nothing_and_leaves_nothing_selected() {
    let mut talk = Talk::new(3);
    talk.ask(&OptionRequest::StructuredReply);
    let select = |queries: &[&str]| OptionRequest::SetMetaContext(meta("disk", queries));
    assert_eq!(talk.ask(&select(&["base:allocation"])), [context(1), OptionReply::Ack]);
    assert_eq!(talk.ask(&select(&[])), [OptionReply::Ack]);
    talk.ask(&OptionRequest::Go(info("disk")));
    let Some(End::Transmission(negotiated)) = talk.end() else { panic!("not entered") };
    assert_eq!(negotiated.transmission.contexts, []);
}

/// The specification leaves it open whether a selection counts for `NBD_OPT_EXPORT_NAME`: here it does.
#[test]
fn a_selection_counts_for_export_name_too() {
    let mut talk = Talk::new(3);
    talk.ask(&OptionRequest::StructuredReply);
    let select = OptionRequest::SetMetaContext(meta("disk", &["base:allocation"]));
    assert_eq!(talk.ask(&select), [context(1), OptionReply::Ack]);
    let mut bytes = Vec::new();
    OptionRequest::ExportName("disk".into()).encode(&mut bytes);
    talk.feed(&bytes);
    let Some(End::Transmission(negotiated)) = talk.end() else { panic!("not entered") };
    let selected = [(ContextId::new(1), Context::BaseAllocation)];
    assert_eq!(negotiated.transmission.contexts, selected);
}

#[test]
fn more_queries_or_items_than_are_looked_at_are_too_big_and_the_connection_goes_on() {
    let mut talk = Talk::new(3);
    talk.ask(&OptionRequest::StructuredReply);
    let queries = |count: usize| meta("disk", &vec!["base:allocation"; count]);
    let items = |count| InfoRequest { name: "disk".into(), items: vec![InfoKind::Export; count] };
    for (too_many, most) in [
        (
            OptionRequest::ListMetaContext(queries(129)),
            OptionRequest::ListMetaContext(queries(128)),
        ),
        (OptionRequest::SetMetaContext(queries(129)), OptionRequest::SetMetaContext(queries(128))),
        (OptionRequest::Info(items(65)), OptionRequest::Info(items(64))),
        (OptionRequest::Go(items(65)), OptionRequest::Go(items(64))),
    ] {
        assert_eq!(refusal(&talk.ask(&too_many)), Some(Refusal::TooBig));
        assert_eq!(talk.ask(&most).last(), Some(&OptionReply::Ack));
    }
    assert!(matches!(talk.end(), Some(End::Transmission(_))));
}

#[test]
fn a_list_is_cut_at_its_limit_and_ends_as_any_other() {
    let mut session = Handshake::new(TlsMode::Off);
    session.take_output();
    session.received(&3u32.to_be_bytes());
    let mut header = OPTION_MAGIC.to_be_bytes().to_vec();
    header.extend([0, 0, 0, 3, 0, 0, 0, 0]);
    session.received(&header);
    assert_eq!(session.step(), Step::List);
    let entry = |number: usize| ExportEntry {
        name: format!("disk-{number}"),
        description: "x".repeat(5000),
    };
    session.listed(&(0..400).map(entry).collect::<Vec<_>>());
    let mut talk = Talk { session, opened: Vec::new() };
    let length = {
        let output = talk.session.take_output();
        let length = output.len();
        let mut replies = output.as_slice();
        let mut names = 0;
        while !replies.is_empty() {
            let (head, rest) = OptionReplyHeader::read_from_prefix(replies).expect("a header");
            replies = &rest[head.length.get() as usize..];
            let is_last = replies.is_empty();
            assert_eq!(head.kind.get(), if is_last { 1 } else { 2 }, "SERVER, and ACK at the end");
            names += usize::from(!is_last);
        }
        assert!((200..400).contains(&names), "{names} names");
        length
    };
    assert!((MAX_LIST_BYTES..MAX_LIST_BYTES + 5000).contains(&length), "{length} bytes");
    // A name that was left out opens as any other.
    assert_eq!(talk.ask(&OptionRequest::Go(info("disk"))).last(), Some(&OptionReply::Ack));
}

#[test]
fn an_endless_negotiation_ends() {
    let mut talk = Talk::new(3);
    for _ in 0..MAX_OPTIONS {
        assert_eq!(refusal(&talk.ask_raw(99, b"")), Some(Refusal::Unsupported));
    }
    assert_eq!(talk.ask_raw(99, b""), []);
    assert_eq!(talk.end(), Some(End::Broken(HandshakeError::TooManyOptions)));
}

#[test]
fn an_abort_is_acknowledged_however_much_comes_with_it() {
    let mut talk = Talk::new(3);
    assert_eq!(talk.ask_raw(2, &vec![7; 100 << 10]), [OptionReply::Ack]);
    assert_eq!(talk.end(), Some(End::Aborted));
}

/// Where TLS is required that is a rule, and the word for a stop a piece of advice.
#[test]
fn where_tls_is_required_a_stop_is_told_to_whoever_asks_for_it() {
    let mut talk = Talk::with_tls(3, TlsMode::Required);
    talk.session.stop();
    for request in [OptionRequest::List, OptionRequest::Go(info("disk"))] {
        assert_eq!(refusal(&talk.ask(&request)), Some(Refusal::TlsRequired), "{request:?}");
    }
    assert_eq!(refusal(&talk.ask(&OptionRequest::StartTls)), Some(Refusal::Shutdown));
    assert_eq!(talk.ask(&OptionRequest::Abort), [OptionReply::Ack]);
}
