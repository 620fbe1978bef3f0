//! VHD: the disks of Virtual PC and of Hyper-V before VHDX.

pub mod format;
