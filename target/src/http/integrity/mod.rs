//! The part of the control API that is about integrity: scrub, verification, heads of lines.

pub(crate) mod messages;
mod standby;

use super::answers::line_name;
use super::control::{Answer, Body};
use super::problem::Problem;
use crate::service::{Busy, Target, Work};
use crate::units::counted;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use landfall_retention as retention;
use landfall_retention::ids::{LineId, Sequence};
use landfall_retention::journal::format::Chain as ChainValue;
use landfall_retention::manifest::integrity::{DamagedPlace, ScrubPosition};
use landfall_retention::name::Name;
use landfall_retention::time::{Clock, SystemClock, Timestamp};
use landfall_retention::{ChainBreak, HeadVerdict, Healed, ScrubOrder};
use messages::{
    Chain, Damage, Ended, Head, HeadCompared, Heads, MachineLooked, Running, Scrub, ScrubStart,
    VerifyStart,
};
use serde::Deserialize;
use std::sync::Arc;

/// What a file of heads says it is.
pub(crate) const HEADS_FORMAT: &str = "landfall-heads";
/// Its version.
pub(crate) const HEADS_VERSION: u32 = 1;
/// Most heads that are compared at once.
const MAX_HEADS: usize = 1_000_000;
/// Damaged places of which it is said what they touch.
const TOUCHED_SHOWN: usize = 256;
/// The same while a round is under way, when somebody asks four times a second.
const TOUCHED_SHOWN_MEANWHILE: usize = 4;

/// Everything under `/v1/scrub`, `/v1/verify` and `/v1/heads`.
pub(super) fn router() -> Router<Arc<Target>> {
    Router::new()
        .route("/v1/scrub", get(show).post(begin).delete(stop))
        .route("/v1/verify", post(verify))
        .route("/v1/heads", get(heads))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MaybeNamed {
    name: Option<String>,
}

impl From<Busy> for Problem {
    fn from(error: Busy) -> Self {
        Self::conflict(error.to_string())
    }
}

impl From<landfall_retention::index::IndexError> for Problem {
    fn from(error: landfall_retention::index::IndexError) -> Self {
        Self::failed(error.to_string())
    }
}

/// A machine that is there.
fn machine(target: &Target, name: Option<&str>) -> Result<Option<Name>, Problem> {
    let Some(name) = name else { return Ok(None) };
    let name = Name::parse(name)?;
    target.machine_named(&name)?;
    Ok(Some(name))
}

async fn show(State(target): State<Arc<Target>>) -> Answer<Scrub> {
    Ok(Json(target.scrub().await?))
}

async fn begin(State(target): State<Arc<Target>>, Body(wanted): Body<ScrubStart>) -> Answer<Scrub> {
    let order = ScrubOrder::all(machine(&target, wanted.machine.as_deref())?);
    target.begin(Work::Scrub, order, wanted.rate_bytes)?;
    Ok(Json(target.scrub().await?))
}

async fn stop(State(target): State<Arc<Target>>) -> Answer<Scrub> {
    target.scrubber.stop();
    Ok(Json(target.scrub().await?))
}

async fn verify(
    State(target): State<Arc<Target>>,
    Body(wanted): Body<VerifyStart>,
) -> Answer<Scrub> {
    let machine = machine(&target, wanted.machine.as_deref())?;
    let heads = match &wanted.heads {
        None => Vec::new(),
        Some(heads) => read_heads(&target, heads)?,
    };
    target.begin(Work::Verify, ScrubOrder::chains(machine, heads), wanted.rate_bytes)?;
    Ok(Json(target.scrub().await?))
}

async fn heads(
    State(target): State<Arc<Target>>,
    asked: Result<Query<MaybeNamed>, QueryRejection>,
) -> Answer<Heads> {
    let Query(asked) = asked.map_err(|error| Problem::bad(error.body_text()))?;
    let machine = machine(&target, asked.name.as_deref())?;
    let head = |head: retention::LineHead| Head {
        name: line_name(&head.machine, head.branch.as_ref()),
        line: head.line.number(),
        sequence: head.sequence.number(),
        chain: hex(&head.chain.0),
        committed: head.committed.to_string(),
    };
    let lines = target.retention.heads(machine.as_ref())?.into_iter().map(head).collect();
    Ok(Json(Heads {
        format: HEADS_FORMAT.to_owned(),
        version: HEADS_VERSION,
        data: hex(&target.retention.folder_id()),
        time: SystemClock.now().to_string(),
        lines,
    }))
}

/// Heads that belong to this store.
fn read_heads(
    target: &Target,
    heads: &Heads,
) -> Result<Vec<(LineId, Sequence, ChainValue)>, Problem> {
    if heads.format != HEADS_FORMAT || heads.version != HEADS_VERSION {
        return Err(Problem::bad(format!(
            "a file of heads says {HEADS_FORMAT} and version {HEADS_VERSION}, this one {} and {}",
            heads.format, heads.version
        )));
    }
    let own = hex(&target.retention.folder_id());
    if heads.data != own {
        return Err(Problem::bad(format!(
            "these heads were written down by another target: its data folder is {}, this one {own}",
            heads.data
        )));
    }
    if heads.lines.len() > MAX_HEADS {
        return Err(Problem::bad(format!("at most {MAX_HEADS} heads are compared at once")));
    }
    let head = |head: &Head| {
        let line = LineId::new(head.line);
        if !target.retention.has_written(line) {
            return Err(Problem::unknown(format!(
                "{} was line {} when its head was written down, and that is no more",
                head.name, head.line
            )));
        }
        let chain = from_hex(&head.chain).ok_or_else(|| {
            Problem::bad(format!("{:?} is no chain: 64 hexadecimal digits", head.chain))
        })?;
        Ok((line, Sequence::new(head.sequence), ChainValue(chain)))
    };
    heads.lines.iter().map(head).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

impl Target {
    fn begin(&self, work: Work, order: ScrubOrder, rate: Option<u64>) -> Result<u64, Problem> {
        if rate == Some(0) {
            return Err(Problem::bad("a rate of nothing would never end"));
        }
        let index = self.retention.index_status();
        if !index.whole {
            let left = counted(index.left as u64, "segment");
            return Err(Problem::conflict(format!(
                "the index is being built, and everything is held against it; {left} of the journal are left"
            )));
        }
        Ok(self.scrubber.begin(&self.core, &self.retention, work, order, rate)?)
    }

    /// What is under way, what was last, what is damaged.
    async fn scrub(&self) -> Result<Scrub, Problem> {
        let (running, last) = self.scrubber.look();
        let entry = self.retention.scrubbed();
        let mut damage = Vec::with_capacity(entry.damage.len());
        let shown = if running.is_some() { TOUCHED_SHOWN_MEANWHILE } else { TOUCHED_SHOWN };
        for (number, found) in entry.damage.iter().copied().enumerate() {
            let touched = if number < shown {
                self.on_core(move |retention| async move { retention.touched(found.place).await })
                    .await?
            } else {
                retention::Touched::default()
            };
            damage.push(in_words(found.found, found.place, touched));
        }
        let set = |time: Timestamp| (time != Timestamp::default()).then(|| time.to_string());
        Ok(Scrub {
            running: running.as_ref().map(running_in_words),
            last: last.as_ref().map(ended_in_words),
            ended: set(entry.ended),
            machines: self.retention.machines_scrubbed().into_iter().map(looked).collect(),
            unfinished: entry.position != ScrubPosition::Done,
            damage,
            unlisted: entry.unlisted,
        })
    }
}

fn looked((machine, ended): (Name, Timestamp)) -> MachineLooked {
    MachineLooked { machine: machine.to_string(), ended: ended.to_string() }
}

fn work(work: Work) -> String {
    match work {
        Work::Scrub => "scrub".to_owned(),
        Work::Verify => "verify".to_owned(),
    }
}

fn running_in_words(running: &crate::service::ScrubRunning) -> Running {
    let progress = running.progress.as_ref();
    Running {
        id: running.id,
        work: work(running.work),
        machine: running.machine.as_ref().map(Name::to_string),
        begun: running.begun.to_string(),
        at: progress.map_or_else(String::new, |progress| progress.at.clone()),
        done_bytes: progress.map_or(0, |progress| progress.done_bytes),
        total_bytes: progress.map_or(0, |progress| progress.total_bytes),
    }
}

fn ended_in_words(ended: &crate::service::ScrubEnded) -> Ended {
    let none = retention::ScrubReport::default();
    let (report, error) = match &ended.outcome {
        Ok(report) => (&**report, None),
        Err(error) => (&none, Some(error.clone())),
    };
    let healed = |healed: &Healed| {
        let from = match healed.from {
            retention::HealedFrom::Journal => "from the journal",
            retention::HealedFrom::Image => "from the image",
            retention::HealedFrom::Copy => "from its second copy",
            retention::HealedFrom::Zeroes => "it was all zero",
            retention::HealedFrom::Rewritten => "it was written anew since",
        };
        format!("{}: {from}", place(&healed.place))
    };
    Ended {
        id: ended.was.id,
        work: work(ended.was.work),
        machine: ended.was.machine.as_ref().map(Name::to_string),
        begun: ended.was.begun.to_string(),
        ended: ended.ended.to_string(),
        error,
        complete: report.complete,
        journal_bytes: report.journal_bytes,
        records: report.records,
        index_entries: report.index_entries,
        index_healed: report.index_healed,
        index_dangling: report.index_dangling,
        image_bytes: report.image_bytes,
        noted_bytes: report.noted_bytes,
        healed: report.healed.iter().take(1024).map(healed).collect(),
        damaged: report.damage.len() as u64 + report.more_damage,
        chains: report.chains.iter().map(chain).collect(),
        standbys: ended.standbys.iter().flat_map(standby::files).collect(),
    }
}

fn chain(report: &retention::ChainReport) -> Chain {
    let broken = |broken: &ChainBreak| match broken {
        ChainBreak::Parts(at) => format!("seq:{at} does not follow what is before it"),
        ChainBreak::Missing { first, last } => {
            format!("seq:{first} to seq:{last} are not in the journal")
        }
        ChainBreak::Short { last, expected } => {
            format!("the journal ends at seq:{last}, the line is known up to seq:{expected}")
        }
    };
    let head = |(at, verdict): &(Sequence, HeadVerdict)| {
        let (verdict, says) = match verdict {
            HeadVerdict::Same => ("same", format!("up to seq:{at} it is the same history")),
            HeadVerdict::Differs => ("differs", format!("at seq:{at} it is another history")),
            HeadVerdict::Unknown { before, after } => (
                "unknown",
                format!(
                    "at seq:{at} nothing can be said: the records between seq:{before} and seq:{after} are gone"
                ),
            ),
            HeadVerdict::Beyond { last } => {
                ("beyond", format!("seq:{at} is not there: the line ends at seq:{last}"))
            }
        };
        HeadCompared { sequence: at.number(), verdict: verdict.to_owned(), says }
    };
    Chain {
        name: line_name(&report.machine, report.branch.as_ref()),
        line: report.line.number(),
        after: report.after.number(),
        last: report.last.map(Sequence::number),
        breaks: report.breaks.iter().map(broken).collect(),
        heads: report.heads.iter().map(head).collect(),
    }
}

fn part(place: &DamagedPlace) -> &'static str {
    match place {
        DamagedPlace::Image { .. } => "image",
        DamagedPlace::Version { .. } => "journal",
        DamagedPlace::Records { .. } => "records",
    }
}

/// A place, in words.
fn place(place: &DamagedPlace) -> String {
    match place {
        DamagedPlace::Image { disk, start, length } => {
            format!("image of disk {}: {length} bytes at {start}", disk.number())
        }
        DamagedPlace::Version { sequence, disk, start, length, segment, .. } => format!(
            "segment {segment} of the journal: seq:{sequence}, {length} bytes at {start} of disk {}",
            disk.number()
        ),
        DamagedPlace::Records { segment, start, end } => {
            format!(
                "segment {segment} of the journal: records in bytes {start} to {end} cannot be read"
            )
        }
    }
}

fn in_words(found: Timestamp, at: DamagedPlace, touched: retention::Touched) -> Damage {
    let name = |point: &retention::point::Point| format!("seq:{}", point.sequence);
    Damage {
        found: found.to_string(),
        part: part(&at).to_owned(),
        what: place(&at),
        machine: touched.machine.as_ref().map(Name::to_string),
        disk: touched.disk.as_ref().map(Name::to_string),
        start: at.range().map(|range| range.start().bytes()),
        length: at.range().map(|range| range.length()),
        points: touched.points as u64,
        oldest: touched.oldest.as_ref().map(name),
        newest: touched.newest.as_ref().map(name),
        head: touched.head,
        branches: touched.branches.iter().map(Name::to_string).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_survive_hexadecimal() {
        let bytes = std::array::from_fn(|at| u8::try_from(at * 7).expect("small"));
        assert_eq!(from_hex(&hex(&bytes)), Some(bytes));
        assert_eq!(from_hex("00"), None);
        assert_eq!(from_hex(&"+1".repeat(32)), None);
        assert_eq!(from_hex(&"ü".repeat(32)), None);
    }
}
