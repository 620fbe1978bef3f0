//! `landfall machine`: which machines are protected.

use super::ingest::IngestGiven;
use super::table::Table;
use super::{Format, Place, say};
use crate::http::client::escaped;
use crate::http::messages::{Disk, DiskAdd, History, Machine, MachineAdd, Machines, Nothing};
use crate::units::{ByteSize, Span, counted};
use landfall_disks::image;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Holders of history that are named; the others are counted.
const HOLDERS_NAMED: usize = 4;

/// Add, list, show and remove machines
#[derive(clap::Subcommand)]
pub(super) enum MachineVerb {
    /// Protect a machine
    ///
    /// Its disks are given with --disk, one after the other, as KEY=VALUE,…: name, size, and optionally format (raw, vmdk,
    /// vhdx or vhd) and path (the file of its image; one is made in the data folder otherwise). A file that exists is
    /// adopted: its format is found by its content and its size counts, and replicating only sends what differs.
    #[command(after_help = "\
Examples:
  landfall machine add web --disk name=os,size=40GiB
  landfall machine add web --disk name=os,size=40GiB,format=vmdk    # what ESXi boots; vhdx for Hyper-V
  landfall machine add db --disk name=os,size=40GiB --disk name=data,size=2TiB,path=/srv/db-data.raw
  landfall machine add old --disk name=os,path=/srv/old.vhdx        # adopts the file")]
    Add {
        /// Name: 1 to 63 of a-z 0-9 . -
        name: String,
        /// A disk: name=NAME,size=SIZE and, where wanted, format=raw and path=FILE
        #[arg(long = "disk", required = true, value_name = "KEY=VALUE,…")]
        disks: Vec<DiskGiven>,
        /// A group it joins: machines that have points in common
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// Feed it over NBD, without an agent: nbd, or nbd=ordered (see landfall ingest set --help)
        #[arg(long, value_name = "HOW")]
        ingest: Option<IngestGiven>,
        /// Free text for people
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        display_name: String,
        #[command(flatten)]
        format: Format,
    },
    /// List all machines
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Show a machine: disks, stream, points, branches
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        format: Format,
    },
    /// Protect a machine no longer: its points and branches are gone at once
    ///
    /// Its image files stay where they are. Its part of the journal is given back in the background.
    Remove {
        /// Its name
        name: String,
    },
}

/// What `--disk` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DiskGiven {
    name: String,
    size: Option<ByteSize>,
    format: Option<image::Format>,
    path: Option<PathBuf>,
}

impl FromStr for DiskGiven {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut given = Self { name: String::new(), size: None, format: None, path: None };
        for part in text.split(',') {
            let (key, value) = part
                .split_once('=')
                .filter(|(_, value)| !value.is_empty())
                .ok_or_else(|| format!("{part:?} is not KEY=VALUE"))?;
            match key {
                "name" => given.name = value.to_owned(),
                "size" => given.size = Some(value.parse().map_err(|e| format!("{e}"))?),
                "format" => given.format = Some(value.parse().map_err(|e| format!("{e}"))?),
                "path" => given.path = Some(value.into()),
                _ => {
                    return Err(format!("unknown key {key:?}; there are name, size, format, path"));
                }
            }
        }
        if given.name.is_empty() {
            return Err("the disk needs a name: name=os".to_owned());
        }
        if given.size.is_none() && given.path.is_none() {
            return Err(format!("disk {} needs a size: size=40GiB", given.name));
        }
        Ok(given)
    }
}

impl DiskGiven {
    /// As the control API has it: the target does not know the folder this command runs in.
    pub(super) fn complete(self) -> anyhow::Result<DiskAdd> {
        let path = self.path.as_deref().map(std::path::absolute).transpose()?;
        let path = path
            .map(|path| path.into_os_string().into_string())
            .transpose()
            .map_err(|path| anyhow::anyhow!("{} is not UTF-8", path.display()))?;
        Ok(DiskAdd {
            name: self.name,
            size_bytes: self.size.map(|size| size.bytes()),
            format: self.format.map(|format| format.to_string()),
            path,
        })
    }
}

impl MachineVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        match self {
            Self::Add { name, disks, display_name, group, ingest, format } => {
                let disks = disks.into_iter().map(DiskGiven::complete).collect::<Result<_, _>>()?;
                let ingest = ingest.and_then(IngestGiven::word);
                let wanted = MachineAdd { name, display_name, disks, group, ingest };
                let machine: Machine = control.post("/v1/machines", &wanted)?;
                format.print(&machine, added);
            }
            Self::List { format } => {
                let machines: Machines = control.get("/v1/machines")?;
                format.print(&machines, |machines| list(&machines.machines));
            }
            Self::Show { name, format } => {
                let machine: Machine = control.get(&format!("/v1/machines/{}", escaped(&name)))?;
                format.print(&machine, show);
            }
            Self::Remove { name } => {
                let Nothing {} = control.delete(&format!("/v1/machines/{}", escaped(&name)))?;
                say(&format!("machine {name} removed; its image files stay where they are"));
            }
        }
        Ok(())
    }
}

fn added(machine: &Machine) -> String {
    let total = ByteSize::new(machine.disks.iter().map(|disk| disk.size_bytes).sum());
    let disks = counted(machine.disks.len() as u64, "disk");
    if let Some(ingest) = &machine.ingest {
        let next = super::ingest::next_steps(&machine.name, ingest);
        return format!("machine {} added: {disks}, {total}\n{next}", machine.name);
    }
    let sources: Vec<String> =
        machine.disks.iter().map(|disk| format!("--disk {}=FILE", disk.name)).collect();
    format!(
        "machine {} added: {disks}, {total}\nnext: landfall replicate {} {} --once",
        machine.name,
        machine.name,
        sources.join(" ")
    )
}

/// A line per machine.
pub(super) fn list(machines: &[Machine]) -> String {
    if machines.is_empty() {
        return "no machines yet; add one: landfall machine add NAME --disk name=os,size=40GiB"
            .to_owned();
    }
    let mut table =
        Table::new(&["MACHINE", ">DISKS", ">SIZE", "STATE", ">POINTS", "NEWEST POINT", "STREAM"]);
    for machine in machines {
        let size = machine.disks.iter().map(|disk| disk.size_bytes).sum();
        table.row(vec![
            machine.name.clone(),
            machine.disks.len().to_string(),
            ByteSize::new(size).to_string(),
            state(machine),
            machine.points.to_string(),
            machine.newest.as_ref().map_or_else(String::new, |point| ago(point.age_seconds)),
            machine.stream.as_ref().map_or_else(String::new, |stream| stream.peer.clone()),
        ]);
    }
    table.text()
}

/// The state of the machine's least fortunate disk.
fn state(machine: &Machine) -> String {
    let order = ["needs-resync", "seeding", "empty", "ready", "removed"];
    let has = |state: &&&str| machine.disks.iter().any(|disk| disk.state == **state);
    order.iter().find(has).map_or_else(String::new, ToString::to_string)
}

/// `3 min ago`, `now`.
pub(super) fn ago(seconds: u64) -> String {
    match seconds {
        0 => "now".to_owned(),
        seconds => format!("{} ago", Span(Duration::from_secs(seconds))),
    }
}

fn show(machine: &Machine) -> String {
    let mut text = machine.name.clone();
    if !machine.display_name.is_empty() {
        text.push_str(&format!(" ({})", machine.display_name));
    }
    text.push_str(&format!("\n\n{}", disks(&machine.disks)));
    if let Some(group) = &machine.group {
        text.push_str(&format!("\ngroup     {group}"));
    }
    text.push_str(&match &machine.stream {
        None => "\nstream    none open".to_owned(),
        Some(stream) => {
            let state = stream.state.as_deref().unwrap_or("opened");
            format!("\nstream    {} since {}, {state}", stream.peer, stream.since)
        }
    });
    text.push_str(&machine.ingest.as_ref().map_or_else(String::new, super::ingest::shown));
    text.push_str(&match (&machine.oldest, &machine.newest) {
        (Some(oldest), Some(newest)) => format!(
            "\npoints    {}, from {} to {} ({})",
            machine.points,
            oldest.time,
            newest.time,
            ago(newest.age_seconds)
        ),
        _ => "\npoints    none yet: the first copy must end first".to_owned(),
    });
    if let Some(begins) = &machine.history.begins {
        text.push_str(&format!("\nhistory   begins at {} (seq:{})", begins.time, begins.sequence));
    }
    if let Some(space) = &machine.history.space {
        let quota = space
            .quota_bytes
            .map_or_else(String::new, |bytes| format!(", of a quota of {}", ByteSize::new(bytes)));
        text.push_str(&format!("\nspace     {}{quota}", ByteSize::new(space.used_bytes)));
    }
    text.push_str(&held(machine).map_or_else(String::new, |held| format!("\nheld      {held}")));
    for branch in &machine.branches {
        text.push_str(&format!(
            "\nbranch    {} from seq:{} ({})",
            branch.name, branch.origin_sequence, branch.origin_time
        ));
    }
    if let Some(newest) = &machine.newest {
        for uri in newest.uris.iter().take(2) {
            text.push_str(&format!("\nnewest    {uri}"));
        }
    }
    text
}

/// Who keeps the history of a machine from beginning where its policy wants.
pub(super) fn held(machine: &Machine) -> Option<String> {
    let History { held_by, held_seconds, .. } = &machine.history;
    (!held_by.is_empty()).then(|| {
        let more = match held_by.len().saturating_sub(HOLDERS_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "{} longer than its policy keeps it: {}{more}",
            Span(Duration::from_secs(*held_seconds)),
            held_by[..held_by.len().min(HOLDERS_NAMED)].join(", ")
        )
    })
}

fn disks(disks: &[Disk]) -> String {
    let mut table = Table::new(&["DISK", ">SIZE", "FORMAT", "STATE", "IMAGE"]);
    for disk in disks {
        table.row(vec![
            disk.name.clone(),
            ByteSize::new(disk.size_bytes).to_string(),
            disk.format.clone(),
            disk.reason
                .as_ref()
                .map_or_else(|| disk.state.clone(), |reason| format!("{}: {reason}", disk.state)),
            disk.image.clone(),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_read() {
        let disk: DiskGiven = "name=os,size=40GiB,path=/x=y.raw".parse().expect("valid");
        assert_eq!(disk.name, "os");
        assert_eq!(disk.size, Some(ByteSize::new(40 << 30)));
        assert_eq!((disk.format, disk.path), (None, Some("/x=y.raw".into())));
        let disk: DiskGiven = "name=os,size=1GiB,format=vhdx".parse().expect("valid");
        assert_eq!(disk.format, Some(image::Format::Vhdx));
    }

    #[test]
    fn what_is_missing_or_unknown_is_said() {
        for (text, part) in [
            ("size=1GiB", "needs a name"),
            ("name=os", "needs a size"),
            ("name=os,size=big", "not a size"),
            ("name=os,sise=1", "sise"),
            ("name=os,size=1,format=qcow2", "there are raw, vmdk, vhdx and vhd"),
            ("os", "KEY=VALUE"),
        ] {
            let error = text.parse::<DiskGiven>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
