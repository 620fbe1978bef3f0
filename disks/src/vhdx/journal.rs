//! Our own changes of metadata: into the log, then in place, then the log is empty again.
//!
//! ```text
//!   first change   entry 0 (changes nothing) │ header: new write GUIDs                      │ flush
//!   log used up    entry 0 again, with a new LogGuid                                        │ flush
//!   each commit    1  entry n, its own tail  │ header: LogGuid = that of the entries        │ flush
//!                  2  changes in place                                                      │ flush
//!                  3  header: LogGuid = 0                                     (durable with the next flush)
//! ```
//!
//! Why a crash at any moment is safe:
//! - In step 1, header and entry are durable in any order. Without the header the log is empty, and nothing was changed in
//!   place. With the header but a torn entry, the entry before it is the newest whole one; it says what was made and flushed
//!   in place before, so replaying it changes nothing. There is one always: entry 0, or that of the last commit.
//! - In step 2, the log holds entry n, and replaying it completes what is half done.
//! - In step 3, all is in place; whether the log is replayed again makes no difference, as nothing changes these sectors but
//!   the next commit, whose step 1 is durable before.
//! - Every entry is its own tail, so none but the newest whole one is ever replayed. When the BAT moves, the newest is the one
//!   that moved it, and no other that names the old place can come back once blocks lie there.
//! - When the log is used up, nothing is left to be replayed: the newest entry is in place. Entry 0 of the new `LogGuid` lies at the
//!   other end of the log, and is durable before a header names it.
//!
//! Entries never go on from the end of the log at its start, though they might: QEMU (7.2, 10.0) looks for the newest entry for ever
//! in a log that is full.

use super::Guids;
use super::container::write_header;
use crate::block::{ByteOffset, ByteRange};
use crate::disk::{DiskError, ZeroMode};
use crate::image::ImageFile;
use crate::uring::buffer::Buffer;
use std::sync::Arc;
use vhdx_parse::{CurrentHeader, Guid, Header, LogChange, LogEntry, LogEntryHeader, MIB};

/// Most changes of one entry: 62 data sectors and its header take 256 KiB, so four entries fit the smallest log.
pub(super) const MAX_CHANGES: usize = 62;

/// Bytes at the end of the log that stay unused.
const SPARE: u32 = 64 << 10;

/// Writes the log of one opening.
pub(super) struct Journal {
    file: Arc<ImageFile>,
    guids: Guids,
    current: CurrentHeader,
    /// The `LogGuid` of the entries of this opening; zero before the first change.
    log_guid: Guid,
    sequence_number: u64,
    /// Where in the log the next entry goes.
    place: u32,
    /// What the file is at least as long as, whatever happens.
    durable_bytes: u64,
    /// Changes that are durable in the log, and perhaps not in place.
    logged: Vec<LogChange>,
}

impl Journal {
    pub(super) fn new(file: Arc<ImageFile>, guids: Guids, current: CurrentHeader) -> Self {
        Self {
            file,
            guids,
            current,
            log_guid: Guid::ZERO,
            sequence_number: 0,
            place: 0,
            durable_bytes: 0,
            logged: Vec::new(),
        }
    }

    /// The header that counts.
    pub(super) fn header(&self) -> Header {
        self.current.header
    }

    /// Before the first change: new GUIDs for file and data, and a first entry.
    pub(super) async fn begin(&mut self) -> Result<(), DiskError> {
        // The length may not be durable: it is what a killed process left.
        self.flush().await?;
        self.log_guid = (self.guids)();
        let next = self.append(&[]).await?;
        let header = Header {
            file_write_guid: (self.guids)(),
            data_write_guid: (self.guids)(),
            log_guid: Guid::ZERO,
            ..self.current.header
        };
        self.write_header(header).await?;
        self.flush().await?;
        self.place = next;
        Ok(())
    }

    /// Makes the changes, in order, durably. Up to [`MAX_CHANGES`] of them are made all or not at all.
    ///
    /// The file must have been flushed since the last call; whatever the changes refer to is durable. May be given up at any
    /// point: what is durable in the log by then is completed by the next call.
    pub(super) async fn commit(&mut self, changes: Vec<LogChange>) -> Result<(), DiskError> {
        self.finish().await?;
        for batch in changes.chunks(MAX_CHANGES) {
            if !self.has_room_for(batch) {
                self.begin_anew().await?;
            }
            let next = self.append(batch).await?;
            if self.current.header.log_guid != self.log_guid {
                let header = Header { log_guid: self.log_guid, ..self.current.header };
                self.write_header(header).await?;
            }
            self.flush().await?;
            self.place = next;
            self.logged = batch.to_vec();
            self.apply().await?;
        }
        self.empty().await
    }

    fn has_room_for(&self, changes: &[LogChange]) -> bool {
        let length = u32::try_from(LogEntry::encoded_length(changes)).expect("a short entry");
        self.place + length <= self.current.header.log_length - SPARE
    }

    /// At the start of the log again, under another `LogGuid`.
    async fn begin_anew(&mut self) -> Result<(), DiskError> {
        self.log_guid = (self.guids)();
        self.place = 0;
        let next = self.append(&[]).await?;
        self.flush().await?;
        self.place = next;
        Ok(())
    }

    /// Whether changes are durable in the log that are perhaps not in place.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.logged.is_empty()
    }

    /// Completes a commit that was given up half way. What is not durable in the log by now never happened.
    pub(super) async fn finish(&mut self) -> Result<(), DiskError> {
        if !self.logged.is_empty() {
            self.apply().await?;
        }
        if !self.current.header.log_guid.is_zero() {
            self.empty().await?;
            self.flush().await?;
        }
        Ok(())
    }

    /// Nothing is left to be replayed.
    async fn empty(&mut self) -> Result<(), DiskError> {
        let header = Header { log_guid: Guid::ZERO, ..self.current.header };
        self.write_header(header).await
    }

    async fn write_header(&mut self, header: Header) -> Result<(), DiskError> {
        let next = self.current.updated(header);
        self.current = write_header(&self.file, next).await?;
        Ok(())
    }

    /// Writes an entry behind the last one that is durable, so that this stays whole, and answers where it ends.
    async fn append(&mut self, changes: &[LogChange]) -> Result<u32, DiskError> {
        let Header { log_offset, log_length, .. } = self.current.header;
        // A number is never used twice, not even for an entry that was given up.
        self.sequence_number += 1;
        let length = u32::try_from(LogEntry::encoded_length(changes)).expect("a short entry");
        let entry = LogEntry {
            header: LogEntryHeader {
                entry_length: length,
                tail: self.place,
                sequence_number: self.sequence_number,
                log_guid: self.log_guid,
                flushed_file_offset: self.durable_bytes / MIB * MIB,
                last_file_offset: self.file.length().next_multiple_of(MIB),
            },
            changes: changes.to_vec(),
        };
        let bytes = Buffer::copy_of(&entry.encode());
        assert!(self.place + length <= log_length - SPARE, "the log has room for it");
        let place = log_offset + u64::from(self.place);
        self.file.write(ByteOffset::new(place), bytes).await?;
        Ok(self.place + length)
    }

    /// Makes what is durable in the log in place, durably.
    async fn apply(&mut self) -> Result<(), DiskError> {
        for change in &self.logged {
            match change {
                LogChange::Data { offset, bytes } => {
                    let bytes = Buffer::copy_of(&**bytes);
                    self.file.write(ByteOffset::new(*offset), bytes).await?;
                }
                LogChange::Zero { offset, length } => {
                    let range = ByteRange::at(ByteOffset::new(*offset), *length);
                    let range = range.expect("it lies in the file");
                    self.file.zero(range, ZeroMode::Unmap).await?;
                }
            }
        }
        self.flush().await?;
        self.logged.clear();
        Ok(())
    }

    /// Flushes the file, the last header included.
    pub(super) async fn flush(&mut self) -> Result<(), DiskError> {
        let length = self.file.length();
        self.file.flush().await?;
        self.durable_bytes = length;
        Ok(())
    }
}
