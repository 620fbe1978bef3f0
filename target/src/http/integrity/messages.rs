//! What the control API says about integrity: rounds of scrub and verification, damage, heads of lines.
//!
//! ```text
//!   GET    /v1/scrub                                Scrub
//!   POST   /v1/scrub           ScrubStart           Scrub
//!   DELETE /v1/scrub                                Scrub
//!   POST   /v1/verify          VerifyStart          Scrub
//!   GET    /v1/heads[?name=]                        Heads
//! ```

use serde::{Deserialize, Serialize};

/// A scrub to be begun.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ScrubStart {
    /// Of one machine.
    pub(crate) machine: Option<String>,
    /// Most bytes a second; as configured if not given.
    pub(crate) rate_bytes: Option<u64>,
}

/// A verification to be begun.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct VerifyStart {
    /// Of one machine.
    pub(crate) machine: Option<String>,
    /// Most bytes a second; as configured if not given.
    pub(crate) rate_bytes: Option<u64>,
    /// What is compared: a file of heads.
    pub(crate) heads: Option<Heads>,
}

/// What lines have come to: the content of a file of heads. See `docs/formats/heads.md`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Heads {
    /// `landfall-heads`.
    pub(crate) format: String,
    /// 1.
    pub(crate) version: u32,
    /// Id of the data folder, in hexadecimal.
    pub(crate) data: String,
    /// When they were written down.
    pub(crate) time: String,
    /// By line; a line may stand there several times.
    pub(crate) lines: Vec<Head>,
}

/// What a line has come to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// `MACHINE` or `MACHINE~BRANCH`, for people.
    pub(crate) name: String,
    /// Number of the line.
    pub(crate) line: u32,
    /// Its last sequence.
    pub(crate) sequence: u64,
    /// Value of its chain there, in hexadecimal.
    pub(crate) chain: String,
    /// When that was committed.
    pub(crate) committed: String,
}

/// What is under way, what was last, and what is damaged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Scrub {
    /// What is under way.
    pub(crate) running: Option<Running>,
    /// What ended last, since the start of the target.
    pub(crate) last: Option<Ended>,
    /// When a round over everything last came to its end.
    pub(crate) ended: Option<String>,
    /// When everything of each machine was last looked at, of those where it ever was.
    pub(crate) machines: Vec<MachineLooked>,
    /// Whether one was stopped, and goes on where it was.
    pub(crate) unfinished: bool,
    /// What is damaged, as far as it is remembered.
    pub(crate) damage: Vec<Damage>,
    /// How many more places are damaged.
    pub(crate) unlisted: u64,
}

/// A machine of which everything was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MachineLooked {
    /// Its name.
    pub(crate) machine: String,
    /// When that came to its end.
    pub(crate) ended: String,
}

/// A round that is under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Its number.
    pub(crate) id: u64,
    /// `scrub` or `verify`.
    pub(crate) work: String,
    /// Of one machine.
    pub(crate) machine: Option<String>,
    /// Since when.
    pub(crate) begun: String,
    /// What it is at.
    pub(crate) at: String,
    /// Bytes looked at.
    pub(crate) done_bytes: u64,
    /// Of so many.
    pub(crate) total_bytes: u64,
}

/// A round that ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// Its number.
    pub(crate) id: u64,
    /// `scrub` or `verify`.
    pub(crate) work: String,
    /// Of one machine.
    pub(crate) machine: Option<String>,
    /// When it began.
    pub(crate) begun: String,
    /// When it ended.
    pub(crate) ended: String,
    /// Why it could not go on.
    pub(crate) error: Option<String>,
    /// Whether it came to its end.
    pub(crate) complete: bool,
    /// Bytes of the journal that were read.
    pub(crate) journal_bytes: u64,
    /// Records in them.
    pub(crate) records: u64,
    /// Entries of the index that were looked at.
    pub(crate) index_entries: u64,
    /// Entries that were put right from the journal.
    pub(crate) index_healed: u64,
    /// Entries that lead nowhere.
    pub(crate) index_dangling: u64,
    /// Bytes of images that were read.
    pub(crate) image_bytes: u64,
    /// Bytes of images that are checked from now on and were not before.
    pub(crate) noted_bytes: u64,
    /// What was healed, in words.
    pub(crate) healed: Vec<String>,
    /// Places that were found damaged and are so still.
    pub(crate) damaged: u64,
    /// The chains of lines, if all of the journal was read.
    pub(crate) chains: Vec<Chain>,
    /// Standby files, if it got that far.
    #[serde(default)]
    pub(crate) standbys: Vec<StandbyFileLooked>,
}

/// What was found of a standby file, or of all those of a machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StandbyFileLooked {
    /// The machine.
    pub(crate) machine: String,
    /// The disk; nothing if no file could be looked at.
    pub(crate) disk: Option<String>,
    /// The file.
    pub(crate) path: Option<String>,
    /// `same`, `differs` or `not-checked`.
    pub(crate) found: String,
    /// The point that it holds, for people, or why it was not looked at.
    pub(crate) what: String,
    /// Bytes that differed.
    pub(crate) bytes: u64,
    /// Whether they were written anew.
    pub(crate) written_anew: bool,
    /// Why they were not.
    pub(crate) error: Option<String>,
}

/// The chain of a line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Chain {
    /// `MACHINE` or `MACHINE~BRANCH`.
    pub(crate) name: String,
    /// Number of the line.
    pub(crate) line: u32,
    /// The sequence that its first record follows: zero, or where a branch starts.
    #[serde(default)]
    pub(crate) after: u64,
    /// Its last sequence that counts, where it goes on as another line and was discarded itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<u64>,
    /// Where it is broken, in words; nothing if it is whole.
    pub(crate) breaks: Vec<String>,
    /// Heads that were compared.
    pub(crate) heads: Vec<HeadCompared>,
}

/// A head that was compared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HeadCompared {
    /// Where on the line.
    pub(crate) sequence: u64,
    /// `same`, `differs`, `unknown` or `beyond`.
    pub(crate) verdict: String,
    /// The same in words.
    pub(crate) says: String,
}

/// A damaged place and what it touches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Damage {
    /// When it was found.
    pub(crate) found: String,
    /// `image`, `journal` or `records`.
    pub(crate) part: String,
    /// What and where, in words.
    pub(crate) what: String,
    /// The machine.
    pub(crate) machine: Option<String>,
    /// The disk.
    pub(crate) disk: Option<String>,
    /// First byte on the disk.
    pub(crate) start: Option<u64>,
    /// Length in bytes.
    pub(crate) length: Option<u64>,
    /// Points that cannot be read whole.
    pub(crate) points: u64,
    /// The oldest of them.
    pub(crate) oldest: Option<String>,
    /// The newest of them.
    pub(crate) newest: Option<String>,
    /// Whether the head of the machine cannot be read whole.
    pub(crate) head: bool,
    /// Branches whose head cannot be read whole.
    pub(crate) branches: Vec<String>,
}
