//! Fields taken off the front of a slice, and strings put behind their length.

use super::MAX_STRING;
use super::option::OptionError;

/// Takes fields off the front of a slice.
pub(super) struct Fields<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    pub(super) fn take(&mut self, wanted: usize) -> Result<&'a [u8], OptionError> {
        let rest = &self.data[self.at..];
        if wanted > rest.len() {
            return Err(OptionError::Truncated { at: self.at, wanted, length: self.data.len() });
        }
        self.at += wanted;
        Ok(&rest[..wanted])
    }

    pub(super) fn u16(&mut self) -> Result<u16, OptionError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, OptionError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(super) fn counted_text(&mut self) -> Result<String, OptionError> {
        let length = usize::try_from(self.u32()?).expect("32 bits fit a usize");
        text(self.take(length)?)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.data[self.at..];
        self.at = self.data.len();
        rest
    }

    pub(super) fn end(&self) -> Result<(), OptionError> {
        match self.data.len() - self.at {
            0 => Ok(()),
            left => Err(OptionError::Trailing(left)),
        }
    }
}

/// The string in `bytes`.
pub(super) fn text(bytes: &[u8]) -> Result<String, OptionError> {
    if bytes.len() > MAX_STRING {
        return Err(OptionError::LongString(bytes.len()));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(OptionError::NotText),
    }
}

/// Appends `text` behind its length.
pub(super) fn put_counted(out: &mut Vec<u8>, text: &str) {
    out.extend(length_of(text.len()).to_be_bytes());
    out.extend(text.as_bytes());
}

/// A length this side is about to send; all of them are bounded far below 4 GiB.
pub(super) fn length_of(length: usize) -> u32 {
    u32::try_from(length).expect("messages of this side are far below 4 GiB")
}

/// `meaning`, provided that no data came with it.
pub(super) fn no_data<T>(data: &[u8], meaning: T) -> Result<T, OptionError> {
    if data.is_empty() { Ok(meaning) } else { Err(OptionError::UnexpectedData(data.len())) }
}
