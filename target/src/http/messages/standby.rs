//! Standby files: what is kept where, what it holds, and what is asked for.

use serde::{Deserialize, Serialize};

/// Standby files to be kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StandbyAdd {
    /// The machine.
    pub(crate) machine: String,
    /// Absolute path of a folder. It is made if its parent is there.
    pub(crate) folder: String,
    /// `raw`, `vmdk` or `vhdx`.
    pub(crate) format: String,
    /// How often they are brought forward.
    pub(crate) every_seconds: u64,
    /// Only to app points.
    #[serde(default)]
    pub(crate) app_only: bool,
    /// Also in a folder where images of machines are.
    #[serde(default)]
    pub(crate) beside_images: bool,
}

/// Standby files to be brought to a moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StandbySync {
    /// `MACHINE`: the newest point. `MACHINE@WHEN`: that one, and there they stay, paused.
    pub(crate) name: String,
    /// Also where somebody else wrote to a file: what that was is lost.
    #[serde(default)]
    pub(crate) overwrite: bool,
    /// Also to a fuzzy point.
    #[serde(default)]
    pub(crate) fuzzy: bool,
}

/// What was begun.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StandbyBegun {
    /// Ended when `answered` of the standby is that or higher.
    pub(crate) number: u64,
    /// The standby.
    pub(crate) standby: Standby,
}

/// Standby files that are kept no longer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StandbyRemoved {
    /// The machine.
    pub(crate) machine: String,
    /// The folder they were in.
    pub(crate) folder: String,
    /// Files that were removed, and what belonged to them.
    pub(crate) deleted: Vec<String>,
}

/// The standby files of all machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StandbyList {
    /// By name of the machine.
    pub(crate) standbys: Vec<Standby>,
}

/// The standby files of a machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Standby {
    /// The machine.
    pub(crate) machine: String,
    /// The folder they are in.
    pub(crate) folder: String,
    /// Their format.
    pub(crate) format: String,
    /// How often they are brought forward.
    pub(crate) every_seconds: u64,
    /// Only to app points.
    pub(crate) app_only: bool,
    /// They stay as they are.
    pub(crate) paused: bool,
    /// `empty` (nothing was written yet), `current`, `behind`, `writing` or `failing`.
    pub(crate) state: String,
    /// What all files hold: `MACHINE@seq:N`. Nothing while they do not hold the same point.
    pub(crate) holds: Option<String>,
    /// When that was committed.
    pub(crate) holds_time: Option<String>,
    /// Its kind; `instant` for a moment between points.
    pub(crate) holds_kind: Option<String>,
    /// How much later the newest moment is that they may hold.
    pub(crate) lag_seconds: u64,
    /// Marked points that they may hold and that come after.
    pub(crate) lag_points: u64,
    /// How far it is, while they are written.
    pub(crate) writing: Option<StandbyWriting>,
    /// Why they are not brought forward.
    pub(crate) error: Option<String>,
    /// What was done last.
    pub(crate) last: Option<StandbyLast>,
    /// The last number that was asked for and has ended.
    pub(crate) answered: u64,
    /// Why that failed, if it did.
    pub(crate) answered_error: Option<String>,
    /// The files.
    pub(crate) files: Vec<StandbyFile>,
}

/// How far the files are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StandbyWriting {
    /// What they are to hold.
    pub(crate) to: String,
    /// The disk that is written.
    pub(crate) disk: String,
    /// Where on it.
    pub(crate) done_bytes: u64,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// Bytes that were written to all files.
    pub(crate) written_bytes: u64,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StandbyLast {
    /// When it ended.
    pub(crate) ended: String,
    /// How long it took, in milliseconds.
    pub(crate) took_ms: u64,
    /// Bytes of data that were written.
    pub(crate) written_bytes: u64,
    /// Bytes that were made zero.
    pub(crate) zeroed_bytes: u64,
    /// Disks whose files were compared as a whole, as it was not known what they held.
    pub(crate) compared: Vec<String>,
    /// Disks that had no file.
    pub(crate) made: Vec<String>,
}

/// A standby file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StandbyFile {
    /// The disk.
    pub(crate) disk: String,
    /// Its path.
    pub(crate) path: String,
    /// `none` (nothing was written yet), `whole`, `between`, `unknown`, or `untrusted`: its sidecar makes no sense.
    pub(crate) state: String,
    /// What it holds, for people.
    pub(crate) holds: Option<String>,
    /// Whether somebody else wrote to it, moved it or took it away since.
    pub(crate) altered: Option<String>,
}
