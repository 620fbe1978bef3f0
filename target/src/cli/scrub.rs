//! `landfall scrub`: everything that is kept is held against what it should be.

use super::progress::Progress;
use super::table::Table;
use super::{Format, Place};
use crate::http::client::Control;
use crate::http::integrity::messages::{
    Damage, Ended, Running, Scrub as Answer, ScrubStart, StandbyFileLooked,
};
use crate::units::{ByteSize, counted};
use anyhow::bail;
use std::time::Duration;

/// How often it asks how far a round is.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Read journal, index, images and standby files and hold them against what they should be; heal what can be healed
///
/// Streams, readers and folds go on meanwhile. What is damaged and cannot be healed is listed with the points it touches, and
/// reads of it fail until it is. A scrub of everything that is stopped goes on where it was. The exit code is 0 only if nothing
/// is damaged.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall scrub
  landfall scrub web --rate 20MiB
  landfall scrub --status
  landfall scrub --stop")]
pub(super) struct Scrub {
    /// A machine [default: all of them]
    name: Option<String>,
    /// Bytes a second at most [default: as configured]
    #[arg(long, value_name = "SIZE")]
    rate: Option<ByteSize>,
    /// Say what is under way, what was found and what is damaged
    #[arg(long, conflicts_with_all = ["name", "rate", "stop"])]
    status: bool,
    /// Stop what is under way
    #[arg(long, conflicts_with_all = ["name", "rate"])]
    stop: bool,
    #[command(flatten)]
    format: Format,
}

impl Scrub {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        if self.status || self.stop {
            let answer: Answer =
                if self.stop { control.delete("/v1/scrub")? } else { control.get("/v1/scrub")? };
            self.format.print(&answer, show);
            return Ok(());
        }
        let start = ScrubStart { machine: self.name, rate_bytes: self.rate.map(ByteSize::bytes) };
        let begun: Answer = control.post("/v1/scrub", &start)?;
        let answer = wait(&control, begun)?;
        self.format.print(&answer, show);
        let Some(ended) = &answer.last else { bail!("the target was restarted meanwhile") };
        if let Some(error) = &ended.error {
            bail!("the scrub could not go on: {error}");
        }
        if !ended.complete {
            bail!("the scrub was stopped; the next one goes on where it was");
        }
        if let Some(file) = ended.standbys.iter().find(|file| file.bytes > 0 && !file.written_anew)
        {
            let why = file.error.as_deref().unwrap_or("nobody knows why");
            bail!(
                "the standby of {} is damaged and could not be written anew: {why}",
                file.machine
            );
        }
        if ended.damaged > 0 {
            bail!("{} damaged; see docs/operations.md", counted(ended.damaged, "place"));
        }
        Ok(())
    }
}

/// Waits for the end of a round that was just begun, and shows how far it is.
pub(super) fn wait(control: &Control, begun: Answer) -> anyhow::Result<Answer> {
    let mut answer = begun;
    let Some(id) = answer.running.as_ref().map(|running| running.id) else {
        // It has ended already.
        return Ok(answer);
    };
    let mut shown: Option<(Progress, u64)> = None;
    while let Some(running) = answer.running.as_ref().filter(|running| running.id == id) {
        if running.total_bytes > 0 {
            let (progress, done) =
                shown.get_or_insert_with(|| (Progress::new(&running.work, running.total_bytes), 0));
            progress.add(running.done_bytes.saturating_sub(*done));
            *done = running.done_bytes.max(*done);
        }
        std::thread::sleep(ASK_EVERY);
        answer = control.get("/v1/scrub")?;
    }
    if let Some((progress, _)) = &shown {
        progress.clear();
    }
    Ok(answer)
}

fn show(answer: &Answer) -> String {
    let mut text = String::new();
    if let Some(running) = &answer.running {
        text.push_str(&under_way(running));
    }
    if let Some(ended) = &answer.last {
        text.push_str(&found(ended));
    }
    match &answer.ended {
        Some(time) => text.push_str(&format!("everything was last looked at by {time}\n")),
        None => text.push_str("everything was never looked at yet\n"),
    }
    for machine in &answer.machines {
        text.push_str(&format!("{} was last looked at by {}\n", machine.machine, machine.ended));
    }
    if answer.unfinished && answer.running.is_none() {
        text.push_str("a scrub was stopped; the next one goes on where it was\n");
    }
    if answer.damage.is_empty() {
        text.push_str("nothing is known to be damaged\n");
    } else {
        text.push_str(&damage(&answer.damage));
        if answer.unlisted > 0 {
            text.push_str(&format!("and {} more\n", counted(answer.unlisted, "place")));
        }
    }
    text
}

fn under_way(running: &Running) -> String {
    format!(
        "{} under way since {}: {} of {}, at {}\n",
        running.work,
        running.begun,
        ByteSize::new(running.done_bytes),
        ByteSize::new(running.total_bytes),
        running.at
    )
}

fn found(ended: &Ended) -> String {
    let of = ended.machine.as_ref().map_or(String::new(), |machine| format!(" of {machine}"));
    let mut text = format!(
        "{}{of} read {} of the journal ({}), {} of the index and {} of images\n",
        ended.work,
        ByteSize::new(ended.journal_bytes),
        counted(ended.records, "record"),
        if ended.index_entries == 1 {
            "1 entry".to_owned()
        } else {
            format!("{} entries", ended.index_entries)
        },
        ByteSize::new(ended.image_bytes),
    );
    if ended.noted_bytes > 0 {
        let noted = ByteSize::new(ended.noted_bytes);
        text.push_str(&format!("  {noted} of images are checked by every read from now on\n"));
    }
    if ended.index_healed > 0 {
        text.push_str(&format!("  the index was put right in {} places\n", ended.index_healed));
    }
    if ended.index_dangling > 0 {
        text.push_str(&format!(
            "  {} of the index lead nowhere: what they were of is lost\n",
            counted(ended.index_dangling, "block")
        ));
    }
    for healed in &ended.healed {
        text.push_str(&format!("  healed: {healed}\n"));
    }
    text.push_str(&standbys(&ended.standbys));
    if let Some(error) = &ended.error {
        text.push_str(&format!("  it could not go on: {error}\n"));
    }
    text
}

/// Those that are what they should be are counted, the others named.
fn standbys(files: &[StandbyFileLooked]) -> String {
    let mut text = String::new();
    let same = files.iter().filter(|file| file.found == "same").count();
    if same > 0 {
        let what = if same == 1 { "holds what it should" } else { "hold what they should" };
        text = format!("  {} {what}\n", counted(same as u64, "standby file"));
    }
    for file in files.iter().filter(|file| file.found != "same") {
        let StandbyFileLooked { machine, what, .. } = file;
        let name = file.path.clone().unwrap_or_else(|| format!("the standby of {machine}"));
        text.push_str(&match (file.found.as_str(), &file.error) {
            ("differs", error) => {
                let bytes = ByteSize::new(file.bytes);
                let end = match error {
                    None => "written anew".to_owned(),
                    Some(error) => format!("not written anew: {error}"),
                };
                format!("  {name}: {bytes} were not those of {what}: {end}\n")
            }
            _ => format!("  {name}: not looked at: {what}\n"),
        });
    }
    text
}

fn damage(damage: &[Damage]) -> String {
    let mut table = Table::new(&["DISK", "PART", ">FROM", ">BYTES", ">POINTS", "NEWEST", "HEAD"]);
    for one in damage {
        let disk = match (&one.machine, &one.disk) {
            (Some(machine), Some(disk)) => format!("{machine}/{disk}"),
            _ => "?".to_owned(),
        };
        let number = |number: Option<u64>| number.map_or("?".to_owned(), |n| n.to_string());
        let mut head = vec![if one.head { "yes".to_owned() } else { "no".to_owned() }];
        head.extend(one.branches.iter().cloned());
        table.row(vec![
            disk,
            one.part.clone(),
            number(one.start),
            number(one.length),
            one.points.to_string(),
            one.newest.clone().unwrap_or_else(|| "-".to_owned()),
            head.join(","),
        ]);
    }
    format!("damaged:\n{}\n", table.text())
}
