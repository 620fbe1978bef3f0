//! What NBD clients can open: any disk at any moment by name, and the heads of branches that were exported.
//!
//! ```text
//!   web/os@-15m   web/os@seq:12   web/os        a point, read-only, no set-up
//!   web~test/os                                 head of a branch: writable if there is a writable export of it
//!   web@latest                                  allowed where the machine has one disk
//!   web/os                                      feeds the machine, where somebody said that it is fed over NBD (`fed`)
//! ```
//!
//! **Invariants**
//! - A branch is opened for writing only while a writable export of it exists. NBD clients that have it keep it until they go.
//! - Several connections are offered only where one name always means one content: a sequence, or a time before the
//!   newest point (points to come are later than that, whatever the clock does); and of a writable branch, whose head all
//!   connections share and whose writes are durable when they are answered, so that any flush covers them all.
//! - Whoever shows a certificate sees nothing but what its owner was granted. Whoever shows none came over a socket or an
//!   address that is for the owner of the target.

mod boot_set;
mod clash;
mod contexts;
mod fed;
mod iscsi;
mod list;
mod serving;
mod space;
mod warm;

use crate::config::{Grant, NbdConfig};
use contexts::RetentionContexts;
use fed::{Fed, Feeder};
use futures_util::future::LocalBoxFuture;
pub(crate) use iscsi::{RetentionTargets, TargetSettings, target_name};
use landfall_disks::Disk;
use landfall_disks::uring::Core;
use landfall_protocols::nbd::{
    Contexts, Export, ExportEntry, Exports, NoContexts, OpenError, Usage, Visitor,
};
use landfall_retention::ids::Sequence;
use landfall_retention::name::{Label, MomentName, Name, When};
use landfall_retention::point::PointKind;
use landfall_retention::time::Timestamp;
use landfall_retention::{
    IngestMode, MachineStatus, Moment, ResolveError, Retention, Shown, existing,
};
use serving::Serving;
pub(crate) use serving::ServingCounters;
pub(crate) use space::{Levels, Volume, left as space_left};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Newest points shown per disk in a list.
const LISTED_POINTS: usize = 20;

/// The exports of a retention.
pub(crate) struct RetentionExports {
    retention: Arc<Retention>,
    allow: BTreeMap<String, Grant>,
    feed: BTreeMap<String, Grant>,
    serving: Serving,
}

/// What nobody was granted.
static NOTHING: Grant = Grant::Machines(Vec::new());

/// An export as it was asked for, in retention's words.
struct Opened {
    disk: Arc<dyn Disk>,
    name: String,
    description: String,
    multi_conn: bool,
    contexts: Arc<dyn Contexts>,
    usage: Option<Arc<dyn Usage>>,
}

impl From<Fed> for Opened {
    fn from(Fed { disk, name, description }: Fed) -> Self {
        let usage = Some(Arc::new(Feeder(Arc::clone(&disk))) as Arc<dyn Usage>);
        // What is being written has no moment yet.
        let contexts = Arc::new(NoContexts);
        Self { disk, name, description, multi_conn: false, contexts, usage }
    }
}

impl RetentionExports {
    /// The exports of `retention`, and what certificates may open and feed of them. What machines read when they boot is
    /// kept in the folder `boots`. Blocks.
    pub(crate) fn new(
        retention: Arc<Retention>,
        config: &NbdConfig,
        boots: PathBuf,
        core: Core,
    ) -> Self {
        let (allow, feed) = (config.allow.clone(), config.feed.clone());
        let machines = retention.machines().into_iter().map(|one| one.name.as_str().to_owned());
        let serving = Serving::new(config, boots, &machines.collect(), core);
        Self { retention, allow, feed, serving }
    }

    /// What was done between clients and disks so far.
    pub(crate) fn counters(&self) -> &ServingCounters {
        self.serving.counters()
    }

    fn grant_of(&self, visitor: &Visitor) -> &Grant {
        granted(&self.allow, visitor)
    }

    async fn open_name(&self, text: &str, visitor: &Visitor) -> Result<Opened, OpenError> {
        let grant = self.grant_of(visitor);
        if text.is_empty() {
            return Err(OpenError::Unknown(format!(
                "there is no default export; ask for MACHINE/DISK or MACHINE/DISK@WHEN; {}",
                self.machines(grant)
            )));
        }
        let name =
            MomentName::parse(text).map_err(|error| OpenError::Unknown(error.to_string()))?;
        // Before anything else, be it whether there is such a machine.
        let feed = granted(&self.feed, visitor);
        let [reads, feeds] = [grant, feed].map(|grant| grant.covers(name.machine.as_str()));
        let mode = if reads || feeds { self.is_fed(text, &name) } else { None };
        if let Some(mode) = mode {
            let disk = self.disk_of(&name, if feeds { feed } else { grant })?;
            let of = (&name.machine, &disk);
            let opened = fed::open(&self.retention, of, mode, visitor.to_string(), feed);
            return opened.map(Opened::from);
        }
        if !reads {
            let what = format!("{} is not for the owner of this certificate", name.machine);
            return Err(OpenError::NotAllowed(format!("{what}; {}", self.machines(grant))));
        }
        let disk = self.disk_of(&name, grant)?;
        if let (Some(branch), When::Latest) = (&name.branch, &name.when) {
            let opened = self.open_head(&name, branch, &disk).await;
            return opened.map_err(|error| self.refused(&error, grant));
        }
        let opened = self.open_moment(&name, &disk).await;
        opened.map_err(|error| self.refused(&error, grant))
    }

    async fn open_moment(&self, name: &MomentName, disk: &Name) -> Result<Opened, ResolveError> {
        let moment = self.retention.resolve(name).await?;
        let multi_conn = self.is_fixed(name);
        let view = self.retention.view(&moment, disk)?;
        Ok(Opened {
            disk: self.serving.wrap(&name.machine, disk, view),
            name: moment.absolute_name(Some(disk)),
            description: describe_moment(&moment),
            multi_conn,
            contexts: self.contexts(Shown::Moment(moment), disk),
            usage: None,
        })
    }

    /// How the machine is fed, if the name is that of a disk which does it.
    fn is_fed(&self, text: &str, name: &MomentName) -> Option<IngestMode> {
        let is_disk = name.branch.is_none() && !text.contains('@');
        is_disk.then(|| self.retention.ingest_mode(&name.machine)).flatten()
    }

    /// The head of a branch, which may be written if somebody said so.
    async fn open_head(
        &self,
        name: &MomentName,
        branch: &Name,
        disk: &Name,
    ) -> Result<Opened, ResolveError> {
        let line = format!("{}~{branch}", name.machine);
        let writable = self.is_writable(&line);
        let description = describe_head(&line, writable);
        if !writable {
            let moment = self.retention.resolve(name).await?;
            let view = self.retention.view(&moment, disk)?;
            return Ok(Opened {
                disk: self.serving.wrap(&name.machine, disk, view),
                name: moment.absolute_name(Some(disk)),
                description,
                multi_conn: false,
                contexts: self.contexts(Shown::Moment(moment), disk),
                usage: None,
            });
        }
        let head = self.retention.branch_disk(&name.machine, branch, disk)?;
        Ok(Opened {
            disk: self.serving.wrap(&name.machine, disk, head),
            name: format!("{line}/{disk}"),
            description,
            multi_conn: true,
            contexts: self.contexts(
                Shown::Head { machine: name.machine.clone(), branch: branch.clone() },
                disk,
            ),
            usage: None,
        })
    }

    /// Whether there is a writable export of the branch `line`.
    fn is_writable(&self, line: &str) -> bool {
        self.retention.exports().iter().any(|export| export.writable && export.name == line)
    }

    fn contexts(&self, shown: Shown, disk: &Name) -> Arc<dyn Contexts> {
        Arc::new(RetentionContexts::new(&self.retention, shown, disk))
    }

    /// The disk that is meant: the one named, or the only one.
    fn disk_of(&self, name: &MomentName, grant: &Grant) -> Result<Name, OpenError> {
        if let Some(disk) = &name.disk {
            return Ok(disk.clone());
        }
        let Some(machine) = self.machine(&name.machine) else {
            let text = format!("no machine {}; {}", name.machine, self.machines(grant));
            return Err(OpenError::Unknown(text));
        };
        match machine.disks.as_slice() {
            [only] => Ok(only.name.clone()),
            disks => {
                let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
                Err(OpenError::Unknown(format!(
                    "machine {} has several disks, name one as MACHINE/DISK: {}",
                    name.machine,
                    names.join(", ")
                )))
            }
        }
    }

    fn machine(&self, name: &Name) -> Option<MachineStatus> {
        self.retention.machines().into_iter().find(|machine| machine.name == *name)
    }

    /// The machines that somebody with this grant may know of, in words.
    fn machines(&self, grant: &Grant) -> String {
        let names = self.retention.machines().into_iter().map(|machine| machine.name);
        let known: Vec<_> = names.filter(|name| grant.covers(name.as_str())).collect();
        existing("machines", &known)
    }

    /// Why there is nothing to open, without a word of machines that are not for whoever asks.
    fn refused(&self, error: &ResolveError, grant: &Grant) -> OpenError {
        match error {
            ResolveError::Index(error) => OpenError::Failed(error.to_string()),
            ResolveError::UnknownMachine { machine, .. } => {
                OpenError::Unknown(format!("no machine {machine}; {}", self.machines(grant)))
            }
            other => OpenError::Unknown(other.to_string()),
        }
    }

    /// Whether the name means the same content for ever.
    fn is_fixed(&self, name: &MomentName) -> bool {
        match name.when {
            When::Sequence(_) => true,
            When::At(time) if name.branch.is_none() => {
                let newest = self.machine(&name.machine).and_then(|machine| machine.newest);
                newest.is_some_and(|newest| time < newest.commit_time)
            }
            _ => false,
        }
    }
}

/// `web@seq:12` and `os` make `web/os@seq:12`; `web~b` and `os` make `web~b/os`.
pub(crate) fn with_disk(line: &str, disk: &Name) -> String {
    match line.split_once('@') {
        Some((line, when)) => format!("{line}/{disk}@{when}"),
        None => format!("{line}/{disk}"),
    }
}

/// The machine in the name of a line or moment.
pub(crate) fn machine_of(line: &str) -> &str {
    line.split(['@', '~', '/']).next().unwrap_or_default()
}

fn granted<'a>(grants: &'a BTreeMap<String, Grant>, visitor: &Visitor) -> &'a Grant {
    match &visitor.certificate {
        None => &Grant::Everything,
        Some(subject) => grants.get(&subject.name).unwrap_or(&NOTHING),
    }
}

/// What is said of a moment, wherever it is said: the specification has a list and `NBD_INFO_DESCRIPTION` agree.
fn describe(
    kind: Option<PointKind>,
    time: Timestamp,
    sequence: Sequence,
    label: Option<&Label>,
) -> String {
    let what = match kind {
        Some(PointKind::App) => "app point",
        Some(PointKind::Crash) => "crash point",
        Some(PointKind::Fuzzy) => "fuzzy point (not one moment)",
        None => "moment",
    };
    let label = label.map(|label| format!(", labelled {:?}", label.as_str()));
    format!("{what} of {time}, sequence {sequence}{}", label.unwrap_or_default())
}

fn describe_moment(moment: &Moment) -> String {
    describe(moment.kind, moment.commit_time, moment.sequence, moment.label.as_ref())
}

/// What is said of the head of the branch `line`.
fn describe_head(line: &str, writable: bool) -> String {
    match writable {
        true => format!("branch {line}, writable"),
        false => format!("branch {line} as it is now, read-only"),
    }
}

impl Exports for RetentionExports {
    fn list<'a>(&'a self, visitor: &'a Visitor) -> LocalBoxFuture<'a, Vec<ExportEntry>> {
        let (grant, feed) = (self.grant_of(visitor), granted(&self.feed, visitor));
        Box::pin(self.entries(grant, feed))
    }

    fn open<'a>(
        &'a self,
        name: &'a str,
        visitor: &'a Visitor,
    ) -> LocalBoxFuture<'a, Result<Export, OpenError>> {
        Box::pin(async move {
            let opened = self.open_name(name, visitor).await;
            match &opened {
                Ok(opened) => {
                    tracing::debug!(%visitor, asked = name, name = opened.name, "NBD open");
                }
                Err(error) => tracing::debug!(%visitor, asked = name, %error, "NBD open refused"),
            }
            let Opened { disk, name, description, multi_conn, contexts, usage } = opened?;
            Ok(Export { disk, name, description, multi_conn, contexts, usage })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_goes_between_line_and_moment() {
        let os = Name::parse("os").unwrap();
        assert_eq!(with_disk("web@seq:12", &os), "web/os@seq:12");
        assert_eq!(with_disk("web~test", &os), "web~test/os");
        assert_eq!(with_disk("web~test@seq:3", &os), "web~test/os@seq:3");
        assert_eq!(with_disk("web", &os), "web/os");
        for line in ["web", "web~test", "web@seq:12", "web/os~"] {
            assert_eq!(machine_of(line), "web");
        }
    }
}
