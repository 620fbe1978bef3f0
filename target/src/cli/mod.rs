//! The command line: verbs, what they have in common, and how they speak.
//!
//! Results go to standard output, everything else to standard error; `--json` prints what the control API answers. A verb
//! ends well only when the target has said that it is done and durable.

mod branch;
mod changes;
mod completions;
mod disk;
mod export;
mod group;
mod image;
mod ingest;
mod key;
mod machine;
mod mount;
mod pki;
mod point;
mod policy;
mod progress;
mod replicate;
mod replicate_verb;
mod restore;
mod scrub;
mod serve;
mod standby;
mod status;
mod stream;
mod table;
mod verify;

use crate::config::{Config, ConfigError, Given, ListenGiven};
use crate::http::client::Control;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// What a shell reports for a command that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Replicate disks, keep points of their history, open any of them at once.
#[derive(Parser)]
#[command(name = "landfall", version, after_help = NAMES)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    verb: Verb,
}

/// Above the options that every verb has.
const WHERE: &str = "Which target";

const NAMES: &str = "\
Names of moments:
  web              the newest point of machine web     web@-15m         15 minutes ago
  web@app          the newest app point                web@seq:12       exactly this point
  web@2026-11-21T14:03:05Z   the newest point then     web@tag:before   the newest with this label
  web~test         the head of branch test             web/os@-15m      one disk of it

Start here:
  landfall serve --data /var/lib/landfall &
  export LANDFALL_DATA=/var/lib/landfall
  landfall machine add web --disk name=os,size=40GiB
  landfall replicate web --disk os=/images/web.raw --once
  landfall point list web
  landfall export add web@latest --nbd --writable";

/// Where the target is. Global: may stand before or after the verb.
#[derive(Args)]
pub(crate) struct Place {
    /// Its data folder
    #[arg(long, global = true, env = "LANDFALL_DATA", value_name = "DIR", help_heading = WHERE)]
    data: Option<PathBuf>,
    /// Its configuration [default: DIR/landfall.toml; without DIR, /etc/landfall/landfall.toml]
    #[arg(long, global = true, env = "LANDFALL_CONFIG", value_name = "FILE", help_heading = WHERE)]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Verb {
    Serve(serve::Serve),
    Status(status::Status),
    #[command(subcommand)]
    Machine(machine::MachineVerb),
    #[command(subcommand)]
    Disk(disk::DiskVerb),
    Replicate(replicate_verb::ReplicateVerb),
    #[command(subcommand)]
    Ingest(ingest::IngestVerb),
    #[command(subcommand)]
    Stream(stream::StreamVerb),
    #[command(subcommand)]
    Point(point::PointVerb),
    #[command(subcommand)]
    Group(group::GroupVerb),
    #[command(subcommand)]
    Policy(policy::PolicyVerb),
    #[command(subcommand)]
    Key(key::KeyVerb),
    Changes(changes::Changes),
    Scrub(scrub::Scrub),
    Verify(verify::Verify),
    Restore(restore::Restore),
    Mount(mount::Mount),
    #[command(subcommand)]
    Standby(standby::StandbyVerb),
    #[command(subcommand)]
    Branch(branch::BranchVerb),
    #[command(subcommand)]
    Export(export::ExportVerb),
    #[command(subcommand)]
    Image(image::ImageVerb),
    #[command(subcommand)]
    Pki(pki::PkiVerb),
    Completions(completions::Completions),
}

impl Cli {
    /// Does what was asked.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let is_daemon = matches!(self.verb, Verb::Serve(_));
        start_logging(if is_daemon { "info" } else { "warn" });
        let place = &self.place;
        match self.verb {
            Verb::Serve(verb) => verb.run(place),
            Verb::Status(verb) => verb.run(place),
            Verb::Machine(verb) => verb.run(place),
            Verb::Disk(verb) => verb.run(place),
            Verb::Replicate(verb) => verb.run(place),
            Verb::Ingest(verb) => verb.run(place),
            Verb::Stream(verb) => verb.run(place),
            Verb::Point(verb) => verb.run(place),
            Verb::Group(verb) => verb.run(place),
            Verb::Policy(verb) => verb.run(place),
            Verb::Key(verb) => verb.run(place),
            Verb::Changes(verb) => verb.run(place),
            Verb::Scrub(verb) => verb.run(place),
            Verb::Verify(verb) => verb.run(place),
            Verb::Restore(verb) => verb.run(place),
            Verb::Mount(verb) => verb.run(place),
            Verb::Standby(verb) => verb.run(place),
            Verb::Branch(verb) => verb.run(place),
            Verb::Export(verb) => verb.run(place),
            Verb::Image(verb) => verb.run(),
            Verb::Pki(verb) => verb.run(place),
            Verb::Completions(verb) => verb.run(),
        }
    }
}

impl Place {
    fn given(&self) -> Given {
        Given { config: self.config.clone(), data: self.data.clone() }
    }

    /// The configuration that applies.
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.given(), &ListenGiven::default())
    }

    /// The control socket of the target.
    fn control(&self) -> Result<Control, ConfigError> {
        Ok(Control::at(&self.load()?.listen.control))
    }
}

/// `--json`, which every listing takes.
#[derive(Args, Clone, Copy)]
pub(crate) struct Format {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Format {
    /// Prints `answer` as JSON, or as `people` have it.
    fn print<T: Serialize>(self, answer: &T, people: impl FnOnce(&T) -> String) {
        if self.json {
            say(&serde_json::to_string_pretty(answer).expect("answers are plain data"));
        } else {
            say(people(answer).trim_end());
        }
    }
}

/// Prints to standard output. Whoever closed it has read enough.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        tracing::error!(%error, "cannot write to standard output");
    }
}

/// Prints why a command failed; the exit code that goes with it.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<mount::NotMounted>() {
        return ExitCode::FAILURE;
    }
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Many errors repeat their source at the end.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    eprintln!("landfall: {text}");
    let interrupted = error.is::<replicate::Interrupted>()
        || error.is::<restore::Interrupted>()
        || error.is::<image::Interrupted>();
    if interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::FAILURE }
}

/// Events to standard error; `RUST_LOG` says which.
fn start_logging(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_fixed_interface_is_understood() {
        for line in [
            "serve --data /d",
            "serve --config landfall.toml",
            "machine add web --disk name=os,size=40GiB,format=raw,path=/x --disk name=b,size=1MiB",
            "machine add web --disk name=os,size=40GiB --group shop",
            "machine add web --disk name=os,size=40GiB --ingest nbd=ordered",
            "ingest set web nbd",
            "ingest set web off --json",
            "ingest list --json",
            "machine list --json",
            "machine show web",
            "machine remove web",
            "disk add web --disk name=data,size=2TiB,format=vhdx",
            "disk grow web/os --size 80GiB --json",
            "disk remove web/data",
            "replicate web --disk os=/x --disk data=/y --to host:9443 --every 30s",
            "replicate web --disk os=/x --once",
            "point list web --json",
            "point list web --from -2h --to 2026-11-21T14:03:05Z --kind app,crash --limit 20",
            "point mark web --label before --kind app",
            "point pin web@seq:1",
            "point unpin web@seq:1",
            "point lock web@seq:1 --for 30d",
            "point lock web@latest --until 2026-12-24T00:00:00Z --json",
            "point unlock web@seq:1",
            "group add shop --machine web --machine db --every 30s --patience 1s --json",
            "group list --json",
            "group show shop --json",
            "group set shop --never",
            "group join shop queue",
            "group leave shop queue",
            "group points shop --limit 5",
            "group mark shop --label before --kind app --at web@seq:1 --at db@latest",
            "group branch shop@-15m --name drill",
            "group remove shop",
            "policy show web --json",
            "policy set web all",
            "policy simulate web",
            "policy simulate web all --json",
            "policy acknowledge-clock",
            "changes web/os --from -1h --to latest --summary --json",
            "changes web~test/os --from web@seq:7 --to latest",
            "restore web@-15m --disk os --format raw --output /x",
            "mount web@-15m /mnt/web",
            "mount web~test/os /mnt/web --format vhdx --allow-other --daemon",
            "standby add web --dir /srv/standby --format vmdk --every 5m --app-only --json",
            "standby list --json",
            "standby show web --json",
            "standby sync web@-1h --overwrite --fuzzy",
            "standby pause web",
            "standby resume web",
            "standby remove web --delete-files",
            "branch add web@latest --name b",
            "branch list",
            "branch discard web~b",
            "export add web@latest --nbd --writable --json",
            "export add web@latest --iscsi --writable --initiator iqn.2026-11.example:a --json",
            "export add web@-1h --iscsi --chap host --chap-secret-file /s --removable",
            "export list --json",
            "export remove 3",
            "scrub",
            "scrub web --rate 20MiB --json",
            "scrub --status",
            "scrub --stop",
            "verify --export heads.json",
            "verify web --head heads.json --json",
            "status --json",
            "image info x.vmdk --json",
            "image check x.vhdx --repair",
            "image create x.vhdx --size 1TiB --block-size 1MiB --sector 4096",
            "image convert x.vmdk y.img --format vhdx --kind fixed",
            "image map x.avhdx --own --json",
            "image serve x.vmdk --socket /s --listen 127.0.0.1:0 --read-only --shared",
            "pki init",
            "pki issue host",
            "completions bash",
        ] {
            let words = std::iter::once("landfall").chain(line.split(' '));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }
}
