//! Retention's words turned into those of the control API.

use super::messages::{
    Branch, Disk, Export, FoldUnderWay, Folding, History, HistoryMoment, HistorySpace, IndexBuild,
    IscsiTarget, Journal, Listening, Machine, Moment, MomentDisk, Point, Status, Stream,
};
use crate::config::NbdTls;
use crate::exports::{machine_of, target_name, with_disk};
use crate::service::{
    Growth, Target, alarm_in_words, on_this_machine, shrinks_in_words, volume_in_words,
};
use crate::units::{ByteSize, Span, counted};
use landfall_disks::image::Format;
use landfall_retention as retention;
use landfall_retention::DiskState;
use landfall_retention::ids::Sequence;
use landfall_retention::manifest::iscsi::{ChapAccount, IscsiAccess};
use landfall_retention::name::{MomentName, Name};
use landfall_retention::time::{Clock, SystemClock, Timestamp};
use std::time::Duration;

/// The volume is said to fill so long before it does.
const VOLUME_WARNED: Duration = Duration::from_secs(24 * 3600);

impl Target {
    /// Every machine, for listings.
    pub(super) fn all_machines(&self) -> Vec<Machine> {
        self.retention.machines().iter().map(|machine| self.machine(machine)).collect()
    }

    pub(super) fn machine(&self, status: &retention::MachineStatus) -> Machine {
        let point = |point: &retention::point::Point| {
            let point = point.clone();
            let plain = retention::PointStatus { point, pinned: false, locked_until: None };
            self.point(&status.name, None, &status.disks, &plain)
        };
        Machine {
            name: status.name.to_string(),
            display_name: status.display_name.clone(),
            group: self.retention.group_of_machine(&status.name).map(|group| group.to_string()),
            disks: status.disks.iter().map(|status| self.disk(status)).collect(),
            head: status.head.number(),
            generation: status.generation.number(),
            stream: status.stream.as_ref().map(|stream| Stream {
                peer: stream.peer.clone(),
                since: stream.since.to_string(),
                position: stream.position.number(),
                state: status.stream_state.map(|change| change.state.to_string()),
            }),
            ingest: self.ingest(&status.name),
            points: status.points as u64,
            oldest: status.oldest.as_ref().map(point),
            newest: status.newest.as_ref().map(point),
            branches: status.branches.iter().map(|one| branch(&status.name, one)).collect(),
            history: self.history(&status.name),
            waits: status.waits.as_ref().map(waits_in_words),
        }
    }

    fn index_build(&self) -> Option<IndexBuild> {
        let status = self.retention.index_status();
        (!status.whole).then_some(IndexBuild {
            segments: status.files as u64,
            left: status.left as u64,
            failure: status.failure,
        })
    }

    fn history(&self, machine: &Name) -> History {
        let of = (self.retention.history(machine), self.retention.trunk(machine));
        // Removed in between.
        let (Ok(status), Ok(trunk)) = of else { return History::default() };
        let known = self.folding.of(trunk);
        let moment = |sequence: Sequence, time: Timestamp| HistoryMoment {
            sequence: sequence.number(),
            time: time.to_string(),
        };
        History {
            begins: status.start.map(|start| moment(start.sequence, start.commit_time)),
            wanted: known.wanted.map(|wanted| moment(wanted.sequence, wanted.commit_time)),
            held_by: known.held_by.iter().map(ToString::to_string).collect(),
            held_seconds: known.held_for.as_secs(),
            folding: status.folding.map(|progress| FoldUnderWay {
                floor: progress.floor.number(),
                disk: progress.disk.to_string(),
                done_bytes: progress.done_bytes,
                size_bytes: progress.size_bytes,
                stalled: known.stalled,
            }),
            failure: known.failure,
            last_fold_milliseconds: known
                .last_took
                .map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            last_fold_bytes: known.last_bytes,
            space: known.space.as_ref().map(|space| history_space(space, &known.growth)),
        }
    }

    fn disk(&self, status: &retention::DiskStatus) -> Disk {
        let (state, reason) = match &status.state {
            _ if status.span.until.is_some() => ("removed", None),
            DiskState::Empty => ("empty", None),
            DiskState::Seeding => ("seeding", None),
            DiskState::Ready => ("ready", None),
            DiskState::NeedsResync(reason) => ("needs-resync", Some(reason.clone())),
        };
        Disk {
            name: status.name.to_string(),
            size_bytes: status.size_bytes,
            format: status.format.clone(),
            image: self.config.images.join(&status.image).display().to_string(),
            state: state.to_owned(),
            reason,
        }
    }

    pub(super) fn point(
        &self,
        machine: &Name,
        branch: Option<&Name>,
        disks: &[retention::DiskStatus],
        status: &retention::PointStatus,
    ) -> Point {
        let retention::PointStatus { point, pinned, locked_until } = status;
        let line = line_name(machine, branch);
        let name = format!("{line}@seq:{}", point.sequence);
        Point {
            uris: self.uris_at((machine, branch), Some(point.sequence), &name, disks),
            name,
            sequence: point.sequence.number(),
            time: point.commit_time.to_string(),
            age_seconds: SystemClock.now().since(point.commit_time).as_secs(),
            source_time: point.source_time.to_string(),
            kind: point.kind.to_string(),
            label: point.label.as_ref().map(|label| label.as_str().to_owned()),
            pinned: *pinned,
            locked_until: locked_until.map(|until| until.to_string()),
        }
    }

    pub(super) fn moment(
        &self,
        moment: &retention::Moment,
        disks: &[&retention::DiskStatus],
    ) -> Moment {
        let line = (&moment.machine, moment.branch.as_ref());
        let there = self.retention.place(line.0, line.1, moment.sequence).ok();
        // Those that it has; a line that is gone meanwhile has none.
        let has = |disk: &&&retention::DiskStatus| {
            there.as_ref().is_some_and(|place| disk.span.is_in(place))
        };
        let disk = |disk: &&retention::DiskStatus| MomentDisk {
            name: disk.name.to_string(),
            size_bytes: there.as_ref().map_or(disk.size_bytes, |there| disk.span.size_in(there)),
            nbd_name: moment.absolute_name(Some(&disk.name)),
            identity: disk.identity.to_string(),
            image: (disk.format == Format::Raw.name() && matches!(disk.state, DiskState::Ready))
                .then(|| self.config.images.join(&disk.image).display().to_string()),
            format: disk.format.clone(),
        };
        Moment {
            name: moment.absolute_name(None),
            machine: moment.machine.to_string(),
            branch: moment.branch.as_ref().map(Name::to_string),
            sequence: moment.sequence.number(),
            time: moment.commit_time.to_string(),
            kind: moment.kind.map(|kind| kind.to_string()),
            label: moment.label.as_ref().map(|label| label.as_str().to_owned()),
            disks: disks.iter().filter(has).map(disk).collect(),
            nbd_socket: self.listening.nbd_socket.clone(),
            // Commands of this machine speak in the clear.
            nbd: self
                .nbd_address
                .filter(|_| self.config.nbd.tls != NbdTls::Required)
                .map(|address| address.to_string()),
        }
    }

    /// Every export that was set up.
    pub(super) fn all_exports(&self) -> Vec<Export> {
        let machines = self.retention.machines();
        let exports = self.retention.exports();
        exports.iter().map(|status| self.export_of(status, &machines)).collect()
    }

    pub(super) fn export(&self, status: &retention::ExportStatus) -> Export {
        self.export_of(status, &self.retention.machines())
    }

    fn export_of(
        &self,
        status: &retention::ExportStatus,
        machines: &[retention::MachineStatus],
    ) -> Export {
        let machine = machine_of(&status.name);
        let found = machines.iter().find(|one| one.name.as_str() == machine);
        let disks = found.map_or(&[][..], |machine| &machine.disks);
        // What is exported was a name when it was set up.
        let name = MomentName::parse(&status.name).ok();
        let uris = name.map(|name| {
            let line = (&name.machine, name.branch.as_ref());
            self.uris_at(line, status.sequence, &status.name, disks)
        });
        Export {
            id: status.id.number(),
            uris: uris.unwrap_or_default(),
            name: status.name.clone(),
            writable: status.writable,
            iscsi: status.iscsi.as_ref().map(|access| self.iscsi_target(status, access, disks)),
        }
    }

    /// Where it listens now.
    pub(crate) fn listening(&self) -> Listening {
        let iscsi = self.portal.address().map(|address| address.to_string());
        Listening { iscsi, ..self.listening.clone() }
    }

    fn iscsi_target(
        &self,
        status: &retention::ExportStatus,
        access: &IscsiAccess,
        disks: &[retention::DiskStatus],
    ) -> IscsiTarget {
        let name = MomentName::parse(&status.name).ok();
        let head = status.sequence.unwrap_or(Sequence::MAX);
        let place = name
            .and_then(|name| self.retention.place(&name.machine, name.branch.as_ref(), head).ok());
        let there =
            disks.iter().filter(|disk| place.as_ref().is_some_and(|at| disk.span.is_in(at)));
        let user = |account: &Option<ChapAccount>| account.as_ref().map(|one| one.user.clone());
        IscsiTarget {
            name: target_name(&self.config.iscsi.prefix, status),
            portal: self.portal.address().map(|address| on_this_machine(address).to_string()),
            units: there.map(|disk| disk.name.to_string()).collect(),
            initiators: access.initiators.clone(),
            chap_user: user(&access.chap),
            mutual_chap_user: user(&access.mutual),
            removable: access.removable,
        }
    }

    /// Where the disks of a line or moment can be opened, those that it has; the socket first, disk by disk.
    fn uris_at(
        &self,
        (machine, branch): (&Name, Option<&Name>),
        sequence: Option<Sequence>,
        name: &str,
        disks: &[retention::DiskStatus],
    ) -> Vec<String> {
        let head = sequence.unwrap_or(Sequence::MAX);
        // A line that is gone meanwhile has no disks.
        let Ok(there) = self.retention.place(machine, branch, head) else { return Vec::new() };
        let mut uris = Vec::new();
        for disk in disks.iter().filter(|disk| disk.span.is_in(&there)) {
            let name = with_disk(name, &disk.name);
            let socket = self.listening.nbd_socket.as_ref();
            uris.extend(socket.map(|socket| crate::uri::over_socket(&name, socket.as_ref())));
            let tls = self.config.nbd.tls;
            let over_tcp = |address| crate::uri::over_tcp(&name, address, tls);
            uris.extend(self.nbd_address.map(over_tcp));
        }
        uris
    }

    pub(super) fn status(&self, journal: &retention::JournalStatus) -> Status {
        let machines = self.all_machines();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            data: self.config.data.display().to_string(),
            listen: self.listening(),
            warnings: self.warnings(&machines, journal),
            machines,
            exports: self.all_exports(),
            folding: {
                let counters = self.folding.counters();
                Folding {
                    folds: counters.folds,
                    failures: counters.failures,
                    folded_bytes: counters.data_bytes + counters.zero_bytes,
                    released_segments: counters.released_segments,
                    released_bytes: counters.released_bytes,
                    compacted_segments: counters.compacted_segments,
                    compacted_bytes: counters.compacted_bytes,
                    moved_bytes: counters.moved_bytes,
                }
            },
            index: self.index_build(),
            journal: Journal {
                segments: journal.segments as u64,
                bytes: journal.segment_bytes,
                free_bytes: journal.free_bytes,
                index_bytes: journal.index_bytes,
            },
        }
    }

    fn warnings(&self, machines: &[Machine], journal: &retention::JournalStatus) -> Vec<String> {
        let mut warnings = Vec::new();
        let index = self.retention.index_status();
        warnings.extend(index.failure.map(|why| {
            format!("the index cannot be built, and moments that it lacks cannot be opened: {why}")
        }));
        let waits = |machine: &Machine| {
            machine.waits.as_ref().map(|waits| format!("{}: {waits}", machine.name))
        };
        warnings.extend(machines.iter().filter_map(waits));
        for machine in machines {
            for disk in &machine.disks {
                if let Some(reason) = &disk.reason {
                    warnings.push(format!(
                        "{}/{} needs resync: {reason}; replicate it again to make new points whole",
                        machine.name, disk.name
                    ));
                }
            }
        }
        if self.retention.exports().iter().any(|export| export.iscsi.is_some()) {
            let trouble = self.portal.trouble();
            let in_words = |why| format!("exports over iSCSI cannot be reached: {why}");
            warnings.extend(trouble.map(in_words));
        }
        self.not_given_back(machines, &mut warnings);
        warnings.extend(self.retention.clock_alarm().map(|alarm| alarm_in_words(&alarm)));
        self.overdue(&mut warnings);
        warnings.extend(self.barriers.failures());
        warnings.extend(self.damaged());
        let damage = self.report.damage.iter().chain(&index.damage);
        warnings.extend(damage.map(|damage| format!("journal: {damage}")));
        for (number, lane) in journal.lanes.iter().enumerate() {
            if let Some(reason) = &lane.failed {
                warnings.push(format!(
                    "lane {number} of the journal refuses all writes: {reason}; mend the cause, \
                     then restart the service; points stay readable"
                ));
            }
        }
        let fills = self.folding.volume_lasts(journal.free_bytes);
        let soon = fills.filter(|full_in| *full_in <= VOLUME_WARNED);
        warnings.extend(soon.map(volume_in_words));
        let needed = self.config.segment_bytes.saturating_add(self.config.reserve_bytes);
        if journal.free_bytes < needed {
            warnings.push(format!(
                "the journal is full: {} free on the file system of {}, {} needed; \
                 streams are refused until there is space",
                ByteSize::new(journal.free_bytes),
                self.config.journal.display(),
                ByteSize::new(needed)
            ));
        }
        warnings
    }
}

impl Target {
    /// What cannot be folded or released.
    fn not_given_back(&self, machines: &[Machine], warnings: &mut Vec<String>) {
        for machine in machines {
            let name = &machine.name;
            if let Some(failure) = &machine.history.failure {
                warnings.push(format!(
                    "the history of {name} cannot be folded, and its space is not given back: {failure}"
                ));
            }
            if let Some(stalled) = machine.history.folding.as_ref().filter(|fold| fold.stalled) {
                warnings.push(format!(
                    "folding {name}/{} waits for a disk that does not answer",
                    stalled.disk
                ));
            }
        }
        for status in self.retention.machines() {
            let Ok(trunk) = self.retention.trunk(&status.name) else { continue };
            let known = self.folding.of(trunk);
            let quota = known.space.as_ref().and_then(|space| space.policy.space());
            let held = known.space.as_ref().and_then(|space| space.held.as_ref());
            warnings
                .extend(held.map(|why| format!("nothing more is taken of {}: {why}", status.name)));
            let shrinks = known.shrinks.filter(|_| held.is_none());
            warnings.extend(shrinks.map(|found| shrinks_in_words(&status.name, &found, quota)));
        }
        let failure = self.folding.forget_failure();
        warnings.extend(failure.map(|failure| {
            format!("segments of the journal that nobody needs cannot be released: {failure}")
        }));
    }

    /// What scrub found and nobody has healed.
    fn damaged(&self) -> Option<String> {
        let entry = self.retention.scrubbed();
        let first = entry.damage.first()?;
        let machines = self.retention.machines();
        let named = machines.iter().find_map(|machine| {
            let disk = machine.disks.iter().find(|disk| first.place.disk() == Some(disk.id))?;
            Some(format!("{}/{}", machine.name, disk.name))
        });
        Some(format!(
            "{} damaged, the first of {}: see landfall scrub --status",
            counted(entry.damage.len() as u64 + entry.unlisted, "place"),
            named.unwrap_or_else(|| "the journal".to_owned())
        ))
    }

    /// Machines whose newest point is older than it should be.
    fn overdue(&self, warnings: &mut Vec<String>) {
        let limits = &self.config.policy;
        let now = SystemClock.now();
        // Of those whose points are not all known there is nothing to say.
        let known = |machine: &retention::MachineStatus| {
            machine.waits.is_none_or(|waits| waits.trunk_opens)
        };
        for machine in self.retention.machines().into_iter().filter(known) {
            let newest_app = machine.newest_app.as_ref().map(|newest| newest.commit_time);
            // While a source delivers in order, nothing but what is under way would be lost.
            let newest_moment = machine.newest_moment.filter(|_| !machine.is_fed_in_order());
            let newest =
                [(newest_moment, limits.rpo, "point"), (newest_app, limits.app_every, "app point")];
            for (newest, limit, what) in newest {
                let age = newest.map(|newest| now.since(newest));
                if let Some(age) = age.filter(|age| *age > limit) {
                    warnings.push(format!(
                        "the newest {what} of {} is {} old; one is due every {}",
                        machine.name,
                        Span(age),
                        Span(limit)
                    ));
                }
            }
        }
    }
}

fn waits_in_words(waits: &retention::MachineWaits) -> String {
    let left = counted(waits.why.files as u64, "segment");
    let what = match waits {
        retention::MachineWaits { trunk_opens: true, .. } => {
            "some of its branches cannot be opened"
        }
        retention::MachineWaits { stream_goes_on: true, .. } => {
            "its moments cannot be opened, and its source can go on but not compare,"
        }
        _ => "its moments cannot be opened and its source cannot go on",
    };
    format!("{what} until the index is built; {left} of the journal are left")
}

fn history_space(space: &retention::GroupSpace, growth: &Growth) -> HistorySpace {
    let full_in = space.left_bytes().and_then(|left| growth.lasts(left));
    let age = space.oldest.map(|oldest| SystemClock.now().since(oldest));
    let reaches = full_in.zip(age).map(|(full_in, age)| age.saturating_add(full_in));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people"
    )]
    let per_hour = |rate: f64| (rate * 3600.0) as u64;
    HistorySpace {
        used_bytes: space.used_bytes,
        quota_bytes: space.policy.space().map(|quota| quota.bytes),
        bytes_per_hour: growth.rate().map(per_hour),
        full_in_seconds: full_in.map(|time| time.as_secs()),
        reaches_seconds: reaches.map(|time| time.as_secs()),
        held: space.held.clone(),
    }
}

pub(super) fn branch(machine: &Name, status: &retention::BranchStatus) -> Branch {
    Branch {
        name: line_name(machine, Some(&status.name)),
        machine: machine.to_string(),
        branch: status.name.to_string(),
        origin_sequence: status.origin.number(),
        origin_time: status.origin_time.to_string(),
        head: status.head.number(),
        head_time: status.head_time.to_string(),
        sealed: status.sealed,
    }
}

pub(super) fn line_name(machine: &Name, branch: Option<&Name>) -> String {
    match branch {
        None => machine.to_string(),
        Some(branch) => format!("{machine}~{branch}"),
    }
}
