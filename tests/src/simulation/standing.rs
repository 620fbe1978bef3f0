//! Standby files: brought to any moment beside whatever else goes on, cut off by any power cut, and written to by somebody else.
//! What a sidecar says is held against the model at the start of every life.

use super::folding::at_once;
use super::life::{Alive, Life, PowerCut, machine, pick};
use super::model::{SIZES, Snapshot};
use crate::standby::{Places, content, sidecar};
use crate::world::moment;
use futures_util::future::join;
use landfall_disks::image::Format;
use landfall_retention::ids::LineId;
use landfall_retention::manifest::standby::{HeldMoment, StandbyKept};
use landfall_retention::standby::sidecar::{Holds, Sidecar};
use landfall_retention::standby::{NotOurs, StandbyError, StandbyOrder, StandbyReport};
use landfall_retention::time::Timestamp;
use landfall_retention::{FoldPace, Stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What the model knows of standby files.
#[derive(Default)]
pub(super) struct Standing {
    /// It was asked for.
    asked: bool,
    /// Every moment that files were to be brought to, and what it holds.
    moments: BTreeMap<(LineId, u64), Snapshot>,
    /// A disk whose file somebody else has written to, and when its sidecar was written last before.
    altered: Option<(usize, Timestamp)>,
}

fn file(disk: usize) -> String {
    format!("m-d{disk}.raw")
}

impl Life<'_> {
    /// After a power cut at any moment: a file that says which moment it holds, holds that.
    pub(super) async fn check_standby(&mut self) -> Alive<()> {
        let mut said = Vec::new();
        for disk in 0..SIZES.len() {
            let found = self.sidecar(disk).await?;
            said.push(match found.map(|sidecar| sidecar.holds) {
                None => "nothing".to_owned(),
                Some(Holds::Unknown { .. }) => "unknown".to_owned(),
                Some(Holds::Between { from, to }) => {
                    format!("between seq:{} and seq:{}", from.at.sequence, to.at.sequence)
                }
                Some(Holds::Moment { moment, .. }) => {
                    self.check_file(disk, &moment.at).await?;
                    format!("seq:{}", moment.at.sequence)
                }
            });
        }
        if self.model.standing.asked {
            self.model.say(format!("standby files hold {}", said.join(", ")));
        }
        Ok(())
    }

    async fn sidecar(&self, disk: usize) -> Alive<Option<Sidecar>> {
        self.alive(sidecar(&self.world.folder, &file(disk)).await, "a sidecar")
    }

    async fn check_file(&self, disk: usize, at: &HeldMoment) -> Alive<()> {
        if self.still_altered().await? == Some(disk) {
            return Ok(());
        }
        let known = self.model.standing.moments.get(&(at.line, at.sequence.number()));
        let held = known.expect("it was never to hold that");
        let found = content(&self.world.folder, &file(disk), Format::Raw).await;
        let found = self.alive(found, "a standby file")?;
        assert!(found == held[disk], "the standby of disk {disk} is not what it says: {at:?}");
        Ok(())
    }

    /// Files are brought to a moment, while batches come.
    pub(super) async fn stand_by(&mut self, stream: Stream) -> Alive<Stream> {
        self.add_standby().await?;
        let moments = self.model.moments();
        let newest = moments.last_key_value().map(|(at, held)| (*at, held.clone()));
        let chosen = if self.choices.chance(2, 3) { newest } else { pick(&moments, self.choices) };
        let Some((sequence, held)) = chosen else { return Ok(stream) };
        self.write_to_standby().await?;
        let to = self.standby_order(sequence, false).await?.to;
        self.model.standing.moments.insert((to.line, sequence), held);
        if self.model.standing.altered.is_some() {
            match self.bring(sequence, false).await? {
                Err(StandbyError::NotOurs { why: NotOurs::Written(_), .. }) => {}
                // The file of another disk comes first.
                Err(StandbyError::Shrinks { .. }) => {}
                other => panic!("somebody wrote to it: {other:?}"),
            }
        }
        let overwrite = self.model.standing.altered.is_some();
        let retention = Arc::clone(&self.retention);
        let (to, places) = (self.standby_order(sequence, overwrite).await?, Places::of(self.world));
        let bring = async {
            let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
            retention.bring_standby(&machine(), &to, &places, &pace, &|_| {}).await
        };
        let (brought, stream) = join(bring, self.send_meanwhile(stream)).await;
        let stream = stream?;
        match brought {
            Ok(report) => self.check_brought(sequence, &report).await?,
            // Disks grow, and what is on an older size is not cut off.
            Err(StandbyError::Shrinks { .. }) => self.model.say("a standby does not shrink".into()),
            Err(_) if self.world.folder.is_dead() => return Err(PowerCut),
            Err(error) => panic!("standby to seq:{sequence}: {error}"),
        }
        Ok(stream)
    }

    async fn add_standby(&mut self) -> Alive<()> {
        if !self.retention.standbys().is_empty() {
            return Ok(());
        }
        self.model.standing.asked = true;
        let every = Duration::from_secs(60);
        let kept =
            StandbyKept { folder: "/standby".into(), format: Format::Raw, every, app_only: false };
        let added = self.retention.add_standby(&machine(), kept, &Places::of(self.world)).await;
        self.alive(added, "add a standby")
    }

    /// The disk whose file is what somebody else has made of it. One that was written over since, or was about to be when the
    /// power went, is not.
    async fn still_altered(&self) -> Alive<Option<usize>> {
        let Some((disk, written)) = self.model.standing.altered else { return Ok(None) };
        let same = |found: Sidecar| found.moment().is_some() && found.written == written;
        Ok(self.sidecar(disk).await?.is_some_and(same).then_some(disk))
    }

    /// A hypervisor boots from one that holds a moment.
    async fn write_to_standby(&mut self) -> Alive<()> {
        if self.still_altered().await?.is_some() {
            return Ok(());
        }
        self.model.standing.altered = None;
        let disk = self.choices.index(SIZES.len());
        let whole = self.sidecar(disk).await?.filter(|found| found.moment().is_some());
        if let Some(whole) = whole
            && self.choices.chance(1, 8)
        {
            self.model.standing.altered = Some((disk, whole.written));
            self.world.folder.corrupt(file(disk), 4096 * self.choices.below(10), 700);
            self.model.say(format!("somebody writes to the standby of disk {disk}"));
        }
        Ok(())
    }

    async fn standby_order(&self, sequence: u64, overwrite: bool) -> Alive<StandbyOrder> {
        let to = self.retention.resolve(&moment(&format!("m@seq:{sequence}"))).await;
        Ok(StandbyOrder { to: self.alive(to, "resolve")?, overwrite, compare: false })
    }

    async fn bring(
        &self,
        sequence: u64,
        overwrite: bool,
    ) -> Alive<Result<StandbyReport, StandbyError>> {
        let order = self.standby_order(sequence, overwrite).await?;
        let (pace, places) =
            (FoldPace { bytes_per_second: None, sleep: &at_once }, Places::of(self.world));
        let brought =
            self.retention.bring_standby(&machine(), &order, &places, &pace, &|_| {}).await;
        if brought.is_err() && self.world.folder.is_dead() { Err(PowerCut) } else { Ok(brought) }
    }

    async fn check_brought(&mut self, sequence: u64, report: &StandbyReport) -> Alive<()> {
        self.model.standing.altered = None;
        assert_eq!(report.to.at.sequence.number(), sequence);
        for disk in 0..SIZES.len() {
            let found = self.sidecar(disk).await?.expect("it was written");
            let held = found.moment().map(|held| held.at.sequence.number());
            assert_eq!(held, Some(sequence), "disk {disk} says otherwise");
            self.check_file(disk, &report.to.at).await?;
        }
        let (bytes, compared) = (report.written_bytes, report.compared.len());
        self.model.say(format!(
            "standby at seq:{sequence}: {bytes} bytes written, {compared} files compared"
        ));
        Ok(())
    }
}
