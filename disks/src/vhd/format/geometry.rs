//! Cylinders, heads and sectors: what an ATA controller of old tells of a disk.

use super::SECTOR_BYTES;

/// A geometry ("Disk Geometry").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chs {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads.
    pub heads: u8,
    /// Sectors of a track.
    pub sectors: u8,
}

impl Chs {
    /// The largest geometry; it says of a disk only that it is at least as large.
    pub const LARGEST: Self = Self { cylinders: 65_535, heads: 16, sectors: 255 };

    /// The geometry of a disk of `size_bytes`: never larger than the disk, and smaller by less than a cylinder as long as
    /// there are geometries ("Appendix: CHS Calculation").
    pub fn of(size_bytes: u64) -> Self {
        let largest = 65_535 * 16 * 255;
        let total = (size_bytes / SECTOR_BYTES).min(largest);
        let (heads, sectors, tracks) = if total >= 65_535 * 16 * 63 {
            (16, 255, total / 255)
        } else {
            Self::of_old_disk(total)
        };
        let cylinders = u16::try_from(tracks / u64::from(heads));
        Self { cylinders: cylinders.expect("the total was limited"), heads, sectors }
    }

    /// Heads, sectors of a track and tracks, as BIOS translations make them.
    fn of_old_disk(total: u64) -> (u8, u8, u64) {
        let tracks = total / 17;
        let heads = tracks.div_ceil(1024).max(4);
        if tracks < heads * 1024 && heads <= 16 {
            return (u8::try_from(heads).expect("at most 16"), 17, tracks);
        }
        let tracks = total / 31;
        if tracks < 16 * 1024 {
            return (16, 31, tracks);
        }
        (16, 63, total / 63)
    }

    /// The size it describes, in bytes.
    pub fn bytes(self) -> u64 {
        let tracks = u64::from(self.cylinders) * u64::from(self.heads);
        tracks * u64::from(self.sectors) * SECTOR_BYTES
    }
}

impl std::fmt::Display for Chs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.cylinders, self.heads, self.sectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chs(cylinders: u16, heads: u8, sectors: u8) -> Chs {
        Chs { cylinders, heads, sectors }
    }

    #[test]
    fn geometries_are_those_of_other_programs() {
        // Sizes and geometries of disks that qemu-img 7.2 made.
        for (size, geometry) in [
            (1_079_296, chs(31, 4, 17)),
            (41_953_280, chs(964, 5, 17)),
            (104_865_792, chs(1004, 12, 17)),
            (535_191_552, chs(1037, 16, 63)),
            (1_073_995_776, chs(2081, 16, 63)),
            (8_590_417_920, chs(16_645, 16, 63)),
            (68_720_517_120, chs(32_897, 16, 255)),
            (136_365_219_840, chs(65_279, 16, 255)),
            (2040 << 30, Chs::LARGEST),
        ] {
            assert_eq!(Chs::of(size), geometry);
        }
    }

    proptest! {
        #[test]
        fn a_geometry_is_at_most_a_cylinder_smaller(sectors in 1u64..65_535 * 16 * 255) {
            let size = sectors * SECTOR_BYTES;
            let geometry = Chs::of(size);
            let cylinder = u64::from(geometry.heads) * u64::from(geometry.sectors) * SECTOR_BYTES;
            prop_assert!(geometry.bytes() <= size);
            prop_assert!(size - geometry.bytes() < cylinder, "{geometry}");
        }
    }
}
