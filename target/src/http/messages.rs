//! What the control API and `--json` say, version 1. Fields are only ever added.
//!
//! ```text
//!   GET    /v1/status                               Status
//!   GET    /v1/machines        POST MachineAdd      Machines, Machine
//!   GET    /v1/machines/NAME   DELETE               Machine, Nothing
//!   POST   /v1/disks           DELETE ?name=        Machine, DiskLeft        (body: DiskJoin)
//!   POST   /v1/disks/grow                           DiskGrown                (body: DiskGrow)
//!   GET    /v1/changes?disk=…                       Changes                  (query: ChangesAsked)
//!   GET    /v1/moment?name=                         Moment
//!   GET    /v1/points?name=…   POST PointMark       Points, Point            (query: PointsAsked)
//!   POST   /v1/points/pin      /v1/points/unpin     Moment                   (body: Named)
//!   POST   /v1/points/lock     /v1/points/unlock    Moment                   (body: PointLock, Named)
//!   GET    /v1/policy?name=    POST PolicySet       Policy, Thinned
//!   GET    /v1/policy/simulate?name=&policy=        Simulation
//!   GET    /v1/keys            DELETE ?name=        DataKeys, DataKeys
//!   POST   /v1/keys/rotate                          DataKey                  (body: Named)
//!   POST   /v1/clock/acknowledge                    Nothing                  (body: Nothing)
//!   GET    /v1/branches        POST BranchAdd       Branches, Branch
//!   DELETE /v1/branches?name=                       Nothing
//!   GET    /v1/exports         POST ExportAdd       Exports, Export
//!   DELETE /v1/exports/ID                           Nothing
//! ```
//!
//! An answer other than 2xx carries a [`Problem`]. Times are RFC 3339 in UTC, to the nanosecond; sizes are bytes.

use serde::{Deserialize, Serialize};

/// Why a request was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// For people: what was wrong, where, and what exists.
    pub(crate) error: String,
}

/// Done, nothing to say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Nothing {}

/// The name of a moment, `MACHINE[~BRANCH][/DISK]@WHEN`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    /// The name.
    pub(crate) name: String,
}

/// A machine to be protected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MachineAdd {
    /// Its name.
    pub(crate) name: String,
    /// Free text for people.
    #[serde(default)]
    pub(crate) display_name: String,
    /// Its disks.
    pub(crate) disks: Vec<DiskAdd>,
}

/// A disk of a machine to be protected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskAdd {
    /// Its name.
    pub(crate) name: String,
    /// Its size; a file that is adopted has one.
    #[serde(default)]
    pub(crate) size_bytes: Option<u64>,
    /// Format of its image. Without one, a file that is adopted is what its content says, and a new one is what the extension
    /// of its path says, or raw.
    #[serde(default)]
    pub(crate) format: Option<String>,
    /// Absolute path of its image; the target chooses one if there is none. An existing file is adopted.
    #[serde(default)]
    pub(crate) path: Option<String>,
}

/// A disk to be added to a machine that is there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskJoin {
    /// The machine.
    pub(crate) machine: String,
    /// The disk.
    pub(crate) disk: DiskAdd,
}

/// A disk to be made larger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskGrow {
    /// `MACHINE/DISK`.
    pub(crate) name: String,
    /// Its new size.
    pub(crate) size_bytes: u64,
}

/// A disk that was made larger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DiskGrown {
    /// `MACHINE/DISK`.
    pub(crate) name: String,
    /// Its size before.
    pub(crate) from_bytes: u64,
    /// Its size now.
    pub(crate) size_bytes: u64,
    /// The first point that has it; nothing if that is still to come.
    pub(crate) point: Option<String>,
}

/// A disk that was removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DiskLeft {
    /// `MACHINE/DISK`.
    pub(crate) name: String,
    /// Whether no point had it, so that it is gone at once.
    pub(crate) forgotten: bool,
}

/// The data keys of machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DataKeys {
    /// In the order in which they came to be.
    pub(crate) keys: Vec<DataKey>,
}

/// A data key. Nothing says what it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DataKey {
    /// Its number.
    pub(crate) key: u32,
    /// The machine whose history it seals.
    pub(crate) machine: String,
    /// Since when.
    pub(crate) added: String,
    /// `writing` (seals what is written), `reading` (opens what was), `locked` (what wraps it was not given), `damaged`, or
    /// `destroyed`.
    pub(crate) state: String,
    /// Id of the key-encryption key that wraps it.
    pub(crate) wrapped_with: Option<String>,
    /// When it was destroyed, if it was.
    pub(crate) destroyed: Option<String>,
}

/// All machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Machines {
    /// By name.
    pub(crate) machines: Vec<Machine>,
}

/// A machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Its name.
    pub(crate) name: String,
    /// Free text for people.
    pub(crate) display_name: String,
    /// Its disks.
    pub(crate) disks: Vec<Disk>,
    /// Sequence of the trunk's head.
    pub(crate) head: u64,
    /// Generation of its stream.
    pub(crate) generation: u64,
    /// The stream that feeds it now.
    pub(crate) stream: Option<Stream>,
    /// How many points the trunk has.
    pub(crate) points: u64,
    /// The oldest of them.
    pub(crate) oldest: Option<Point>,
    /// The newest of them.
    pub(crate) newest: Option<Point>,
    /// Its branches.
    pub(crate) branches: Vec<Branch>,
    /// Where its history begins, and who holds it back.
    #[serde(default)]
    pub(crate) history: History,
}

/// Where the history of a machine begins, and whether that moves.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct History {
    /// The oldest moment that can be opened, once anything older was folded.
    pub(crate) begins: Option<HistoryMoment>,
    /// The oldest moment that its policy keeps; nothing before the first look.
    pub(crate) wanted: Option<HistoryMoment>,
    /// Who holds something older, one line each.
    pub(crate) held_by: Vec<String>,
    /// By how much history reaches further back because of them.
    pub(crate) held_seconds: u64,
    /// A fold that is under way.
    pub(crate) folding: Option<FoldUnderWay>,
    /// Why the last fold failed; it is tried again.
    pub(crate) failure: Option<String>,
    /// How long the last fold since the start took, rests included.
    pub(crate) last_fold_milliseconds: Option<u64>,
    /// Bytes it wrote to images.
    pub(crate) last_fold_bytes: Option<u64>,
    /// What it takes of the journal; nothing before the first look.
    #[serde(default)]
    pub(crate) space: Option<HistorySpace>,
}

/// What the history of a machine takes of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HistorySpace {
    /// Bytes of its records that are needed, branches included.
    pub(crate) used_bytes: u64,
    /// The quota of its policy.
    pub(crate) quota_bytes: Option<u64>,
    /// Bytes an hour that come in, over the last hour; nothing before enough was seen.
    pub(crate) bytes_per_hour: Option<u64>,
    /// In how long the quota is used up at that rate.
    pub(crate) full_in_seconds: Option<u64>,
    /// How far back history reaches then.
    pub(crate) reaches_seconds: Option<u64>,
    /// Why nothing more is taken, if that is so.
    pub(crate) held: Option<String>,
}

/// A moment of a trunk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HistoryMoment {
    /// Its sequence.
    pub(crate) sequence: u64,
    /// When it was committed.
    pub(crate) time: String,
}

/// How far a fold is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FoldUnderWay {
    /// Where history begins.
    pub(crate) floor: u64,
    /// The disk it is at.
    pub(crate) disk: String,
    /// Up to where that is done.
    pub(crate) done_bytes: u64,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// It waits for a disk that does not answer.
    pub(crate) stalled: bool,
}

/// A disk of a machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// Its name.
    pub(crate) name: String,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// Format of its image.
    pub(crate) format: String,
    /// File of its image.
    pub(crate) image: String,
    /// `empty`, `seeding`, `ready` or `needs-resync`.
    pub(crate) state: String,
    /// Why it needs a resync.
    pub(crate) reason: Option<String>,
}

/// A stream that feeds a machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// Who sends.
    pub(crate) peer: String,
    /// Since when.
    pub(crate) since: String,
    /// Last durable position.
    pub(crate) position: u64,
    /// What it is at: `seed`, `resync`, `catchup` or `ordered`.
    #[serde(default)]
    pub(crate) state: Option<String>,
}

/// The streams of all machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Streams {
    /// By name of the machine.
    pub(crate) streams: Vec<StreamAt>,
}

/// What the stream of a machine is at; nothing before it was opened for the first time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StreamAt {
    /// The machine.
    pub(crate) machine: String,
    /// `seed`, `resync`, `catchup` or `ordered`.
    pub(crate) state: Option<String>,
    /// What that means for points, for people.
    pub(crate) meaning: Option<String>,
    /// Since when.
    pub(crate) since: Option<String>,
    /// Where on the trunk it began.
    pub(crate) at_sequence: Option<u64>,
    /// Who sends, if somebody does.
    pub(crate) peer: Option<String>,
    /// Since when they do.
    pub(crate) peer_since: Option<String>,
    /// Last durable position.
    pub(crate) position: Option<u64>,
    /// Where any instant can be chosen, oldest first.
    pub(crate) instants: Vec<Instants>,
}

/// Instants without a gap.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Instants {
    /// When the first was committed.
    pub(crate) from: String,
    /// When the last was.
    pub(crate) to: String,
    /// Its sequence.
    pub(crate) from_sequence: u64,
    /// Its sequence.
    pub(crate) to_sequence: u64,
    /// Whether more come to be.
    pub(crate) grows: bool,
}

/// Which points of a line are wanted; all but the name may be left out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PointsAsked {
    /// `MACHINE` or `MACHINE~BRANCH`.
    pub(crate) name: String,
    /// Committed at or after: a time as in `@WHEN`.
    pub(crate) from: Option<String>,
    /// Committed at or before: a time as in `@WHEN`.
    pub(crate) to: Option<String>,
    /// Kinds with commas between them.
    pub(crate) kind: Option<String>,
    /// `oldest` or `newest`, which to begin with.
    pub(crate) first: Option<String>,
    /// What the page before called `next`.
    pub(crate) after: Option<u64>,
    /// At most so many, and never more than a page.
    pub(crate) limit: Option<usize>,
}

/// A page of the points of a line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Points {
    /// The machine.
    pub(crate) machine: String,
    /// The branch, if it is one.
    pub(crate) branch: Option<String>,
    /// Oldest first, unless it was asked for otherwise.
    pub(crate) points: Vec<Point>,
    /// Where the next page goes on; nothing if this was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<u64>,
    /// Where any instant can be chosen beside the points; with the first page alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) instants: Vec<Instants>,
}

/// A recovery point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    /// The name that always means this point.
    pub(crate) name: String,
    /// Its sequence.
    pub(crate) sequence: u64,
    /// When the target committed it; reads back to this very point.
    pub(crate) time: String,
    /// How long ago that is.
    pub(crate) age_seconds: u64,
    /// When the source says it was.
    pub(crate) source_time: String,
    /// `app`, `crash` or `fuzzy`.
    pub(crate) kind: String,
    /// A name somebody gave it.
    pub(crate) label: Option<String>,
    /// Whether it is pinned.
    pub(crate) pinned: bool,
    /// Until when it is locked.
    #[serde(default)]
    pub(crate) locked_until: Option<String>,
    /// Where each of its disks can be read over NBD.
    pub(crate) uris: Vec<String>,
}

/// A point to be made of the present head.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointMark {
    /// `MACHINE` or `MACHINE~BRANCH`.
    pub(crate) name: String,
    /// `crash` or `app`.
    pub(crate) kind: String,
    /// A name for it.
    #[serde(default)]
    pub(crate) label: Option<String>,
}

/// A point that nobody can drop before a date.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointLock {
    /// `MACHINE@WHEN`.
    pub(crate) name: String,
    /// An RFC 3339 time.
    pub(crate) until: String,
}

/// How long and how densely points of a machine are kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// The machine.
    pub(crate) machine: String,
    /// The policy, in its one form.
    pub(crate) policy: String,
    /// Whether it was set for this machine; otherwise it is the default.
    pub(crate) own: bool,
    /// How old the newest point may be.
    pub(crate) rpo_seconds: u64,
    /// How old the newest app point may be.
    pub(crate) app_every_seconds: u64,
}

/// A policy to be set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicySet {
    /// The machine.
    pub(crate) name: String,
    /// The policy.
    pub(crate) policy: String,
}

/// A policy that was set, and what went by it at once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Thinned {
    /// The policy.
    pub(crate) policy: Policy,
    /// Points of the machine that went, those of its branches among them.
    pub(crate) dropped: u64,
    /// Whether nothing may go because of the clock.
    pub(crate) suspended: bool,
}

/// A policy to be tried; without one, the one that the machine has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyAsked {
    /// The machine.
    pub(crate) name: String,
    /// The policy.
    pub(crate) policy: Option<String>,
}

/// What a policy would keep of the points on record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Simulation {
    /// The machine.
    pub(crate) machine: String,
    /// The policy.
    pub(crate) policy: String,
    /// Points on record.
    pub(crate) recorded: Kept,
    /// Those that would stay.
    pub(crate) kept: Kept,
    /// What keeps them; a point may have several reasons.
    pub(crate) by: Vec<KeptBy>,
    /// How many would go.
    pub(crate) dropped: u64,
    /// What that would take.
    pub(crate) space: SimulationSpace,
    /// How far back the policy reaches; nothing if for ever.
    pub(crate) reach_seconds: Option<u64>,
    /// Its quota.
    pub(crate) quota_bytes: Option<u64>,
}

/// Some points.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// How many.
    pub(crate) points: u64,
    /// When the oldest of them was committed.
    pub(crate) oldest: Option<String>,
}

/// What a part of a policy keeps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct KeptBy {
    /// The part as text; `held` for what somebody holds whatever the policy says.
    pub(crate) rule: String,
    /// What it keeps.
    #[serde(flatten)]
    pub(crate) kept: Kept,
}

/// Bytes of data in the journal, counted from the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SimulationSpace {
    /// Bytes that kept points and the head would need from it.
    pub(crate) needed_bytes: u64,
    /// Bytes of all versions that were looked at.
    pub(crate) recorded_bytes: u64,
    /// Entries that were looked at.
    pub(crate) entries: u64,
    /// Whether those were all.
    pub(crate) complete: bool,
}

/// The moment that a name means now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// The name that always means this moment.
    pub(crate) name: String,
    /// The machine.
    pub(crate) machine: String,
    /// The branch, if it is one.
    pub(crate) branch: Option<String>,
    /// Its sequence.
    pub(crate) sequence: u64,
    /// When the target committed it.
    pub(crate) time: String,
    /// `app`, `crash` or `fuzzy`; nothing for a moment that nobody marked.
    pub(crate) kind: Option<String>,
    /// A name somebody gave it.
    pub(crate) label: Option<String>,
    /// The disks that were asked for.
    pub(crate) disks: Vec<MomentDisk>,
    /// The NBD socket of the target.
    pub(crate) nbd_socket: Option<String>,
    /// The NBD address of the target.
    pub(crate) nbd: Option<String>,
}

/// A disk at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MomentDisk {
    /// Its name.
    pub(crate) name: String,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// The name of the NBD export.
    pub(crate) nbd_name: String,
    /// What guests know the disk by, in images that are made for it: 16 bytes, in hexadecimal digits.
    #[serde(default)]
    pub(crate) identity: String,
    /// The file that is the image of the disk byte for byte, if it is raw and complete. It holds most of any moment, and what
    /// it holds of this one only a comparison tells.
    #[serde(default)]
    pub(crate) image: Option<String>,
}

/// Changes of a disk between two moments that are asked for, page by page.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangesAsked {
    /// `MACHINE[~BRANCH]/DISK`.
    pub(crate) disk: String,
    /// `WHEN` on that line, or `MACHINE[~BRANCH]@WHEN`.
    pub(crate) from: String,
    /// The same.
    pub(crate) to: String,
    /// The `next` of the page before.
    pub(crate) after: Option<u64>,
    /// At most so many ranges, and never more than a page.
    pub(crate) limit: Option<usize>,
}

/// A page of changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Changes {
    /// The disk at the one moment, by the name that always means that.
    pub(crate) from: String,
    /// When that was committed.
    pub(crate) from_time: String,
    /// The disk at the other moment.
    pub(crate) to: String,
    /// When that was committed.
    pub(crate) to_time: String,
    /// Its size there; no change lies beyond.
    pub(crate) size_bytes: u64,
    /// In address order.
    pub(crate) ranges: Vec<ChangedRange>,
    /// Where the next page goes on; nothing if this was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<u64>,
}

/// Bytes that may read otherwise at the other moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ChangedRange {
    /// The first of them.
    pub(crate) offset: u64,
    /// How many.
    pub(crate) length: u64,
    /// Whether they were written; otherwise a record that may have changed them was lost.
    pub(crate) written: bool,
}

/// A branch to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BranchAdd {
    /// Where it starts, `MACHINE@WHEN`.
    pub(crate) origin: String,
    /// Its name.
    pub(crate) name: String,
}

/// Branches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Branches {
    /// By machine and name.
    pub(crate) branches: Vec<Branch>,
}

/// A branch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Branch {
    /// `MACHINE~BRANCH`.
    pub(crate) name: String,
    /// The machine.
    pub(crate) machine: String,
    /// The branch alone.
    pub(crate) branch: String,
    /// Sequence of the line it starts from.
    pub(crate) origin_sequence: u64,
    /// When that was committed.
    pub(crate) origin_time: String,
    /// Last sequence of its own; zero as long as nothing was written.
    pub(crate) head: u64,
    /// When that was committed.
    pub(crate) head_time: String,
}

/// An export to be set up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportAdd {
    /// `MACHINE@WHEN` or `MACHINE~BRANCH`.
    pub(crate) name: String,
    /// Whether it can be written; makes a branch unless `name` is one.
    #[serde(default)]
    pub(crate) writable: bool,
    /// Name of the branch that is made.
    #[serde(default)]
    pub(crate) branch: Option<String>,
}

/// Exports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Exports {
    /// By id.
    pub(crate) exports: Vec<Export>,
}

/// An export that was set up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Export {
    /// Its id.
    pub(crate) id: u32,
    /// What it shows.
    pub(crate) name: String,
    /// Whether it can be written.
    pub(crate) writable: bool,
    /// Where its disks are, one after the other.
    pub(crate) uris: Vec<String>,
}

/// How the target is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Version of landfall.
    pub(crate) version: String,
    /// Process id.
    pub(crate) pid: u32,
    /// How long it has been running.
    pub(crate) uptime_seconds: u64,
    /// The data folder.
    pub(crate) data: String,
    /// Where it listens.
    pub(crate) listen: Listening,
    /// The journal.
    pub(crate) journal: Journal,
    /// The machines.
    pub(crate) machines: Vec<Machine>,
    /// Exports that were set up.
    pub(crate) exports: Vec<Export>,
    /// What was folded and given back since the start.
    #[serde(default)]
    pub(crate) folding: Folding,
    /// What needs attention.
    pub(crate) warnings: Vec<String>,
}

/// What was folded and given back since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Folding {
    /// Folds that ended well.
    pub(crate) folds: u64,
    /// Folds that failed.
    pub(crate) failures: u64,
    /// Bytes moved into images.
    pub(crate) folded_bytes: u64,
    /// Segments of the journal that are gone.
    pub(crate) released_segments: u64,
    /// Their bytes.
    pub(crate) released_bytes: u64,
    /// Segments that were needed in part and are gone.
    pub(crate) compacted_segments: u64,
    /// Bytes they had.
    pub(crate) compacted_bytes: u64,
    /// Bytes written anew for what was needed of them.
    pub(crate) moved_bytes: u64,
}

/// Where a target listens; nothing where it does not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Listening {
    /// The delta stream.
    pub(crate) delta: Option<String>,
    /// NBD over TCP.
    pub(crate) nbd: Option<String>,
    /// NBD over a Unix socket.
    pub(crate) nbd_socket: Option<String>,
    /// Metrics.
    pub(crate) http: Option<String>,
    /// This API.
    pub(crate) control: String,
}

/// The journal in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// Its files.
    pub(crate) segments: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Bytes that are free on its file system.
    pub(crate) free_bytes: u64,
    /// Bytes of the index.
    pub(crate) index_bytes: u64,
}
