//! READ CAPACITY (SBC-4 5.15, 5.16).

use super::decide::{Request, Step};
use landfall_disks::Geometry;

/// Logical block provisioning is managed: the unit is thin (LBPME).
const MANAGED: u8 = 0x80;
/// Unmapped blocks read as zeroes (LBPRZ).
const READS_ZEROES: u8 = 0x40;

/// Address of the last block.
fn last_block(geometry: &Geometry) -> u64 {
    (geometry.size_bytes / u64::from(geometry.logical_sector)).saturating_sub(1)
}

pub(super) fn ten(request: &Request<'_>) -> Step {
    let geometry = &request.geometry;
    // What does not fit sends the initiator to the longer form.
    let last = u32::try_from(last_block(geometry)).unwrap_or(u32::MAX);
    let mut bytes = last.to_be_bytes().to_vec();
    bytes.extend(geometry.logical_sector.to_be_bytes());
    let length = bytes.len();
    Step::bytes(bytes, length)
}

pub(super) fn sixteen(request: &Request<'_>) -> Step {
    let geometry = &request.geometry;
    let mut bytes = vec![0; 32];
    bytes[..8].copy_from_slice(&last_block(geometry).to_be_bytes());
    bytes[8..12].copy_from_slice(&geometry.logical_sector.to_be_bytes());
    bytes[13] = physical_exponent(geometry);
    bytes[14] = MANAGED | READS_ZEROES;
    Step::bytes(bytes, request.cdb.length(10, 4))
}

/// Logical blocks per physical block, as a power of two.
fn physical_exponent(geometry: &Geometry) -> u8 {
    let blocks = (geometry.physical_sector / geometry.logical_sector).max(1);
    u8::try_from(blocks.ilog2()).expect("at most 31")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_physical_block_is_a_power_of_logical_ones() {
        let exponent = |logical_sector, physical_sector| {
            physical_exponent(&Geometry {
                size_bytes: 0,
                logical_sector,
                physical_sector,
                read_only: false,
            })
        };
        assert_eq!((exponent(512, 512), exponent(512, 4096), exponent(4096, 4096)), (0, 3, 0));
        assert_eq!(exponent(4096, 512), 0, "a disk that says nonsense");
    }
}
