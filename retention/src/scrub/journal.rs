//! The journal: segments that lanes wrote, and those that compaction made, in the order of their numbers.
//!
//! ```text
//!   written segment ─▶ examine ─▶ record good ─▶ chain of its line;  index leads to it? no: put there again
//!                              └▶ body bad    ─▶ healing
//! ```
//!
//! Of a segment that is being written nothing is looked at but what its lane had told the index of before: that is durable, and
//! is there. Segments that come to be while a round is under way are for the next one.

use super::ScrubError;
use super::compare::{Data, Difference, Written, compare};
use super::healing::{BadBody, Body};
use super::index::LostHeads;
use super::reading::read_segment;
use super::round::{Going, Round};
use crate::compact::Source;
use crate::ids::{DiskId, LaneId, LaneSequence, LineId, SegmentId, Sequence, StreamId};
use crate::index::IndexError;
use crate::index::tail_key::read_progress;
use crate::journal::format::{ExtentContent, RecordKind, UNIT};
use crate::journal::indexing::{block_checksums, unit_of};
use crate::journal::recovery::{Damage, Examination, FoundRecord, body_bytes, examine_durable};
use crate::manifest::integrity::{DamagedPlace, ScrubPosition};
use crate::manifest::lineage::Owned;
use crate::manifest::state::{ManifestState, SegmentEntry};
use landfall_disks::Buffer;
use landfall_disks::uring::offload;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Histories and disks that there are, of the machines that are looked at: of others nothing is asked.
#[derive(Clone)]
pub(super) struct Scope {
    /// What of each line that ever wrote is somebody's.
    lines: BTreeMap<LineId, Vec<Owned>>,
    disks: BTreeSet<DiskId>,
}

impl Scope {
    /// Whether a version is of a history that there is.
    pub(super) fn wants(&self, (line, disk, sequence): (LineId, DiskId, Sequence)) -> bool {
        let mut parts = self.lines.get(&line).into_iter().flatten();
        self.disks.contains(&disk) && parts.any(|part| part.holds(sequence))
    }

    /// The same of a place; other places than versions it does not hold.
    pub(super) fn holds(&self, place: &DamagedPlace) -> bool {
        match place {
            DamagedPlace::Version { line, disk, sequence, .. } => {
                self.wants((*line, *disk, *sequence))
            }
            _ => false,
        }
    }
}

/// What a segment was found to be.
struct Looked {
    entry: SegmentEntry,
    bytes: Buffer,
    found: Examination,
    /// Its good versions.
    versions: Vec<Written>,
}

impl Round<'_> {
    pub(super) async fn journal(&mut self, first: SegmentId) -> Result<Going, ScrubError> {
        let mut next = first;
        loop {
            let source = {
                let state = self.retention.manifest.state();
                let sources = self.sources(&state).into_iter();
                sources.filter(|source| source.id() >= next).min_by_key(Source::id)
            };
            let Some(source) = source else { return Ok(Going::On) };
            self.move_to(ScrubPosition::Journal(source.id()));
            let read = match &source {
                Source::Written(entry) => self.segment(entry.id, entry.lane).await?,
                Source::Compacted(entry) => self.compacted(entry).await?,
            };
            self.found.journal_bytes += read;
            next = source.id().next();
            self.move_to(ScrubPosition::Journal(next));
            let at = format!("segment {} of the journal", source.id());
            let lane = self.retention.lane(source.lane());
            if self.step(at, source.size_bytes()).await? == Going::Stopped
                || self.pay(read, &|| lane.waiting()).await == Going::Stopped
            {
                return Ok(Going::Stopped);
            }
        }
    }

    /// Segments there are that were there when the round began, of the lanes of the machine if there is one.
    pub(super) fn sources(&self, state: &ManifestState) -> Vec<Source> {
        let lines = state.lines.values();
        let lines = lines.filter(|line| self.only.is_none_or(|only| line.machine == only));
        let lanes: BTreeSet<_> = lines.map(|line| line.lane).collect();
        let written = state.segments.values().copied().map(Source::Written);
        let all = written.chain(state.compacted.values().cloned().map(Source::Compacted));
        let wanted = |one: &Source| lanes.contains(&one.lane()) && one.id() <= self.newest_segment;
        all.filter(wanted).collect()
    }

    pub(super) fn scope(&self) -> Scope {
        let state = self.retention.manifest.state();
        let machines = self.retention.machines.read();
        let wanted = |machine| self.only.is_none_or(|only| only == machine);
        let disks = machines.disks.values().filter(|disk| wanted(disk.machine()));
        let mut lines = state.written(None);
        lines.retain(|_, parts| {
            parts
                .iter()
                .filter_map(|part| state.lines.get(&part.owner))
                .any(|of| wanted(of.machine))
        });
        Scope { lines, disks: disks.map(|disk| disk.id()).collect() }
    }

    /// Looks at a segment that a lane wrote; gives how many bytes that were.
    async fn segment(&mut self, segment: SegmentId, lane: LaneId) -> Result<u64, ScrubError> {
        let Some(mut looked) = self.look_at(segment, lane).await? else { return Ok(0) };
        for found in &looked.found.records {
            let record = &found.record;
            if record.kind == RecordKind::Vouch {
                continue;
            }
            if let Some(chain) = self.chains.get_mut(&record.line) {
                chain.take(record);
                self.found.records += 1;
            }
        }
        let still = self.bodies(&mut looked).await?;
        if self.order.parts.index {
            let versions = std::mem::take(&mut looked.versions);
            self.compare_with_index(segment, lane, versions).await?;
        }
        self.note_segment(segment, still);
        Ok(looked.found.end)
    }

    /// Notes what is damaged in a segment, and that nothing else is.
    pub(super) fn note_segment(&mut self, segment: SegmentId, still: BTreeSet<DamagedPlace>) {
        let (scope, whole) = (self.scope(), self.only.is_none());
        // What lies behind heads that are lost is for the index to say.
        let lost = LostHeads::of(&still);
        let looked_at = |place: &DamagedPlace| match place {
            DamagedPlace::Version { segment: there, unit, .. } => {
                *there == segment && scope.holds(place) && !lost.hold(*there, *unit)
            }
            DamagedPlace::Records { segment: there, .. } => *there == segment && whole,
            DamagedPlace::Image { .. } => false,
        };
        self.look_again(looked_at, &still);
        still.into_iter().for_each(|place| self.damaged(place));
    }

    /// Reads a segment. `None`: it was released meanwhile.
    async fn look_at(&self, id: SegmentId, lane: LaneId) -> Result<Option<Looked>, ScrubError> {
        let retention = self.retention;
        // What is there now stays while it is read.
        let _turn = retention.reading.turns.begin();
        let index = Arc::clone(&retention.surroundings.index);
        let indexed = offload(move || read_progress(&*index, lane)).await?;
        // Only now: as long as a segment is open, all records that the index has are in it or in earlier ones.
        let entry = retention.manifest.state().segments.get(&id).copied();
        let Some(entry) = entry else { return Ok(None) };
        let end = entry.ended.map_or(entry.size_bytes, |(end, _)| end);
        let bytes = read_segment(&retention.reading.segments, id, end).await?;
        let scope = self.scope();
        let looked = offload(move || {
            let mut found = examine_durable(&entry, &bytes, Some(indexed));
            if entry.ended.is_none() {
                believe(&mut found, &entry, indexed);
            }
            let versions = versions_of(&found, &entry, &bytes, &scope);
            Looked { entry, bytes, found, versions }
        });
        Ok(Some(looked.await))
    }

    /// Heals bodies; gives what is damaged and stays so.
    async fn bodies(&mut self, looked: &mut Looked) -> Result<BTreeSet<DamagedPlace>, ScrubError> {
        let segment = looked.entry.id;
        let with_bodies: BTreeSet<u64> = looked
            .found
            .records
            .iter()
            .filter(|found| !found.damaged_bodies.is_empty())
            .map(|found| found.offset)
            .collect();
        let heads = looked.found.damage.iter().map(|damage| &damage.bytes);
        let heads = heads.filter(|bytes| !with_bodies.contains(&bytes.start));
        let mut still: BTreeSet<_> = heads
            .map(|bytes| DamagedPlace::Records { segment, start: bytes.start, end: bytes.end })
            .collect();
        let scope = self.scope();
        let lost = last_lost_head(&looked.found);
        let mut healed = false;
        for found in &looked.found.records {
            for (at, extent) in
                found.damaged_bodies.iter().map(|at| (at, &found.record.extents[*at]))
            {
                let ExtentContent::Data { body, hash } = extent.content else { continue };
                let record = &found.record;
                // Bodies of what is gone are nobody's.
                let version = (record.line, extent.disk, record.sequence);
                if !scope.wants(version) {
                    continue;
                }
                let offset = found.offset + u64::from(body);
                let there = body_bytes(&looked.bytes, offset, extent.body_bytes());
                let bad = BadBody {
                    segment,
                    offset,
                    version,
                    range: extent.range,
                    hash,
                    bytes: there.map(<[u8]>::to_vec),
                    known: self.checksums_of(version, extent.range).await?,
                };
                match self.heal_body(bad).await? {
                    Body::Healed(whole) => {
                        healed = true;
                        let written = version_of((found, *at), &looked.entry, lost, || &whole);
                        looked.versions.extend(written);
                    }
                    Body::Still(places) => still.extend(places),
                }
            }
        }
        if healed {
            // Whoever gives space back believes that it is damaged.
            self.retention.summaries.lock().await.remove(&segment);
        }
        Ok(still)
    }

    /// Puts into the index what the journal has, somebody sees, and it does not lead to.
    pub(super) async fn compare_with_index(
        &mut self,
        segment: SegmentId,
        lane: LaneId,
        versions: Vec<Written>,
    ) -> Result<(), ScrubError> {
        let versions = Arc::new(versions);
        let first = self.difference(lane, &versions).await?;
        self.found.index_entries += first.entries;
        if first.batch.is_empty() {
            return Ok(());
        }
        // While this is held no segment goes, and nobody else points the index anew.
        let going = self.retention.summaries.lock().await;
        if Source::named(&self.retention.manifest.state(), segment).is_none() {
            return Ok(());
        }
        let Difference { batch, .. } = self.difference(lane, &versions).await?;
        if batch.is_empty() {
            return Ok(());
        }
        self.found.index_healed += batch.len() as u64;
        tracing::error!(%segment, entries = batch.len(), "the index lacked what the journal says");
        if self.order.heal {
            let index = Arc::clone(&self.retention.surroundings.index);
            offload(move || index.write(batch).and_then(|()| index.flush())).await?;
            drop(going);
            self.resolve_anew().await;
        }
        Ok(())
    }

    async fn difference(
        &self,
        lane: LaneId,
        versions: &Arc<Vec<Written>>,
    ) -> Result<Difference, IndexError> {
        let (retention, versions) = (Arc::clone(self.retention), Arc::clone(versions));
        offload(move || {
            let sight = || {
                let sight = retention.sight(lane);
                let state = retention.manifest.state();
                let known = state.segments.keys().chain(state.compacted.keys()).copied();
                (sight, known.collect())
            };
            compare(&*retention.surroundings.index, &versions, sight)
        })
        .await
    }
}

/// Leaves of what was found in an open segment what its lane had finished with before: the rest may be half written.
fn believe(found: &mut Examination, entry: &SegmentEntry, indexed: LaneSequence) {
    let records = &found.records;
    let due = |at: u64| {
        let before = records.iter().rfind(|record| record.offset < at);
        before.map_or(entry.first, |before| before.record.lane_sequence.next())
    };
    found.damage.retain(|damage| due(damage.bytes.start) <= indexed);
    found.records.retain(|record| record.record.lane_sequence <= indexed);
    if found.next <= indexed {
        // Where the last records were there is none that can be read, and nothing after it that would tell how long it was.
        let bytes = found.end..entry.size_bytes.max(found.end + UNIT);
        found.damage.push(Damage { bytes, case: 'E' });
    }
}

/// Where the last records start of which not even the heads are left; 0 if all are there.
fn last_lost_head(found: &Examination) -> u64 {
    let heads = found.damage.iter().map(|damage| damage.bytes.start);
    let with_head = |start: &u64| found.records.iter().any(|one| one.offset == *start);
    heads.filter(|start| !with_head(start)).max().unwrap_or(0)
}

/// The good versions of a segment, with the checksums of their blocks.
fn versions_of(
    found: &Examination,
    entry: &SegmentEntry,
    bytes: &[u8],
    scope: &Scope,
) -> Vec<Written> {
    let mut versions = Vec::new();
    let lost = last_lost_head(found);
    for one in &found.records {
        let record = &one.record;
        let extents = record.extents.iter().enumerate();
        let there = extents.filter(|(number, extent)| {
            scope.wants((record.line, extent.disk, record.sequence))
                && !one.damaged_bodies.contains(number)
        });
        versions.extend(there.filter_map(|(number, extent)| {
            let body = || {
                let (body, _) = extent.content.body().expect("it has one");
                let found = body_bytes(bytes, one.offset + u64::from(body), extent.body_bytes());
                found.expect("a good body is there")
            };
            version_of((one, number), entry, lost, body)
        }));
    }
    versions
}

/// The version that an extent of a record is, if it has the good `body` it is said to have. None if it is void, or may be.
fn version_of<'a>(
    (one, number): (&FoundRecord, usize),
    entry: &SegmentEntry,
    lost: u64,
    body: impl FnOnce() -> &'a [u8],
) -> Option<Written> {
    let record = &one.record;
    // What aborts it may be what is lost: the index knows, and must not be told otherwise.
    if record.kind == RecordKind::Batch && record.stream == StreamId::NONE && one.offset < lost {
        return None;
    }
    let extent = &record.extents[number];
    let data = match extent.content {
        ExtentContent::Abort { .. } | ExtentContent::Void { .. } => return None,
        ExtentContent::Zero => None,
        ExtentContent::Data { body: at, .. } => {
            let sums = block_checksums(body());
            let seal = record.seal_of(number, 0, entry.salt);
            let seal = seal.map(|(origin, tags)| (origin, tags[..sums.len()].to_vec()));
            let unit = unit_of(one.offset + u64::from(at));
            Some(Data { segment: entry.id, unit, sums, seal })
        }
    };
    let version = (record.line, extent.disk, record.sequence);
    Some(Written { version, range: extent.range, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Generation, GroupId, Position};
    use crate::journal::format::{Chain, Record, RecordExtent};
    use crate::time::Timestamp;
    use landfall_disks::{ByteOffset, ByteRange};

    const SALT: u64 = 7;

    /// A record of zeroes, or one that aborts them.
    fn record(number: u64, content: ExtentContent, stream: u8) -> Record {
        let range = ByteRange::at(ByteOffset::new(0), UNIT).expect("small");
        Record {
            kind: RecordKind::Batch,
            boundary: true,
            lane_sequence: LaneSequence::new(number),
            durable_through: LaneSequence::new(number - 1),
            group: GroupId::new(1),
            line: LineId::new(1),
            sequence: Sequence::new(number),
            generation: Generation::default(),
            stream: StreamId::new([stream; 16]),
            position: Position::new(number),
            source_time: Timestamp::default(),
            commit_time: Timestamp::from_nanoseconds(number),
            previous_chain: Chain::default(),
            extents: vec![RecordExtent { disk: DiskId::new(1), range, content }],
            seal: None,
        }
    }

    /// Sequences of the versions that the index is held against, where the heads of some records are lost. Bodies are not there, so
    /// they are healed.
    fn held_against(records: &[Record], lost: &[usize]) -> Vec<u64> {
        let unit = usize::try_from(UNIT).expect("4096");
        let mut bytes = vec![0; unit];
        for (number, record) in records.iter().enumerate() {
            let at = bytes.len();
            bytes.resize(at + usize::try_from(record.length_bytes()).expect("small"), 0);
            if !lost.contains(&number) {
                record.encode(SALT, &mut bytes[at..]);
            }
        }
        let end = bytes.len() as u64;
        let next = records.last().expect("some").lane_sequence.next();
        let entry = SegmentEntry {
            id: SegmentId::new(1),
            lane: LaneId::new(0),
            salt: SALT,
            first: records[0].lane_sequence,
            size_bytes: 1 << 20,
            ended: Some((end, next)),
        };
        let owned =
            Owned { owner: LineId::new(1), above: Sequence::default(), up_to: Sequence::MAX };
        let scope = Scope {
            lines: BTreeMap::from([(LineId::new(1), vec![owned])]),
            disks: BTreeSet::from([DiskId::new(1)]),
        };
        let found = examine_durable(&entry, &bytes, None);
        let mut versions = versions_of(&found, &entry, &bytes, &scope);
        for one in &found.records {
            let healed = one.damaged_bodies.iter().filter_map(|at| {
                version_of((one, *at), &entry, last_lost_head(&found), || &[7; 4096])
            });
            versions.extend(healed);
        }
        versions.iter().map(|written| written.version.2.number()).collect()
    }

    /// The index never had what is void, and is not to get it: also where nothing is left that says so.
    #[test]
    fn what_may_be_void_is_not_missed_in_the_index() {
        let zeroes = ExtentContent::Zero;
        let abort = ExtentContent::Abort { of: Sequence::new(11) };
        let records = [(10, zeroes, 1), (11, zeroes, 0), (12, abort, 0), (13, zeroes, 0)];
        let records = records.map(|(number, content, stream)| record(number, content, stream));
        assert_eq!(held_against(&records, &[]), [10, 13]);
        assert_eq!(held_against(&records, &[2]), [10, 13], "what aborted 11 is lost");
        assert_eq!(held_against(&records, &[3]), [10], "nor can 12 have been about it alone");
        assert_eq!(held_against(&records, &[0]), [13]);
        // Bodies that are not what they were, and were healed.
        let data = ExtentContent::Data { body: 4096, hash: [7; 32] };
        let records = [(10, data, 1), (11, data, 0), (12, zeroes, 0), (13, zeroes, 0)];
        let records = records.map(|(number, content, stream)| record(number, content, stream));
        assert_eq!(held_against(&records, &[]), [12, 13, 10, 11]);
        assert_eq!(held_against(&records, &[2]), [13, 10], "12 may have aborted 11");
    }
}
