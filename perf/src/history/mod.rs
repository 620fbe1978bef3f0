//! A long history: generated through the real write path, opened by the real daemon, and measured against bounds.
//!
//! ```text
//!   generate ─▶ daemon: start ─▶ open points ─▶ memory      ─▶ in this process: cold reads, changes, ingest beside an empty history
//!              ─▶ index removed ─▶ daemon: start (checkpoint) ─▶ open points
//!              ─▶ both removed  ─▶ daemon: start (rebuild) ─▶ open points
//! ```
//!
//! The generator and what counts calls run the daemon's code in this process, one at a time with the daemon. What a user
//! would see is measured of the daemon. Without arguments it is a hundredth of what is promised, as CI runs it; `--full` is
//! all of it. **Invariant:** every block that is read is compared with what was sent.

mod bounds;
mod fill;
mod measure;
mod store;

use crate::figure::{Figure, Peer, Report, Series, Unit};
use crate::host;
use crate::process::until_interrupted;
use crate::table::table;
use crate::target::Target;
use bounds::Bounds;
use fill::Filled;
pub(crate) use fill::{MACHINE, Numbers, Shape, add_machine, data, disk_name, fill, open_stream};
use landfall_retention::index::rocks::Checkpoints;
use measure::{Choice, Cold, Told, count_of};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
pub(crate) use store::Store;

/// Longest start that is waited for: an index of a hundred million entries may have to be rebuilt.
const START: Duration = Duration::from_secs(3600);
/// Points opened over NBD, and again after the rebuild.
const OPENED: u32 = 1000;
const OPENED_AFTER: u32 = 50;
/// Cold reads whose look-ups are counted.
const COLD_READS: u32 = 500;
/// Turns of ingest, long and empty history one after the other, and rounds of each. Measured again, from the start, if it
/// looks bad: what else a machine does weighs on one attempt, what history costs on all.
const INGEST_TURNS: u32 = 8;
const INGEST_ROUNDS: u32 = 4;
const INGEST_ATTEMPTS: u32 = 3;
/// One change in so many has a body.
const BODY_EVERY: u64 = 256;
/// Caches of the daemon: small ones, so that a hundredth of the history does not fit.
const CACHE_BYTES: u64 = 16 << 20;

/// `landfall-perf history`
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A hundred million entries and 100,000 points: some 14 GB and half an hour or more
    #[arg(long)]
    full: bool,
    /// Versions of blocks in the index [default: a million]
    #[arg(long, conflicts_with = "full")]
    entries: Option<u64>,
    /// Points [default: one per thousand entries]
    #[arg(long, conflicts_with = "full")]
    points: Option<u64>,
    /// Fail if a bound is not kept
    #[arg(long)]
    bounds: bool,
    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The binary to measure [default: the one beside this program]
    #[arg(long, value_name = "FILE", env = "LANDFALL_BIN")]
    landfall: Option<PathBuf>,
    /// Folder in which the temporary folder is made; its device is what is measured
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Options {
    fn shape(&self) -> Shape {
        let entries = if self.full { 100_000_000 } else { self.entries.unwrap_or(1_000_000) };
        let points = self.points.unwrap_or(entries / 1000).max(entries.div_ceil(fill::MAX_CHANGES));
        // As many blocks as a sixth of the entries, so that places have some versions each.
        let disk_bytes = (entries * 4096 / 6 / 16).next_multiple_of(1 << 20).max(32 << 20);
        Shape { entries, points, disks: 16, disk_bytes, body_every: BODY_EVERY }
    }

    /// Measures, prints, and checks if it was asked to.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let landfall = crate::binary(self.landfall.clone())?;
        let parent = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let shape = self.shape();
        let (report, bounds) =
            until_interrupted(&parent, move |scratch| measure_all(&landfall, scratch, shape))?;
        print!("{}", table(&report));
        if let Some(json) = &self.json {
            report.save(json)?;
        }
        println!("\n{bounds}");
        if self.bounds { bounds.check() } else { Ok(()) }
    }
}

/// Where it is measured.
struct Place<'a> {
    landfall: &'a Path,
    scratch: &'a Path,
}

impl Place<'_> {
    fn data(&self, name: &str) -> PathBuf {
        self.scratch.join(name).join("data")
    }

    /// A data folder with the machine and `shape` of history.
    fn fill(&self, name: &str, shape: Shape) -> anyhow::Result<Filled> {
        let data = self.data(name);
        std::fs::create_dir_all(&data)?;
        // No block is kept in memory: a read of the journal is one.
        let memory = format!(
            "leaf_cache = \"{CACHE_BYTES}B\"\nindex_cache = \"{CACHE_BYTES}B\"\nread_cache = \"0B\""
        );
        // All of the index before it listens: that is what is timed.
        let index = "[index]\nsegments_at_start = 1000000\n";
        let text = format!("[policy]\nkeep = \"keep all\"\n\n{index}\n[memory]\n{memory}\n");
        std::fs::write(data.join("landfall.toml"), text)?;
        let store = Store::open(&data)?;
        fill::add_machine(&store, shape)?;
        let filled = fill::fill(&store, shape, crate::workload::say)?;
        store.close()?;
        Ok(filled)
    }

    /// The daemon on a data folder, and seconds until it listened.
    fn serve(&self, name: &str) -> anyhow::Result<(Target, f64)> {
        let begun = Instant::now();
        let target = Target::start_within(self.landfall, &self.scratch.join(name), START)?;
        Ok((target, begun.elapsed().as_secs_f64()))
    }
}

/// What was measured.
struct Findings {
    shape: Shape,
    fill_seconds: f64,
    journal_bytes: u64,
    index_bytes: u64,
    start: (Series, Series),
    open: Series,
    open_empty: Series,
    cold: Cold,
    changes: [(&'static str, &'static str, Told); 2],
    ingest: (Series, Series),
    resident: (Series, Series),
    checkpoint: f64,
    restore: Series,
    rebuild: Series,
    resident_rebuilt: u64,
}

fn measure_all(landfall: &Path, scratch: &Path, shape: Shape) -> anyhow::Result<(Report, Bounds)> {
    let say = crate::workload::say;
    let parent = scratch.parent().unwrap_or(scratch);
    let mut host = host::now(parent);
    let place = Place { landfall, scratch };
    say(&format!("generating {} entries and {} points", shape.entries, shape.points));
    let long = place.fill("long", shape)?;
    let few = Shape { entries: 16_000, points: 16, ..shape };
    let empty = place.fill("empty", few)?;
    say("making a checkpoint of the index");
    let index = place.data("long").join("index");
    let checkpoint = measure::checkpoint(&index)?;
    say("opening points");
    let mut choice = Choice::new(&long, 2);
    let (target, start) = place.serve("long")?;
    let open = measure::open_points(&target, &long, &mut choice, OPENED)?;
    let resident = target.resident_bytes()?;
    drop(target);
    let (target, start_empty) = place.serve("empty")?;
    let mut choice_empty = Choice::new(&empty, 2);
    let open_empty = measure::open_points(&target, &empty, &mut choice_empty, OPENED)?;
    let resident_empty = target.resident_bytes()?;
    drop(target);
    say("reading and ingesting");
    let store = Store::open(&place.data("long"))?;
    let cold = measure::cold_reads(&store, &long, &mut choice, COLD_READS)?;
    let (last, middle) = (shape.points - 1, shape.points / 2);
    let changes = [
        ("history-changes", "from the first point to the last", (0, last)),
        (
            "history-changes-part",
            "over a hundredth in the middle",
            (middle, middle + shape.points / 100),
        ),
    ];
    let told = |(name, what, window)| {
        anyhow::Ok((name, what, measure::changes(&store, &long, shape, window)?))
    };
    let [all, some] = changes.map(told);
    let changes = [all?, some?];
    store.close()?;
    let ingest = ingest(&place, shape)?;
    let journal_bytes = long.journal_bytes;
    let index_bytes = long.index_bytes;
    say("bringing the checkpoint up to date");
    std::fs::remove_dir_all(&index)?;
    let (target, restore) = place.serve("long")?;
    measure::open_points(&target, &long, &mut choice, OPENED_AFTER)?;
    drop(target);
    say("rebuilding the index");
    std::fs::remove_dir_all(&index)?;
    std::fs::remove_dir_all(Checkpoints::of(&index).folder())?;
    let (target, rebuild) = place.serve("long")?;
    let resident_rebuilt = target.resident_bytes()?;
    measure::open_points(&target, &long, &mut choice, OPENED_AFTER)?;
    drop(target);
    host.load_after = host::load();
    let findings = Findings {
        shape,
        fill_seconds: long.seconds,
        journal_bytes,
        index_bytes,
        start: (one(start), one(start_empty)),
        open,
        open_empty,
        cold,
        changes,
        ingest,
        resident: (one(count_of(resident)), one(count_of(resident_empty))),
        checkpoint,
        restore: one(restore),
        rebuild: one(rebuild),
        resident_rebuilt,
    };
    let bounds = Bounds::of(&findings);
    Ok((Report::new(host, findings.figures()), bounds))
}

/// The long history and an empty one in turns, in this process. Each is opened for its turn alone: two engines at once do
/// not get the same of the processors.
fn ingest(place: &Place<'_>, shape: Shape) -> anyhow::Result<(Series, Series)> {
    let mut measured = ingest_once(place, shape)?;
    for _ in 1..INGEST_ATTEMPTS {
        if bounds::ingest_is_kept(&measured.0, &measured.1) {
            break;
        }
        measured = ingest_once(place, shape)?;
    }
    Ok(measured)
}

fn ingest_once(place: &Place<'_>, shape: Shape) -> anyhow::Result<(Series, Series)> {
    let (mut of_long, mut of_empty) = (Series::default(), Series::default());
    let turn = |name: &str, turn: u32, series: &mut Series| {
        let store = Store::open(&place.data(name))?;
        // The first round makes a segment and warms caches.
        measure::ingest(&store, shape, turn * INGEST_ROUNDS)?;
        for round in 1..=INGEST_ROUNDS {
            series.push(measure::ingest(&store, shape, turn * INGEST_ROUNDS + round)?);
        }
        store.close()
    };
    for number in 0..INGEST_TURNS {
        if number.is_multiple_of(2) {
            turn("long", number, &mut of_long)?;
            turn("empty", number, &mut of_empty)?;
        } else {
            turn("empty", number, &mut of_empty)?;
            turn("long", number, &mut of_long)?;
        }
    }
    Ok((of_long, of_empty))
}

fn one(value: f64) -> Series {
    let mut series = Series::default();
    series.push(value);
    series
}

impl Findings {
    fn figures(&self) -> Vec<Figure> {
        let Shape { entries, points, disks, .. } = self.shape;
        let empty = |series: &Series| {
            Some(Peer { name: "landfall, 16 points".into(), series: series.clone() })
        };
        let figure =
            |name: &str, what: String, unit, landfall: &Series, peer: Option<Peer>| Figure {
                name: name.into(),
                what,
                unit,
                landfall: landfall.clone(),
                peers: peer.into_iter().collect(),
            };
        let history = format!("{entries} entries, {points} points, {disks} disks");
        let generated = format!(
            "generated through stream, lane and index: {history}; {} MB of journal, {:.1} bytes of index per entry",
            self.journal_bytes / 1_000_000,
            count_of(self.index_bytes) / count_of(entries)
        );
        let seconds = Unit::Seconds;
        let mut figures = vec![
            figure("history-generate", generated, seconds, &one(self.fill_seconds), None),
            figure(
                "history-start",
                format!("from start to listening, index in place: {history}"),
                seconds,
                &self.start.0,
                empty(&self.start.1),
            ),
            figure(
                "history-open",
                format!(
                    "from connect to the first block of any point named by its time; 99 % within {:.1} ms",
                    self.open.percentile(99) * 1000.0
                ),
                seconds,
                &self.open,
                empty(&self.open_empty),
            ),
            figure(
                "history-cold-asked",
                "times the index is asked for a read of 4 KiB of which nothing is resolved".into(),
                Unit::Count,
                &self.cold.asked,
                None,
            ),
            figure("history-cold", "such a read".into(), seconds, &self.cold.seconds, None),
            figure(
                "history-ingest",
                "changes of 4 KiB per second, a point every 64, durable and indexed when answered"
                    .into(),
                Unit::RequestsPerSecond,
                &self.ingest.0,
                empty(&self.ingest.1),
            ),
            figure(
                "history-resident",
                format!("memory in use after {OPENED} points were opened; caches of twice 16 MiB"),
                Unit::Bytes,
                &self.resident.0,
                empty(&self.resident.1),
            ),
            figure(
                "history-checkpoint",
                "a checkpoint of the index".into(),
                seconds,
                &one(self.checkpoint),
                None,
            ),
            figure(
                "history-restore",
                "from start to listening, index removed: the checkpoint read through, what came since indexed"
                    .into(),
                seconds,
                &self.restore,
                None,
            ),
            figure(
                "history-rebuild",
                format!(
                    "from start to listening, index and checkpoints removed; {} MB of memory in use then",
                    self.resident_rebuilt / 1_000_000
                ),
                seconds,
                &self.rebuild,
                None,
            ),
        ];
        figures.extend(self.changes.iter().map(|(name, what, told)| {
            let rate = count_of(entries) / told.seconds / 1e6;
            let blocks = told.blocks;
            let what = format!(
                "changes {what}, on all disks: {blocks} blocks; {rate:.1} million entries a second"
            );
            figure(name, what, seconds, &one(told.seconds), None)
        }));
        figures
    }
}
