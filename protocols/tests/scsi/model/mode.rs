//! Mode pages, restated as bytes.

use super::{Additional, Expected, Model, Modes, SPACE, Sense, cut, field, illegal, short};

/// Codes and subpages. The last is there where somebody knows how much space is left.
const CODES: [(u8, u8); 6] = [(0x01, 0), (0x02, 0), (0x08, 0), (0x0a, 0), (0x1c, 0), (0x1c, 2)];

/// Bytes of the header of a page, and of what is behind it.
fn lengths(code: (u8, u8)) -> (usize, usize) {
    match code {
        (0x02, _) => (2, 14),
        (0x08, _) => (2, 18),
        (_, 0) => (2, 10),
        _ => (4, 20),
    }
}

fn page(code: (u8, u8), modes: Modes, knows_space: bool) -> Vec<u8> {
    let (header, length) = lengths(code);
    let mut bytes = vec![0; header + length];
    bytes[0] = code.0;
    bytes[header - 1] = length as u8;
    match code {
        (0x01, _) => bytes[7] = u8::from(knows_space) << 7,
        (0x08, _) => bytes[2] = u8::from(modes.wce) << 2,
        (0x0a, _) => {
            bytes[2] = 0x02 | u8::from(modes.d_sense) << 2;
            bytes[3] = 0x10;
            bytes[4] = u8::from(modes.swp) << 3;
        }
        (0x1c, 0) => bytes[2] = 0x08,
        (0x1c, _) => {
            bytes[..2].copy_from_slice(&[0x5c, 0x02]);
            bytes[16..].copy_from_slice(&[0x82, 0x01, 0, 0, 0, 0, 0, SPACE[2]]);
        }
        _ => {}
    }
    bytes
}

/// Bits that can be changed.
fn mask(code: (u8, u8), at: usize) -> u8 {
    match (code.0, at) {
        (0x08 | 0x0a, 2) => 0x04,
        (0x0a, 4) => 0x08,
        _ => 0,
    }
}

impl Model {
    fn descriptor(&self, long: bool) -> Vec<u8> {
        let blocks = self.blocks.mapped.len();
        let count = if long {
            (blocks as u64).to_be_bytes().to_vec()
        } else {
            (blocks as u32).to_be_bytes().to_vec()
        };
        let mut bytes = count;
        bytes.resize(if long { 14 } else { 6 }, 0);
        bytes.extend([2, 0]);
        bytes
    }

    /// Of the pages there are.
    fn codes(&self) -> Vec<(u8, u8)> {
        CODES[..if self.knows_space { 6 } else { 5 }].to_vec()
    }

    pub(super) fn mode_sense(&self, cdb: &[u8; 16]) -> Result<Expected, Sense> {
        let (code, control) = (cdb[2] & 0x3f, cdb[2] >> 6);
        if control == 3 {
            return Err(illegal(Additional::SAVING_NOT_SUPPORTED));
        }
        let mut codes = self.codes();
        codes.retain(|one| code == 0x3f || code == one.0);
        if codes.is_empty() {
            return Err(field(2, 5));
        }
        codes.retain(|one| cdb[3] == 0xff || cdb[3] == one.1);
        if codes.is_empty() || code == 0x3f && cdb[3] != 0 && cdb[3] != 0xff {
            return Err(field(3, 7));
        }
        let values = |code: (u8, u8)| match control {
            0 => page(code, self.modes, self.knows_space),
            2 => page(code, Modes::new(self.volatile), self.knows_space),
            _ => {
                let mut bytes = page(code, self.modes, self.knows_space);
                for (at, byte) in bytes.iter_mut().enumerate().skip(lengths(code).0) {
                    *byte = mask(code, at);
                }
                bytes
            }
        };
        let pages: Vec<u8> = codes.into_iter().flat_map(values).collect();
        let ten = cdb[0] == 0x5a;
        let long = ten && cdb[1] & 0x10 != 0;
        let block = if cdb[1] & 0x08 != 0 { Vec::new() } else { self.descriptor(long) };
        let protected = self.blocks.read_only || self.write_protected || self.modes.swp;
        let specific = 0x10 | u8::from(protected) << 7;
        let rest = block.len() + pages.len();
        let header = if ten {
            let long = u8::from(block.len() == 16);
            vec![0, rest as u8 + 6, 0, specific, long, 0, 0, block.len() as u8]
        } else {
            vec![rest as u8 + 3, 0, specific, block.len() as u8]
        };
        let allocation = if ten { short(&cdb[7..9]) } else { usize::from(cdb[4]) };
        Ok(Expected::Good(cut([header, block, pages].concat(), allocation)))
    }

    pub(super) fn mode_select(
        &mut self,
        who: usize,
        cdb: &[u8; 16],
        data: &[u8],
        wanted: &mut Option<usize>,
    ) -> Result<Expected, Sense> {
        let ten = cdb[0] == 0x55;
        let length = if ten { short(&cdb[7..9]) } else { usize::from(cdb[4]) };
        if length == 0 {
            return Ok(Expected::Good(Vec::new()));
        }
        *wanted = Some(length);
        if data.len() < length {
            return Err(illegal(Additional::PARAMETER_LIST_LENGTH));
        }
        let modes = self.selected(&data[..length], ten)?;
        if self.modes.wce && !modes.wce || !self.modes.swp && modes.swp {
            self.blocks.durable = self.blocks.bytes.clone();
        }
        if modes != self.modes {
            self.modes = modes;
            self.tell(Additional::MODE_PARAMETERS_CHANGED, |nexus| nexus != who);
        }
        Ok(Expected::Good(Vec::new()))
    }

    fn selected(&self, list: &[u8], ten: bool) -> Result<Modes, Sense> {
        let short_list = illegal(Additional::PARAMETER_LIST_LENGTH);
        let wrong = |at: usize| Sense::invalid_parameter(at as u16);
        let header = if ten { 8 } else { 4 };
        if list.len() < header {
            return Err(short_list);
        }
        let kind = if ten { 2 } else { 1 };
        if list[kind] != 0 {
            return Err(wrong(kind));
        }
        let long = ten && list[4] & 1 != 0;
        let described = if ten { short(&list[6..8]) } else { usize::from(list[3]) };
        let right = self.descriptor(long);
        if described != 0 && described != right.len() {
            return Err(wrong(if ten { 6 } else { 3 }));
        }
        if list.len() < header + described {
            return Err(short_list);
        }
        if described != 0 {
            let (count, rest) = list[header..header + described].split_at(right.len() / 2);
            let fine = count == &right[..right.len() / 2]
                || count.iter().all(|byte| *byte == 0)
                || count.iter().all(|byte| *byte == 0xff);
            if !fine {
                return Err(wrong(header));
            }
            let reserved = if long { 4 } else { 1 };
            if rest[..reserved].iter().any(|byte| *byte != 0) {
                return Err(wrong(header + count.len()));
            }
            if rest[reserved..] != right[count.len() + reserved..] {
                return Err(wrong(header + count.len() + reserved));
            }
        }
        let (mut at, mut modes) = (header + described, self.modes);
        while at < list.len() {
            let (code, sub) = (list[at] & 0x3f, list[at] & 0x40 != 0);
            let mut known = self.codes();
            known.retain(|one| one.0 == code && sub == (one.1 != 0));
            if known.is_empty() {
                return Err(wrong(at));
            }
            let code = match (sub, list.get(at + 1)) {
                (false, _) => known[0],
                (true, None) => return Err(short_list),
                (true, Some(subpage)) if *subpage == known[0].1 => known[0],
                (true, Some(_)) => return Err(wrong(at + 1)),
            };
            let right = page(code, modes, self.knows_space);
            let header = lengths(code).0;
            if list.len() < at + header {
                return Err(short_list);
            }
            if list[at + header / 2..at + header] != right[header / 2..header] {
                return Err(wrong(at + header / 2));
            }
            if list.len() < at + right.len() {
                return Err(short_list);
            }
            let given = &list[at..at + right.len()];
            for (place, fixed) in right.iter().enumerate().skip(header) {
                if (fixed ^ given[place]) & !mask(code, place) != 0 {
                    return Err(wrong(at + place));
                }
            }
            match code.0 {
                0x08 => modes.wce = given[2] & 0x04 != 0,
                0x0a => {
                    modes.d_sense = given[2] & 0x04 != 0;
                    modes.swp = given[4] & 0x08 != 0;
                }
                _ => {}
            }
            at += right.len();
        }
        Ok(modes)
    }
}
