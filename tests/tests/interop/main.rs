//! The real binary and real peers: what was replicated is what every one of them reads.
//!
//! Every test keeps independent copies of the source as it was at each point; `qemu-img compare` and the `nbd` crate, not
//! our own client, say whether a point equals its copy. A peer that is not installed is a failure.

mod branches;
mod contexts;
mod ingest;
mod iscsi;
mod iscsi_boot;
mod iscsi_conformance;
mod iscsi_exposure;
mod iscsi_removal;
mod iscsi_space;
mod iscsi_transfer;
mod jobs;
mod leaks;
mod live;
mod machine;
mod mount;
mod mount_ends;
mod names;
mod peers;
mod points;
mod restore;
mod secured;
