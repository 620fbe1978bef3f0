//! NBD, the door through which hypervisors and stock tools read and write disks.
//!
//! ```text
//!   wire      bytes ⇄ meaning, both directions; allocates nothing past a named limit
//!   session   the server's decisions: negotiation, and what each request is answered with; no I/O
//!   serve     sockets and disks around it, on the io_uring engine
//!   tls       what a listener asks of its clients
//!   client    the other side: a session without I/O and a driver over tokio streams
//! ```
//!
//! By `doc/proto.md` of NetworkBlockDevice/nbd: fixed newstyle, TLS, structured replies, extended headers,
//! metadata contexts. Rule by rule, with the test of each: `docs/interop-nbd.md`.

pub mod client;
mod contexts;
mod counters;
mod export;
pub mod serve;
pub mod session;
pub mod tls;
pub mod wire;

pub use contexts::{BlockContext, Contexts, Described, NoContexts};
pub use counters::{CommandCounters, Counters, Reading};
pub use export::{Export, ExportEntry, Exports, Leaving, OpenError, Usage, Visitor};
