//! Task management: what is ended, and what is told of it.

use super::*;

#[test]
fn an_aborted_task_is_never_told_of() {
    let mut pair = Pair::new();
    let command = pair.command(READ, 512);
    let (key, ..) = pair.started().expect("begun");
    pair.manage(Function::AbortTask, UNIT, &command);
    assert_eq!(pair.task_answer(), TaskAnswer::Complete);
    assert!(matches!(pair.session.effect(), Some(Effect::Abort(aborted)) if aborted == key));
    assert_eq!(pair.session.under_way(), 1, "it has its slot until it ends");
    pair.session.completed(key, good(&bytes(0, 512)));
    assert!(pair.answers().is_empty());
    assert_eq!(pair.session.under_way(), 0);
    pair.manage(Function::AbortTask, UNIT, &command);
    assert_eq!(pair.task_answer(), TaskAnswer::NoSuchTask);
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
        let (missing, early, mut elsewhere) = (pair.make(0, 0), pair.make(READ, 1), pair.make(READ, 1));
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
