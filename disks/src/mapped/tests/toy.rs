//! A format of a few lines, to test what all formats share.
//!
//! ```text
//!   0      size of the disk
//!   4096   entries of eight bytes: kind in the lowest byte, offset above
//!   64K    presence bits, 512 bytes for each block
//!   1M     blocks
//! ```

use crate::block::{ByteOffset, ByteRange};
use crate::disk::{Disk, DiskError, IoFuture};
use crate::file::Folder;
use crate::image::{Access, ImageFile};
use crate::mapped::{Changes, Extent, MappedDisk, Place, Setup, Shape, Space, Table, Usage, scan};
use crate::uring::buffer::Buffer;
use std::path::Path;
use std::sync::Arc;

const ENTRIES_AT: u64 = 4096;
const PRESENCE_AT: u64 = 64 << 10;
const PRESENCE_BYTES: u64 = 512;
const DATA_AT: u64 = 1 << 20;
const MAX_BLOCKS: u64 = 1024;

pub(super) const STRUCTURES: [(Extent, &str); 1] =
    [(Extent { offset: 0, length: DATA_AT }, "toy header")];

/// What differs between formats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) block_bytes: u64,
    pub(super) lead_bytes: u64,
    pub(super) stores_zero: bool,
    pub(super) presence_unit: Option<u64>,
}

pub(super) struct Toy {
    file: Arc<ImageFile>,
    kind: Kind,
}

impl Toy {
    async fn put(&self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write(ByteOffset::new(at), Buffer::copy_of(bytes)).await
    }
}

fn encode(place: Place) -> u64 {
    match place {
        Place::Absent => 0,
        Place::Zero => 1,
        Place::At(offset) => 2 | offset << 8,
        Place::Partial(offset) => 3 | offset << 8,
        Place::Packed(_) => panic!("this format does not compress"),
    }
}

fn decode(entry: u64) -> Place {
    match entry & 0xff {
        0 => Place::Absent,
        1 => Place::Zero,
        2 => Place::At(entry >> 8),
        3 => Place::Partial(entry >> 8),
        other => panic!("nobody writes {other}"),
    }
}

impl Table for Toy {
    fn shape(&self) -> Shape {
        Shape {
            block_bytes: self.kind.block_bytes,
            page_entries: 16,
            lead_bytes: self.kind.lead_bytes,
            stores_zero: self.kind.stores_zero,
            presence_unit: self.kind.presence_unit,
        }
    }

    fn load(&self, page: u64) -> IoFuture<'_, Vec<Place>> {
        Box::pin(async move {
            let at = ByteOffset::new(ENTRIES_AT + page * 16 * 8);
            let bytes = self.file.read(ByteRange::at(at, 16 * 8).expect("small")).await?;
            let entries = bytes
                .chunks(8)
                .map(|entry| decode(u64::from_le_bytes(entry.try_into().expect("eight bytes"))));
            Ok(entries.collect())
        })
    }

    fn begin_changes(&self) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn commit<'a>(&'a self, changes: &'a Changes) -> IoFuture<'a, ()> {
        Box::pin(async move {
            for change in &changes.presence {
                assert!(change.bits.len() as u64 <= PRESENCE_BYTES);
                self.put(PRESENCE_AT + change.block * PRESENCE_BYTES, &change.bits).await?;
            }
            self.file.flush().await?;
            for change in &changes.pages {
                let entries: Vec<u8> =
                    change.entries.iter().flat_map(|place| encode(*place).to_le_bytes()).collect();
                self.put(ENTRIES_AT + change.page * 16 * 8, &entries).await?;
            }
            self.file.flush().await
        })
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        Box::pin(async move {
            assert!(size_bytes.div_ceil(self.kind.block_bytes) <= MAX_BLOCKS);
            self.put(0, &size_bytes.to_le_bytes()).await?;
            self.file.flush().await
        })
    }

    fn load_presence(&self, block: u64) -> IoFuture<'_, Vec<u8>> {
        Box::pin(async move {
            let at = ByteOffset::new(PRESENCE_AT + block * PRESENCE_BYTES);
            let bits = self.file.read(ByteRange::at(at, PRESENCE_BYTES).expect("small")).await?;
            Ok(bits.to_vec())
        })
    }
}

pub(super) async fn create(
    folder: &dyn Folder,
    path: &Path,
    kind: Kind,
    size_bytes: u64,
    parent: Option<Arc<dyn Disk>>,
) -> MappedDisk {
    let file = ImageFile::create(folder, path, DATA_AT).await.expect("created");
    let size = Buffer::copy_of(&size_bytes.to_le_bytes());
    file.write(ByteOffset::new(0), size).await.expect("written");
    file.publish(folder, path).await.expect("published");
    drop(file);
    open(folder, path, kind, Access::Write, parent).await
}

pub(super) async fn open(
    folder: &dyn Folder,
    path: &Path,
    kind: Kind,
    access: Access,
    parent: Option<Arc<dyn Disk>>,
) -> MappedDisk {
    let file = Arc::new(ImageFile::open(folder, path, access).await.expect("opened"));
    let size = file.read(ByteRange::up_to(8)).await.expect("read");
    let size_bytes = u64::from_le_bytes(size[..].try_into().expect("eight bytes"));
    let table = Arc::new(Toy { file: Arc::clone(&file), kind });
    let usage = usage(&table, size_bytes, file.length()).await;
    assert_eq!(usage.conflicts, []);
    let space: Space = usage.space(file.length(), 4096, u64::MAX, "no limit");
    let setup = Setup {
        table,
        file,
        space: Arc::new(space),
        parent,
        size_bytes,
        logical_sector: 512,
        physical_sector: 4096,
    };
    MappedDisk::new(setup)
}

pub(super) async fn usage(table: &Toy, size_bytes: u64, length: u64) -> Usage {
    let blocks = size_bytes.div_ceil(table.kind.block_bytes);
    scan(table, blocks, length, &STRUCTURES).await.expect("scanned")
}

/// The table alone, to look at entries or to spoil them.
pub(super) async fn table(folder: &dyn Folder, path: &Path, kind: Kind) -> Toy {
    let file = ImageFile::open(folder, path, Access::Write).await.expect("opened");
    Toy { file: Arc::new(file), kind }
}

impl Toy {
    pub(super) async fn put_entry(&self, block: u64, place: Place) {
        self.put(ENTRIES_AT + block * 8, &encode(place).to_le_bytes()).await.expect("written");
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file.length()
    }
}
