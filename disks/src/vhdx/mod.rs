//! VHDX images ([MS-VHDX]): fixed, dynamic and differencing.
//!
//! ```text
//!   container   one open file: headers, log, regions, metadata; the log replayed, or laid over a file that is read only
//!   table       the BAT and the sector bitmaps, for the engine of mapped disks
//!   journal     our own changes of metadata: through the log of the file, then in place
//!   survey      the whole BAT at once: what is free, what is wrong
//!   open        all of it as a disk, with its parents
//! ```
//!
//! The structures themselves, and what a log does, are the package `vhdx-parse`.
//!
//! **Invariants**
//! - Between two commits the log of the file is empty: whoever opens or copies it then need not replay anything.
//! - BAT, sector bitmaps, region tables and metadata of a file that has its name change through the log only.
//! - `FileWriteGuid` and `DataWriteGuid` are new, durably, before the first change of an opening; a file opened for
//!   reading is never changed.
//! - A parent is opened for reading, and only if its `DataWriteGuid` is the one that the child names.

mod check;
mod container;
mod create;
mod journal;
mod open;
mod replayed;
mod resize;
mod sectors;
mod survey;
mod synthetic;
mod table;

#[cfg(test)]
mod tests;

pub use check::{check, check_with};
pub use create::{CreateOptions, Kind, ParentReference, create};
pub use open::{VhdxInfo, info, open, open_with};
pub(crate) use synthetic::synthetic;
pub use vhdx_parse::Guid;

use crate::image::Malformed;
use std::sync::Arc;

/// Gives a new GUID with every call: random ones in production, others in tests.
pub type Guids = Arc<dyn Fn() -> Guid + Send + Sync>;

/// Random GUIDs of the kernel.
pub fn kernel_guids() -> Guids {
    Arc::new(|| {
        let mut bytes = [0; 16];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        assert_eq!(filled, Ok(bytes.len()), "the kernel gives so few random bytes at once");
        Guid::from_random(bytes)
    })
}

/// For files that are only read, which need none.
fn no_guids() -> Guids {
    Arc::new(|| unreachable!("a file that is read gets no GUID"))
}

impl From<vhdx_parse::Malformed> for Malformed {
    fn from(problem: vhdx_parse::Malformed) -> Self {
        let vhdx_parse::Malformed { structure, offset, field, value, expected } = problem;
        Self { structure, offset, field, value, expected }
    }
}
