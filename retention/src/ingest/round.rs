//! Who writes to the disks of a machine, and when what they hold may be called one moment. Pure.
//!
//! ```text
//!   disk os     ├── session ──┤ whole                       ├── session ──┤ whole
//!   disk data        ├── session ──┤ whole  ─▶ point            ├─ broken ─╳       ├── session ──┤ whole ─▶ point
//! ```
//!
//! A session is *whole* if its client left in good order, after a flush that followed its last write, with nothing left
//! that was refused. **Invariant:** a point is due when each disk had a session since the last point, the last one of each
//! is whole, and nobody writes: between two disks of one machine nothing else says that they belong together.

use super::refused::Refused;
use crate::ids::DiskId;
use crate::time::Timestamp;
use landfall_disks::ByteRange;
use std::collections::BTreeMap;

/// Who writes to a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Writer {
    /// Who it is, for people.
    pub peer: String,
    /// Since when.
    pub since: Timestamp,
}

/// What a client did while it had a disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Session {
    wrote: bool,
    unflushed: bool,
    flushed: bool,
    refused: Refused,
}

impl Session {
    /// It wrote, and was told so; `durable` if it asked for that with the write.
    pub(super) fn wrote(&mut self, range: ByteRange, durable: bool) {
        self.refused.remove(range);
        self.wrote = true;
        self.unflushed |= !durable;
    }

    /// It was told that it could not write.
    pub(super) fn refused(&mut self, range: ByteRange) {
        self.refused.add(range);
    }

    /// It asked that everything before be durable.
    pub(super) fn flushed(&mut self) {
        self.unflushed = false;
        self.flushed = true;
    }

    /// How it ended: whether it said anything, or why it is not whole.
    pub(super) fn end(&self, broken: Option<&str>) -> Ended {
        if let Some(why) = broken {
            return Ended::Broken(why.to_owned());
        }
        if let Some(what) = self.refused.first() {
            return Ended::Broken(format!("{what} was refused, and not made again"));
        }
        match (self.unflushed, self.flushed, self.wrote) {
            (true, ..) => {
                Ended::Broken("the client left without a flush after its last write".into())
            }
            (false, false, false) => Ended::Silent,
            (false, ..) => Ended::Whole,
        }
    }
}

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// What the disk holds is what the client wanted it to hold.
    Whole,
    /// It neither wrote nor flushed: it may have had nothing to bring, or only looked.
    Silent,
    /// What the disk holds is between two states.
    Broken(String),
}

impl Ended {
    /// For people.
    pub(super) fn words(&self) -> &str {
        match self {
            Self::Whole => "whole",
            Self::Silent => "nothing was brought",
            Self::Broken(why) => why,
        }
    }
}

/// What the last session of a disk left, since the last point.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Left {
    #[default]
    Nothing,
    /// It was there and brought nothing.
    Silence,
    Whole,
    Broken(String),
}

/// The sessions since the last point.
#[derive(Default, Debug)]
pub(super) struct Round {
    disks: BTreeMap<DiskId, OfDisk>,
}

#[derive(Default, Debug)]
struct OfDisk {
    writer: Option<Writer>,
    left: Left,
}

impl Round {
    /// Lets a client have a disk; who has it, if somebody does.
    pub(super) fn enter(&mut self, disk: DiskId, writer: Writer) -> Result<(), Writer> {
        let of_disk = self.disks.entry(disk).or_default();
        match &of_disk.writer {
            Some(writer) => Err(writer.clone()),
            None => {
                of_disk.writer = Some(writer);
                Ok(())
            }
        }
    }

    /// It was not let in after all.
    pub(super) fn turn_away(&mut self, disk: DiskId) {
        self.disks.entry(disk).or_default().writer = None;
    }

    /// A session of a disk has ended.
    pub(super) fn leave(&mut self, disk: DiskId, ended: Ended) {
        let of_disk = self.disks.entry(disk).or_default();
        of_disk.writer = None;
        of_disk.left = match (ended, std::mem::take(&mut of_disk.left)) {
            (Ended::Broken(why), _) => Left::Broken(why),
            (Ended::Whole, _) => Left::Whole,
            (Ended::Silent, Left::Nothing) => Left::Silence,
            // Whoever only looks heals nothing, and spoils nothing.
            (Ended::Silent, before) => before,
        };
    }

    /// Whether the disks, `all` of them, may be called one moment now.
    pub(super) fn is_due(&self, all: &[DiskId]) -> bool {
        let of = |disk: &DiskId| self.disks.get(disk);
        let quiet = self.disks.values().all(|disk| disk.writer.is_none());
        let there = all.iter().all(|disk| {
            of(disk).is_some_and(|disk| matches!(disk.left, Left::Whole | Left::Silence))
        });
        let brought = self.disks.values().any(|disk| disk.left == Left::Whole);
        quiet && there && brought
    }

    /// A point was made: whatever comes now is for the next one.
    pub(super) fn marked(&mut self) {
        self.disks.values_mut().for_each(|disk| disk.left = Left::Nothing);
    }

    /// Whether anybody writes.
    pub(super) fn has_writers(&self) -> bool {
        self.disks.values().any(|disk| disk.writer.is_some())
    }

    /// Who writes to a disk.
    pub(super) fn writer(&self, disk: DiskId) -> Option<Writer> {
        self.disks.get(&disk)?.writer.clone()
    }

    /// Whether somebody had the disk since the last point.
    pub(super) fn was_there(&self, disk: DiskId) -> bool {
        self.disks
            .get(&disk)
            .is_some_and(|disk| disk.writer.is_some() || disk.left != Left::Nothing)
    }

    /// Whether what was brought since the last point is whole.
    pub(super) fn is_whole(&self, disk: DiskId) -> bool {
        self.disks.get(&disk).is_some_and(|disk| disk.left == Left::Whole)
    }

    /// Why what was brought to a disk is no moment, if so.
    pub(super) fn broken(&self, disk: DiskId) -> Option<String> {
        match &self.disks.get(&disk)?.left {
            Left::Broken(why) => Some(why.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OS: DiskId = DiskId::new(1);
    const DATA: DiskId = DiskId::new(2);

    fn writer(peer: &str) -> Writer {
        Writer { peer: peer.into(), since: Timestamp::default() }
    }

    fn enter(round: &mut Round, disk: DiskId) {
        round.enter(disk, writer("qemu")).expect("nobody has it");
    }

    fn pass(round: &mut Round, disk: DiskId, ended: Ended) {
        enter(round, disk);
        round.leave(disk, ended);
    }

    fn broken() -> Ended {
        Ended::Broken("gone".into())
    }

    #[test]
    fn a_session_is_whole_after_a_flush_behind_the_last_write() {
        let range = ByteRange::up_to(4096);
        let session = |steps: &str| {
            let mut session = Session::default();
            for step in steps.chars() {
                match step {
                    'w' => session.wrote(range, false),
                    'd' => session.wrote(range, true),
                    'r' => session.refused(range),
                    _ => session.flushed(),
                }
            }
            session
        };
        for whole in ["wf", "f", "wfwf", "rwf", "d", "wfd", "rd"] {
            assert_eq!(session(whole).end(None), Ended::Whole, "{whole}");
            assert_eq!(session(whole).end(Some("gone")), broken(), "{whole}");
        }
        for broken in ["w", "wfw", "rf", "wrf", "fw", "wfr", "wd"] {
            assert!(matches!(session(broken).end(None), Ended::Broken(_)), "{broken}");
        }
        assert_eq!(session("").end(None), Ended::Silent);
    }

    #[test]
    fn one_client_at_a_time_has_a_disk() {
        let mut round = Round::default();
        enter(&mut round, OS);
        assert_eq!(round.enter(OS, writer("nbdcopy")), Err(writer("qemu")));
        enter(&mut round, DATA);
        round.leave(OS, Ended::Silent);
        round.enter(OS, writer("nbdcopy")).expect("nobody has it");
        assert_eq!(round.writer(OS), Some(writer("nbdcopy")));
        round.turn_away(OS);
        assert!(round.writer(OS).is_none() && round.has_writers());
    }

    #[test]
    fn a_point_is_due_when_every_disk_was_brought_whole() {
        let mut round = Round::default();
        pass(&mut round, OS, Ended::Whole);
        assert!(round.is_due(&[OS]) && !round.is_due(&[OS, DATA]));
        enter(&mut round, DATA);
        assert!(!round.is_due(&[OS]), "somebody writes to a disk of it");
        round.leave(DATA, broken());
        assert!(!round.is_due(&[OS, DATA]) && round.broken(DATA).is_some());
        pass(&mut round, DATA, Ended::Silent);
        assert!(!round.is_due(&[OS, DATA]), "whoever looks heals nothing");
        pass(&mut round, DATA, Ended::Whole);
        pass(&mut round, OS, Ended::Silent);
        assert!(round.is_due(&[OS, DATA]), "whoever looks spoils nothing");
        round.marked();
        assert!(!round.is_due(&[OS, DATA]) && !round.was_there(OS));
    }

    #[test]
    fn a_disk_with_nothing_to_bring_is_as_good_as_one_with_something() {
        let mut round = Round::default();
        pass(&mut round, DATA, Ended::Silent);
        assert!(!round.is_due(&[DATA]), "nobody brought anything");
        pass(&mut round, OS, Ended::Whole);
        assert!(round.is_due(&[OS, DATA]));
    }
}
