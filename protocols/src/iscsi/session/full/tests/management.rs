//! Task management: what is ended, and what is told of it.

use super::*;
use crate::iscsi::wire::number::ResponseNumbers;

#[test]
fn an_aborted_task_is_never_told_of() {
    let mut pair = Pair::new();
    let command = pair.command(READ, 512);
    let (key, ..) = pair.started().expect("begun");
    pair.manage(Function::AbortTask, UNIT, &command);
    assert_eq!(pair.task_answer(), TaskAnswer::Complete);
    assert!(matches!(pair.session.effect(), Some(Effect::Abort(aborted)) if aborted == key));
    assert_eq!(pair.session.under_way(), 1, "it runs until it ends");
    pair.session.completed(key, good(&bytes(0, 512)));
    assert!(pair.answers().is_empty());
    assert_eq!(pair.session.under_way(), 0);
    pair.manage(Function::AbortTask, UNIT, &command);
    assert_eq!(pair.task_answer(), TaskAnswer::NoSuchTask);
}

/// The window that the initiator was told of last, as commands that may come.
fn told(answers: &[(Response, Vec<u8>)]) -> u32 {
    let ResponseNumbers { exp_cmd_sn, max_cmd_sn, .. } = match &answers.last().expect("an answer").0
    {
        Response::Task(pdu) => pdu.numbers,
        Response::Nop(pdu) => pdu.numbers,
        other => panic!("{other:?}"),
    };
    max_cmd_sn.plus(1).since(exp_cmd_sn)
}

#[test]
fn those_that_were_aborted_keep_nobody_out() {
    let mut pair = Pair::new();
    let mut ghosts = Vec::new();
    // The disk hangs: all are aborted, and as many again.
    for round in 0..2 {
        let mut first = None;
        for _ in 0..8 {
            first = first.or(Some(pair.command(READ, 1)));
            ghosts.push(pair.started().expect("begun").0);
        }
        pair.manage(Function::AbortTaskSet, UNIT, &first.expect("eight"));
        while pair.session.effect().is_some() {}
        assert_eq!(told(&pair.answers()), [8, 0][round], "the window is open for as many again");
    }
    pair.command(0, 0);
    pair.cmd_sn -= 1;
    assert!(pair.answers().is_empty(), "no more than that");
    // The first that ends opens it, and the initiator is told.
    pair.session.completed(ghosts.remove(0), good(b"a"));
    let answers = pair.answers();
    assert_eq!(told(&answers), 1);
    let Response::Nop(ping) = &answers[0].0 else { panic!("{answers:?}") };
    assert_eq!(ping.task_tag, InitiatorTaskTag::RESERVED);
    assert_eq!(ping.transfer_tag, TargetTransferTag::RESERVED, "nothing is to be answered");
    for key in ghosts {
        pair.session.completed(key, good(b"a"));
    }
    assert!(pair.answers().is_empty(), "it knows that commands may come");
    pair.command(0, 0);
    assert_eq!(pair.response().0.numbers.max_cmd_sn.since(CmdSn::new(pair.cmd_sn)), 7);
    assert_eq!(pair.session.under_way(), 0);
}

#[test]
fn a_window_that_others_open_is_told() {
    let mut pair = Pair::new();
    for _ in 0..8 {
        pair.command(READ, 1);
        pair.started().expect("begun");
    }
    assert!(pair.session.abort(Scope::Unit(UNIT)), "another initiator resets the unit");
    assert_eq!(told(&pair.answers()), 8);
}

#[test]
fn a_task_that_waits_for_data_is_aborted_for_good() {
    let mut pair = Pair::with(Terms::default());
    let command = pair.command(WRITE, 512);
    let tag = pair.ready()[0].transfer_tag;
    pair.manage(Function::AbortTask, UNIT, &command);
    assert_eq!(pair.task_answer(), TaskAnswer::Complete);
    assert!(pair.session.effect().is_none());
    pair.data(&command, tag, (0, 0), true, &bytes(0, 512));
    assert!(pair.session.effect().is_none() && pair.answers().is_empty());
}

#[test]
fn a_task_that_has_not_come_is_aborted_before_it_does() {
    let mut pair = Pair::new();
    let (missing, next) = (pair.make(READ, 1), pair.make(0, 0));
    pair.send(&Request::Command(next), &[]);
    assert!(pair.answers().is_empty(), "it is not its turn");
    pair.manage(Function::AbortTask, UNIT, &missing);
    let answers = pair.answers();
    assert!(matches!(&answers[0].0, Response::Task(task) if task.answer == TaskAnswer::Complete));
    assert!(matches!(&answers[1].0, Response::Command(done) if done.task_tag == next.task_tag));
    pair.send(&Request::Command(missing), &[]);
    assert!(pair.started().is_none(), "its number is over");
}

#[test]
fn what_was_not_sent_before_its_abort_is_not_aborted() {
    let mut pair = Pair::new();
    for ahead in 0..3 {
        let mut never = pair.make(READ, 1);
        pair.cmd_sn -= 1;
        never.cmd_sn = CmdSn::new(pair.cmd_sn + ahead);
        pair.manage(Function::AbortTask, UNIT, &never);
        assert_eq!(pair.task_answer(), TaskAnswer::NoSuchTask, "{ahead}");
    }
    for _ in 0..3 {
        pair.command(READ, 1);
        assert!(pair.started().is_some(), "a command that came afterwards has that number");
    }
}

#[test]
fn a_unit_is_cleared_by_any_of_its_addresses() {
    for function in [Function::AbortTaskSet, Function::ClearTaskSet, Function::LogicalUnitReset] {
        let mut pair = Pair::new();
        let mine = pair.command(READ, 1);
        pair.started();
        let mut elsewhere = pair.make(READ, 1);
        elsewhere.lun = OTHER;
        pair.send(&Request::Command(elsewhere), &[]);
        pair.started();
        pair.manage(function, SAME_UNIT, &mine);
        assert!(matches!(pair.session.effect(), Some(Effect::Abort(_))));
        if function == Function::AbortTaskSet {
            assert_eq!(pair.task_answer(), TaskAnswer::Complete);
        } else {
            assert!(pair.answers().is_empty(), "others have to know first");
            let Some(Effect::Manage(management)) = pair.session.effect() else {
                panic!("{function:?}")
            };
            assert_eq!((management.function, management.lun), (function, UNIT));
            pair.session.managed(management.tag, TaskAnswer::Complete);
            assert_eq!(pair.task_answer(), TaskAnswer::Complete);
        }
        assert!(pair.session.effect().is_none(), "the other unit goes on");
        pair.manage(function, NOWHERE, &mine);
        assert_eq!(pair.task_answer(), TaskAnswer::NoSuchUnit);
    }
}

#[test]
fn commands_that_came_early_are_reset_too() {
    for (function, lun, left) in [
        (Function::AbortTaskSet, UNIT, 1),
        (Function::LogicalUnitReset, UNIT, 1),
        (Function::LogicalUnitReset, OTHER, 1),
        (Function::TargetWarmReset, UNIT, 0),
    ] {
        let mut pair = Pair::new();
        let (missing, early, mut elsewhere) =
            (pair.make(0, 0), pair.make(READ, 1), pair.make(READ, 1));
        elsewhere.lun = OTHER;
        pair.send(&Request::Command(early), &[]);
        pair.send(&Request::Command(elsewhere), &[]);
        pair.manage(function, lun, &missing);
        if let Some(Effect::Manage(management)) = pair.session.effect() {
            pair.session.managed(management.tag, TaskAnswer::Complete);
        }
        assert_eq!(pair.task_answer(), TaskAnswer::Complete);
        // The last was sent after the request.
        let after = pair.make(READ, 1);
        pair.send(&Request::Command(after), &[]);
        pair.send(&Request::Command(missing), &[]);
        let begun = std::iter::from_fn(|| pair.started()).count();
        assert_eq!(begun, left + 1, "{function:?} {lun:?}");
    }
}

#[test]
fn a_reset_of_the_target_ends_all_tasks() {
    for function in [Function::TargetWarmReset, Function::TargetColdReset] {
        let mut pair = Pair::new();
        let command = pair.command(READ, 1);
        let mut elsewhere = pair.make(READ, 1);
        elsewhere.lun = OTHER;
        pair.send(&Request::Command(elsewhere), &[]);
        pair.started();
        pair.started();
        pair.manage(function, NOWHERE, &command);
        assert!(matches!(pair.session.effect(), Some(Effect::Abort(_))));
        assert!(matches!(pair.session.effect(), Some(Effect::Abort(_))));
        assert!(matches!(pair.session.effect(), Some(Effect::Manage(_))));
    }
}

#[test]
fn nobody_floods_others_with_resets() {
    let mut pair = Pair::new();
    let command = pair.command(READ, 1);
    pair.started();
    for _ in 0..MAX_IMMEDIATE {
        pair.manage(Function::LogicalUnitReset, UNIT, &command);
        assert!(pair.answers().is_empty());
    }
    pair.manage(Function::LogicalUnitReset, UNIT, &command);
    assert_eq!(pair.task_answer(), TaskAnswer::Rejected);
    let tags = std::iter::from_fn(|| match pair.session.effect()? {
        Effect::Manage(management) => Some(Some(management.tag)),
        _ => Some(None),
    });
    let tags: Vec<_> = tags.flatten().collect();
    assert_eq!(tags.len(), MAX_IMMEDIATE as usize);
    pair.session.managed(tags[0], TaskAnswer::Complete);
    pair.answers();
    pair.manage(Function::LogicalUnitReset, UNIT, &command);
    assert!(pair.answers().is_empty(), "there is room for another one");
}
