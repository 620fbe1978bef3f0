//! What is known of a file before it is written to. Pure.
//!
//! | beside it | the file | history | so |
//! |---|---|---|---|
//! | nothing | nothing | | it is made |
//! | nothing | something | | refused: nothing says that it is ours |
//! | a sidecar of another target or machine | | | refused |
//! | a sidecar that cannot be trusted | something | | refused, unless it may be overwritten: compared |
//! | whole, at P | nothing | | it is made again |
//! | whole, at P | as it was left | has P on record | what changed since P |
//! | whole, at P | as it was left | has not | compared |
//! | whole, at P | moved, or copied | | compared |
//! | whole, at P | written by somebody else | | refused, unless it may be overwritten: compared |
//! | between P and Q | | has both on record | what changed between all three |
//! | between P and Q | | has not | compared |
//! | unknown | | | compared |
//!
//! *Has P on record*: the manifest says that a file of this standby may hold it. A data folder that was put back to what it was
//! before has not, whatever its history calls P.

use super::sidecar::{FileStamp, HeldPoint, Holds, Sidecar, SidecarFault, StampChange};
use crate::ids::{DiskId, MachineId};
use crate::manifest::standby::HeldMoment;

/// Whose file it is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub(super) target: [u8; 16],
    pub(super) machine: MachineId,
    pub(super) disk: DiskId,
}

/// A file as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FoundFile {
    /// Size of the disk in it, in bytes.
    pub(super) size_bytes: u64,
    /// What its format calls its content.
    pub(super) content: Option<String>,
    pub(super) stamps: Vec<FileStamp>,
}

/// What is known of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// There is none.
    Nothing,
    /// It holds a moment.
    Holds(HeldPoint),
    /// What differs between two moments may be of either; all else is of both.
    Between(HeldPoint, HeldPoint),
    /// It may hold anything.
    Anything,
}

/// Why a file is not written to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotOurs {
    /// Nothing stands beside it.
    #[error(
        "it exists, and nothing beside it says that it is a standby; \
         move it away, or keep the standby in another folder"
    )]
    Unmarked,
    /// Another target, or one for another machine of that name, wrote it.
    #[error(
        "it is the standby that {of} keeps; remove it with its .landfall file if nobody needs it, \
         or keep the standby in another folder"
    )]
    Anothers {
        /// Whose it is.
        of: &'static str,
    },
    /// What stands beside it cannot be trusted.
    #[error("its .landfall file cannot be trusted: {0}")]
    Sidecar(#[from] SidecarFault),
    /// It is not what was left there.
    #[error("it was written by somebody else, a hypervisor that booted from it perhaps: {0}")]
    Written(String),
}

impl NotOurs {
    /// Whether somebody may say that it be overwritten all the same.
    pub fn may_be_overwritten(&self) -> bool {
        matches!(self, Self::Sidecar(_) | Self::Written(_))
    }
}

/// What is known of a file and what stands beside it.
pub(super) fn judge(
    owner: &Owner,
    sidecar: Option<&Result<Sidecar, SidecarFault>>,
    found: Option<&FoundFile>,
    may_hold: &[HeldMoment],
) -> Result<Known, NotOurs> {
    let sidecar = match (sidecar, found) {
        (None, Some(_)) => return Err(NotOurs::Unmarked),
        (Some(Err(fault)), Some(_)) => return Err(fault.clone().into()),
        (None | Some(Err(_)), None) => return Ok(Known::Nothing),
        (Some(Ok(sidecar)), _) => sidecar,
    };
    check_owner(owner, sidecar)?;
    let Some(found) = found else { return Ok(Known::Nothing) };
    if let Holds::Moment { size_bytes, content, files, .. } = &sidecar.holds {
        match changed(files, found, *size_bytes, content.as_deref()) {
            Ok(StampChange::None) => {}
            Ok(_) => return Ok(Known::Anything),
            Err(what) => return Err(NotOurs::Written(what)),
        }
    }
    let on_record = |point: &HeldPoint| may_hold.contains(&point.at);
    Ok(match &sidecar.holds {
        _ if sidecar.disk_id != owner.disk => Known::Anything,
        Holds::Moment { moment, .. } if on_record(moment) => Known::Holds(moment.clone()),
        Holds::Between { from, to } if on_record(from) && on_record(to) => {
            Known::Between(from.clone(), to.clone())
        }
        Holds::Moment { .. } | Holds::Between { .. } | Holds::Unknown { .. } => Known::Anything,
    })
}

/// That a sidecar was written for the machine.
pub(super) fn check_owner(owner: &Owner, sidecar: &Sidecar) -> Result<(), NotOurs> {
    if sidecar.target != owner.target {
        return Err(NotOurs::Anothers { of: "another target" });
    }
    if sidecar.machine_id != owner.machine {
        return Err(NotOurs::Anothers { of: "this target for another machine, or once kept," });
    }
    Ok(())
}

/// How a file differs from what was left; what somebody wrote, in words.
fn changed(
    left: &[FileStamp],
    found: &FoundFile,
    size_bytes: u64,
    content: Option<&str>,
) -> Result<StampChange, String> {
    if found.size_bytes != size_bytes {
        return Err(format!("its disk has {} bytes, not {size_bytes}", found.size_bytes));
    }
    if found.content.as_deref() != content {
        let name = |content: Option<&str>| content.unwrap_or("no name").to_owned();
        let (now, then) = (name(found.content.as_deref()), name(content));
        return Err(format!("its content is called {now}, not {then}"));
    }
    let names =
        |stamps: &[FileStamp]| stamps.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
    if names(left) != names(&found.stamps) {
        return Err("it consists of other files".to_owned());
    }
    let mut worst = StampChange::None;
    for (left, now) in left.iter().zip(&found.stamps) {
        let change = left.compare(now);
        if change == StampChange::Written {
            let time = crate::time::Timestamp::from_nanoseconds(now.modified);
            return Err(format!("{} was last written at {time}", now.name));
        }
        worst = worst.max(change);
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LineId, Sequence};
    use crate::name::Name;
    use crate::time::Timestamp;
    use landfall_disks::image::Format;

    const OWNER: Owner =
        Owner { target: [1; 16], machine: MachineId::new(2), disk: DiskId::new(3) };

    fn point(sequence: u64) -> HeldPoint {
        let time = Timestamp::from_nanoseconds(sequence);
        let at = HeldMoment { line: LineId::new(1), sequence: Sequence::new(sequence), time };
        HeldPoint { at, kind: None, label: None }
    }

    fn stamp() -> FileStamp {
        FileStamp { name: "a".into(), inode: 1, length_bytes: 2, modified: 3, changed: 4 }
    }

    fn found() -> FoundFile {
        FoundFile { size_bytes: 4096, content: Some("CID 1".into()), stamps: vec![stamp()] }
    }

    fn whole(sequence: u64) -> Holds {
        let FoundFile { size_bytes, content, stamps } = found();
        Holds::Moment { moment: point(sequence), size_bytes, content, files: stamps }
    }

    fn sidecar(holds: Holds) -> Sidecar {
        let name = Name::parse("web").expect("a name");
        Sidecar {
            target: OWNER.target,
            machine: name.clone(),
            machine_id: OWNER.machine,
            disk: name,
            disk_id: OWNER.disk,
            format: Format::Vmdk,
            set: vec!["a".into()],
            written: Timestamp::default(),
            holds,
        }
    }

    fn of(sidecar: Sidecar, found: Option<&FoundFile>) -> Result<Known, NotOurs> {
        judge(&OWNER, Some(&Ok(sidecar)), found, &[point(7).at, point(9).at])
    }

    #[test]
    fn what_was_left_is_known_if_history_has_it_on_record() {
        let file = found();
        let known = |holds| of(sidecar(holds), Some(&file));
        assert_eq!(known(whole(7)), Ok(Known::Holds(point(7))));
        assert_eq!(known(whole(8)), Ok(Known::Anything), "not on record");
        let between = |from| Holds::Between { from: point(from), to: point(9) };
        assert_eq!(known(between(7)), Ok(Known::Between(point(7), point(9))));
        assert_eq!(known(between(8)), Ok(Known::Anything));
        assert_eq!(known(Holds::Unknown { to: point(9) }), Ok(Known::Anything));
        let mut other_disk = sidecar(whole(7));
        other_disk.disk_id = DiskId::new(99);
        assert_eq!(of(other_disk, Some(&file)), Ok(Known::Anything));
        assert_eq!(of(sidecar(whole(7)), None), Ok(Known::Nothing));
        assert_eq!(judge(&OWNER, None, None, &[]), Ok(Known::Nothing));
    }

    #[test]
    fn what_somebody_wrote_is_told_from_what_was_moved() {
        let with = |change: fn(&mut FoundFile)| {
            let mut file = found();
            change(&mut file);
            of(sidecar(whole(7)), Some(&file))
        };
        assert_eq!(with(|file| file.stamps[0].inode = 9), Ok(Known::Anything));
        assert_eq!(with(|file| file.stamps[0].changed = 9), Ok(Known::Anything));
        for change in [
            (|file| file.stamps[0].modified = 9) as fn(&mut FoundFile),
            |file| file.stamps[0].length_bytes = 9,
            |file| file.stamps.clear(),
            |file| file.size_bytes = 512,
            |file| file.content = Some("CID 2".into()),
        ] {
            let error = with(change).expect_err("somebody wrote it");
            assert!(matches!(error, NotOurs::Written(_)) && error.may_be_overwritten(), "{error}");
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let file = found();
        let unmarked = judge(&OWNER, None, Some(&file), &[]);
        assert_eq!(unmarked, Err(NotOurs::Unmarked));
        let changed: Result<Sidecar, _> = Err(SidecarFault::Changed);
        let fault = judge(&OWNER, Some(&changed), Some(&file), &[]);
        assert!(fault.is_err_and(|error| error.may_be_overwritten()));
        assert_eq!(judge(&OWNER, Some(&changed), None, &[]), Ok(Known::Nothing));
        let mut others = sidecar(whole(7));
        others.target = [9; 16];
        let mut machines = sidecar(whole(7));
        machines.machine_id = MachineId::new(9);
        for wrong in [others, machines] {
            for there in [None, Some(&file)] {
                let error = of(wrong.clone(), there).expect_err("another's");
                assert!(!error.may_be_overwritten(), "{error}");
            }
        }
    }
}
