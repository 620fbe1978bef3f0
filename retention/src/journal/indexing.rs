//! What a durable record adds to the index. One function for both ways there: the lane right after the flush, and
//! replay after a crash.

use super::compacted::KeptRecord;
use super::format::{ExtentContent, Record, RecordKind, UNIT};
use crate::ids::SegmentId;
use crate::index::IndexBatch;
use crate::index::block_key::{put_data, put_sealed, put_zeroes};
use crate::index::moment_key::{Boundary, put_boundary, put_point};
use crate::index::tail_key::LineTail;
use crate::point::Point;
use landfall_disks::BLOCK_BYTES;

/// Adds versions (but for what is void), boundary and point of `record`, which starts at `offset` of a segment that has `salt`. `checksums` has,
/// for each extent, the CRC32C of each of its blocks (none for zeroes).
pub(crate) fn index_record(
    batch: &mut IndexBatch,
    record: &Record,
    (segment, salt): (SegmentId, u64),
    offset: u64,
    checksums: &[Vec<u32>],
) {
    for (number, (extent, checksums)) in record.extents.iter().zip(checksums).enumerate() {
        let version = (record.line, extent.disk, record.sequence);
        match extent.content {
            ExtentContent::Abort { .. } | ExtentContent::Void { .. } => {}
            ExtentContent::Zero => put_zeroes(batch, version, extent.range),
            ExtentContent::Data { body, .. } => {
                let place = (segment, unit_of(offset + u64::from(body)));
                match record.seal_of(number, 0, salt) {
                    None => put_data(batch, version, extent.range, place, checksums),
                    Some(seal) => put_sealed(batch, version, extent.range, place, checksums, seal),
                }
            }
        }
    }
    index_moment(batch, record);
}

/// Adds the data that is kept of a record, which lies in the compacted `segment`. An extent of which a part is gone gets
/// entries of smaller classes; whoever reads takes those first.
pub(crate) fn index_kept_data(batch: &mut IndexBatch, kept: &KeptRecord, segment: SegmentId) {
    for piece in &kept.pieces {
        let extent = &kept.record.extents[piece.extent as usize];
        let version = (kept.record.line, extent.disk, kept.record.sequence);
        let (range, place, sums) =
            (piece.range(extent), (segment, piece.unit), &piece.checksums[..]);
        match kept.record.seal_of(piece.extent as usize, piece.first_block, kept.salt) {
            None => put_data(batch, version, range, place, sums),
            Some(seal) => put_sealed(batch, version, range, place, sums, seal),
        }
    }
}

/// Adds everything that is kept of a record.
pub(crate) fn index_kept(batch: &mut IndexBatch, kept: &KeptRecord, segment: SegmentId) {
    index_kept_data(batch, kept, segment);
    let record = &kept.record;
    let zeroes = record.extents.iter().filter(|extent| extent.content == ExtentContent::Zero);
    for extent in zeroes {
        put_zeroes(batch, (record.line, extent.disk, record.sequence), extent.range);
    }
    index_moment(batch, record);
}

fn index_moment(batch: &mut IndexBatch, record: &Record) {
    if record.boundary {
        put_boundary(batch, record.line, boundary(record));
    }
    if let Some(point) = point(record) {
        put_point(batch, record.line, &point);
    }
}

/// The first 4 KiB unit of a segment at byte `offset`.
pub(crate) fn unit_of(offset: u64) -> u32 {
    u32::try_from(offset / UNIT).expect("a segment is at most 1 GiB")
}

/// CRC32C of each block of a body.
pub(crate) fn block_checksums(body: &[u8]) -> Vec<u32> {
    body.chunks(BLOCK_BYTES).map(crc32c::crc32c).collect()
}

fn boundary(record: &Record) -> Boundary {
    Boundary { sequence: record.sequence, commit_time: record.commit_time }
}

/// The point a mark record is.
pub(crate) fn point(record: &Record) -> Option<Point> {
    match &record.kind {
        RecordKind::Mark { kind, label } => Some(Point {
            sequence: record.sequence,
            commit_time: record.commit_time,
            source_time: record.source_time,
            kind: *kind,
            label: label.clone(),
        }),
        RecordKind::Batch | RecordKind::Vouch => None,
    }
}

/// The tail of the line after `record`. Writes that come from no stream leave the stream's position alone.
pub(crate) fn tail_after(tail: &LineTail, record: &Record) -> LineTail {
    let mut after = LineTail {
        sequence: record.sequence,
        commit_time: record.commit_time,
        chain: record.chain(),
        ..*tail
    };
    if record.stream != crate::ids::StreamId::NONE {
        after.generation = record.generation;
        after.stream = record.stream;
        after.position = record.position;
    }
    after
}
