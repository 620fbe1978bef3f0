//! Steps in which a medium damages what lies on it: a read gives what was, or an error.

use super::life::{Alive, Life, PowerCut, disk_name, machine};
use super::model::{SIZES, Snapshot, bytes};
use crate::world::moment;
use landfall_disks::{BLOCK_SIZE, ByteOffset, ByteRange, DiskError};

impl Life<'_> {
    /// Bytes of an image are flipped, or of what its blocks are checked by, and flipped back later.
    pub(super) async fn damage_image(&mut self) -> Alive<()> {
        if !self.model.seeded {
            return Ok(());
        }
        let disk = self.choices.index(SIZES.len());
        let (path, range) = if self.choices.chance(1, 4) {
            let files = self.world.folder.files();
            let hashes =
                files.into_iter().find(|path| path.ends_with(format!("{}.hashes", disk + 1)));
            let Some(path) = hashes else { panic!("disk {disk} has no block hashes") };
            // The page of a small disk.
            let page = ByteRange::at(ByteOffset::new(1 << 20), BLOCK_SIZE).expect("small");
            let byte = page.start().bytes() + self.choices.below(BLOCK_SIZE);
            (path, ByteRange::at(ByteOffset::new(byte), 1).expect("small"))
        } else {
            // What has grown since may not be in the image yet.
            let start = self.choices.below(SIZES[disk]);
            let length = 1 + self.choices.below((SIZES[disk] - start).min(9000));
            let range = ByteRange::at(ByteOffset::new(start), length).expect("small");
            (format!("disk-{disk}.raw").into(), range)
        };
        let is_image = path.extension().is_some_and(|extension| extension == "raw");
        if !is_image && self.hashes_are_shorter(&path, range).await {
            return Ok(());
        }
        self.world.folder.corrupt(&path, range.start().bytes(), range.length());
        let harmed = is_image.then_some((disk, range));
        let refused = self.verify_all_harmed(harmed).await;
        // Also when the power was cut meanwhile: what is read then must not be taken for harm of its own.
        self.world.folder.corrupt(&path, range.start().bytes(), range.length());
        let refused = refused?;
        self.model.say(format!("{} damaged at {range}: {refused} blocks refused", path.display()));
        self.verify_one().await
    }

    /// Reads every point; gives how many blocks were refused.
    async fn verify_all_harmed(&self, harmed: Option<(usize, ByteRange)>) -> Alive<usize> {
        let mut refused = 0;
        for (sequence, snapshot) in self.model.points.clone() {
            let name = format!("m@seq:{sequence}");
            refused += self.verify_harmed(&name, &snapshot, harmed).await?;
        }
        Ok(refused)
    }

    async fn hashes_are_shorter(&self, path: &std::path::Path, range: ByteRange) -> bool {
        use landfall_disks::file::{Caching, Folder as _, OpenMode};
        let file = self.world.folder.open(path, OpenMode::Read, Caching::Buffered).await;
        match file {
            Ok(file) => file.length().await.is_ok_and(|length| length < range.end().bytes()),
            Err(_) => true,
        }
    }

    /// Reads every block of a point by itself; gives how many of them were refused. Only what was harmed may be.
    async fn verify_harmed(
        &self,
        name: &str,
        snapshot: &Snapshot,
        harmed: Option<(usize, ByteRange)>,
    ) -> Alive<usize> {
        let found = self.alive(self.retention.resolve(&moment(name)).await, name)?;
        let mut refused = 0;
        for (index, content) in snapshot.iter().enumerate() {
            let view = self.alive(self.retention.view(&found, &disk_name(index)), name)?;
            for block in view.geometry().whole().chunks(BLOCK_SIZE) {
                match view.read(block).await {
                    Ok(read) => {
                        assert!(read[..] == content[bytes(block)], "{block} of {name} is wrong");
                    }
                    Err(DiskError::Damaged { range, .. }) => {
                        let harmed = harmed.is_some_and(|(disk, harmed)| {
                            disk == index && harmed.overlaps(block) && range.overlaps(block)
                        });
                        assert!(harmed, "{block} of disk {index} of {name} was refused");
                        refused += 1;
                    }
                    Err(_) if self.world.folder.is_dead() => return Err(PowerCut),
                    Err(error) => panic!("{block} of {name} of {}: {error}", machine()),
                }
            }
        }
        Ok(refused)
    }
}
