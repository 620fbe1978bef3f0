//! Opening a stream: who may feed a machine, and from which position.
//!
//! ```text
//!   no generation held  ─▶ a new generation, position 0
//!   generation current, and this stream's ─▶ goes on at the settled position
//!   the index lacks part of the history   ─▶ nobody else, until it has it
//!   generation from before a promotion ─▶ refused for good: what it feeds is no longer the trunk
//!   anything else       ─▶ refused: compare and begin anew
//! ```
//!
//! **Invariant:** the position that is answered is settled: an earlier opening's drafts are refused by the lane from
//! the new epoch on, and those queued before were decided.

use crate::ids::{Generation, MachineId, Position, StreamId};
use crate::journal::draft::AppendError;
use crate::line::Line;
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::ManifestState;
use crate::name::Name;
use crate::replica::ReplicaDisk;
use crate::retention::{Retention, next_generation};
use crate::stream::order::{note_opening, settle_order};
use crate::stream::state::Opening;
use crate::stream::{Holder, Order, Stream, StreamError, StreamParts, StreamRequest, StreamSlot};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::{Mutex, RwLock};

/// What a source is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// It numbers what it sends, and knows how far it came.
    Positions,
    /// It writes to disks, and what was answered is all it knows.
    Writes,
}

impl Retention {
    /// Opens the stream of a machine, taking it over from an earlier connection of the same source.
    pub async fn open_stream(&self, request: StreamRequest) -> Result<Stream, StreamError> {
        self.open_stream_of(request, Source::Positions).await
    }

    /// The same for whoever feeds the machine by what `source` says.
    pub(crate) async fn open_stream_of(
        &self,
        request: StreamRequest,
        source: Source,
    ) -> Result<Stream, StreamError> {
        let (machine, disks) = self.find_disks(&request)?;
        // Not even an image may take something over while what is written then cannot be sealed.
        self.keys().writing(machine).map_err(AppendError::Sealed)?;
        let slot = {
            let machines = self.machines.read();
            machines.streams.get(&machine).cloned().ok_or_else(|| self.unknown(&request.machine))?
        };
        let _opening = slot.opening.lock().await;
        let trunk = self.manifest.state().machines.get(&machine).map(|machine| machine.trunk);
        let line = trunk
            .and_then(|trunk| self.line(trunk))
            .ok_or_else(|| self.unknown(&request.machine))?;
        self.check_source(machine, &request, source)?;
        check_holder(&slot, &request)?;
        check_indexed(&slot, &request, &line)?;
        let epoch = line.begin_epoch();
        let lane = self.lane(line.lane()).clone();
        // Everything an earlier opening had queued is decided when this returns.
        lane.vouch().await?;
        let now = self.surroundings.clock.now();
        settle_order(&self.manifest, &line, Some(line.tail().sequence), now).await?;
        let resumed = request.generation != Generation::default();
        let generation = if request.generation == Generation::default() {
            self.raise_generation(&slot, &request, line.id()).await?
        } else {
            self.check_welcome(&request, line.id())?;
            check_generation(&slot, &request, line.generation())?;
            request.generation
        };
        line.set_generation(generation);
        let seeding = disks.iter().any(|disk| disk.floor().is_none());
        let opening = Opening { seeding, resumed, at_mark: line.is_at_mark() };
        note_opening(&self.manifest, &line, opening, now).await?;
        let in_lane = line.tail().position_of(generation, request.stream);
        let (start, order) = {
            let mut slot = slot.inner.lock();
            slot.applied = slot.applied.max(in_lane);
            let order = Arc::new(Mutex::new(Order {
                next: slot.applied.next(),
                last_in_lane: in_lane,
                applied: BTreeSet::new(),
                in_order: None,
                since_barrier: true,
            }));
            slot.holder = Some(Holder {
                peer: request.peer.clone(),
                since: now,
                stream: request.stream,
                epoch,
                order: Arc::clone(&order),
            });
            (slot.applied, order)
        };
        let parts = StreamParts {
            line,
            lane,
            slot: Arc::clone(&slot),
            manifest: Arc::clone(&self.manifest),
            reading: Arc::clone(&self.reading),
            machine: request.machine.clone(),
            clock: Arc::clone(&self.surroundings.clock),
            disks,
            stream: request.stream,
            generation,
            epoch,
            start,
        };
        Ok(Stream {
            parts,
            order,
            seeds: Arc::new(RwLock::new(())),
            failed: AtomicBool::new(false),
        })
    }

    /// A machine is fed by one kind of source.
    fn check_source(
        &self,
        machine: MachineId,
        request: &StreamRequest,
        source: Source,
    ) -> Result<(), StreamError> {
        let machine_name = || request.machine.clone();
        match (self.manifest.state().ingests.contains_key(&machine), source) {
            (true, Source::Positions) => Err(StreamError::FedByWrites { machine: machine_name() }),
            (false, Source::Writes) => Err(StreamError::NotFedByWrites { machine: machine_name() }),
            _ => Ok(()),
        }
    }

    /// A stream that was opened before a branch was promoted must not bring back what was given up: whoever feeds the machine
    /// from now on is started anew, by somebody who knows.
    fn check_welcome(
        &self,
        request: &StreamRequest,
        line: crate::ids::LineId,
    ) -> Result<(), StreamError> {
        let state = self.manifest.state();
        let welcome = state.lines.get(&line).map(|entry| entry.oldest_welcome).unwrap_or_default();
        if request.generation < welcome {
            let (machine, sent) = (request.machine.clone(), request.generation);
            return Err(StreamError::FailedOver { machine, sent });
        }
        Ok(())
    }

    /// A new generation for a stream that holds no positions.
    async fn raise_generation(
        &self,
        slot: &StreamSlot,
        request: &StreamRequest,
        line: crate::ids::LineId,
    ) -> Result<Generation, StreamError> {
        let stream = request.stream;
        let generation = self
            .manifest
            .change(|state| {
                let entry =
                    state.lines.get(&line).ok_or_else(|| unknown(state, &request.machine))?;
                let generation = next_generation(entry);
                // Raised by promotions alone: until then every earlier source may compare and go on.
                let oldest_welcome = entry.oldest_welcome;
                let record =
                    ManifestRecord::GenerationRaised { line, generation, oldest_welcome, stream };
                Ok::<_, StreamError>((vec![record], generation))
            })
            .await?;
        let mut slot = slot.inner.lock();
        slot.stream = stream;
        slot.generation = generation;
        slot.applied = Position::default();
        Ok(generation)
    }

    fn find_disks(
        &self,
        request: &StreamRequest,
    ) -> Result<(MachineId, Vec<Arc<ReplicaDisk>>), StreamError> {
        let state = self.manifest.state();
        let machine = state
            .machine_named(&request.machine)
            .map(|machine| machine.id)
            .ok_or_else(|| self.unknown(&request.machine))?;
        let machines = self.machines.read();
        let mut disks: Vec<Arc<ReplicaDisk>> = Vec::new();
        for (name, size_bytes) in &request.disks {
            let entry = state.disk_named(machine, name).filter(|e| e.span.until.is_none());
            let disk = entry.and_then(|entry| machines.disks.get(&entry.id));
            let Some(disk) = disk else {
                let there = |disk: &&crate::manifest::state::DiskEntry| {
                    disk.machine == machine && disk.span.until.is_none()
                };
                let of_machine = state.disks.values().filter(there);
                return Err(StreamError::UnknownDisk {
                    machine: request.machine.clone(),
                    disk: name.clone(),
                    known: of_machine.map(|disk| disk.name.clone()).collect(),
                });
            };
            if disk.size_bytes() != *size_bytes {
                let (disk, ours) = (name.clone(), disk.size_bytes());
                return Err(StreamError::SizeMismatch { disk, ours, theirs: *size_bytes });
            }
            disks.push(Arc::clone(disk));
        }
        Ok((machine, disks))
    }

    fn unknown(&self, machine: &Name) -> StreamError {
        unknown(&self.manifest.state(), machine)
    }
}

fn unknown(state: &ManifestState, machine: &Name) -> StreamError {
    let known = state.machines.values().map(|machine| machine.name.clone()).collect();
    StreamError::UnknownMachine { machine: machine.clone(), known }
}

/// Another source's stream must not be open; an earlier connection of the same one gives way.
fn check_holder(slot: &StreamSlot, request: &StreamRequest) -> Result<(), StreamError> {
    match &slot.inner.lock().holder {
        Some(holder) if holder.stream != request.stream => {
            Err(StreamError::Busy { machine: request.machine.clone(), peer: holder.peer.clone() })
        }
        _ => Ok(()),
    }
}

/// While the index lacks part of a line, only who goes on where he was is let in: anybody else would have to compare.
fn check_indexed(
    slot: &StreamSlot,
    request: &StreamRequest,
    line: &Line,
) -> Result<(), StreamError> {
    let goes_on = check_generation(slot, request, line.generation()).is_ok();
    let indexed = if goes_on { line.check_tail() } else { line.check_indexed() };
    let machine = || request.machine.clone();
    indexed.map_err(|source| StreamError::NotIndexed { machine: machine(), source })
}

fn check_generation(
    slot: &StreamSlot,
    request: &StreamRequest,
    current: Generation,
) -> Result<(), StreamError> {
    let slot = slot.inner.lock();
    let vouched = slot.generation == current
        && slot.stream == request.stream
        && request.stream != StreamId::NONE;
    if request.generation == current && vouched {
        Ok(())
    } else {
        Err(StreamError::OldGeneration { sent: request.generation, current })
    }
}
