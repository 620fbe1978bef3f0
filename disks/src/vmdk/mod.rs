//! VMDK: VMware's virtual disks, as ESXi, Workstation and their export formats have them.
//!
//! ```text
//!   kind                               made, grown, written     read
//!   monolithicSparse                   yes                      yes
//!   twoGbMaxExtentSparse, …Flat        yes                      yes
//!   monolithicFlat, vmfs               yes                      yes
//!   streamOptimized                    as an export, in order   yes
//!   vmfsSparse (COWD), seSparse        no                       yes
//! ```
//!
//! Any of them may be a delta: `parentCID` and `parentFileNameHint` lead to the parent, whose CID must be the one that the child was
//! made of. Which ranges a child has itself, [`Layer::own`](crate::mapped::Layer::own) tells.
//!
//! **Not here:** raw devices (`VMFSRDM`), encrypted disks, change tracking files, and writing what only ESX understands.
//!
//! **Invariants**
//! - Data is durable before the tables that lead to it; of two copies of a table one is whole at any time (`sparse.rs`).
//! - The content has a new CID before the first change of an opening reaches the file.
//! - A descriptor is never half written (`description.rs`).

mod check;
mod create;
mod deltas;
mod description;
mod disk;
mod export;
mod extents;
mod flat;
pub mod format;
mod identity;
mod open;
mod packed;
mod sparse;
mod synthetic;

pub use self::check::check;
pub use self::create::{Adapter, ParentLink, Recipe, create};
pub use self::export::{Export, GRAIN_BYTES, export};
pub use self::identity::{DiskUuid, UnknownUuid};
pub(crate) use self::open::open;
pub(crate) use self::synthetic::synthetic;

#[cfg(test)]
mod tests;
