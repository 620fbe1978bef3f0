//! Compacted segments: what is kept of the records of segments that were needed in part only.
//!
//! ```text
//!   segment   ├ header 4 KiB ┤├ bodies, whole units ┤├ table, whole units ┤├ the same table again ┤
//! ```
//!
//! No lane writes to one: it is written whole, read back, made durable, and only then put on record. So there is no torn tail
//! to be told from anything. Its table says what it holds without its bodies being read; there are two of it, as it is the one
//! place that knows, should the index be gone. **Invariant:** bodies and tables never change once the manifest has it.

mod file;
mod lost;
mod table;

pub use file::CompactedError;
pub(crate) use file::{CompactedFile, read_table, table_bytes};
pub(crate) use lost::lost_with;
pub use table::{KeptRecord, MAX_TABLE_BYTES, Piece, encode_table, parse_table};
