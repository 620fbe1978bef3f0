//! Checking an image of any format by its own rules.

use super::error::ImageError;
use super::file::{Access, ImageFile};
use super::format::{Format, probe};
use super::gate::Location;
use super::open::Opener;
use super::report::Report;
use crate::{vhd, vhdx, vmdk};

/// Checks the image at `location`, and repairs what can be without loss if `repair` says so. An error means that it cannot be
/// checked at all.
pub async fn check(
    opener: &mut Opener<'_>,
    location: &Location,
    format: Option<Format>,
    repair: bool,
) -> Result<Report, ImageError> {
    let format = match format {
        Some(format) => format,
        None => {
            let access = if repair { Access::ReadShared } else { Access::Read };
            probe(&ImageFile::open(&*location.folder, &location.path, access).await?).await?
        }
    };
    match format {
        Format::Vmdk => vmdk::check(opener, location, repair).await,
        Format::Vhdx => vhdx::check(opener, location, repair).await,
        Format::Vhd => vhd::check(opener, location, repair).await,
        Format::Raw => {
            // Any bytes are a disk; its length is all that can be wrong.
            opener.open(location, Some(Format::Raw), Access::Read).await?;
            Ok(Report::default())
        }
    }
}
