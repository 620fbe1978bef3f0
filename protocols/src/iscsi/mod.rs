//! iSCSI, the door through which hypervisors and machines boot from a disk and write to it.
//!
//! ```text
//!   scsi      what a command means and does: logical units over disks, sense data, unit attentions; no sockets
//! ```
//!
//! By RFC 7143 for the transport, and SAM-5, SPC-4 and SBC-3 for what it carries. Command by command, with the sense data
//! of each refusal: `docs/interop-iscsi.md`.

pub mod name;
pub mod scsi;
pub mod session;
pub mod wire;
