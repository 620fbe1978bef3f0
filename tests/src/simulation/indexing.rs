//! An index that lacks much of the journal: what opens meanwhile is right, the rest says that it waits, and streams go on.

use super::folding::at_once;
use super::life::{Alive, Life, PowerCut, disk_name, machine, pick};
use super::model::Snapshot;
use crate::world::moment;
use landfall_retention::{FoldError, FoldPace, ResolveError, ScrubError, ScrubOrder, StreamError};

/// What was met while the index was built.
#[derive(Default)]
struct Met {
    opened: u32,
    refused: u32,
    resumed: bool,
}

impl Life<'_> {
    /// Whatever the index lacks gets there, with looks and writes in between; unless the power is cut, or somebody pulls the plug.
    pub(super) async fn build_index(&mut self, last: bool) -> Alive<()> {
        let status = self.retention.index_status();
        if status.whole {
            return Ok(());
        }
        let mut met = Met::default();
        loop {
            self.look_meanwhile(&mut met).await?;
            self.refuse_meanwhile().await?;
            match self.choices.below(8) {
                0..=2 if !met.resumed => met.resumed = self.go_on_meanwhile().await?,
                3 => self.vanish(),
                4 if !last && self.choices.chance(1, 3) => {
                    let left = self.retention.index_status().left;
                    self.model.say(format!("{left} segments were left to be indexed"));
                    return Err(PowerCut);
                }
                _ => {}
            }
            let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
            let more = self.retention.index_more(&pace).await;
            if !self.alive(more, "index more")? {
                break;
            }
        }
        let Met { opened, refused, resumed } = met;
        assert!(self.retention.index_status().whole, "there is more to do");
        self.model.say(format!(
            "indexed {} segments meanwhile: {opened} opened, {refused} refused, resumed {resumed}",
            status.files
        ));
        Ok(())
    }

    /// Moments open as they were, or not at all.
    async fn look_meanwhile(&mut self, met: &mut Met) -> Alive<()> {
        if let Some((at, snapshot)) = pick(&self.model.moments(), self.choices) {
            self.look_at_one(&format!("m@seq:{at}"), &snapshot, met).await?;
        }
        if let Some((name, branch)) = pick(&self.model.branches, self.choices)
            && let Some((at, snapshot)) = pick(&branch.moments, self.choices)
        {
            self.look_at_one(&format!("m~{name}@seq:{at}"), &snapshot, met).await?;
        }
        Ok(())
    }

    async fn look_at_one(&self, name: &str, snapshot: &Snapshot, met: &mut Met) -> Alive<()> {
        let found = match self.retention.resolve(&moment(name)).await {
            Ok(found) => found,
            Err(ResolveError::NotIndexed { .. }) => {
                met.refused += 1;
                return Ok(());
            }
            // It is not settled yet whether they went.
            Err(ResolveError::Dropped { .. }) if self.model.thinning => return Ok(()),
            Err(ResolveError::BeforeHistory { .. }) if self.model.maybe_start.is_some() => {
                return Ok(());
            }
            Err(error) => return self.alive(Err(error), name),
        };
        for (index, content) in snapshot.iter().enumerate() {
            let view = self.alive(self.retention.view(&found, &disk_name(index)), name)?;
            let read = view.read(view.geometry().whole()).await;
            let read = self.alive(read, name)?;
            assert!(read[..] == content[..], "disk {index} of {name} differs meanwhile");
        }
        met.opened += 1;
        Ok(())
    }

    /// Who looks at the index as a whole waits for it, and so does a fold of what it lacks.
    async fn refuse_meanwhile(&mut self) -> Alive<()> {
        let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
        let forgotten = self.alive(self.retention.forget(&pace).await, "forget")?;
        let compacted = self.alive(self.retention.compact(&pace).await, "compact")?;
        assert!(forgotten.waits_for_index && compacted.waits_for_index);
        assert_eq!((forgotten.segments, compacted.segments), (0, 0));
        let scrubbed = self.retention.scrub(&ScrubOrder::all(None), &pace, &|_| true).await;
        assert!(matches!(scrubbed, Err(ScrubError::NotIndexed(_))), "{scrubbed:?}");
        let machines = self.retention.machines();
        let Some(waits) = machines.first().and_then(|machine| machine.waits) else { return Ok(()) };
        if !waits.trunk_opens {
            let trunk = self.alive(self.retention.trunk(&machine()), "trunk")?;
            let folded = self.retention.fold_to(trunk, machines[0].head, &pace).await;
            assert!(matches!(folded, Err(FoldError::NotIndexed(_))), "{folded:?}");
        }
        Ok(())
    }

    /// The source goes on where it was, if the store knows where that is.
    async fn go_on_meanwhile(&mut self) -> Alive<bool> {
        let model = &self.model;
        let unsettled = model.comparing
            || model.generation == landfall_retention::ids::Generation::default()
            || model.maybe_grown.is_some()
            || !model.maybe_instants.is_empty();
        if !model.added || unsettled {
            return Ok(false);
        }
        let opened = self.retention.open_stream(self.request(self.model.generation)).await;
        let stream = match opened {
            Ok(stream) => stream,
            Err(
                StreamError::NotIndexed { .. }
                | StreamError::OldGeneration { .. }
                | StreamError::FailedOver { .. },
            ) => return Ok(false),
            opened => self.alive(opened, "open stream meanwhile")?,
        };
        self.model.in_order = false;
        let at = stream.position();
        let stream = self.resend(stream).await?;
        let stream = self.send_batches(stream).await?;
        let stream = if self.choices.chance(1, 2) { self.send_mark(stream).await? } else { stream };
        self.model.say(format!("resumed at {at:?} beside the index"));
        drop(stream);
        Ok(true)
    }
}
