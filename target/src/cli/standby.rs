//! `landfall standby`: plain files near the head, to boot from without this program.

use super::progress::Progress;
use super::table::Table;
use super::{Format, Place, say};
use crate::http::client::{Control, escaped};
use crate::http::messages::{
    Named, Standby, StandbyAdd, StandbyBegun, StandbyList, StandbyRemoved, StandbySync,
};
use crate::units::{ByteSize, Period, Span, counted};
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::time::Duration;

/// How often it asks how far the files are.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Keep a second file of each disk near the newest point, to boot from without landfall
#[derive(clap::Subcommand)]
pub(super) enum StandbyVerb {
    /// Keep standby files of a machine in a folder
    ///
    /// A file DIR/MACHINE-DISK.FORMAT of each disk is brought to the newest consistent point every so often. Beside each
    /// stands FILE.landfall, a text that says which point it holds, or not to boot it. The files are never encrypted.
    #[command(after_help = "\
Examples:
  landfall standby add web --dir /srv/standby/web
  landfall standby add web --dir /vmfs/standby --format vmdk --every 15m --app-only")]
    Add {
        /// The machine
        machine: String,
        /// Folder for the files, best on other disks than the images; it is made if its parent is there
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// raw, vmdk or vhdx
        #[arg(long, value_name = "FORMAT", default_value = "raw")]
        format: String,
        /// How often they are brought forward, if there is a newer point
        #[arg(long, value_name = "TIME", default_value = "1m")]
        every: Period,
        /// Only to app points
        #[arg(long)]
        app_only: bool,
        /// Also where images of machines are, with which they may be lost
        #[arg(long)]
        beside_images: bool,
        #[command(flatten)]
        output: Format,
    },
    /// List standbys: what they hold and how far behind they are
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Show the standby of a machine, file by file
    Show {
        /// The machine
        machine: String,
        #[command(flatten)]
        format: Format,
    },
    /// Bring the files to a point now, and wait for it
    ///
    /// With @WHEN they are brought to that point, older ones too, and stay there, paused, until `standby resume`.
    #[command(after_help = "\
Examples:
  landfall standby sync web                  # the newest point
  landfall standby sync web@tag:before       # the last good one; they stay there
  landfall standby sync web --overwrite      # although a hypervisor booted from them")]
    Sync {
        /// MACHINE or MACHINE@WHEN
        name: String,
        /// Also where somebody else wrote to a file, or removed them all: what was written is lost
        #[arg(long)]
        overwrite: bool,
        /// Also to a fuzzy point, which may not boot
        #[arg(long)]
        fuzzy: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Leave the files as they are until `standby resume`; what is under way is finished
    Pause {
        /// The machine
        machine: String,
    },
    /// Bring them forward again
    Resume {
        /// The machine
        machine: String,
    },
    /// Keep standby files of a machine no longer
    Remove {
        /// The machine
        machine: String,
        /// Remove the files, too, and what stands beside them
        #[arg(long)]
        delete_files: bool,
    },
}

impl StandbyVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        match self {
            Self::Add { machine, dir, format, every, app_only, beside_images, output } => {
                let dir = std::path::absolute(&dir).context("the folder")?;
                let folder = dir.to_str().context("the path of the folder is not UTF-8")?;
                let wanted = StandbyAdd {
                    machine,
                    folder: folder.to_owned(),
                    format,
                    every_seconds: every.0.as_secs(),
                    app_only,
                    beside_images,
                };
                let standby: Standby = control.post("/v1/standbys", &wanted)?;
                output.print(&standby, added);
            }
            Self::List { format } => {
                let all: StandbyList = control.get("/v1/standbys")?;
                format.print(&all, |all| list(&all.standbys));
            }
            Self::Show { machine, format } => {
                format.print(&ask(&control, &machine)?, show);
            }
            Self::Sync { name, overwrite, fuzzy, format } => {
                let wanted = StandbySync { name, overwrite, fuzzy };
                let begun: StandbyBegun = control.post("/v1/standbys/sync", &wanted)?;
                let standby = wait(&control, begun)?;
                format.print(&standby, synced);
            }
            Self::Pause { machine } => {
                let standby: Standby =
                    control.post("/v1/standbys/pause", &Named { name: machine })?;
                say(&format!(
                    "the standby of {} stays as it is; {}",
                    standby.machine,
                    held(&standby)
                ));
            }
            Self::Resume { machine } => {
                let standby: Standby =
                    control.post("/v1/standbys/resume", &Named { name: machine })?;
                say(&format!("the standby of {} is brought forward again", standby.machine));
            }
            Self::Remove { machine, delete_files } => {
                let path = format!(
                    "/v1/standbys?machine={}&delete_files={delete_files}",
                    escaped(&machine)
                );
                let removed: StandbyRemoved = control.delete(&path)?;
                say(&in_words(&removed, delete_files));
            }
        }
        Ok(())
    }
}

fn ask(control: &Control, machine: &str) -> anyhow::Result<Standby> {
    Ok(control.get(&format!("/v1/standbys/{}", escaped(machine)))?)
}

/// Waits for the end of what was asked for, and shows how far it is.
fn wait(control: &Control, begun: StandbyBegun) -> anyhow::Result<Standby> {
    let StandbyBegun { number, mut standby } = begun;
    let mut shown: Option<(String, Progress, u64)> = None;
    while standby.answered < number {
        if let Some(writing) = &standby.writing {
            let other = shown.as_ref().is_none_or(|(disk, ..)| *disk != writing.disk);
            if other {
                let progress = Progress::new(&writing.disk, writing.size_bytes);
                shown = Some((writing.disk.clone(), progress, 0));
            }
            if let Some((_, progress, done)) = &mut shown {
                progress.add(writing.done_bytes.saturating_sub(*done));
                *done = writing.done_bytes.max(*done);
            }
        }
        std::thread::sleep(ASK_EVERY);
        let before = standby.answered;
        standby = ask(control, &standby.machine)?;
        if standby.answered < before {
            bail!(
                "the target was restarted meanwhile; the standby goes on by itself, see landfall standby show {}",
                standby.machine
            );
        }
    }
    if let Some((_, progress, _)) = &shown {
        progress.clear();
    }
    match &standby.answered_error {
        Some(error) if standby.answered == number => bail!("{error}"),
        _ => Ok(standby),
    }
}

fn added(standby: &Standby) -> String {
    let Standby { machine, folder, format, every_seconds, .. } = standby;
    let every = Span(Duration::from_secs(*every_seconds));
    let points = if standby.app_only { "app point" } else { "consistent point" };
    format!(
        "{machine} has a standby in {folder} ({format}); it follows the newest {points} every {every}\n\
         wait for its first copy with: landfall standby sync {machine}"
    )
}

fn held(standby: &Standby) -> String {
    match (&standby.holds, &standby.holds_time, &standby.holds_kind) {
        (Some(name), Some(time), Some(kind)) => {
            format!("all its files hold {name} ({kind}, {time})")
        }
        _ => "its files hold no point".to_owned(),
    }
}

fn synced(standby: &Standby) -> String {
    let mut text = held(standby);
    if let Some(last) = &standby.last {
        text.push_str(&format!(", {} written", ByteSize::new(last.written_bytes)));
        if !last.compared.is_empty() {
            text.push_str(&format!("; compared as a whole: {}", last.compared.join(", ")));
        }
    }
    if standby.paused {
        text.push_str(&format!("\npaused; to go on: landfall standby resume {}", standby.machine));
    }
    text
}

fn lag(standby: &Standby) -> String {
    match (&standby.holds, standby.lag_seconds, standby.lag_points) {
        (None, _, _) => String::new(),
        (Some(_), 0, 0) => "none".to_owned(),
        (Some(_), seconds, 0) => Span(Duration::from_secs(seconds)).to_string(),
        (Some(_), seconds, points) => {
            let time = Span(Duration::from_secs(seconds));
            format!("{time}, {}", counted(points, "point"))
        }
    }
}

/// A line per machine.
fn list(standbys: &[Standby]) -> String {
    if standbys.is_empty() {
        return "no standbys; add one: landfall standby add MACHINE --dir DIR".to_owned();
    }
    let mut table = Table::new(&["MACHINE", "STATE", "HOLDS", "BEHIND", "FORMAT", "FOLDER"]);
    for standby in standbys {
        let state = match standby.paused {
            true => format!("{}, paused", standby.state),
            false => standby.state.clone(),
        };
        table.row(vec![
            standby.machine.clone(),
            state,
            standby.holds.clone().unwrap_or_default(),
            lag(standby),
            standby.format.clone(),
            standby.folder.clone(),
        ]);
    }
    let mut text = table.text();
    for standby in standbys {
        if let Some(error) = &standby.error {
            text.push_str(&format!("\n{}: {error}\n", standby.machine));
        }
    }
    text
}

fn show(standby: &Standby) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| text.push_str(&format!("{what:<8} {value}\n"));
    let every = Span(Duration::from_secs(standby.every_seconds));
    let points = if standby.app_only { "app points" } else { "consistent points" };
    line("machine", standby.machine.clone());
    line("folder", format!("{} ({})", standby.folder, standby.format));
    line(
        "follows",
        match standby.paused {
            true => format!("nothing: paused; landfall standby resume {}", standby.machine),
            false => format!("{points}, every {every}"),
        },
    );
    line("state", standby.state.clone());
    line(
        "holds",
        match &standby.holds {
            Some(name) => format!(
                "{name}, {}, {}",
                standby.holds_kind.as_deref().unwrap_or_default(),
                standby.holds_time.as_deref().unwrap_or_default()
            ),
            None => "no point".to_owned(),
        },
    );
    if standby.holds.is_some() {
        line("behind", lag(standby));
    }
    if let Some(writing) = &standby.writing {
        let (done, size) = (ByteSize::new(writing.done_bytes), ByteSize::new(writing.size_bytes));
        let written = ByteSize::new(writing.written_bytes);
        let to = &writing.to;
        line("writing", format!("{to}: {done} of {size} of {}, {written} written", writing.disk));
    }
    if let Some(last) = &standby.last {
        let took = Span(Duration::from_millis(last.took_ms));
        let (written, zeroed) =
            (ByteSize::new(last.written_bytes), ByteSize::new(last.zeroed_bytes));
        line("last", format!("{}: {written} written, {zeroed} zeroed in {took}", last.ended));
    }
    if let Some(error) = &standby.error {
        line("error", error.clone());
    }
    text.push('\n');
    let mut table = Table::new(&["DISK", "STATE", "HOLDS", "FILE"]);
    for file in &standby.files {
        let state = match &file.altered {
            Some(altered) => format!("{}; {altered}", file.state),
            None => file.state.clone(),
        };
        table.row(vec![
            file.disk.clone(),
            state,
            file.holds.clone().unwrap_or_default(),
            file.path.clone(),
        ]);
    }
    text.push_str(&table.text());
    text
}

fn in_words(removed: &StandbyRemoved, delete_files: bool) -> String {
    let StandbyRemoved { machine, folder, deleted } = removed;
    match delete_files {
        true => format!(
            "{machine} has no standby any more; {} removed from {folder}",
            counted(deleted.len() as u64, "file")
        ),
        false => format!("{machine} has no standby any more; its files stay in {folder}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::messages::StandbyFile;

    fn standby() -> Standby {
        Standby {
            machine: "web".into(),
            folder: "/srv/standby".into(),
            format: "vmdk".into(),
            every_seconds: 60,
            app_only: false,
            paused: false,
            state: "behind".into(),
            holds: Some("web@seq:42".into()),
            holds_time: Some("2026-11-21T14:03:05Z".into()),
            holds_kind: Some("crash".into()),
            lag_seconds: 90,
            lag_points: 2,
            writing: None,
            error: None,
            last: None,
            answered: 0,
            answered_error: None,
            files: vec![StandbyFile {
                disk: "os".into(),
                path: "/srv/standby/web-os.vmdk".into(),
                state: "whole".into(),
                holds: Some("2026-11-21T14:03:05Z (seq:42, crash)".into()),
                altered: Some("gone".into()),
            }],
        }
    }

    #[test]
    fn a_listing_says_what_each_holds_and_why_one_does_not_go_on() {
        let mut failing = standby();
        failing.error = Some("/srv/standby: no such file".into());
        let text = list(&[standby(), failing]);
        assert!(text.contains("web      behind  web@seq:42  90 s, 2 points"), "{text}");
        assert!(text.ends_with("web: /srv/standby: no such file\n"), "{text}");
        assert!(list(&[]).contains("standby add MACHINE --dir DIR"));
    }

    #[test]
    fn what_is_shown_is_for_a_person_in_a_hurry() {
        let text = show(&standby());
        assert!(text.contains("holds    web@seq:42, crash, 2026-11-21T14:03:05Z\n"), "{text}");
        assert!(text.contains("os    whole; gone"), "{text}");
        let paused = Standby { paused: true, holds: None, ..standby() };
        assert!(show(&paused).contains("landfall standby resume web"));
        assert!(show(&paused).contains("holds    no point"));
        assert!(synced(&paused).contains("landfall standby resume web"));
    }
}
