//! Metadata contexts of the exports: what NBD clients can ask of blocks beside whether they are
//! allocated.
//!
//! ```text
//!   landfall:changed-since:WHEN  bit 0: written since; bit 1 as well: not known, a record was lost
//!   qemu:dirty-bitmap:WHEN       bit 0: written since, or not known; what stock tools of QEMU and
//!                                libnbd ask for
//!   qemu:allocation-depth        0 nowhere, 1 this line, 2 … those it came from, then the image
//!   landfall:age                 seconds from the last write to what is shown; 2^32 - 1: before
//!                                what the journal has
//! ```
//!
//! `x-landfall:` stands for `landfall:`, and means the same: the specification has namespaces begin
//! so that are not registered with it.
//!
//! WHEN is any form that names of exports take, on the line that is shown or, before it branched
//! off, on that which it branched from. It is resolved once, when a client selects the context, and
//! held until the connection ends. What cannot be had is not offered, as the specification asks,
//! and the log says why.

use futures_util::future::LocalBoxFuture;
use landfall_disks::{ByteRange, IoFuture};
use landfall_protocols::nbd::session::lists;
use landfall_protocols::nbd::{BlockContext, Contexts, Described};
use landfall_retention::name::{Name, NameError, When};
use landfall_retention::point::Point;
use landfall_retention::{
    Change, ChangesError, ChangesSince, Provenance, ResolveError, Retention, Shown,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";
const ALLOCATION_DEPTH: &str = "qemu:allocation-depth";
/// Our own, under the name that people are told, and under the one that the specification has for
/// what is not registered.
const OURS: [&str; 2] = ["landfall:", "x-landfall:"];
const CHANGED_SINCE: &str = "changed-since:";
const AGE: &str = "age";

/// Newest points that a list has contexts for.
const LISTED_POINTS: usize = super::LISTED_POINTS;

/// Contexts of one opened export that are refused aloud; a client that asks for more is told of in
/// a whisper.
const LOUD: u32 = 8;

/// `NBD_STATE_DIRTY`, and the bit of a change of ours.
const CHANGED: u32 = 1;
/// Whether that is not known.
const UNKNOWN: u32 = 1 << 1;

/// The contexts of a disk as it is shown.
pub(super) struct RetentionContexts {
    retention: Arc<Retention>,
    shown: Shown,
    disk: Name,
    refused: AtomicU32,
}

/// A context as a client asked for it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Asked {
    /// What changed since then; told in as many bits.
    Since(When, Bits),
    Depth,
    Age,
}

/// How much is said of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bits {
    /// Whether there may be one.
    Dirty,
    /// Whether it is known, too.
    Known,
}

/// Why a context is not offered.
#[derive(Debug, thiserror::Error)]
enum NotOffered {
    #[error("there is none of this name")]
    Unknown,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Changes(#[from] ChangesError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

impl Asked {
    fn parse(name: &str) -> Result<Self, NotOffered> {
        if name == ALLOCATION_DEPTH {
            return Ok(Self::Depth);
        }
        if let Some(when) = name.strip_prefix(DIRTY_BITMAP) {
            return Ok(Self::Since(When::parse(when)?, Bits::Dirty));
        }
        let ours = OURS.iter().find_map(|namespace| name.strip_prefix(namespace));
        match ours.ok_or(NotOffered::Unknown)? {
            AGE => Ok(Self::Age),
            other => match other.strip_prefix(CHANGED_SINCE) {
                Some(when) => Ok(Self::Since(When::parse(when)?, Bits::Known)),
                None => Err(NotOffered::Unknown),
            },
        }
    }
}

impl Bits {
    fn of(self, change: Change) -> u32 {
        match (change, self) {
            (Change::None, _) => 0,
            (Change::Written, _) | (Change::Unknown, Self::Dirty) => CHANGED,
            (Change::Unknown, Self::Known) => CHANGED | UNKNOWN,
        }
    }
}

impl RetentionContexts {
    pub(super) fn new(retention: &Arc<Retention>, shown: Shown, disk: &Name) -> Self {
        let (retention, disk) = (Arc::clone(retention), disk.clone());
        Self { retention, shown, disk, refused: AtomicU32::new(0) }
    }

    async fn open_named(&self, name: &str) -> Result<Arc<dyn BlockContext>, NotOffered> {
        let Self { retention, shown, disk, .. } = self;
        Ok(match Asked::parse(name)? {
            Asked::Since(when, bits) => {
                let changes = retention.changes_since(shown, &when, disk).await?;
                let since = changes.from().absolute_name(Some(disk));
                tracing::debug!(shown = %shown, context = name, since, "NBD context opened");
                Arc::new(Since { changes, bits })
            }
            Asked::Depth => Arc::new(Depth(retention.provenance(shown, disk)?)),
            Asked::Age => Arc::new(Age(retention.provenance(shown, disk)?)),
        })
    }

    fn refuse(&self, name: &str, why: &NotOffered) {
        let Self { shown, disk, .. } = self;
        if self.refused.fetch_add(1, Relaxed) < LOUD {
            tracing::info!(%shown, %disk, context = name, %why, "NBD context not offered");
        } else {
            tracing::debug!(%shown, %disk, context = name, %why, "NBD context not offered");
        }
    }

    /// Names of what there is, as far as it is worth a line.
    fn names(&self) -> Vec<String> {
        // A branch that was discarded meanwhile has no points any more.
        let points = self.retention.points_before(&self.shown, &self.disk, LISTED_POINTS);
        names_of(&points.unwrap_or_default())
    }
}

/// Names of what there is where these are the points before what is shown.
fn names_of(points: &[Point]) -> Vec<String> {
    let since = |kind: String| points.iter().map(move |one| format!("{kind}seq:{}", one.sequence));
    let mut names = vec![ALLOCATION_DEPTH.to_owned()];
    names.extend(since(DIRTY_BITMAP.to_owned()));
    for namespace in OURS {
        names.push(format!("{namespace}{AGE}"));
        names.extend(since(format!("{namespace}{CHANGED_SINCE}")));
    }
    names
}

impl Contexts for RetentionContexts {
    fn list<'a>(&'a self, queries: &'a [String]) -> LocalBoxFuture<'a, Vec<String>> {
        Box::pin(async move {
            let mut names = self.names();
            let asked = |name: &String| {
                queries.is_empty() || queries.iter().any(|query| lists(query, name))
            };
            names.retain(asked);
            // What is asked for by name is there if it opens, listed or not.
            for query in queries.iter().filter(|query| !query.ends_with(':')) {
                if !names.contains(query) && self.open_named(query).await.is_ok() {
                    names.push(query.clone());
                }
            }
            names
        })
    }

    fn open<'a>(&'a self, name: &'a str) -> LocalBoxFuture<'a, Option<Arc<dyn BlockContext>>> {
        Box::pin(async move {
            let opened = self.open_named(name).await;
            opened.inspect_err(|why| self.refuse(name, why)).ok()
        })
    }
}

/// What changed since a moment.
struct Since {
    changes: ChangesSince,
    bits: Bits,
}

impl BlockContext for Since {
    fn describe(&self, range: ByteRange) -> IoFuture<'_, Vec<Described>> {
        Box::pin(async move {
            let parts = self.changes.within(range).await?;
            let described = |(range, change)| Described { range, status: self.bits.of(change) };
            Ok(parts.into_iter().map(described).collect())
        })
    }
}

/// How deep blocks lie.
struct Depth(Provenance);

impl BlockContext for Depth {
    fn describe(&self, range: ByteRange) -> IoFuture<'_, Vec<Described>> {
        Box::pin(async move {
            let parts = self.0.depths(range).await?;
            let described = |(range, depth)| Described { range, status: depth };
            Ok(parts.into_iter().map(described).collect())
        })
    }
}

/// How long ago blocks were written.
struct Age(Provenance);

impl BlockContext for Age {
    fn describe(&self, range: ByteRange) -> IoFuture<'_, Vec<Described>> {
        Box::pin(async move {
            let parts = self.0.ages(range).await?;
            let described = |(range, age)| Described { range, status: age_status(age) };
            Ok(parts.into_iter().map(described).collect())
        })
    }
}

/// The largest number stands for what is not known, so what is known goes no further than the one
/// before it.
fn age_status(age: Option<Duration>) -> u32 {
    age.map_or(u32::MAX, |age| u32::try_from(age.as_secs()).unwrap_or(u32::MAX).min(u32::MAX - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_retention::ids::Sequence;

    #[test]
    fn names_of_contexts_are_read_with_every_form_of_when() {
        let parsed = |name: &str| Asked::parse(name).expect(name);
        assert_eq!(parsed("qemu:allocation-depth"), Asked::Depth);
        assert_eq!(parsed("landfall:age"), Asked::Age);
        let at = |number| When::Sequence(Sequence::new(number));
        assert_eq!(parsed("qemu:dirty-bitmap:seq:12"), Asked::Since(at(12), Bits::Dirty));
        assert_eq!(parsed("landfall:changed-since:seq:7"), Asked::Since(at(7), Bits::Known));
        let ago = When::Ago(Duration::from_secs(900));
        for text in ["-15m", "15m-ago"] {
            for namespace in ["landfall:", "x-landfall:"] {
                let name = format!("{namespace}changed-since:{text}");
                assert_eq!(parsed(&name), Asked::Since(ago.clone(), Bits::Known));
            }
        }
        assert_eq!(parsed("x-landfall:age"), Asked::Age);
        for text in ["latest", "app", "tag:before: it", "2026-11-21T14:03:05.5Z"] {
            let Asked::Since(when, Bits::Dirty) = parsed(&format!("qemu:dirty-bitmap:{text}"))
            else {
                panic!("{text}")
            };
            assert_eq!(when, When::parse(text).expect(text));
        }
        for name in [
            "qemu:dirty-bitmap:",
            "qemu:dirty-bitmap:yesterday",
            "qemu:dirty-bitmap",
            "qemu:allocation-depth:",
            "landfall:changed-since:",
            "landfall:ages",
            "landfall:",
            "x-landfall:",
            "x-qemu:allocation-depth",
            "x-x-landfall:age",
            "other:age",
        ] {
            assert!(Asked::parse(name).is_err(), "{name} was read");
        }
    }

    #[test]
    fn an_age_has_32_bits_and_the_largest_is_not_known() {
        let seconds = |seconds| age_status(Some(Duration::from_secs(seconds)));
        assert_eq!([0, 7].map(seconds), [0, 7]);
        for long in [u64::from(u32::MAX) - 1, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            assert_eq!(seconds(long), u32::MAX - 1, "{long}");
        }
        assert_eq!(age_status(None), u32::MAX);
    }

    #[test]
    fn what_is_not_known_is_dirty_and_told_apart_where_there_is_room() {
        let told = |bits: Bits| {
            [Change::None, Change::Written, Change::Unknown].map(|change| bits.of(change))
        };
        assert_eq!(told(Bits::Dirty), [0, 1, 1]);
        assert_eq!(told(Bits::Known), [0, 1, 3]);
    }
}
