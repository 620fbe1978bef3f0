//! Segments that compaction made: both tables, and the pieces they list.
//!
//! ```text
//!   tables ─▶ one good, the other not ─▶ written anew from the good one
//!   pieces ─▶ BLAKE3 as the table says? no: healing, block by block
//! ```
//!
//! They never change, so nothing of them can be half written. Their header is for people: what it says is in the manifest, and
//! nobody reads it.

use super::compare::{Data, Written};
use super::healing::{BadBody, Body};
use super::journal::Scope;
use super::reading::read_segment;
use super::round::Round;
use super::{HealedFrom, ScrubError};
use crate::journal::compacted::{KeptRecord, Piece, encode_table, parse_table};
use crate::journal::format::{ExtentContent, UNIT};
use crate::manifest::compacted::CompactedEntry;
use crate::manifest::integrity::DamagedPlace;
use landfall_disks::Buffer;
use landfall_disks::uring::offload;
use std::collections::BTreeSet;
use std::ops::Range;

/// What a compacted segment was found to be.
struct Looked {
    bytes: Buffer,
    /// What it holds, if one of its tables says so.
    records: Option<Vec<KeptRecord>>,
    /// What each table should be.
    table: Vec<u8>,
    /// Tables that are something else.
    bad_tables: Vec<Range<u64>>,
    /// Pieces that are not what they were: their record and themselves, by number.
    bad_pieces: BTreeSet<(usize, usize)>,
}

impl Round<'_> {
    /// Looks at a compacted segment; gives how many bytes that were.
    pub(super) async fn compacted(&mut self, entry: &CompactedEntry) -> Result<u64, ScrubError> {
        let Some(looked) = self.look_at_compacted(entry).await? else { return Ok(0) };
        let Looked { bytes, records, table, bad_tables, bad_pieces } = looked;
        let mut still = BTreeSet::new();
        let records = records.unwrap_or_default();
        for bytes in bad_tables {
            let place =
                DamagedPlace::Records { segment: entry.id, start: bytes.start, end: bytes.end };
            if self.order.heal
                && !table.is_empty()
                && self.heal_table(entry, &bytes, &table).await?
            {
                self.healed(place, HealedFrom::Copy);
            } else {
                still.insert(place);
            }
        }
        for kept in &records {
            if let Some(chain) = self.chains.get_mut(&kept.record.line) {
                chain.take_kept(&kept.record);
                self.found.records += 1;
            }
        }
        let scope = self.scope();
        let mut good = Vec::new();
        for (number, kept) in records.iter().enumerate() {
            for (at, piece) in kept.pieces.iter().enumerate() {
                let Some(written) = version_of(entry, kept, piece, &scope) else { continue };
                let healed = !bad_pieces.contains(&(number, at))
                    || self.heal_piece(&bytes, piece, &written, &mut still).await?;
                good.extend(healed.then_some(written));
            }
            good.extend(zeroes_of(kept, &scope));
        }
        if self.order.parts.index {
            self.compare_with_index(entry.id, entry.lane, good).await?;
        }
        self.note_segment(entry.id, still);
        Ok(entry.size_bytes)
    }

    /// Reads a compacted segment. `None`: it was released meanwhile.
    async fn look_at_compacted(
        &self,
        entry: &CompactedEntry,
    ) -> Result<Option<Looked>, ScrubError> {
        let retention = self.retention;
        let _turn = retention.reading.turns.begin();
        if !retention.manifest.state().compacted.contains_key(&entry.id) {
            return Ok(None);
        }
        let segments = &retention.reading.segments;
        let bytes = read_segment(segments, entry.id, entry.size_bytes).await?;
        let entry = entry.clone();
        Ok(Some(offload(move || look_at(&entry, bytes)).await))
    }

    async fn heal_table(
        &self,
        entry: &CompactedEntry,
        at: &Range<u64>,
        table: &[u8],
    ) -> Result<bool, ScrubError> {
        let file = self.retention.reading.segments.file(entry.id).await?;
        self.write_and_read_back(&*file, at.start, table).await
    }

    /// Whether a piece is good again; adds to `still` what is not.
    async fn heal_piece(
        &mut self,
        bytes: &Buffer,
        piece: &Piece,
        written: &Written,
        still: &mut BTreeSet<DamagedPlace>,
    ) -> Result<bool, ScrubError> {
        let Data { segment, unit, sums, .. } = written.data.as_ref().expect("pieces are data");
        let bad = BadBody {
            segment: *segment,
            offset: u64::from(*unit) * UNIT,
            version: written.version,
            range: written.range,
            hash: piece.hash,
            bytes: bytes.get(place(piece)).map(<[u8]>::to_vec),
            known: sums.iter().copied().map(Some).collect(),
        };
        Ok(match self.heal_body(bad).await? {
            Body::Healed(_) => true,
            Body::Still(places) => {
                still.extend(places);
                false
            }
        })
    }
}

/// Where the bytes of a piece lie.
fn place(piece: &Piece) -> Range<usize> {
    let at = |bytes: u64| usize::try_from(bytes).expect("a segment fits memory");
    let start = at(u64::from(piece.unit) * UNIT);
    start..start + at(piece.length())
}

fn look_at(entry: &CompactedEntry, bytes: Buffer) -> Looked {
    let length = (entry.size_bytes - entry.table) / 2;
    let units = u32::try_from(entry.table / UNIT).expect("at most 1 GiB");
    let halves = [entry.table..entry.table + length, entry.table + length..entry.size_bytes];
    let at = |bytes: u64| usize::try_from(bytes).expect("a segment fits memory");
    let half = |range: &Range<u64>| bytes.get(at(range.start)..at(range.end));
    let parsed = halves.iter().filter_map(half);
    let records =
        parsed.filter_map(|half| parse_table(half, entry.id, entry.salt, units).ok()).next();
    let mut table = Vec::new();
    if let Some(records) = &records {
        table = encode_table(entry.id, entry.salt, records);
        table.resize(at(length), 0);
    }
    let is_bad = |range: &Range<u64>| half(range) != Some(&table[..]);
    let bad_tables = match records {
        Some(_) => halves.iter().filter(|range| is_bad(range)).cloned().collect(),
        // Without a table nothing says where pieces lie and what they were: that is for the index.
        None => std::iter::once(0..entry.size_bytes).collect(),
    };
    let mut bad_pieces = BTreeSet::new();
    for (number, kept) in records.iter().flatten().enumerate() {
        for (at, piece) in kept.pieces.iter().enumerate() {
            let there = bytes.get(place(piece));
            if there.is_none_or(|there| *blake3::hash(there).as_bytes() != piece.hash) {
                bad_pieces.insert((number, at));
            }
        }
    }
    Looked { bytes, records, table, bad_tables, bad_pieces }
}

fn version_of(
    entry: &CompactedEntry,
    kept: &KeptRecord,
    piece: &Piece,
    scope: &Scope,
) -> Option<Written> {
    let extent = &kept.record.extents[piece.extent as usize];
    let version = (kept.record.line, extent.disk, kept.record.sequence);
    let sums = piece.checksums.clone();
    let seal = kept.record.seal_of(piece.extent as usize, piece.first_block, kept.salt);
    let seal = seal.map(|(origin, tags)| (origin, tags[..sums.len()].to_vec()));
    scope.wants(version).then(|| Written {
        version,
        range: piece.range(extent),
        data: Some(Data { segment: entry.id, unit: piece.unit, sums, seal }),
    })
}

fn zeroes_of<'a>(kept: &'a KeptRecord, scope: &'a Scope) -> impl Iterator<Item = Written> + 'a {
    let zero = kept.record.extents.iter().filter(|extent| extent.content == ExtentContent::Zero);
    let written = zero.map(|extent| Written {
        version: (kept.record.line, extent.disk, kept.record.sequence),
        range: extent.range,
        data: None,
    });
    written.filter(|written| scope.wants(written.version))
}
