//! What fio leaves on a disk: blocks of 4 KiB that say where they belong.
//!
//! ```text
//!   [ magic 0xacca │ type │ length │ seed │ offset │ … │ CRC-32C of this header │ CRC-32C of the rest │ random bytes ]
//! ```
//!
//! `struct verify_header` and `struct vhdr_crc32` of fio's `verify.h`, in the order of the machine, with `verify=crc32c` and
//! `verify_interval=4096`. A block that was mixed of two, or lies in a place it was not written to, is none.

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 4096;
const MAGIC: u16 = 0xacca;
const HEADER: usize = 40;

/// Blocks of a raw file that are not zeroes, and are what fio wrote there, as numbers; in order.
///
/// Panics at one that is anything else.
#[track_caller]
pub(crate) fn written(raw: &str) -> Vec<u64> {
    let file = File::open(raw).expect("a raw file");
    let mut found = Vec::new();
    let mut block = vec![0; usize::try_from(BLOCK).expect("small")];
    for stretch in stretches(&file) {
        for at in (stretch.start / BLOCK * BLOCK..stretch.end).step_by(block.len()) {
            file.read_exact_at(&mut block, at).expect("whole blocks");
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            assert_eq!(fault(&block, at), None, "{raw}: the block at {at}");
            found.push(at / BLOCK);
        }
    }
    found
}

/// What is wrong with a block that fio wrote at `at`.
fn fault(block: &[u8], at: u64) -> Option<String> {
    let field = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("four"));
    let magic = u16::from_le_bytes([block[0], block[1]]);
    let offset = u64::from(field(16)) | u64::from(field(20)) << 32;
    // fio leaves out the last step, which is to invert all bits.
    let sum = |bytes: &[u8]| !crc32c::crc32c(bytes);
    if magic != MAGIC {
        Some(format!("it starts with {magic:04x}"))
    } else if offset != at {
        Some(format!("it belongs to {offset}"))
    } else if field(36) != sum(&block[..36]) {
        Some("its header is not one".to_owned())
    } else if field(HEADER) != sum(&block[HEADER + 4..]) {
        Some("its content is mixed".to_owned())
    } else {
        None
    }
}

/// Where the file is no hole.
fn stretches(file: &File) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        at = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return found,
            Err(error) => panic!("looking for data: {error}"),
        };
        let end = seek(file, SeekFrom::Hole(at)).expect("there is always an end");
        found.push(at..end);
        at = end;
    }
}
