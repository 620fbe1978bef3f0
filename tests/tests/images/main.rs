//! Disk images and the tools of others: what one writes, the other reads, checks and goes on writing.
//!
//! ```text
//!   theirs     qemu-img and qemu-io make images of every kind; we read what they read, and our check is content
//!   ours       we make them; qemu-img reads, maps and checks them, qemu-io writes on, and we read that again
//!   chains     images on images, VMDK both ways
//!   libyal     libvmdk and libvhdi: tools, FUSE mounts and, for parents of VHDX and VHD, Debian's Python bindings
//!   vhd_children   a differencing VHD, made by hand: no tool here makes one
//!   moments    copies taken between a flush and the next, and processes killed at any moment
//!   live       copies taken while fio writes over NBD
//!   guest      copies taken while a guest runs, which booted from the image over NBD
//!   sharing    raw files that are made of raw files without a copy
//!   locks      who may open what while whom else does
//!   serve      images over NBD, without a target
//!   document   docs/formats/images.md names the tools that are used here, and the kinds
//! ```
//!
//! What QEMU has not: differencing VHDX and VHD, and 4096-byte sectors. There, libvhdi is the only peer. A peer that is not
//! installed is a failure.

mod chains;
mod document;
mod guest;
mod image;
mod libyal;
mod live;
mod locks;
mod moments;
mod ours;
mod qemu;
mod serve;
mod server;
mod sharing;
mod stamps;
mod theirs;
mod verdict;
mod vhd_children;
mod writer;
