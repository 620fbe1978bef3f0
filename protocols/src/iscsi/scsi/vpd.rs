//! Vital product data (SPC-4 7.8, SBC-4 6.6).

use super::device::Device;
use super::inquiry::{DISK, WELL_KNOWN};
use super::limits::{
    MAX_COMPARE_BLOCKS, MAX_TRANSFER_BYTES, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME_BYTES,
    OPTIMAL_TRANSFER_BYTES,
};
use super::ports::{GROUP, RELATIVE_PORT};
use super::unit::{Identity, Naming, Unit};
use landfall_disks::{BLOCK_SIZE, Geometry};

/// Supported pages, in ascending order.
const PAGES: [u8; 7] = [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2];

/// Page `code`, if there is one.
pub(super) fn page(device: &Device, unit: &Unit, geometry: &Geometry, code: u8) -> Option<Vec<u8>> {
    let body = match code {
        0x00 => PAGES.to_vec(),
        0x80 => unit.identity.serial().into_bytes(),
        0x83 => identification(device, &unit.identity),
        0x86 => extended_inquiry(unit),
        0xb0 => block_limits(geometry),
        0xb1 => characteristics(),
        0xb2 => provisioning(unit),
        _ => return None,
    };
    Some(framed(DISK, code, &body))
}

/// Page `code` of the well known unit: those two that every unit has (SPC-4 7.8.1).
pub(super) fn well_known_page(device: &Device, code: u8) -> Option<Vec<u8>> {
    let body = match code {
        0x00 => vec![0x00, 0x83],
        0x83 => [relative_port(), port_name(device), target_name(device)].concat(),
        _ => return None,
    };
    Some(framed(WELL_KNOWN, code, &body))
}

/// A page with its header.
fn framed(peripheral: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("every page is short").to_be_bytes();
    [&[peripheral, code, length[0], length[1]], body].concat()
}

/// Code sets and designator types, SPC-4 tables 598 to 600.
const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF_8: u8 = 3;
const T10_VENDOR: u8 = 1;
const NAA: u8 = 3;
const RELATIVE_TARGET_PORT: u8 = 4;
const TARGET_PORT_GROUP: u8 = 5;
const NAME_STRING: u8 = 8;
/// What is designated; of a port or device, together with the protocol (PIV).
const UNIT: u8 = 0x00;
const PORT: u8 = 0x90;
const TARGET: u8 = 0xa0;
/// Protocol identifier in the high four bits.
const ISCSI: u8 = 0x50;

/// Page 83h: what unit, port and target are called.
fn identification(device: &Device, identity: &Identity) -> Vec<u8> {
    [
        designator(ASCII, UNIT | T10_VENDOR, identity.t10_designator().as_bytes()),
        designator(BINARY, UNIT | NAA, &identity.naa()),
        relative_port(),
        designator(ISCSI | BINARY, PORT | TARGET_PORT_GROUP, &number(GROUP)),
        port_name(device),
        target_name(device),
    ]
    .concat()
}

/// A number as designators have it.
fn number(number: u16) -> [u8; 4] {
    u32::from(number).to_be_bytes()
}

fn relative_port() -> Vec<u8> {
    designator(ISCSI | BINARY, PORT | RELATIVE_TARGET_PORT, &number(RELATIVE_PORT))
}

/// RFC 7143 4.4.2: the portal group tag is the target's part of the port's name.
fn port_name(device: &Device) -> Vec<u8> {
    let name = name_string(&format!("{},t,0x{GROUP:04x}", device.name()));
    designator(ISCSI | UTF_8, PORT | NAME_STRING, &name)
}

fn target_name(device: &Device) -> Vec<u8> {
    designator(ISCSI | UTF_8, TARGET | NAME_STRING, &name_string(device.name()))
}

fn designator(code_set: u8, kind: u8, bytes: &[u8]) -> Vec<u8> {
    // Names are 223 bytes at most (RFC 7143 4.2.7.1), all others shorter.
    let length = u8::try_from(bytes.len()).expect("a designator has at most 255 bytes");
    [&[code_set, kind, 0, length], bytes].concat()
}

/// A name with a zero behind it, filled up to four bytes (SPC-4 7.8.6.11).
fn name_string(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = name.bytes().take(MAX_NAME_BYTES).collect();
    bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
    bytes
}

/// Longest name in a designator, so that the zero behind it fits.
const MAX_NAME_BYTES: usize = 251;

/// SIMPSUP: of task attributes, SIMPLE. Every command is taken as that, so ORDERED and HEAD OF
/// QUEUE are not promised.
const SIMPLE_TASKS: u8 = 0x01;
/// V_SUP.
const VOLATILE_CACHE: u8 = 0x01;

/// Page 86h: what tasks and caches there are.
fn extended_inquiry(unit: &Unit) -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = SIMPLE_TASKS;
    body[2] = if unit.volatile_cache { VOLATILE_CACHE } else { 0 };
    body
}

/// Page B0h: what a command may ask for.
fn block_limits(geometry: &Geometry) -> Vec<u8> {
    let block = u64::from(geometry.logical_sector);
    let blocks = |bytes: u64| u32::try_from(bytes / block).expect("less than a million");
    let granularity = blocks(BLOCK_SIZE.max(block));
    let mut body = vec![0; 60];
    // Byte 4 of the page is the first of the body; WSNZ in it is zero.
    body[1] = MAX_COMPARE_BLOCKS;
    let granules = u16::try_from(granularity).expect("at most eight");
    body[2..4].copy_from_slice(&granules.to_be_bytes());
    body[4..8].copy_from_slice(&blocks(MAX_TRANSFER_BYTES).to_be_bytes());
    body[8..12].copy_from_slice(&blocks(OPTIMAL_TRANSFER_BYTES).to_be_bytes());
    // MAXIMUM PREFETCH LENGTH stays zero: there is no limit. UNMAP has none for blocks, either.
    body[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    body[20..24].copy_from_slice(&u32::from(MAX_UNMAP_DESCRIPTORS).to_be_bytes());
    body[24..28].copy_from_slice(&granularity.to_be_bytes());
    // UGAVALID, and an alignment of zero.
    body[28] = 0x80;
    // MAXIMUM WRITE SAME LENGTH.
    body[32..40].copy_from_slice(&u64::from(blocks(MAX_WRITE_SAME_BYTES)).to_be_bytes());
    body
}

/// Page B1h: it does not rotate.
fn characteristics() -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = 0x01;
    body
}

/// A threshold set is this many blocks, as a power of two: the unit in which LOG SENSE counts
/// space.
pub(super) const THRESHOLD_EXPONENT: u8 = 11;

/// Page B2h: thin; UNMAP and both WRITE SAME unmap, and what is unmapped reads as zeroes.
fn provisioning(unit: &Unit) -> Vec<u8> {
    let exponent = if unit.space.is_some() { THRESHOLD_EXPONENT } else { 0 };
    // LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioning.
    vec![exponent, 0x80 | 0x40 | 0x20 | 0x04, 0x02, 0]
}

impl Identity {
    /// The serial number, with nothing in it but printable ASCII.
    pub(super) fn serial(&self) -> String {
        printable(&self.serial).take(Self::MAX_SERIAL).collect()
    }

    /// Vendor, product and revision as standard INQUIRY data has them, in 28 bytes.
    pub(super) fn write_names(&self, into: &mut [u8]) {
        let (vendor, rest) = into.split_at_mut(8);
        let (product, revision) = rest.split_at_mut(16);
        for (field, text) in
            [(vendor, &self.vendor), (product, &self.product), (revision, &self.revision)]
        {
            fill(field, text);
        }
    }

    /// Vendor, product and serial number in one (SPC-4 7.8.6.4).
    fn t10_designator(&self) -> String {
        let vendor: String = printable(&self.vendor).take(8).collect();
        let product: String = printable(&self.product).take(16).collect();
        format!("{vendor:8}{product:16}{}", self.serial())
    }

    /// The world wide name: it follows from vendor and serial number, so it stays with them.
    fn naa(&self) -> Vec<u8> {
        let digest = blake3::derive_key(NAA_CONTEXT, self.t10_designator().as_bytes());
        match self.naming {
            Naming::Local => {
                let mut name = digest[..8].to_vec();
                name[0] = 0x30 | name[0] & 0x0f;
                name
            }
            Naming::Registered(oui) => {
                // Four bits of NAA, 24 of OUI, 36 and 64 of the vendor's.
                let [a, b, c] = oui.bytes();
                let mut name = digest[..16].to_vec();
                name[0] = 0x60 | a >> 4;
                name[1] = a << 4 | b >> 4;
                name[2] = b << 4 | c >> 4;
                name[3] = c << 4 | name[3] & 0x0f;
                name
            }
        }
    }
}

/// Separates these names from every other use of the hash.
const NAA_CONTEXT: &str = "landfall 2026-11-22 world wide name of a logical unit";

fn printable(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().map(|char| if matches!(char, ' '..='~') { char } else { '_' })
}

/// Left-aligned, filled with spaces, cut (SPC-4 4.4.1).
fn fill(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (byte, char) in field.iter_mut().zip(printable(text)) {
        *byte = u8::try_from(char).expect("printable ASCII");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::scsi::unit::Oui;

    #[test]
    fn names_follow_from_the_serial_number() {
        let one = Identity::new("web/os");
        assert_eq!(one.naa(), Identity::new("web/os").naa());
        assert_ne!(one.naa(), Identity::new("web/data").naa());
        assert_eq!((one.naa().len(), one.naa()[0] >> 4), (8, 3));
        let oui = Oui::new([0x12, 0x34, 0x56]);
        let registered = Identity { naming: Naming::Registered(oui), ..one };
        let name = registered.naa();
        assert_eq!((name.len(), &name[..3], name[3] >> 4), (16, &[0x61, 0x23, 0x45][..], 6));
    }

    #[test]
    fn text_is_cut_filled_and_printable() {
        let identity = Identity {
            vendor: "TOO LONG A NAME".into(),
            product: "Ü\n".into(),
            ..Identity::new("s".repeat(100))
        };
        let mut names = [0; 28];
        identity.write_names(&mut names);
        assert_eq!(&names, b"TOO LONG__              1   ");
        assert_eq!(identity.serial().len(), Identity::MAX_SERIAL);
    }

    #[test]
    fn name_strings_end_with_a_zero_and_fill_four_bytes() {
        assert_eq!(name_string("abc"), b"abc\0");
        assert_eq!(name_string("abcd"), b"abcd\0\0\0\0");
        assert!(name_string(&"x".repeat(300)).len() <= 255);
    }
}
