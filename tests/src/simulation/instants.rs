//! A source that delivers in order: every batch is a moment, until it stops, breaks, or is not sure.
//!
//! The model knows which sequence each batch becomes: nothing else comes to the trunk meanwhile. So it holds what any
//! instant must read as, those that a power cut left without an answer among them, and which sequences are none.

use super::life::{Alive, Life, PowerCut, pick};
use super::model::Snapshot;
use crate::world::moment;
use landfall_retention::point::PointKind;
use landfall_retention::time::Timestamp;
use landfall_retention::{ResolveError, Stream, StreamError, StreamState, WriteOrder};

/// Instants that the model holds at most: the store has them all.
const HELD: usize = 16;

impl Life<'_> {
    /// Last sequence of the trunk.
    pub(super) fn head(&self) -> u64 {
        self.retention.machines()[0].head.number()
    }

    /// Order begins with a point.
    pub(super) async fn begin_order(&mut self, stream: Stream) -> Alive<Stream> {
        let position = self.next_position(&stream);
        let (now, sync) = (Timestamp::from_nanoseconds(1), WriteOrder::Synchronous);
        if self.choices.chance(1, 8) {
            match stream.mark_in_order(position, PointKind::Fuzzy, None, now, sync).await {
                Err(StreamError::OrderAtFuzzy) => {}
                other => panic!("order at a fuzzy point: {other:?}"),
            }
            drop(stream);
            return self.resume().await;
        }
        let snapshot = self.model.snapshot();
        self.model.pending_mark = Some((position, snapshot.clone()));
        let kind = *self.choices.pick(&[PointKind::Crash, PointKind::App]);
        let marked = stream.mark_in_order(position, kind, None, now, sync).await;
        let point = self.alive(marked, "order")?;
        self.model.pending_mark = None;
        self.model.seeded = true;
        self.model.in_order = true;
        self.model.points.insert(point.sequence.number(), snapshot);
        assert_eq!(stream.state(), Some(StreamState::Ordered));
        self.model.say(format!("order begins at {:?}", point.sequence));
        Ok(stream)
    }

    /// The source says that order ends; what follows is part of a pass.
    pub(super) async fn end_order(&mut self, stream: Stream) -> Alive<Stream> {
        self.alive(stream.end_order().await, "the end of order")?;
        self.model.in_order = false;
        assert_ne!(stream.state(), Some(StreamState::Ordered));
        self.model.say("order ends".into());
        Ok(stream)
    }

    /// Batches are about to become these sequences, the first after `head`; `after` has what the source holds after each.
    pub(super) fn expect_instants(&mut self, head: u64, after: &[Snapshot]) {
        if self.model.in_order {
            self.model.maybe_instants = (head + 1..).zip(after.iter().cloned()).collect();
        }
    }

    /// `count` of those that were expected are there, and the others are not.
    pub(super) fn note_instants(&mut self, head: u64, count: u64) {
        let expected = std::mem::take(&mut self.model.maybe_instants);
        if !self.model.in_order {
            // Of a first copy nothing comes to the trunk.
            let through = self.head().min(head + count);
            self.model.between.extend(head + 1..=through);
            return;
        }
        assert_eq!(self.head(), head + count);
        self.model.were_instants.extend(head + 1..=head + count);
        self.model.instants.extend(expected.into_iter().filter(|(at, _)| *at <= head + count));
        self.forget_some();
    }

    /// The model lets some instants go: they stay moments that nobody asks for any more.
    fn forget_some(&mut self) {
        while self.model.instants.len() > HELD {
            if let Some((at, _)) = pick(&self.model.instants, self.choices) {
                self.model.instants.remove(&at);
            }
        }
    }

    /// Finds out which of the batches under way became instants: the first so many.
    pub(super) async fn settle_instants(&mut self) -> Alive<()> {
        self.model.in_order = false;
        let (mut there, mut ended) = (0, false);
        for (at, snapshot) in std::mem::take(&mut self.model.maybe_instants) {
            match self.retention.resolve(&moment(&format!("m@seq:{at}"))).await {
                Ok(_) => {
                    assert!(!ended, "seq:{at} is there, and one before it is not");
                    self.model.instants.insert(at, snapshot);
                    self.model.were_instants.insert(at);
                    there += 1;
                }
                Err(ResolveError::NotABoundary { .. }) => ended = true,
                Err(error) => self.alive::<(), _>(Err(error), "an instant")?,
            }
        }
        if there > 0 {
            self.model.say(format!("{there} instants that nobody was told of"));
            self.forget_some();
        }
        Ok(())
    }

    /// An instant is found by its sequence, by its very time, and not by an earlier one.
    pub(super) async fn verify_instant(&mut self) -> Alive<()> {
        let Some((at, snapshot)) = pick(&self.model.instants, self.choices) else {
            return self.verify_between().await;
        };
        let name = format!("m@seq:{at}");
        let found = self.alive(self.retention.resolve(&moment(&name)).await, &name)?;
        let time = found.commit_time;
        let by_time = format!("m@{time}");
        let same = self.alive(self.retention.resolve(&moment(&by_time)).await, &by_time)?;
        assert_eq!(same.sequence.number(), at, "{by_time}");
        let before = Timestamp::from_nanoseconds(time.nanoseconds() - 1);
        match self.retention.resolve(&moment(&format!("m@{before}"))).await {
            Ok(older) => {
                let older = older.sequence.number();
                assert!(older < at, "seq:{older} was committed before {time}");
                let between = self.model.instants.range(older + 1..at).map(|(at, _)| *at);
                for skipped in between.collect::<Vec<_>>() {
                    let found = self.retention.resolve(&moment(&format!("m@seq:{skipped}"))).await;
                    // A branch may have left the trunk at a fuzzy point, which no time means but its own.
                    let kind = self.alive(found, "an instant")?.kind;
                    assert_eq!(kind, Some(PointKind::Fuzzy), "between seq:{older} and {at}");
                }
            }
            Err(ResolveError::BeforeHistory { .. } | ResolveError::NoSuchPoint { .. }) => {}
            Err(_) if self.world.folder.is_dead() => return Err(PowerCut),
            Err(error) => panic!("before {by_time}: {error}"),
        }
        self.verify_moment(&name, &snapshot).await?;
        self.model.say(format!("verified instant {at}"));
        if self.model.in_order && self.model.unacknowledged.is_empty() {
            let snapshot = self.model.snapshot();
            self.verify_moment("m@latest", &snapshot).await?;
        }
        self.verify_between().await
    }

    /// What was no moment when it was written is none.
    async fn verify_between(&mut self) -> Alive<()> {
        let count = self.model.between.len();
        if count == 0 {
            return Ok(());
        }
        let chosen = self.choices.index(count);
        let Some(at) = self.model.between.iter().nth(chosen) else { return Ok(()) };
        let name = format!("m@seq:{at}");
        match self.retention.resolve(&moment(&name)).await {
            Err(
                ResolveError::NotABoundary { .. }
                | ResolveError::Dropped { .. }
                | ResolveError::BeforeHistory { .. },
            ) => Ok(()),
            Err(_) if self.world.folder.is_dead() => Err(PowerCut),
            other => panic!("{name} is the middle of a pass: {other:?}"),
        }
    }
}
