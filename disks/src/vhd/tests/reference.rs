//! A reader and a maker of VHDs of a few lines, for tests: no checks, whole files in memory, nothing shared with the code they
//! test.

/// A big-endian number of `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + N].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

fn sum(bytes: &[u8], field: usize) -> u32 {
    let all = bytes.iter().enumerate().filter(|(at, _)| !(field..field + 4).contains(at));
    !all.map(|(_, byte)| u32::from(*byte)).sum::<u32>()
}

/// Puts the checksum right.
pub(super) fn seal(bytes: &mut [u8], field: usize) {
    let sum = sum(bytes, field);
    bytes[field..field + 4].copy_from_slice(&sum.to_be_bytes());
}

fn is_footer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"conectix")
        && sum(bytes, 64) == u32::try_from(number::<4>(bytes, 64)).unwrap()
}

/// The content of the disk as its footer at the end tells it; `None` if there is none or it makes no sense.
pub(super) fn read(bytes: &[u8]) -> Option<Vec<u8>> {
    let footer = bytes.len().checked_sub(512).map(|at| &bytes[at..])?;
    content(bytes, footer, true)
}

/// The content as QEMU reads it: by the copy of the footer if there is one, without a look at bitmaps.
pub(super) fn read_as_qemu(bytes: &[u8]) -> Option<Vec<u8>> {
    let dynamic = bytes.starts_with(b"conectix");
    let footer = if dynamic { &bytes[..512] } else { &bytes[bytes.len().checked_sub(512)?..] };
    content(bytes, footer, false)
}

fn content(bytes: &[u8], footer: &[u8], by_bitmap: bool) -> Option<Vec<u8>> {
    if !is_footer(footer) {
        return None;
    }
    let size = number::<8>(footer, 48);
    if number::<4>(footer, 60) == 2 {
        return (size <= bytes.len() - 512).then(|| bytes[..size].to_vec());
    }
    let header = &bytes[number::<8>(footer, 16)..][..1024];
    if !header.starts_with(b"cxsparse") || sum(header, 36) as usize != number::<4>(header, 36) {
        return None;
    }
    let (table, entries) = (number::<8>(header, 16), number::<4>(header, 28));
    let block = number::<4>(header, 32);
    let bitmap_bytes = (block / 512).div_ceil(8).div_ceil(512) * 512;
    if entries * block < size {
        return None;
    }
    let mut whole = vec![0; entries * block];
    for (index, target) in whole.chunks_mut(block).enumerate() {
        let entry = number::<4>(bytes, table + index * 4);
        if entry == 0xffff_ffff {
            continue;
        }
        let bitmap = bytes.get(entry * 512..entry * 512 + bitmap_bytes)?;
        let data = bytes.get(entry * 512 + bitmap_bytes..entry * 512 + bitmap_bytes + block)?;
        for (sector, target) in target.chunks_mut(512).enumerate() {
            if !by_bitmap || bitmap[sector / 8] & 0x80 >> (sector % 8) != 0 {
                target.copy_from_slice(&data[sector * 512..][..512]);
            }
        }
    }
    whole.truncate(size);
    Some(whole)
}

/// Makes dynamic and differencing disks as other programs lay them out.
pub(super) struct Builder {
    size: u64,
    block_bytes: u32,
    kind: u8,
    unique_id: [u8; 16],
    parent_id: [u8; 16],
    names: Vec<([u8; 4], Vec<u8>)>,
    header_name: Vec<u8>,
    blocks: Vec<(usize, Vec<u8>, Vec<u8>)>,
}

impl Builder {
    pub(super) fn new(size: u64, block_bytes: u32) -> Self {
        Self {
            size,
            block_bytes,
            kind: 3,
            unique_id: [0x11; 16],
            parent_id: [0; 16],
            names: Vec::new(),
            header_name: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Makes it a differencing disk.
    pub(super) fn child_of(mut self, parent_id: [u8; 16]) -> Self {
        (self.kind, self.parent_id) = (4, parent_id);
        self
    }

    pub(super) fn unique_id(mut self, id: [u8; 16]) -> Self {
        self.unique_id = id;
        self
    }

    /// Adds a name of the parent, UTF-16 with the low byte first.
    pub(super) fn name(mut self, platform: [u8; 4], name: &str) -> Self {
        self.names.push((platform, name.encode_utf16().flat_map(u16::to_le_bytes).collect()));
        self
    }

    /// Sets the name of the parent in the header.
    pub(super) fn header_name(mut self, name: &str) -> Self {
        self.header_name = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
        self
    }

    /// Adds a block: its first bytes, and the first of its bitmap; zeroes follow both.
    pub(super) fn block(mut self, index: usize, data: &[u8], bitmap: &[u8]) -> Self {
        self.blocks.push((index, data.to_vec(), bitmap.to_vec()));
        self
    }

    pub(super) fn footer(&self) -> [u8; 512] {
        let mut footer = [0; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[8..12].copy_from_slice(&2u32.to_be_bytes());
        footer[12..16].copy_from_slice(&0x1_0000u32.to_be_bytes());
        footer[16..24].copy_from_slice(&512u64.to_be_bytes());
        footer[28..32].copy_from_slice(b"tap\0");
        footer[40..48].copy_from_slice(&self.size.to_be_bytes());
        footer[48..56].copy_from_slice(&self.size.to_be_bytes());
        footer[63] = self.kind;
        footer[68..84].copy_from_slice(&self.unique_id);
        seal(&mut footer, 64);
        footer
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let block = self.block_bytes as usize;
        let bitmap_bytes = (block / 512).div_ceil(8).div_ceil(512) * 512;
        let entries = usize::try_from(self.size).unwrap().div_ceil(block);
        let mut header = [0; 1024];
        header[..8].copy_from_slice(b"cxsparse");
        header[8..16].fill(0xff);
        header[16..24].copy_from_slice(&1536u64.to_be_bytes());
        header[24..28].copy_from_slice(&0x1_0000u32.to_be_bytes());
        header[28..32].copy_from_slice(&u32::try_from(entries).unwrap().to_be_bytes());
        header[32..36].copy_from_slice(&self.block_bytes.to_be_bytes());
        header[40..56].copy_from_slice(&self.parent_id);
        header[64..64 + self.header_name.len()].copy_from_slice(&self.header_name);
        let mut bytes = [self.footer().as_slice(), &header].concat();
        bytes.extend(vec![0xff; (entries * 4).div_ceil(512) * 512]);
        for (number, (platform, name)) in self.names.iter().enumerate() {
            let locator = &mut bytes[512 + 576 + number * 24..][..24];
            locator[..4].copy_from_slice(platform);
            locator[4..8].copy_from_slice(&512u32.to_be_bytes());
            locator[8..12].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
            let at = bytes.len() as u64;
            bytes[512 + 576 + number * 24 + 16..][..8].copy_from_slice(&at.to_be_bytes());
            bytes.extend(name);
            bytes.resize(bytes.len().div_ceil(512) * 512, 0);
        }
        seal(&mut bytes[512..1536], 36);
        for (index, data, bitmap) in &self.blocks {
            let entry = u32::try_from(bytes.len() / 512).unwrap();
            bytes[1536 + index * 4..][..4].copy_from_slice(&entry.to_be_bytes());
            let end = bytes.len() + bitmap_bytes + block;
            bytes.extend(bitmap.iter().take(bitmap_bytes));
            bytes.resize(end - block, 0);
            bytes.extend(data);
            bytes.resize(end, 0);
        }
        bytes.extend(self.footer());
        bytes
    }
}
