//! Files that lose power, tear writes, run out of space, stall and fail on request; and the seeded executor that drives them.
//!
//! ```text
//!   code under test ──▶ FaultFolder / FaultFile        volatile copy: what reads see
//!                            │ flush, sync               │
//!                            ▼                           ▼ crash(seed)
//!                       durable copy ────────────▶ a new FaultFolder: the durable copy, and of everything that was
//!                                                  not flushed, sector by sector, some
//! ```
//!
//! Everything that could differ from run to run comes from one [`Seed`]: when a future yields, which ready task runs
//! next, what a power cut leaves. The same seed gives the same run.
//!
//! **What a power cut keeps:** all writes completed before a completed flush started; all names changed before a completed
//! sync of their folder. Every other write is kept, dropped or torn in sectors of 512 bytes, each on its own, and a sector may be
//! torn too unless told otherwise; every other length and name is old or new.

mod content;
mod executor;
mod file;
mod folder;
mod seed;
mod world;

pub use self::executor::{Spawner, run};
pub use self::file::FaultFile;
pub use self::folder::{FaultFolder, Stall};
pub use self::seed::Seed;
pub use self::world::Fault;

#[cfg(test)]
mod tests;
