//! Cuts a stream of bytes into frames, however the bytes arrive.
//!
//! The reader hands out the space where the next bytes belong, so that TLS decrypts straight into the body of a frame.
//!
//! **Invariant:** the body is allocated only after its header passed [`Header::parse`].

use super::{FrameError, HEADER_BYTES, Header, RawFrame};

/// Collects bytes until a frame is whole.
#[derive(Debug, Default)]
pub struct FrameReader {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header there are, then of the body.
    filled: usize,
    open: Option<(Header, Vec<u8>)>,
}

impl FrameReader {
    /// Where the next bytes belong; never empty. Tell with [`FrameReader::advance`] how many were put there.
    pub fn space(&mut self) -> &mut [u8] {
        match &mut self.open {
            None => &mut self.header[self.filled..],
            Some((_, body)) => &mut body[self.filled..],
        }
    }

    /// Takes `count` bytes that were put into [`FrameReader::space`]; a frame when that completed one.
    pub fn advance(&mut self, count: usize, limit: usize) -> Result<Option<RawFrame>, FrameError> {
        assert!(count <= self.space().len(), "more bytes than there was space for");
        self.filled += count;
        if self.open.is_none() && self.filled == HEADER_BYTES {
            let header = Header::parse(&self.header, limit)?;
            self.open = Some((header, vec![0; header.length]));
            self.filled = 0;
        }
        match self.open.take_if(|(header, _)| self.filled == header.length) {
            None => Ok(None),
            Some((header, body)) => {
                self.filled = 0;
                Ok(Some(RawFrame { header, body }))
            }
        }
    }

    /// Whether part of a frame has arrived.
    pub fn is_partial(&self) -> bool {
        self.filled > 0 || self.open.is_some()
    }

    /// Takes from the front of `input` what it needs; a frame when that completed one. For input that is in memory
    /// already.
    pub fn feed(
        &mut self,
        input: &mut &[u8],
        limit: usize,
    ) -> Result<Option<RawFrame>, FrameError> {
        while !input.is_empty() {
            let space = self.space();
            let count = space.len().min(input.len());
            space[..count].copy_from_slice(&input[..count]);
            *input = &input[count..];
            if let Some(frame) = self.advance(count, limit)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FrameKind, frame};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_whatever_the_cuts(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
            cuts in prop::collection::vec(1usize..70, 1..50),
        ) {
            let mut bytes = Vec::new();
            bodies.iter().for_each(|body| bytes.extend(frame(FrameKind::Ping, &[body])));
            let mut reader = FrameReader::default();
            let mut seen = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (mut piece, later) = rest.split_at((*cut).min(rest.len()));
                rest = later;
                while !piece.is_empty() {
                    seen.extend(reader.feed(&mut piece, usize::MAX).expect("well formed"));
                }
            }
            prop_assert!(!reader.is_partial());
            let seen: Vec<Vec<u8>> = seen.into_iter().map(|frame| frame.body).collect();
            prop_assert_eq!(seen, bodies);
        }

        #[test]
        fn no_bytes_make_it_panic_or_allocate_past_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = FrameReader::default();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match reader.feed(&mut rest, 1000) {
                    Ok(Some(frame)) => prop_assert!(frame.body.len() <= 1000),
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
        }
    }
}
