//! The NBD server over sockets: against this project's client, and against the world's.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]

mod conformance;
mod contexts;
mod crowd;
mod extended;
mod interop;
mod memory;
mod newer;
mod peers;
mod raw;
mod rules;
mod serve;
mod sessions;
mod tls;
mod usage;
