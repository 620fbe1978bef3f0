//! Growth of a dynamic disk: the BAT gets entries, the header and both footers say so.
//!
//! 1. Entries of the new blocks are written as unused: behind the BAT's last one where its last sector has room, else the BAT
//!    as a whole in new space; flush. Nothing refers to them yet.
//! 2. The header is written; flush. What changes in it is one sector. A BAT that is too long harms nobody.
//! 3. The copy of the footer and the footer are written; flush. A crash in between may leave one of the two old: both sizes
//!    are true, for the growth was not yet reported.

use super::format::{DynamicHeader, Footer, MAX_DISK_BYTES, MAX_ENTRIES, UNUSED_ENTRY};
use super::found::write_footer;
use super::table::BlockTable;
use crate::block::ByteOffset;
use crate::disk::DiskError;
use crate::mapped::Extent;
use crate::uring::buffer::Buffer;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// The BAT is written in pieces of this many bytes.
const PIECE_BYTES: usize = 1 << 20;

/// A growth whose entries are durable, and that is to be completed before anything else is stored.
#[derive(Clone)]
pub(super) struct Pending {
    header: DynamicHeader,
    footer: Footer,
    /// Space of a BAT that was left.
    left: Option<Extent>,
}

impl BlockTable {
    /// Makes the disk larger, durably.
    pub(super) async fn change_size(&self, to_bytes: u64) -> Result<(), DiskError> {
        self.settle().await?;
        let from_bytes = self.size_bytes.load(Ordering::Acquire);
        let header = self.header.lock().clone();
        let blocks = to_bytes.div_ceil(u64::from(header.block_bytes));
        let refused = || DiskError::Resize { from_bytes, to_bytes };
        if to_bytes > MAX_DISK_BYTES {
            return Err(refused());
        }
        let entries = u32::try_from(blocks).ok().filter(|entries| *entries <= MAX_ENTRIES);
        let entries = entries.ok_or_else(refused)?;
        self.forget_entries(from_bytes.div_ceil(u64::from(header.block_bytes))).await?;
        let (header, left) = if entries <= header.max_entries {
            (header, None)
        } else if u64::from(entries) * 4 <= header.table_bytes() {
            (self.fill_table(header, entries).await?, None)
        } else {
            self.move_table(header, entries).await?
        };
        let footer = self.tail.lock().await.0.resized(to_bytes);
        *self.pending.lock() = Some(Pending { header, footer, left });
        self.settle().await
    }

    /// Entries past the end of the disk mean nothing until the disk reaches them, and then they must say so.
    async fn forget_entries(&self, blocks: u64) -> Result<(), DiskError> {
        let stale: BTreeMap<u64, u32> = {
            let bat = self.bat.lock();
            let from = usize::try_from(blocks).expect("a BAT is in memory");
            let past = bat.entries.iter().enumerate().skip(from);
            past.filter(|(_, entry)| **entry != UNUSED_ENTRY)
                .map(|(block, _)| (block as u64, UNUSED_ENTRY))
                .collect()
        };
        self.store_entries(&stale).await
    }

    /// Writes unused entries up to `entries` into the last sector of the BAT.
    async fn fill_table(
        &self,
        header: DynamicHeader,
        entries: u32,
    ) -> Result<DynamicHeader, DiskError> {
        let more = usize::try_from(entries - header.max_entries).expect("a BAT is in memory");
        let at = header.table_offset + u64::from(header.max_entries) * 4;
        let unused = Buffer::copy_of(&UNUSED_ENTRY.to_be_bytes().repeat(more));
        self.file.write(ByteOffset::new(at), unused).await?;
        self.file.flush().await?;
        Ok(header.with_table(header.table_offset, entries))
    }

    /// Writes a BAT of `entries` into new space.
    async fn move_table(
        &self,
        header: DynamicHeader,
        entries: u32,
    ) -> Result<(DynamicHeader, Option<Extent>), DiskError> {
        let space = self.space.as_ref().expect("a disk that can be written has it");
        let left = Extent { offset: header.table_offset, length: header.table_bytes() };
        let (extent, _) = space.take(header.with_table(0, entries).table_bytes())?;
        self.extend(extent.end()).await?;
        let moved = header.with_table(extent.offset, entries);
        let stored = self.bat.lock().entries.clone();
        let all = stored.into_iter().chain(std::iter::repeat(UNUSED_ENTRY));
        let room = usize::try_from(moved.table_bytes() / 4).expect("a BAT is in memory");
        let bytes: Vec<u8> = all.take(room).flat_map(u32::to_be_bytes).collect();
        for (piece, bytes) in bytes.chunks(PIECE_BYTES).enumerate() {
            let at = ByteOffset::new(extent.offset + (piece * PIECE_BYTES) as u64);
            self.file.write(at, Buffer::copy_of(bytes)).await?;
        }
        self.file.flush().await?;
        Ok((moved, Some(left)))
    }

    /// Completes a growth, one that was given up as well.
    pub(super) async fn settle(&self) -> Result<(), DiskError> {
        let Some(pending) = self.pending.lock().clone() else { return Ok(()) };
        let header = Buffer::copy_of(&pending.header.encode());
        self.file.write(ByteOffset::new(self.header_offset), header).await?;
        self.file.flush().await?;
        let mut tail = self.tail.lock().await;
        tail.0 = pending.footer;
        write_footer(&self.file, &tail.0, 0).await?;
        if let Some(at) = tail.1 {
            write_footer(&self.file, &tail.0, at).await?;
        }
        self.file.flush().await?;
        let entries = usize::try_from(pending.header.max_entries).expect("a BAT is in memory");
        self.bat.lock().entries.resize(entries, UNUSED_ENTRY);
        self.size_bytes.store(tail.0.size_bytes(), Ordering::Release);
        *self.header.lock() = pending.header;
        *self.pending.lock() = None;
        if let (Some(space), Some(left)) = (&self.space, pending.left) {
            space.give_back(left);
        }
        Ok(())
    }
}
