//! From bytes to a descriptor.

use super::super::malformed;
use super::{
    ContentId, CreateType, DESCRIPTOR, Descriptor, Encoding, ExtentLine, Line,
    MAX_DESCRIPTOR_BYTES, MAX_EXTENTS, MAX_LINE_BYTES, Meaning,
};
use crate::block::MAX_DISK_SIZE;
use crate::image::Malformed;
use crate::vmdk::format::SECTOR_BYTES;

/// Keys that may come once: with two values, two programs would see two disks.
const SINGLE: [&str; 5] = ["version", "CID", "parentCID", "createType", "parentFileNameHint"];

/// Whether bytes at the start of a file may be those of a descriptor.
pub fn looks_like_descriptor(start: &[u8]) -> bool {
    // As VMware and qemu: comments and empty lines, and then the version.
    let mut lines = start.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    first.is_some_and(|line| {
        let key = line.split(|byte| *byte == b'=').next().unwrap_or_default();
        line.contains(&b'=') && key.trim_ascii().eq_ignore_ascii_case(b"version")
    })
}

impl Descriptor {
    /// Reads a descriptor that stands `offset` bytes into its file. It ends at the first zero byte, if there is one.
    pub fn parse(bytes: &[u8], offset: u64) -> Result<Self, Malformed> {
        if bytes.len() > MAX_DESCRIPTOR_BYTES {
            let expected = format!("at most {MAX_DESCRIPTOR_BYTES} bytes");
            return Err(malformed(DESCRIPTOR, offset, "length", bytes.len(), expected));
        }
        let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let encoding = Encoding::named_in(bytes);
        let mut lines = Vec::new();
        let mut at = offset;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            lines.push((at, parse_line(line, &encoding, at)?));
            at += line.len() as u64;
        }
        check_version(&lines, offset)?;
        check_single(&lines)?;
        check_extents(&lines, offset)?;
        let (cid, _) = content_id(&lines, "CID", offset)?;
        let parent_cid = if has(&lines, "parentCID") {
            content_id(&lines, "parentCID", offset)?.0
        } else {
            ContentId::NONE
        };
        let Some((_, create_type)) = find(&lines, "createType") else {
            return Err(malformed(DESCRIPTOR, offset, "createType", "missing", "a kind of disk"));
        };
        let create_type = CreateType::parse(create_type);
        let lines: Vec<Line> = lines.into_iter().map(|(_, line)| line).collect();
        Ok(Self { lines, encoding, cid, parent_cid, create_type })
    }
}

fn parse_line(bytes: &[u8], encoding: &Encoding, offset: u64) -> Result<Line, Malformed> {
    if bytes.len() > MAX_LINE_BYTES {
        let expected = format!("at most {MAX_LINE_BYTES} bytes");
        return Err(malformed(DESCRIPTOR, offset, "length of a line", bytes.len(), expected));
    }
    let (bytes, end) = match bytes {
        [text @ .., b'\r', b'\n'] => (text, "\r\n"),
        [text @ .., b'\n'] => (text, "\n"),
        text => (text, ""),
    };
    let text = encoding.decode(bytes, offset)?;
    let plain = text.trim();
    let meaning = if plain.is_empty() || plain.starts_with('#') {
        Meaning::None
    } else if let Some(extent) = ExtentLine::parse(plain, offset)? {
        Meaning::Extent(extent)
    } else if let Some((key, value)) = plain.split_once('=') {
        let value = value.trim();
        let value = match value.strip_prefix('"') {
            None => value,
            Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        };
        Meaning::Setting { key: key.trim().to_owned(), value: value.to_owned() }
    } else {
        Meaning::None
    };
    Ok(Line { text, end, meaning })
}

/// The first line with a meaning is the version.
fn check_version(lines: &[(u64, Line)], offset: u64) -> Result<(), Malformed> {
    let first = lines.iter().find(|(_, line)| line.meaning != Meaning::None);
    match first {
        Some((at, Line { meaning: Meaning::Setting { key, value }, .. }))
            if key.eq_ignore_ascii_case("version") =>
        {
            if ["1", "2", "3"].contains(&value.as_str()) {
                return Ok(());
            }
            Err(malformed(DESCRIPTOR, *at, "version", value, "1, 2 or 3"))
        }
        Some((at, line)) => {
            Err(malformed(DESCRIPTOR, *at, "first setting", line.text.trim(), "version=1"))
        }
        None => Err(malformed(DESCRIPTOR, offset, "version", "missing", "version=1")),
    }
}

fn check_single(lines: &[(u64, Line)]) -> Result<(), Malformed> {
    for key in SINGLE {
        let mut found = lines.iter().filter(|(_, line)| is(line, key));
        if let Some((at, line)) = found.nth(1) {
            let expected = format!("{key} once");
            return Err(malformed(DESCRIPTOR, *at, "second value", line.text.trim(), expected));
        }
    }
    Ok(())
}

fn check_extents(lines: &[(u64, Line)], offset: u64) -> Result<(), Malformed> {
    let mut sectors = 0;
    let mut count = 0;
    for (at, line) in lines {
        let Meaning::Extent(extent) = &line.meaning else { continue };
        count += 1;
        if count > MAX_EXTENTS {
            let expected = format!("at most {MAX_EXTENTS}");
            return Err(malformed(DESCRIPTOR, *at, "number of extents", count, expected));
        }
        // Neither wraps: an extent has at most 2^37 sectors, and there are few.
        sectors += extent.sectors;
        if sectors > MAX_DISK_SIZE / SECTOR_BYTES {
            let expected = "64 TiB at most";
            return Err(malformed(DESCRIPTOR, *at, "sum of extents", sectors, expected));
        }
    }
    if count == 0 {
        return Err(malformed(DESCRIPTOR, offset, "extents", "missing", "at least one"));
    }
    Ok(())
}

fn is(line: &Line, wanted: &str) -> bool {
    matches!(&line.meaning, Meaning::Setting { key, .. } if key.eq_ignore_ascii_case(wanted))
}

fn has(lines: &[(u64, Line)], key: &str) -> bool {
    lines.iter().any(|(_, line)| is(line, key))
}

fn find<'a>(lines: &'a [(u64, Line)], key: &str) -> Option<(u64, &'a str)> {
    let (at, line) = lines.iter().find(|(_, line)| is(line, key))?;
    match &line.meaning {
        Meaning::Setting { value, .. } => Some((*at, value)),
        _ => None,
    }
}

fn content_id(
    lines: &[(u64, Line)],
    key: &'static str,
    offset: u64,
) -> Result<(ContentId, u64), Malformed> {
    let expected = "a number of 1 to 8 hexadecimal digits";
    let Some((at, value)) = find(lines, key) else {
        return Err(malformed(DESCRIPTOR, offset, key, "missing", expected));
    };
    let digits = value.len() <= 8 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u32::from_str_radix(value, 16) {
        Ok(number) if digits => Ok((ContentId::new(number), at)),
        _ => Err(malformed(DESCRIPTOR, at, key, value, expected)),
    }
}
