//! How it is found what of a disk has to be sent.

use super::chain::{self, Change, Changes};
use super::source::OpenSource;
use crate::units::{ByteSize, counted};
use landfall_protocols::delta::{ContentId, Name};

/// What the target is known to hold of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    /// Nothing but zeroes.
    pub(super) empty: bool,
    /// What a source once called it.
    pub(super) content: Option<ContentId>,
}

/// One of three ways.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// The target holds nothing: everything that is not zeroes.
    Copy,
    /// Hashes tell; where a chain could have told and did not, why.
    Compare {
        /// In words.
        because: Option<&'static str>,
    },
    /// What the images above the one that was sent have of their own.
    Chain(Vec<Change>),
}

impl Way {
    /// The shortest that is sure.
    pub(super) async fn choose(source: &OpenSource, held: Held) -> anyhow::Result<Self> {
        if held.empty {
            return Ok(Self::Copy);
        }
        Ok(Self::by(source.changes_since(held.content).await?, held))
    }

    fn by(changes: Changes, held: Held) -> Self {
        match changes {
            Changes::Known(changes) => Self::Chain(changes),
            Changes::NotAsked => Self::Compare { because: None },
            Changes::UnknownBase if held.content.is_none() => {
                Self::Compare { because: Some("the target does not know what it holds") }
            }
            Changes::UnknownBase => {
                Self::Compare { because: Some("the chain's base is not what was sent") }
            }
        }
    }

    /// Bytes that are looked at of a disk of `size_bytes`.
    pub(super) fn bytes(&self, size_bytes: u64) -> u64 {
        match self {
            Self::Copy | Self::Compare { .. } => size_bytes,
            Self::Chain(changes) => chain::in_words(changes).1,
        }
    }

    /// What a person may want to know of it.
    pub(super) fn in_words(&self, disk: &Name) -> Option<String> {
        match self {
            Self::Copy | Self::Compare { because: None } => None,
            Self::Compare { because: Some(why) } => Some(format!("{disk} compared by hash: {why}")),
            Self::Chain(changes) => {
                let (ranges, bytes) = chain::in_words(changes);
                let (ranges, bytes) = (counted(ranges, "range"), ByteSize::new(bytes));
                Some(format!("{disk} delta by snapshot chain: {ranges}, {bytes}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::ByteRange;

    #[test]
    fn a_way_says_why_it_was_taken() {
        let disk = Name::new("os").expect("a name");
        let held = |byte: Option<u8>| Held {
            empty: false,
            content: byte.and_then(|byte| ContentId::new([byte; 32])),
        };
        let words = |changes, held| Way::by(changes, held).in_words(&disk).unwrap_or_default();
        assert_eq!(words(Changes::NotAsked, held(Some(1))), "");
        assert_eq!(
            words(Changes::UnknownBase, held(Some(1))),
            "os compared by hash: the chain's base is not what was sent"
        );
        assert!(words(Changes::UnknownBase, held(None)).ends_with("does not know what it holds"));
        let change = Change { range: ByteRange::up_to(12 << 20), zero: false };
        let way = Way::by(Changes::Known(vec![change]), held(Some(1)));
        assert_eq!(way.bytes(1 << 40), 12 << 20);
        let said = way.in_words(&disk).expect("said");
        assert_eq!(said, "os delta by snapshot chain: 1 range, 12 MiB");
    }
}
