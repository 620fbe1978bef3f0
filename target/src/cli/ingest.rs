//! `landfall ingest`: machines that are fed over NBD.

use super::table::Table;
use super::{Format, Place};
use crate::http::client::escaped;
use crate::http::messages::{Ingest, IngestDisk, IngestSet, Machine, Machines};
use landfall_retention::IngestMode;
use std::str::FromStr;

/// Feed machines over NBD: a hypervisor's mirror or any copy writes to MACHINE/DISK, without an agent
#[derive(clap::Subcommand)]
pub(super) enum IngestVerb {
    /// Say how a machine is fed
    #[command(after_help = "\
Modes:
  nbd            a point comes when every disk was written, flushed, and left in good order; or by landfall point mark
  nbd=ordered    the same; and from a landfall point mark on every write is a moment, until anything goes wrong: you
                 say that writes come in the order in which they were made (a mirror that is in sync and write-blocking)
  off            by landfall replicate, or by nobody

Examples:
  landfall ingest set web nbd
  qemu-img convert -n -O raw os.qcow2 'nbd+unix:///web/os?socket=/var/lib/landfall/nbd.sock'")]
    Set {
        /// The machine
        machine: String,
        /// nbd, nbd=ordered or off
        by: IngestGiven,
        #[command(flatten)]
        format: Format,
    },
    /// List machines that are fed over NBD: who writes, and what the next point waits for
    List {
        #[command(flatten)]
        format: Format,
    },
}

/// What `--ingest` and `ingest set` say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IngestGiven(pub(super) Option<IngestMode>);

impl FromStr for IngestGiven {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text {
            "off" => None,
            "nbd" => Some(IngestMode::Sync),
            text => match text.strip_prefix("nbd=") {
                Some(mode) => Some(mode.parse()?),
                None => return Err(format!("{text:?}: write nbd, nbd=ordered or off")),
            },
        }))
    }
}

impl IngestGiven {
    /// As the control API has it.
    pub(super) fn word(self) -> Option<String> {
        self.0.map(|mode| mode.word().to_owned())
    }
}

impl IngestVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        match self {
            Self::Set { machine, by, format } => {
                let wanted = IngestSet { machine, mode: by.word() };
                let machine: Machine = control.post("/v1/ingest", &wanted)?;
                format.print(&machine, set);
            }
            Self::List { format } => {
                let mut machines: Machines = control.get("/v1/machines")?;
                machines.machines.retain(|machine| machine.ingest.is_some());
                format.print(&machines, |machines| list(&machines.machines));
            }
        }
        Ok(())
    }
}

fn set(machine: &Machine) -> String {
    match &machine.ingest {
        None => format!(
            "machine {} is not fed over NBD; see landfall machine show {}",
            machine.name,
            escaped(&machine.name)
        ),
        Some(ingest) => next_steps(&machine.name, ingest),
    }
}

/// What to do with a machine that is to be fed over NBD.
pub(super) fn next_steps(machine: &str, ingest: &Ingest) -> String {
    let mut text = format!("machine {machine} is fed over NBD, {}", ingest.mode);
    for disk in &ingest.disks {
        text.push_str(&disk.uris.first().map_or_else(String::new, |uri| format!("\n  {uri}")));
    }
    text
}

fn list(machines: &[Machine]) -> String {
    if machines.is_empty() {
        return "no machine is fed over NBD; see landfall ingest set --help".to_owned();
    }
    let mut table = Table::new(&["DISK", "MODE", "WRITTEN BY", "SINCE", "STATE"]);
    for machine in machines {
        let Some(ingest) = &machine.ingest else { continue };
        for disk in &ingest.disks {
            table.row(vec![
                format!("{}/{}", machine.name, disk.disk),
                ingest.mode.clone(),
                disk.writer.clone().unwrap_or_default(),
                disk.writer_since.clone().unwrap_or_default(),
                state(ingest, disk),
            ]);
        }
    }
    table.text()
}

fn state(ingest: &Ingest, disk: &IngestDisk) -> String {
    match &disk.broken {
        _ if ingest.in_order => "in order: every write is a moment".to_owned(),
        _ if disk.writer.is_some() => {
            "being written: no moment until its client leaves, or a mark".to_owned()
        }
        Some(why) => format!("between two states: {why}"),
        None if disk.whole => "brought; a point comes when every disk is".to_owned(),
        None => "as of the last point".to_owned(),
    }
}

/// Lines of `landfall machine show`.
pub(super) fn shown(ingest: &Ingest) -> String {
    let mut text = format!("\ningest    over NBD, {}", ingest.mode);
    for disk in &ingest.disks {
        text.push_str(&format!("\n          {}: {}", disk.disk, state(ingest, disk)));
        if let (Some(writer), Some(since)) = (&disk.writer, &disk.writer_since) {
            text.push_str(&format!(" ({writer} since {since})"));
        }
    }
    if let (Some(trouble), Some(time)) = (&ingest.trouble, &ingest.trouble_time) {
        text.push_str(&format!("\n          last trouble, {time}: {trouble}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_feed_are_read() {
        let read = |text: &str| text.parse::<IngestGiven>().map(|given| given.0);
        assert_eq!(read("nbd"), Ok(Some(IngestMode::Sync)));
        assert_eq!(read("nbd=sync"), Ok(Some(IngestMode::Sync)));
        assert_eq!(read("nbd=ordered"), Ok(Some(IngestMode::Ordered)));
        assert_eq!(read("off"), Ok(None));
        for wrong in ["", "nbd=", "nbd=fast", "iscsi", "ordered"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
