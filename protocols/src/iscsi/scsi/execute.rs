//! Carries out what was decided: the only part that waits, for the disk and for range locks.
//!
//! **Invariant:** whoever reads bytes in order to write them, or to compare them with what it has
//! just written, holds its range exclusively; every other command holds its range shared while it
//! moves bytes. So COMPARE AND WRITE is atomic against everything on the unit, and plain reads and
//! writes do not wait for each other. The locks are those of the disk ([`Unit::locks`]): what comes
//! to it in other ways, by another target or another protocol, takes part.
//!
//! [`Unit::locks`]: super::unit::Unit::locks

use super::compare;
use super::device::{Device, LogicalUnit};
use super::failure::Failure;
use super::mode;
use super::nexus::NexusId;
use super::operation::Operation;
use super::provisioning;
use super::sense::{Additional, Sense};
use super::status::Status;
use super::task::{Completion, DataIn, Task};
use super::transfer;
use super::unmap;
use super::verify;
use super::write_same;
use landfall_disks::{Buffer, ByteRange, Change, Disk, Durability, RangeGuard, Ticket};

/// What the families are given to work with.
pub(super) struct Run<'a> {
    pub(super) nexus: NexusId,
    pub(super) unit: &'a LogicalUnit,
    ticket: &'a Ticket,
}

impl Run<'_> {
    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.unit.unit.disk
    }

    /// Asked before what may take long or changes something else than the disk.
    pub(super) fn proceed(&self) -> Result<(), Failure> {
        if self.ticket.is_unwanted() {
            return Err(Failure::Aborted);
        }
        self.check_attached()
    }

    fn check_attached(&self) -> Result<(), Failure> {
        if self.unit.is_detached() { Err(Failure::Lost) } else { Ok(()) }
    }

    /// Changes the disk, unless the task is aborted before the disk has decided about it. Of one
    /// that was aborted after its first change no other is made: it would lie over what its
    /// initiator has written since.
    pub(super) async fn change(&self, change: Change, range: ByteRange) -> Result<(), Failure> {
        self.proceed()?;
        let changed = self.disk().change(change, self.ticket).await;
        changed.map_err(|error| self.failure(&error, range))
    }

    /// How much has to be on stable storage where the command does not say: with the write cache
    /// switched off, all of it.
    pub(super) fn durability(&self) -> Durability {
        if self.unit.state().modes().caches_writes() {
            Durability::Cached
        } else {
            Durability::Durable
        }
    }

    pub(super) async fn shared(&self, range: ByteRange) -> RangeGuard {
        self.unit.unit.locks.lock_shared(range).await
    }

    pub(super) async fn exclusive(&self, range: ByteRange) -> RangeGuard {
        self.unit.unit.locks.lock_exclusive(range).await
    }

    /// Makes durable what was written.
    pub(super) async fn flush(&self) -> Result<(), Failure> {
        let whole = self.unit.geometry().whole();
        self.disk().flush().await.map_err(|error| self.failure(&error, whole))
    }

    /// What the sense data of a failed disk says.
    pub(super) fn failure(&self, error: &landfall_disks::DiskError, range: ByteRange) -> Failure {
        let block_bytes = u64::try_from(self.unit.block_length()).expect("512 or 4096");
        tracing::debug!(lun = %self.unit.number, %error, "a command failed");
        Failure::of_disk(error, range, block_bytes)
    }
}

pub(super) async fn execute(
    device: &Device,
    nexus: NexusId,
    task: &Task,
    data_out: Buffer,
) -> Completion {
    assert_eq!(data_out.len(), task.data_out(), "data-out is gathered before a task is executed");
    let run = Run { nexus, unit: &task.unit, ticket: &task.ticket };
    match perform(&run, task, data_out).await {
        Ok(data_in) => Completion { data_in, ..Completion::GOOD },
        Err(Failure::Aborted) => Completion::with_status(Status::TaskAborted),
        Err(Failure::Refused(sense)) => refused(task, sense),
        Err(Failure::Lost) => {
            // What ESXi takes for a permanent loss: it gives up, instead of trying for as long as
            // it takes.
            device.lose(&task.unit);
            refused(task, Sense::illegal(Additional::NOT_SUPPORTED_LUN))
        }
    }
}

fn refused(task: &Task, sense: Sense) -> Completion {
    Completion::check(sense, task.unit.state().modes().sense_format())
}

async fn perform(run: &Run<'_>, task: &Task, data_out: Buffer) -> Result<DataIn, Failure> {
    run.proceed()?;
    match task.operation {
        Operation::Read(range) => return transfer::perform_read(run, range).await,
        Operation::LbaStatus(query) => return provisioning::perform(run, query).await,
        Operation::Write { range, durability, check } => {
            verify::perform_write(run, range, data_out, durability, check).await?;
        }
        Operation::Verify { range, against } => {
            verify::perform_verify(run, range, &data_out, against).await?;
        }
        Operation::Flush => run.flush().await?,
        Operation::Eject => eject(run).await?,
        Operation::Unmap { list_bytes } => unmap::perform(run, &data_out, list_bytes).await?,
        Operation::WriteSame { range, pattern, zero } => {
            write_same::perform(run, range, &data_out, pattern, zero).await?;
        }
        Operation::Merge { range, durability, merge } => {
            compare::perform(run, range, data_out, durability, merge).await?;
        }
        Operation::ModeSelect { form, list_bytes } => {
            mode::perform_select(run, &data_out, form, list_bytes).await?;
        }
    }
    Ok(DataIn::Nothing)
}

async fn eject(run: &Run<'_>) -> Result<(), Failure> {
    run.flush().await?;
    run.proceed()?;
    let mut state = run.unit.state();
    // It may have been forbidden while the flush went on.
    if !state.preventing.is_empty() {
        return Err(Sense::illegal(Additional::REMOVAL_PREVENTED).into());
    }
    state.set_ejected(true);
    Ok(())
}
