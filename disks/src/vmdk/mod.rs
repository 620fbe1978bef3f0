//! VMDK: VMware's virtual disks, as ESXi, Workstation and their export formats have them.

pub mod format;
