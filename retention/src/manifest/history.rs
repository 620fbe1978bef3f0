//! Where the history of a trunk begins: the moment its floor stands at, as the manifest keeps it.
//!
//! The record of that moment may lie in a segment that is gone, so everything a listing says of it is kept here.

use super::format::{FrameError, Reader, Writer};
use crate::ids::Sequence;
use crate::name::Label;
use crate::point::{Point, PointKind};
use crate::time::Timestamp;

/// The oldest moment of a line that can be returned to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryStart {
    /// Where in the line.
    pub sequence: Sequence,
    /// When it was committed.
    pub commit_time: Timestamp,
    /// When the source says it was; zero unless it is a marked point.
    pub source_time: Timestamp,
    /// Kind of the marked point it is, if it is one.
    pub kind: Option<PointKind>,
    /// Its label.
    pub label: Option<Label>,
}

impl HistoryStart {
    /// The marked point it is.
    pub fn point(&self) -> Option<Point> {
        Some(Point {
            sequence: self.sequence,
            commit_time: self.commit_time,
            source_time: self.source_time,
            kind: self.kind?,
            label: self.label.clone(),
        })
    }

    pub(super) fn encode(&self, to: &mut Writer<'_>) {
        to.u64(self.sequence.number());
        to.u64(self.commit_time.nanoseconds());
        to.u64(self.source_time.nanoseconds());
        to.u8(match self.kind {
            None => 0,
            Some(PointKind::App) => 1,
            Some(PointKind::Crash) => 2,
            Some(PointKind::Fuzzy) => 3,
        });
        to.text(self.label.as_ref().map_or("", Label::as_str));
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let start = Self {
            sequence: Sequence::new(from.u64()?),
            commit_time: Timestamp::from_nanoseconds(from.u64()?),
            source_time: Timestamp::from_nanoseconds(from.u64()?),
            kind: match from.u8()? {
                0 => None,
                1 => Some(PointKind::App),
                2 => Some(PointKind::Crash),
                3 => Some(PointKind::Fuzzy),
                _ => return Err(FrameError::Field("point kind")),
            },
            label: match from.text()? {
                "" => None,
                text => Some(Label::parse(text).map_err(|_| FrameError::Field("label"))?),
            },
        };
        let plain = start.source_time == Timestamp::default() && start.label.is_none();
        if start.kind.is_none() && !plain {
            return Err(FrameError::Field("source time or label of what is no point"));
        }
        Ok(start)
    }
}
