//! The binary as a user has it: a target in a temporary folder, told what to do by the command line alone.
//!
//! Sockets are Unix sockets or free ports, so tests run beside each other and beside a real target.

mod chains;
mod changes;
mod disks;
mod encryption;
mod errors;
mod exports;
mod folding;
mod formats;
mod groups;
mod harness;
mod images;
mod indexing;
mod machines;
mod points;
mod policies;
mod promote;
mod quotas;
mod restarts;
mod scrub;
mod serving;
mod sources;
mod standby;
mod streams;
