//! The descriptor of an open disk: where it is kept, and how it changes.
//!
//! A new identity keeps the length of the old one and stays within the bytes of its digits, so it is written where it is. Anything
//! longer replaces the whole: a file of its own by another file under its name, an embedded one by way of free space
//! ([`SparseTable::replace_descriptor`]). So no crash leaves half of a descriptor.

use super::format::SECTOR_BYTES;
use super::format::descriptor::{Descriptor, ExtentLine};
use super::identity::fresh_number;
use super::sparse::SparseTable;
use crate::block::ByteOffset;
use crate::file::FileError;
use crate::image::{ImageError, ImageFile, Location};
use crate::uring::buffer::Buffer;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a descriptor is kept.
pub(super) enum Home {
    /// In a file of its own, which stays locked through this handle.
    Own(ImageFile),
    /// In the extent of this table.
    Embedded(Arc<ImageFile>, Option<Arc<SparseTable>>),
}

/// The descriptor of an open disk.
pub(super) struct Description {
    pub(super) location: Location,
    pub(super) descriptor: Descriptor,
    pub(super) home: Home,
}

impl Description {
    fn print(&self) -> Result<Vec<u8>, ImageError> {
        let fail = |problem| ImageError::malformed(self.location.display(), problem);
        self.descriptor.print().map_err(fail)
    }

    /// Gives the content a new identity, durably.
    pub(super) async fn renew_cid(&mut self) -> Result<(), ImageError> {
        let before = self.print()?;
        let mut next = self.descriptor.clone();
        next.renew_cid(|| u32::try_from(fresh_number() >> 32).expect("the upper half of 64 bits"));
        let old = std::mem::replace(&mut self.descriptor, next);
        let written = match self.print() {
            Ok(after) => self.overwrite(&before, &after).await,
            Err(error) => Err(error),
        };
        if written.is_err() {
            self.descriptor = old;
        }
        written
    }

    /// Writes the sectors in which two descriptors of one length differ.
    async fn overwrite(&self, before: &[u8], after: &[u8]) -> Result<(), ImageError> {
        assert!(before.len() == after.len(), "an identity keeps its length");
        let (file, start) = match &self.home {
            Home::Own(file) => (file, 0),
            Home::Embedded(file, Some(table)) => {
                let place = table.header().descriptor.map_or(1, |stretch| stretch.start);
                (&**file, place * SECTOR_BYTES)
            }
            Home::Embedded(..) => return Ok(()),
        };
        let unit = usize::try_from(SECTOR_BYTES).expect("small");
        for (number, (old, new)) in before.chunks(unit).zip(after.chunks(unit)).enumerate() {
            if old != new {
                let at = start + number as u64 * SECTOR_BYTES;
                file.write(ByteOffset::new(at), Buffer::copy_of(new)).await?;
            }
        }
        Ok(file.flush().await?)
    }

    /// Changes the size of the last extent and adds others behind it, durably.
    pub(super) async fn resize(
        &mut self,
        last_sectors: u64,
        added: Vec<ExtentLine>,
    ) -> Result<(), ImageError> {
        let mut next = self.descriptor.clone();
        let last = next.extents().count() - 1;
        next.set_extent_sectors(last, last_sectors);
        for extent in added {
            next.push_extent(extent);
        }
        let per_cylinder = ["ddb.geometry.heads", "ddb.geometry.sectors"].map(|key| {
            next.setting(key).and_then(|value| value.parse::<u64>().ok()).filter(|one| *one > 0)
        });
        if let [Some(heads), Some(sectors)] = per_cylinder {
            let most = if next.setting("ddb.adapterType") == Some("ide") { 16_383 } else { 65_535 };
            let cylinders = (next.sectors() / heads.saturating_mul(sectors)).clamp(1, most);
            next.set("ddb.geometry.cylinders", &cylinders.to_string());
        }
        let old = std::mem::replace(&mut self.descriptor, next);
        let replaced = self.replace().await;
        if replaced.is_err() {
            self.descriptor = old;
        }
        replaced
    }

    /// Writes the descriptor as a whole.
    async fn replace(&mut self) -> Result<(), ImageError> {
        let bytes = self.print()?;
        match &self.home {
            Home::Own(_) => {
                let file = replace_file(&self.location, &bytes).await?;
                self.home = Home::Own(file);
            }
            Home::Embedded(_, Some(table)) => {
                let room = table.header().descriptor.map_or(0, |stretch| stretch.count);
                if bytes.len() as u64 > room * SECTOR_BYTES {
                    let what = format!("its descriptor does not fit {room} sectors any more");
                    return Err(ImageError::unsupported(self.location.display(), what));
                }
                table.replace_descriptor(&bytes).await?;
            }
            Home::Embedded(_, None) => {}
        }
        Ok(())
    }
}

/// Puts a new file in the place of a descriptor and gives it, locked.
async fn replace_file(location: &Location, bytes: &[u8]) -> Result<ImageFile, ImageError> {
    let mut name = location.path.as_os_str().to_owned();
    name.push(".next");
    let next = PathBuf::from(name);
    match location.folder.remove(&next).await {
        // Left by a crash.
        Ok(()) | Err(FileError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let file = ImageFile::create(&*location.folder, &next, bytes.len() as u64).await?;
    file.write(ByteOffset::new(0), Buffer::copy_of(bytes)).await?;
    file.publish(&*location.folder, &next).await?;
    location.folder.rename(&next, &location.path).await?;
    location.folder.sync(location.path.parent().unwrap_or(std::path::Path::new(""))).await?;
    Ok(file)
}
