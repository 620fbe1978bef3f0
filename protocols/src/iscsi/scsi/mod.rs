//! SCSI: logical units over disks, for any transport.
//!
//! ```text
//!   (LUN, CDB) ──▶ Nexus::decide ──┬─▶ Answer(Completion)      all that needs no data and no disk
//!                   table          └─▶ Do(Task) ──▶ Nexus::execute ──▶ Completion
//!                   attentions           how much data-out comes first, how much data-in follows
//! ```
//!
//! [`Device`] is the SCSI target device, one per iSCSI target: its logical units, and what
//! initiators have set and still have to be told. A [`Nexus`] is one initiator port's relation to
//! it. Deciding is pure and never waits; only executing does, and only for the disk and for range
//! locks.
//!
//! **Invariants:** every command goes through one table (`command`), which also answers REPORT
//! SUPPORTED OPERATION CODES; whatever is refused changes nothing; whatever reads before it writes
//! holds its blocks against everybody who has the disk.

mod attention;
mod cache;
mod capacity;
mod cdb;
mod command;
mod compare;
mod decide;
mod defects;
mod device;
#[cfg(test)]
mod documented;
mod execute;
mod failure;
mod inquiry;
mod limits;
mod log;
mod lun;
mod luns;
mod medium;
mod mode;
mod nexus;
mod opcodes;
mod operation;
mod ports;
mod provisioning;
mod request_sense;
mod sense;
mod status;
mod task;
mod transfer;
mod unit;
mod unmap;
mod verify;
mod vpd;
mod write_same;

pub use attention::Attention;
pub use command::Command;
pub use device::{Device, NoUnit, Occupied};
pub use lun::{Addressed, Lun, LunNumber};
pub use nexus::{InitiatorPort, Nexus, ResetScope};
pub use sense::{Additional, FieldPlace, FieldPointer, Sense, SenseFormat, SenseKey};
pub use status::Status;
pub use task::{Completion, DataIn, Decision, Task};
pub use unit::{Identity, Naming, NotAnOui, Oui, Settings, Space, SpaceLeft, Unit};
