//! Protocols of landfall: how changes come in and how moments go out.
//!
//! Each protocol is a folder of `wire` (bytes to meaning and back), `session` (a state machine without I/O) and `serve`
//! (sockets). Only `serve` and the clients wait for anything.

mod admission;
pub mod delta;
mod door;
mod gather;
pub mod iscsi;
pub mod nbd;
pub mod pki;
pub mod tls;

pub use self::door::ConnectionCounters;
