//! Mode pages, restated as bytes.

use super::{Additional, Expected, Model, Modes, Sense, cut, field, illegal, short};

const CODES: [u8; 4] = [0x02, 0x08, 0x0a, 0x1c];

/// Length of a page behind its header, if there is one of that code.
fn length(code: u8) -> Option<usize> {
    match code {
        0x02 => Some(14),
        0x08 => Some(18),
        0x0a | 0x1c => Some(10),
        _ => None,
    }
}

fn page(code: u8, modes: Modes) -> Vec<u8> {
    let length = length(code).expect("it is listed");
    let mut bytes = vec![0; length + 2];
    bytes[0] = code;
    bytes[1] = length as u8;
    match code {
        0x08 => bytes[2] = u8::from(modes.wce) << 2,
        0x0a => {
            bytes[2] = 0x02 | u8::from(modes.d_sense) << 2;
            bytes[3] = 0x10;
            bytes[4] = u8::from(modes.swp) << 3;
        }
        0x1c => bytes[2] = 0x08,
        _ => {}
    }
    bytes
}

/// Bits that can be changed.
fn mask(code: u8, at: usize) -> u8 {
    match (code, at) {
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

    pub(super) fn mode_sense(&self, cdb: &[u8; 16]) -> Result<Expected, Sense> {
        let (code, control) = (cdb[2] & 0x3f, cdb[2] >> 6);
        if control == 3 {
            return Err(illegal(Additional::SAVING_NOT_SUPPORTED));
        }
        if cdb[3] != 0 && cdb[3] != 0xff {
            return Err(field(3, 7));
        }
        let codes: Vec<u8> = CODES.into_iter().filter(|one| code == 0x3f || code == *one).collect();
        if codes.is_empty() {
            return Err(field(2, 5));
        }
        let values = |code: u8| match control {
            0 => page(code, self.modes),
            2 => page(code, Modes::new(self.volatile)),
            _ => {
                let mut bytes = page(code, self.modes);
                for (at, byte) in bytes.iter_mut().enumerate().skip(2) {
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
            let code = list[at] & 0x7f;
            let Some(length) = length(code) else { return Err(wrong(at)) };
            match list.get(at + 1) {
                None => return Err(short_list),
                Some(given) if usize::from(*given) != length => return Err(wrong(at + 1)),
                Some(_) => {}
            }
            if list.len() < at + 2 + length {
                return Err(short_list);
            }
            let given = &list[at..at + 2 + length];
            for (place, fixed) in page(code, modes).iter().enumerate().skip(2) {
                if (fixed ^ given[place]) & !mask(code, place) != 0 {
                    return Err(wrong(at + place));
                }
            }
            match code {
                0x08 => modes.wce = given[2] & 0x04 != 0,
                0x0a => {
                    modes.d_sense = given[2] & 0x04 != 0;
                    modes.swp = given[4] & 0x08 != 0;
                }
                _ => {}
            }
            at += 2 + length;
        }
        Ok(modes)
    }
}
