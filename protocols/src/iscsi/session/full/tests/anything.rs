//! Whatever comes.

use super::*;
use crate::iscsi::session::full::task::State;

/// Bytes of data that a session holds for commands that have not started.
fn waiting(session: &Session<[u8; CDB]>) -> u64 {
    let of_early = |waiting: &Waiting| match waiting {
        Waiting::Pdu(early) => early.kept as u64,
        Waiting::Aborted => 0,
    };
    let of_task = |held: &Held<[u8; CDB]>| match &held.state {
        State::Collecting { collection, .. } if held.charge() == 0 => collection.taken() as u64,
        State::InLine(_, data) => data.len() as u64,
        _ => 0,
    };
    let early: u64 = session.early.values().map(of_early).sum();
    early + session.tasks.values().map(of_task).sum::<u64>()
}

proptest! {
    /// Whatever comes: no panic, every command is answered at most once, no more is held than may
    /// be, and all of it is given back.
    #[test]
    fn a_session_survives_whatever_comes(
        steps in prop::collection::vec((0u8..9, 0u32..6, 0u32..3000, any::<bool>(), 0u32..5), 0..80),
    ) {
        let terms = Terms { max_burst: 1000, first_burst: 600, initial_r2t: false, max_outstanding_r2t: 2,
            max_send_segment: 512, ..Terms::default() };
        let mut pair = Pair::of(target(), terms, 4000);
        let mut commands: Vec<ScsiCommand> = Vec::new();
        let mut running = Vec::new();
        let mut answered = std::collections::BTreeSet::new();
        for (step, pick, length, flag, skew) in steps {
            let one = commands.get(pick as usize % commands.len().max(1)).copied();
            match (step, one) {
                (0..=2, _) => {
                    let mut command = pair.make([READ, WRITE, REFUSE][usize::from(step)], length);
                    command.is_final = flag;
                    command.writes = step > 0 || skew == 3;
                    command.cmd_sn = command.cmd_sn.plus(if skew == 4 { 1 } else { 0 });
                    let along = if step > 0 { length.min(skew * 200) } else { 0 };
                    pair.send(&Request::Command(command), &bytes(0, along));
                    commands.push(command);
                }
                (3, Some(command)) => {
                    let tag = if flag { TargetTransferTag::RESERVED } else { TargetTransferTag::new(pick) };
                    pair.data(&command, tag, (skew % 2, length), flag, &bytes(0, length.min(500)));
                }
                (4, Some(command)) => pair.manage(Function::AbortTask, UNIT, &command),
                (5, Some(command)) => pair.manage(Function::LogicalUnitReset, UNIT, &command),
                (6, _) if !running.is_empty() => {
                    let (key, length) = running.remove(pick as usize % running.len());
                    pair.session.completed(key, if flag { good(&bytes(0, length)) } else { check(3) });
                }
                (7, _) => { pair.session.ping(); }
                _ => {
                    for (answer, _) in pair.answers() {
                        let tag = match answer {
                            Response::Command(response) => response.task_tag,
                            Response::Data(DataIn { task_tag, end: Some(_), .. }) => task_tag,
                            _ => continue,
                        };
                        prop_assert!(answered.insert(tag.number()), "{} was answered twice", tag);
                    }
                }
            }
            let slots = u64::from(8 + MAX_IMMEDIATE);
            prop_assert!(waiting(&pair.session) <= slots * u64::from(terms.first_burst + 1));
            let held = pair.session.budget.held;
            prop_assert!(held <= 4000, "{held} bytes are held, and no command is larger than 3000");
            while let Some(effect) = pair.session.effect() {
                match effect {
                    Effect::Start { key, task, data } => {
                        let length = u32::from_be_bytes([task[1], task[2], task[3], task[4]]);
                        prop_assert!(task[0] != WRITE || data.len() as u32 == length);
                        running.push((key, if task[0] == READ { length } else { 0 }));
                    }
                    Effect::Manage(management) => {
                        pair.session.managed(management.tag, TaskAnswer::Complete);
                    }
                    _ => {}
                }
            }
        }
        pair.session.abort(Scope::All);
        for (key, _) in running {
            pair.session.completed(key, good(b""));
        }
        pair.answers();
        prop_assert_eq!(pair.session.under_way(), 0);
        prop_assert_eq!(pair.session.budget.held, 0);
        prop_assert_eq!(pair.session.immediate, 0);
    }
}
