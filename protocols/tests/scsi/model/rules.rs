//! Which bits of a CDB may be set, restated from SPC-4 and SBC-4 as a list of its own.

/// Operation code, service action, and for each byte the bits that may be set: used, obsolete, or a hint.
pub const BITS: &[(u8, Option<u8>, &str)] = &[
    (0x00, None, "00 e0 00 00 00 00"),
    (0x03, None, "03 e1 00 00 ff 00"),
    (0x08, None, "08 ff ff ff ff 00"),
    (0x0a, None, "0a ff ff ff ff 00"),
    (0x12, None, "12 e1 ff ff ff 00"),
    (0x15, None, "15 f0 00 00 ff 00"),
    (0x1a, None, "1a e8 ff ff ff 00"),
    (0x1b, None, "1b e1 00 0f f7 00"),
    (0x1e, None, "1e e0 00 00 03 00"),
    (0x25, None, "25 e0 00 00 00 00 00 00 00 00"),
    (0x28, None, "28 1e ff ff ff ff 3f ff ff 00"),
    (0x2a, None, "2a 1a ff ff ff ff 3f ff ff 00"),
    (0x2e, None, "2e 16 ff ff ff ff 3f ff ff 00"),
    (0x2f, None, "2f 16 ff ff ff ff 3f ff ff 00"),
    (0x34, None, "34 02 ff ff ff ff 3f ff ff 00"),
    (0x35, None, "35 06 ff ff ff ff 3f ff ff 00"),
    (0x37, None, "37 00 1f 00 00 00 00 ff ff 00"),
    (0x41, None, "41 08 ff ff ff ff 3f ff ff 00"),
    (0x42, None, "42 00 00 00 00 00 3f ff ff 00"),
    (0x4d, None, "4d 00 ff ff 00 ff ff ff ff 00"),
    (0x55, None, "55 10 00 00 00 00 00 ff ff 00"),
    (0x5a, None, "5a 18 ff ff 00 00 00 ff ff 00"),
    (0x88, None, "88 1f ff ff ff ff ff ff ff ff ff ff ff ff ff 00"),
    (0x89, None, "89 1b ff ff ff ff ff ff ff ff 00 00 00 ff ff 00"),
    (0x8a, None, "8a 1b ff ff ff ff ff ff ff ff ff ff ff ff ff 00"),
    (0x8b, None, "8b 1b ff ff ff ff ff ff ff ff ff ff ff ff ff 00"),
    (0x8e, None, "8e 16 ff ff ff ff ff ff ff ff ff ff ff ff 3f 00"),
    (0x8f, None, "8f 16 ff ff ff ff ff ff ff ff ff ff ff ff 3f 00"),
    (0x90, None, "90 02 ff ff ff ff ff ff ff ff ff ff ff ff 3f 00"),
    (0x91, None, "91 06 ff ff ff ff ff ff ff ff ff ff ff ff 3f 00"),
    (0x93, None, "93 09 ff ff ff ff ff ff ff ff ff ff ff ff 3f 00"),
    (0x9e, Some(0x10), "9e 1f 00 00 00 00 00 00 00 00 ff ff ff ff 00 00"),
    (0x9e, Some(0x12), "9e 1f ff ff ff ff ff ff ff ff ff ff ff ff 00 00"),
    (0xa0, None, "a0 00 ff 00 00 00 ff ff ff ff 00 00"),
    (0xa3, Some(0x0a), "a3 ff 00 00 00 00 ff ff ff ff 00 00"),
    (0xa3, Some(0x0c), "a3 1f 87 ff ff ff ff ff ff ff 00 00"),
    (0xa3, Some(0x0d), "a3 1f 80 00 00 00 ff ff ff ff 00 00"),
    (0xa8, None, "a8 1e ff ff ff ff ff ff ff ff 3f 00"),
    (0xaa, None, "aa 1a ff ff ff ff ff ff ff ff 3f 00"),
    (0xae, None, "ae 16 ff ff ff ff ff ff ff ff 3f 00"),
    (0xaf, None, "af 16 ff ff ff ff ff ff ff ff 3f 00"),
    (0xb7, None, "b7 1f ff ff ff ff ff ff ff ff 00 00"),
];

/// What a CDB is, or the first thing that is wrong with it.
pub enum Looked {
    /// A command of so many bytes.
    Known(usize),
    UnknownCode,
    UnknownAction,
    /// The byte, and the most significant bit that must not be set.
    Strange(u16, u8),
}

pub fn look(cdb: &[u8; 16]) -> Looked {
    let alike: Vec<_> = BITS.iter().filter(|(code, ..)| *code == cdb[0]).collect();
    let Some((_, first, _)) = alike.first() else { return Looked::UnknownCode };
    let action = first.map(|_| cdb[1] & 0x1f);
    let Some((_, _, bits)) = alike.iter().find(|(_, known, _)| *known == action) else {
        return Looked::UnknownAction;
    };
    let bits: Vec<u8> =
        bits.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    for (at, allowed) in bits.iter().enumerate().skip(1) {
        for bit in (0..8).rev() {
            if cdb[at] & !allowed & 1 << bit != 0 {
                return Looked::Strange(u16::try_from(at).expect("short"), bit);
            }
        }
    }
    Looked::Known(bits.len())
}
