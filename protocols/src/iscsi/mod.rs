//! iSCSI, the door through which hypervisors and machines boot from a disk and write to it.
//!
//! ```text
//!   wire      bytes ⇄ meaning, both directions; allocates nothing past a named limit
//!   session   the target's decisions: login, and the session that follows; no I/O
//!   scsi      what a command means and does: logical units over disks, sense data, unit
//!             attentions; no sockets
//!   serve     sockets and disks around them, on the io_uring engine
//!   initiator the other side, by hand: for tests (`testing`)
//! ```
//!
//! By RFC 7143 for the transport, and SAM-5, SPC-4 and SBC-3 for what it carries. Command by
//! command, with the sense data of each refusal: `docs/interop-iscsi.md`.

mod counters;
#[cfg(test)]
mod documented;
#[cfg(any(test, feature = "testing"))]
pub mod initiator;
pub mod name;
pub mod scsi;
pub mod serve;
pub mod session;
mod targets;
pub mod wire;

pub use counters::Counters;
pub use targets::{OpenError, Targets, Visitor};
