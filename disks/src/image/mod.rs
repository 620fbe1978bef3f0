//! Image files: what all formats share.
//!
//! ```text
//!   Opener       opens an image of any format, its extents and its parents
//!   probe        tells the format by the content
//!   Gate         which other files an image may open by naming them
//!   copy         all of one disk into another
//!   create       a new image, empty or with the content of a disk; check, of any format
//!   ImageFile    one file, by the byte: aligned parts straight to the device, the rest by way of whole blocks
//!   Report       what a check found
//!   ImageError   what is wrong with an image, and where
//! ```
//!
//! A format is a module with three doors, found from here by [`Format`]:
//!
//! ```text
//!   open(&mut Opener, &Location, ImageFile, Access) -> Result<Image, ImageError>        called by Opener::open
//!   check(&mut Opener, &Location, repair: bool)     -> Result<Report, ImageError>       a parent may be missing
//!   create(&Location, &Recipe)                      -> Result<(), ImageError>           durable; then open it
//! ```

mod check;
mod copy;
mod create;
mod error;
mod file;
mod format;
mod gate;
mod open;
mod report;

pub use check::check;
pub use copy::{Copied, copy};
pub use create::{Filled, Parent, Wishes, create, create_from};
pub use error::{ImageError, Malformed};
pub use file::{Access, ImageFile};
pub use format::{Format, UnknownFormat, probe, probe_bytes};
pub use gate::{BesideTheImage, Gate, Location, Purpose};
pub use open::{Identity, Image, MAX_PARENTS, Opener};
pub use report::{Finding, MAX_FINDINGS, Repair, Report};
