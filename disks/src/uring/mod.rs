//! The io_uring engine: files *and* sockets of the serving path, and the only `unsafe` code of the project.
//!
//! ```text
//!   Engine ──starts──▶ core 0 … core n-1        one thread, one ring, one executor of `!Send` tasks each
//!                        │
//!        mailbox ───────▶│ jobs and wake-ups from other threads (eventfd)
//!                        │ polls a bounded number of ready tasks
//!        timers ────────▶│ fires what is due
//!                        │ one io_uring_enter: submits everything, waits only when nothing is ready
//!                        ▼ reaps completions, wakes their tasks
//! ```
//!
//! What blocks, or what io_uring lacks, runs on a small pool of ordinary threads ([`offload`]).
//!
//! **Invariants**
//! - An operation owns its buffer and its descriptor until its completion arrives; dropping the future asks for
//!   cancellation and leaves both with the ring. The kernel never writes into freed memory and never uses a reused
//!   descriptor number.
//! - A ring is dropped only when no operation is in flight.
//! - A future of this module is polled on the core it was first polled on; another core panics.
//!
//! **Not here:** formats, retries of failed requests, and policy of any kind.
#![allow(unsafe_code)]

mod abandoned;
mod allocator;
mod blocking;
pub mod buffer;
mod core;
mod descriptor;
mod device;
mod directory;
mod engine;
mod executor;
mod file;
mod local;
mod locks;
mod mailbox;
mod memory;
pub mod net;
mod op;
mod probe;
mod region;
mod ring;
mod timer;

pub use self::allocator::keep_freed_memory;
pub use self::blocking::offload;
pub use self::core::{Core, CoreStopped, spawn};
pub use self::directory::Directory;
pub use self::engine::{Engine, EngineSettings};
pub use self::file::File;
pub use self::probe::EngineError;
pub use self::timer::{Elapsed, Sleep, sleep, timeout};

#[cfg(test)]
pub(crate) mod tests;
