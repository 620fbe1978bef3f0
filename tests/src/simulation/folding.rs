//! Steps that let history go: folds beside writes, segments released, index entries that vanish, branches thrown away.

use super::life::{Alive, Life, PowerCut, machine, pick};
use crate::world::moment;
use futures_util::future::{LocalBoxFuture, join};
use landfall_retention::ids::Sequence;
use landfall_retention::name::Name;
use landfall_retention::{ChangeError, FoldError, FoldPace, ResolveError, Stream};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn at_once(_: Duration) -> LocalBoxFuture<'static, ()> {
    Box::pin(std::future::ready(()))
}

impl Life<'_> {
    /// History begins where it began, or where the fold that was under way wanted it.
    pub(super) async fn settle_start(&mut self) -> Alive<()> {
        if !self.model.added {
            return Ok(());
        }
        let history = self.retention.history(&machine());
        let start = self.alive(history, "history")?.start;
        let start = start.map_or(0, |start| start.sequence.number());
        let wanted = self.model.maybe_start.take();
        assert!(
            start == self.model.start || Some(start) == wanted,
            "history begins at {start}, not at {} or {wanted:?}",
            self.model.start
        );
        self.model.begin_at(start);
        for (line, floor) in self.retention.unfinished_folds() {
            assert_eq!(floor.number(), start);
            if self.choices.chance(1, 2) {
                let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
                let ended = self.retention.fold_to(line, floor, &pace).await;
                self.alive(ended, "the fold that was cut off")?;
                self.model.say(format!("ended the fold to seq:{floor}"));
            }
        }
        Ok(())
    }

    /// A fold to some moment while batches come.
    pub(super) async fn fold(&mut self, stream: Stream) -> Alive<Stream> {
        let Some((floor, _)) = pick(&self.model.moments(), self.choices) else {
            return Ok(stream);
        };
        let trunk = self.alive(self.retention.trunk(&machine()), "trunk")?;
        let held = !self.retention.holders_below(trunk, Sequence::new(floor)).is_empty();
        self.model.maybe_start = Some(floor);
        let retention = Arc::clone(&self.retention);
        let fold = async {
            let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
            retention.fold_to(trunk, Sequence::new(floor), &pace).await
        };
        let (folded, stream) = join(fold, self.send_meanwhile(stream)).await;
        let stream = stream?;
        match folded {
            Ok(report) => {
                assert!(!held, "held, and folded to seq:{floor}");
                let start = report.start.number();
                assert_eq!(start, floor.max(self.model.start));
                self.model.begin_at(start);
                self.model.say(format!("folded to seq:{floor}: {} bytes", report.data_bytes));
            }
            Err(FoldError::Held { .. }) if held => self.model.say(format!("seq:{floor} is held")),
            Err(FoldError::AboveNewest { .. }) => {}
            Err(_) if self.world.folder.is_dead() => return Err(PowerCut),
            Err(error) => panic!("fold to seq:{floor}: {error}"),
        }
        self.model.maybe_start = None;
        self.verify_gone().await?;
        Ok(stream)
    }

    /// What was folded cannot be opened.
    async fn verify_gone(&mut self) -> Alive<()> {
        let Some(below) = self.model.start.checked_sub(1) else { return Ok(()) };
        let name = moment(&format!("m@seq:{}", self.choices.below(below + 1)));
        match self.retention.resolve(&name).await {
            Err(ResolveError::BeforeHistory { begins, .. }) => {
                assert_eq!(begins.number(), self.model.start);
                Ok(())
            }
            Err(_) if self.world.folder.is_dead() => Err(PowerCut),
            other => panic!("{name:?} before the start of history: {other:?}"),
        }
    }

    /// Segments go, and batches come meanwhile.
    pub(super) async fn forget(&mut self, stream: Stream) -> Alive<Stream> {
        let retention = Arc::clone(&self.retention);
        let forget = async {
            let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
            retention.forget(&pace).await
        };
        let (forgot, stream) = join(forget, self.send_meanwhile(stream)).await;
        let stream = stream?;
        let forgot = self.alive(forgot, "forget")?;
        self.model.say(format!("{} segments released", forgot.segments));
        let looked = self.retention.look_at_space(&Arc::default()).await;
        for space in self.alive(looked, "a look at space")? {
            assert!(space.used_bytes <= space.appended_bytes, "{space:?}");
        }
        assert_eq!(forgot.damaged, 0);
        self.verify_one().await?;
        Ok(stream)
    }

    /// What is needed of segments moves together, and batches come meanwhile.
    pub(super) async fn compact(&mut self, stream: Stream) -> Alive<Stream> {
        let retention = Arc::clone(&self.retention);
        let compact = async {
            let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
            retention.compact(&pace).await
        };
        let (compacted, stream) = join(compact, self.send_meanwhile(stream)).await;
        let stream = stream?;
        let done = self.alive(compacted, "compact")?;
        let (gone, moved) = (done.segments, done.bytes_moved);
        self.model.say(format!("{gone} segments compacted, {moved} bytes moved"));
        assert_eq!((done.damaged, done.short_of_space), (0, false));
        self.verify_one().await?;
        Ok(stream)
    }

    /// A compaction of the index, which lets some of what may go go.
    pub(super) fn vanish(&mut self) {
        let choices = &mut *self.choices;
        let (of, times) = *choices.pick(&[(1, 1), (2, 1), (5, 4)]);
        let gone = self.world.index.vanish(|_| choices.chance(times, of));
        self.model.say(format!("{gone} entries of the index vanish"));
    }

    /// A branch is thrown away. Should the power be cut meanwhile, nobody asks for it either.
    pub(super) async fn discard_branch(&mut self) -> Alive<()> {
        let Some((name, _)) = pick(&self.model.branches, self.choices) else { return Ok(()) };
        let mut parents = self.model.branches.values().filter_map(|one| one.parent.as_ref());
        if parents.any(|parent| *parent == name) {
            let branch = Name::parse(&name).expect("a name");
            let refused = self.retention.discard_branch(&machine(), &branch).await;
            assert!(matches!(refused, Err(ChangeError::InUse { .. })), "{name} has branches");
            return Ok(());
        }
        let model = self.model.branches.remove(&name);
        let branch = Name::parse(&name).expect("a name");
        let discarded = self.retention.discard_branch(&machine(), &branch).await;
        if matches!(discarded, Err(ChangeError::InUse { .. })) {
            // Of one that was to go when the power went, which the model does not know any more.
            self.model.branches.extend(model.map(|model| (name, model)));
            return Ok(());
        }
        self.alive(discarded, "discard")?;
        self.model.say(format!("discarded {name}"));
        Ok(())
    }
}
