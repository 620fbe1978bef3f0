//! Images that nobody wrote: their metadata is computed, their content is another disk's.
//!
//! ```text
//!   file   [headers] [tables] [unit 0] [unit 1] [unit 2] … [footer]
//!                       │         ▲                 ▲
//!                       └─────────┴─────────────────┘   an entry for each unit that holds something
//! ```
//!
//! Every unit of the disk (a grain, a block) has its place in the file, whether it holds something or not. So the layout
//! follows from the size alone, and the disk is looked at when somebody reads: content when that is read, the map of as
//! many units as a stretch of a table has entries when that is. Of a unit without data the tables say that it is nowhere,
//! and the file has a hole there.
//!
//! ```text
//!   Layout           which bytes of the file come from where          pure
//!   SyntheticImage   the file, as a disk that is read only            reads and maps
//! ```
//!
//! What each format has in its tables and where is beside the format: `vmdk/synthetic.rs`, `vhdx/synthetic.rs`,
//! `vhd/synthetic.rs`.
//!
//! **Invariant:** the same disk, recipe and content give the same bytes, in whatever pieces they are read.

mod image;
mod layout;
#[cfg(test)]
mod tests;

pub use self::image::SyntheticImage;
pub use self::layout::Layout;
pub(crate) use self::layout::{Entries, Table, Units};

use crate::image::Format;
use crate::{vhd, vhdx, vmdk};
use std::time::SystemTime;

/// Which image of a disk is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipe {
    /// Its format; raw is no layout but the disk itself.
    pub format: Format,
    /// Size of the disk: whole sectors of 512 bytes.
    pub size_bytes: u64,
    /// What the file is called; a VMDK names itself.
    pub file_name: String,
    /// What a file with the bytes of the disk is called that lies beside it: a VMDK that is too large for tables leads
    /// there.
    pub raw_name: String,
    /// Identity of the disk, which guests may see.
    pub disk_id: [u8; 16],
    /// Identity of what the disk holds. Two contents must never have the same.
    pub content_id: [u8; 16],
    /// When the content was as it is.
    pub time: SystemTime,
}

/// A format that cannot have an image of the disk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no {format} image of a disk of {size_bytes} bytes: {why}")]
pub struct NoLayout {
    /// Which format.
    pub format: Format,
    /// Size of the disk.
    pub size_bytes: u64,
    /// Which rule of the format.
    pub why: String,
}

impl Layout {
    /// The layout of the file that `recipe` wants.
    pub fn of(recipe: &Recipe) -> Result<Self, NoLayout> {
        let made = match recipe.format {
            Format::Raw => Err("a raw image is the disk itself".to_owned()),
            Format::Vmdk => vmdk::synthetic(recipe),
            Format::Vhdx => vhdx::synthetic(recipe),
            Format::Vhd => vhd::synthetic(recipe),
        };
        made.map_err(|why| NoLayout { format: recipe.format, size_bytes: recipe.size_bytes, why })
    }
}
