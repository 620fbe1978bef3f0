//! Whatever comes.

use super::*;

proptest! {
    /// Whatever comes: no panic, every command is answered at most once, and what is held is given back.
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
                    command.writes = step > 0;
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
