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
//! - A branch can be written only while a writable export of it exists.
//! - Several connections are offered only where one name always means one content: a sequence, or a time before the
//!   newest point (points to come are later than that, whatever the clock does); and of a writable branch, whose head all
//!   connections share and whose writes are durable when they are answered, so that any flush covers them all.
//! - Whoever shows a certificate sees nothing but what its owner was granted. Whoever shows none came over a socket or an
//!   address that is for the owner of the target.

mod boot_set;
mod contexts;
mod fed;
mod serving;
mod warm;

use crate::config::{Grant, NbdConfig};
use contexts::RetentionContexts;
use fed::{Fed, Feeder};
use futures_util::future::LocalBoxFuture;
use landfall_disks::Disk;
use landfall_protocols::nbd::{
    Contexts, Export, ExportEntry, Exports, NoContexts, OpenError, Usage, Visitor,
};
use landfall_retention::name::{MomentName, Name, When};
use landfall_retention::point::{PointOrder, PointQuery};
use landfall_retention::{IngestMode, MachineStatus, Moment, ResolveError, Retention, Shown};
use serving::Serving;
pub(crate) use serving::ServingCounters;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Newest points shown per disk in a list.
const LISTED_POINTS: usize = 20;
/// Most lines of a list.
const LISTED: usize = 2000;

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
    pub(crate) fn new(retention: Arc<Retention>, config: &NbdConfig, boots: PathBuf) -> Self {
        let (allow, feed) = (config.allow.clone(), config.feed.clone());
        let machines = retention.machines().into_iter().map(|one| one.name.as_str().to_owned());
        let serving = Serving::new(config, boots, &machines.collect());
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
        if let Some(mode) = self.is_fed(text, &name) {
            let feed = granted(&self.feed, visitor);
            let disk = self.disk_of(&name, feed)?;
            let of = (&name.machine, &disk);
            return fed::open(&self.retention, of, mode, visitor.to_string(), feed)
                .map(Opened::from);
        }
        if !grant.covers(name.machine.as_str()) {
            let what = format!("{} is not for the owner of this certificate", name.machine);
            return Err(OpenError::NotAllowed(format!("{what}; {}", self.machines(grant))));
        }
        let disk = self.disk_of(&name, grant)?;
        if let (Some(branch), When::Latest) = (&name.branch, &name.when) {
            return self.open_head(&name, branch, &disk).await;
        }
        let moment = self.retention.resolve(&name).await.map_err(refused)?;
        let multi_conn = self.is_fixed(&name);
        let view = self.retention.view(&moment, &disk).map_err(refused)?;
        Ok(Opened {
            disk: self.serving.wrap(&name.machine, &disk, view),
            name: moment.absolute_name(Some(&disk)),
            description: describe(&moment),
            multi_conn,
            contexts: self.contexts(Shown::Moment(moment), &disk),
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
    ) -> Result<Opened, OpenError> {
        let line = format!("{}~{branch}", name.machine);
        let writable = self.retention.exports().iter().any(|e| e.writable && e.name == line);
        if !writable {
            let moment = self.retention.resolve(name).await.map_err(refused)?;
            let view = self.retention.view(&moment, disk).map_err(refused)?;
            return Ok(Opened {
                disk: self.serving.wrap(&name.machine, disk, view),
                name: moment.absolute_name(Some(disk)),
                description: format!("branch {line} as it is now, read-only"),
                multi_conn: false,
                contexts: self.contexts(Shown::Moment(moment), disk),
                usage: None,
            });
        }
        let head = self.retention.branch_disk(&name.machine, branch, disk).map_err(refused)?;
        Ok(Opened {
            disk: self.serving.wrap(&name.machine, disk, head),
            name: format!("{line}/{disk}"),
            description: format!("branch {line}, writable"),
            multi_conn: true,
            contexts: self.contexts(
                Shown::Head { machine: name.machine.clone(), branch: branch.clone() },
                disk,
            ),
            usage: None,
        })
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

    fn machines(&self, grant: &Grant) -> String {
        let mut machines = self.retention.machines();
        machines.retain(|machine| grant.covers(machine.name.as_str()));
        let names: Vec<&str> = machines.iter().take(20).map(|m| m.name.as_str()).collect();
        match machines.len() {
            0 => "there are no machines".to_owned(),
            count if count > names.len() => {
                format!("machines: {} and {} more", names.join(", "), count - names.len())
            }
            _ => format!("machines: {}", names.join(", ")),
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

    fn entries(&self, grant: &Grant, feed: &Grant) -> Vec<ExportEntry> {
        let mut entries = Vec::new();
        for machine in self.retention.machines() {
            let fed = feed.covers(machine.name.as_str());
            let status = fed.then(|| self.retention.feed_status(&machine.name)).flatten();
            entries.extend(status.iter().flat_map(|status| fed::entries(&machine.name, status)));
        }
        let mut machines = self.retention.machines();
        machines.retain(|machine| grant.covers(machine.name.as_str()));
        for export in self.retention.exports() {
            let what = if export.writable { "exported, writable" } else { "exported" };
            let machine = machine_of(&export.name);
            let found = machines.iter().find(|one| one.name.as_str() == machine);
            for disk in found.iter().flat_map(|machine| &machine.disks) {
                let name = with_disk(&export.name, &disk.name);
                entries.push(ExportEntry { name, description: what.to_owned() });
            }
        }
        for machine in &machines {
            self.list_machine(machine, &mut entries);
        }
        entries.truncate(LISTED);
        entries
    }

    fn list_machine(&self, machine: &MachineStatus, entries: &mut Vec<ExportEntry>) {
        // A machine removed meanwhile has no points any more.
        let order = PointOrder::NewestFirst;
        let query = PointQuery { order, ..PointQuery::all(LISTED_POINTS) };
        let points = self.retention.points(&machine.name, None, &query).unwrap_or_default();
        if points.is_empty() {
            return;
        }
        for disk in &machine.disks {
            let span = &disk.span;
            let (machine, disk) = (&machine.name, &disk.name);
            // Without a moment it is what feeds the machine.
            let is_fed = self.retention.ingest_mode(machine).is_some();
            let name = format!("{machine}/{disk}{}", if is_fed { "@latest" } else { "" });
            let newest = points.first().is_some_and(|newest| span.has(newest.point.sequence));
            if newest {
                entries.push(ExportEntry { name, description: "the newest point".to_owned() });
            }
            let there = points.iter().filter(|status| span.has(status.point.sequence));
            entries.extend(there.map(|status| {
                let point = &status.point;
                let label = point.label.as_ref().map(|label| format!(" ({})", label.as_str()));
                ExportEntry {
                    name: format!("{machine}/{disk}@seq:{}", point.sequence),
                    description: format!(
                        "{} point of {}{}",
                        point.kind,
                        point.commit_time,
                        label.unwrap_or_default()
                    ),
                }
            }));
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

fn describe(moment: &Moment) -> String {
    let kind = moment.kind.map_or("moment", |kind| match kind {
        landfall_retention::point::PointKind::App => "app point",
        landfall_retention::point::PointKind::Crash => "crash point",
        landfall_retention::point::PointKind::Fuzzy => "fuzzy point (not one moment)",
    });
    format!("{kind} of {}", moment.commit_time)
}

fn refused(error: ResolveError) -> OpenError {
    match error {
        ResolveError::Index(error) => OpenError::Failed(error.to_string()),
        other => OpenError::Unknown(other.to_string()),
    }
}

impl Exports for RetentionExports {
    fn list<'a>(&'a self, visitor: &'a Visitor) -> LocalBoxFuture<'a, Vec<ExportEntry>> {
        Box::pin(async move { self.entries(self.grant_of(visitor), granted(&self.feed, visitor)) })
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
