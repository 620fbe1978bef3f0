//! Which parts of a window of a disk have to be sent. Pure: bytes and the target's word in, ranges out.
//!
//! A *window* is what is read and sent at once. It is looked at in blocks of 64 KiB, the unit of the hash exchange; of a
//! block that differs, long runs of zeroes are sent as such and the rest as data.

use landfall_disks::{BLOCK_SIZE, ByteRange, is_zero};
use landfall_protocols::delta::HASH_BLOCK_SIZE;
use landfall_protocols::delta::wire::BlockHash;

/// Shorter runs of zeroes within data are sent as data: an extent of their own would cost more than it saves.
const SHORTEST_ZERO_RUN: u64 = 16 * 1024;

/// What the target is known to hold in a window.
#[derive(Clone, Debug)]
pub(super) enum Theirs {
    /// Zeroes.
    Empty,
    /// It differs, and is not asked for.
    Unknown,
    /// One answer per block.
    Blocks(Vec<BlockHash>),
}

impl Theirs {
    fn block(&self, index: usize) -> BlockHash {
        match self {
            Self::Empty => BlockHash::Zero,
            Self::Unknown => BlockHash::Unknown,
            Self::Blocks(blocks) => blocks.get(index).copied().unwrap_or(BlockHash::Unknown),
        }
    }
}

/// A stretch to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    /// Where on the disk.
    pub(super) range: ByteRange,
    /// Whether it is all zeroes.
    pub(super) zero: bool,
}

/// What of `window` has to be sent when its content is `bytes`.
pub(super) fn differing(window: ByteRange, bytes: &[u8], theirs: &Theirs) -> Vec<Piece> {
    assert_eq!(window.length(), bytes.len() as u64, "the bytes of the window");
    let mut pieces = Vec::new();
    for (index, block) in window.chunks(HASH_BLOCK_SIZE).enumerate() {
        let content = slice(window, bytes, block);
        let zero = is_zero(content);
        match theirs.block(index) {
            BlockHash::Zero if zero => {}
            BlockHash::Zero => runs(block, content, false, &mut pieces),
            BlockHash::Hash(_) | BlockHash::Unknown if zero => {
                push(&mut pieces, Piece { range: block, zero: true });
            }
            BlockHash::Hash(hash) if *blake3::hash(content).as_bytes() == hash => {}
            BlockHash::Hash(_) | BlockHash::Unknown => runs(block, content, true, &mut pieces),
        }
    }
    pieces
}

/// What of a window has to be sent when its content is a hole.
pub(super) fn differing_hole(window: ByteRange, theirs: &Theirs) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (index, block) in window.chunks(HASH_BLOCK_SIZE).enumerate() {
        if theirs.block(index) != BlockHash::Zero {
            push(&mut pieces, Piece { range: block, zero: true });
        }
    }
    pieces
}

/// The part of `bytes`, the content of `window`, that lies in `range`.
pub(super) fn slice(window: ByteRange, bytes: &[u8], range: ByteRange) -> &[u8] {
    let start = range.start().bytes() - window.start().bytes();
    let place = |offset: u64| usize::try_from(offset).expect("a window fits in memory");
    &bytes[place(start)..place(start + range.length())]
}

/// Data and zeroes of a block that is not all zeroes; zeroes only if they are to be sent.
fn runs(block: ByteRange, content: &[u8], send_zeroes: bool, pieces: &mut Vec<Piece>) {
    let mut found: Vec<Piece> = Vec::new();
    for small in block.chunks(BLOCK_SIZE) {
        push(&mut found, Piece { range: small, zero: is_zero(slice(block, content, small)) });
    }
    for piece in found {
        if !piece.zero || piece.range.length() < SHORTEST_ZERO_RUN {
            push(pieces, Piece { range: piece.range, zero: false });
        } else if send_zeroes {
            push(pieces, piece);
        }
    }
}

/// Appends a piece, to the last one if it is of the same kind and touches it.
fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    if let Some(last) = pieces.last_mut()
        && last.zero == piece.zero
        && last.range.end() == piece.range.start()
    {
        let whole = ByteRange::new(last.range.start(), piece.range.end());
        last.range = whole.expect("pieces come in order");
    } else {
        pieces.push(piece);
    }
}

/// Whether `window` touches one of `data`, which ascend.
pub(super) fn holds_data(data: &[ByteRange], window: ByteRange) -> bool {
    let first = data.partition_point(|stretch| stretch.end() <= window.start());
    data.get(first).is_some_and(|stretch| stretch.overlaps(window))
}

/// The blocks of `range`, as the hash exchange numbers them.
pub(super) fn blocks_of(range: ByteRange) -> (u64, u32) {
    let first = range.start().bytes() / HASH_BLOCK_SIZE;
    let end = range.end().bytes().div_ceil(HASH_BLOCK_SIZE);
    (first, u32::try_from(end - first).expect("a stretch of far fewer than 2^32 blocks"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::ByteOffset;

    const WINDOW: u64 = 4 * HASH_BLOCK_SIZE;

    fn range(start: u64, length: u64) -> ByteRange {
        ByteRange::at(ByteOffset::new(start), length).expect("small")
    }

    fn window() -> ByteRange {
        range(16 * HASH_BLOCK_SIZE, WINDOW)
    }

    fn content() -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(WINDOW).expect("small")];
        blake3::Hasher::new().update(b"seed").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn hash_of(bytes: &[u8]) -> BlockHash {
        if is_zero(bytes) {
            BlockHash::Zero
        } else {
            BlockHash::Hash(*blake3::hash(bytes).as_bytes())
        }
    }

    fn hashes(bytes: &[u8]) -> Theirs {
        Theirs::Blocks(bytes.chunks(65536).map(hash_of).collect())
    }

    /// Does to `theirs` what the pieces say.
    fn apply(pieces: &[Piece], ours: &[u8], theirs: &mut [u8]) {
        for piece in pieces {
            let start = piece.range.start().bytes() - window().start().bytes();
            let place = usize::try_from(start).expect("small");
            let content = slice(window(), ours, piece.range);
            assert!(!piece.zero || is_zero(content), "{piece:?} is not zero");
            theirs[place..place + content.len()].copy_from_slice(content);
        }
    }

    #[test]
    fn what_is_the_same_is_not_sent() {
        let bytes = content();
        assert_eq!(differing(window(), &bytes, &hashes(&bytes)), []);
        assert_eq!(differing(window(), &vec![0; bytes.len()], &Theirs::Empty), []);
    }

    #[test]
    fn whatever_differs_arrives() {
        let original = content();
        let edits: [(usize, usize, u8); 6] = [
            (0, 1, 1),
            (65535, 2, 7),
            (65536, 65536, 0),
            (70_000, 20_000, 0),
            (3 * 65536 + 4096, 8192, 0),
            (0, 4 * 65536, 0),
        ];
        for from_empty in [false, true] {
            for (at, length, fill) in edits {
                let mut ours = original.clone();
                ours[at..at + length].fill(fill);
                let mut target =
                    if from_empty { vec![0; original.len()] } else { original.clone() };
                let theirs = if from_empty { Theirs::Empty } else { hashes(&target) };
                let pieces = differing(window(), &ours, &theirs);
                apply(&pieces, &ours, &mut target);
                assert!(target == ours, "edit at {at} did not arrive");
            }
        }
    }

    #[test]
    fn only_the_blocks_that_differ_are_sent() {
        let mut ours = content();
        let theirs = hashes(&ours);
        ours[100_000] ^= 1;
        let pieces = differing(window(), &ours, &theirs);
        assert_eq!(pieces, [Piece { range: range(17 * 65536, 65536), zero: false }]);
    }

    #[test]
    fn zeroes_are_skipped_on_an_empty_disk_and_sent_on_another() {
        let mut ours = content();
        ours[65536 + 4096..65536 + 4096 + 32768].fill(0);
        let start = 16 * 65536;
        let data = |at: u64, length| Piece { range: range(start + at, length), zero: false };
        assert_eq!(
            differing(window(), &ours, &Theirs::Empty),
            [data(0, 65536 + 4096), data(65536 + 36864, WINDOW - 65536 - 36864)]
        );
        let unknown = Theirs::Blocks(vec![BlockHash::Unknown; 4]);
        let pieces = differing(window(), &ours, &unknown);
        assert_eq!(pieces[1], Piece { range: range(start + 65536 + 4096, 32768), zero: true });
        assert_eq!(pieces.len(), 3);
    }

    #[test]
    fn a_hole_zeroes_what_is_not_zero() {
        let mut theirs = content();
        theirs[..65536].fill(0);
        let pieces = differing_hole(window(), &hashes(&theirs));
        assert_eq!(pieces, [Piece { range: range(17 * 65536, 3 * 65536), zero: true }]);
    }

    #[test]
    fn windows_that_touch_data_are_told() {
        let data = [range(0, 4096), range(1 << 20, 1)];
        assert!(holds_data(&data, range(0, 4096)));
        assert!(!holds_data(&data, range(4096, 4096)));
        assert!(holds_data(&data, range(4096, 1 << 20)));
        assert!(!holds_data(&data, range((1 << 20) + 1, 1 << 20)));
        assert_eq!(blocks_of(range(65536, 65537)), (1, 2));
    }
}
