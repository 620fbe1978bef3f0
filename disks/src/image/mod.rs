//! Image files: what all formats share.
//!
//! ```text
//!   ImageFile    one file, by the byte: aligned parts straight to the device, the rest by way of whole blocks
//!   Gate         which other files an image may open by naming them
//!   ImageError   what is wrong with an image, and where
//! ```

mod error;
mod file;
mod gate;

pub use error::{ImageError, Malformed};
pub use file::{Access, ImageFile};
pub use gate::{BesideTheImage, Gate, Location, Purpose};
