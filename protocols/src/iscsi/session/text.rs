//! Text that comes or goes in several PDUs (section 6.2, the C bit).

use crate::iscsi::wire::keys::MAX_TEXT;

/// More text than anybody has a use for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a text of more than {MAX_TEXT} bytes")]
pub struct TooLong;

/// Puts text together.
#[derive(Debug, Default)]
pub struct Assembly(Vec<u8>);

impl Assembly {
    /// Takes a segment; the whole text with the last of them.
    pub fn add(&mut self, segment: &[u8], continues: bool) -> Result<Option<Vec<u8>>, TooLong> {
        if self.0.len() + segment.len() > MAX_TEXT {
            self.0.clear();
            return Err(TooLong);
        }
        self.0.extend_from_slice(segment);
        Ok((!continues).then(|| std::mem::take(&mut self.0)))
    }
}

/// Text that is sent, segment by segment.
#[derive(Debug, Default)]
pub struct Outpour {
    text: Vec<u8>,
    sent: usize,
}

impl Outpour {
    /// All of `text` is to be sent.
    pub fn new(text: Vec<u8>) -> Self {
        Self { text, sent: 0 }
    }

    /// The next segment, of at most `most` bytes.
    pub fn next(&mut self, most: usize) -> &[u8] {
        let from = self.sent;
        self.sent = self.text.len().min(from + most);
        &self.text[from..self.sent]
    }

    /// Whether all was sent.
    pub fn is_over(&self) -> bool {
        self.sent == self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn there_is_an_end_to_text() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.add(&[b'a'; MAX_TEXT], true), Ok(None));
        assert_eq!(assembly.add(b"b", false), Err(TooLong));
        assert_eq!(assembly.add(b"c", false), Ok(Some(b"c".to_vec())));
    }

    proptest! {
        #[test]
        fn what_is_poured_out_comes_together(text in prop::collection::vec(any::<u8>(), 0..999), most in 1usize..99) {
            let (mut outpour, mut assembly) = (Outpour::new(text.clone()), Assembly::default());
            let whole = loop {
                let segment = outpour.next(most).to_vec();
                prop_assert!(segment.len() <= most);
                if let Some(whole) = assembly.add(&segment, !outpour.is_over()).expect("short") {
                    break whole;
                }
            };
            prop_assert_eq!(whole, text);
        }
    }
}
