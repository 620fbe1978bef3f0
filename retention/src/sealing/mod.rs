//! Encryption at rest of what the journal holds (decision 0017). No I/O here.
//!
//! ```text
//!   key-encryption key (a file, or what a command prints)         outside the data folder
//!      └─ wraps ─▶ data keys, random, some per machine            MANIFEST, wrapped
//!            └─ derives ─▶ a key per segment life and data key    nowhere
//!                  └─ seals ─▶ blocks of 4 KiB, AES-256-GCM       bodies in the journal, tags in the head of the record
//! ```
//!
//! A nonce is the unit of the segment that a block was first written to, under a key that no other segment, and no other life
//! of the same one, derives. A unit is written once in a segment's life: what a crash tears off is followed by a new segment.
//! So no nonce comes twice under one key, whatever is torn, recycled or restored.
//!
//! **Invariants:** key bytes are wiped when they are dropped and never printed; a block is returned only if its tag proves line,
//! disk, place on the disk, sequence and content; nothing else needs a key: recovery, the index's rebuild and compaction do not.

mod block;
mod key;
mod keyring;
mod opening;

pub use block::{BlockIdentity, BlockSeal, SealOrigin, SegmentCipher, TAG_BYTES, Tag};
pub use key::{
    DataKey, KekId, KeyEncryptionKey, KeyOwner, KeyTextError, UnwrapError, WRAPPED_BYTES,
    WrappedKey,
};
pub(crate) use keyring::Keyring;
pub use keyring::{Encryption, SealError};
pub(crate) use opening::{OPEN_INLINE_BYTES, open_blocks};
