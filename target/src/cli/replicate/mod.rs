//! `landfall replicate`: brings a machine's disks at a target up to date with image files, and marks a point.
//!
//! ```text
//!   source   a raw file or an image: its holes, its bytes, whether it stood still
//!   chain    what a snapshot changed, by the images that hold it (pure)
//!   way      copied, compared by hash, or known by the chain
//!   plan     which parts of a window have to be sent (pure)
//!   pass     all disks once: read, hash or compare, pack, send, mark
//!   report   progress bar or plain lines, events, one line per point
//! ```
//!
//! Everything that waits runs on one tokio-uring thread; hashing and compressing run on a few threads beside it. Images of a
//! format are read by the I/O engine on a thread of its own, which is only there if one is needed.
//!
//! **Invariants**
//! - Success is reported only when the point is durable at the target.
//! - A point is `crash` only if no disk changed from the beginning of its pass to the end; otherwise it is `fuzzy`.

mod chain;
mod pass;
mod plan;
mod report;
mod source;
mod way;

use anyhow::{Context, bail};
use landfall_disks::image::Format;
use landfall_protocols::delta::wire::{Bye, DiskEntry};
use landfall_protocols::delta::{Client, ClientError, ClientSettings, DEFAULT_PORT, Name, tls};
use landfall_protocols::pki::Credentials;
use pass::{Known, PassError, Plan, Source};
use report::Report;
use source::{SourceEngine, SourceFile};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What is to be replicated, and to where.
#[derive(Clone, Debug)]
pub(crate) struct Replicate {
    /// Name of the machine at the target.
    pub(crate) machine: String,
    /// Its disks, each with the file it is read from, and what that is taken for if not for what it seems to be.
    pub(crate) disks: Vec<(String, PathBuf, Option<Format>)>,
    /// `HOST:PORT` of the target; this machine's if none is given.
    pub(crate) to: Option<String>,
    /// Folders with `ca.pem`, `client.pem` and `client.key`; the first that has them counts.
    pub(crate) credentials: Vec<PathBuf>,
    /// Once, or again and again.
    pub(crate) mode: Mode,
}

/// How often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// One pass.
    Once,
    /// A pass begins every so often, or when the one before has ended.
    Every(Duration),
}

/// A signal came before the pass was complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "stopped by a signal: the pass was not completed and no point was made; run again to go on"
)]
pub(crate) struct Interrupted;

/// Time the target has to answer a farewell.
const FAREWELL: Duration = Duration::from_secs(10);

/// Replicates until the point is durable, or until a signal comes. [`Interrupted`] is the error of a pass cut short.
pub(crate) fn run(replicate: Replicate) -> anyhow::Result<()> {
    let credentials = find_credentials(&replicate.credentials)?;
    let tls = tls::client_config(credentials).context("credentials of the source")?;
    let machine = Name::new(&replicate.machine).context("machine")?;
    let mut sources = Vec::new();
    let engine = SourceEngine::default();
    for (name, path, format) in &replicate.disks {
        let name = Name::new(name).context("disk")?;
        let file = SourceFile::find(path, *format)?;
        let size_bytes = match file.format {
            Format::Raw => source::size_of(path)?,
            _ => engine.size_of(&file)?,
        };
        sources.push(Source { disk: DiskEntry { name, size_bytes }, file });
    }
    if sources.is_empty() {
        bail!("no disk was named; use --disk NAME=FILE");
    }
    let address = replicate.to.unwrap_or_else(|| format!("127.0.0.1:{DEFAULT_PORT}"));
    let disks = sources.iter().map(|source| source.disk.clone()).collect();
    let settings = ClientSettings::new(address, tls, machine, disks);
    tokio_uring::start(replicate_to(settings, &sources, &engine, replicate.mode))
}

fn find_credentials(folders: &[PathBuf]) -> anyhow::Result<Credentials> {
    for folder in folders {
        if folder.join("client.pem").exists() {
            return Credentials::load_client(folder)
                .with_context(|| format!("credentials in {}", folder.display()));
        }
    }
    let tried: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    bail!(
        "no client.pem in {}; run `landfall pki issue NAME` where the target runs and copy the folder it makes, \
         or name it with --pki",
        if tried.is_empty() { "any folder".to_owned() } else { tried.join(" or ") }
    )
}

async fn replicate_to(
    settings: ClientSettings,
    sources: &[Source],
    engine: &SourceEngine,
    mode: Mode,
) -> anyhow::Result<()> {
    let report = Rc::new(Report::new(&settings.machine, &settings.address));
    let observer = Rc::clone(&report);
    let (client, driver) = Client::new(settings, Box::new(move |event| observer.event(&event)));
    let driver = tokio_uring::spawn(driver);
    let mut signals = Signals::new()?;
    let outcome = tokio::select! {
        outcome = passes(&client, sources, engine, mode, &report) => outcome,
        () = signals.next() => Err(Interrupted.into()),
    };
    report.clear();
    let how = if outcome.is_ok() { Bye::Done } else { Bye::Stopping };
    let farewell = tokio::select! {
        left = tokio::time::timeout(FAREWELL, client.leave(how)) => left.ok(),
        () = signals.next() => None,
    };
    if !matches!(farewell, Some(Ok(()) | Err(ClientError::Ended))) {
        // What was asked for is durable, or has failed already: this changes neither.
        tracing::debug!(?farewell, "the target did not answer the farewell");
    }
    driver.abort();
    match outcome {
        // Between two passes nothing is left undone.
        Err(error) if error.is::<Interrupted>() && report.is_between_passes() => Ok(()),
        other => other,
    }
}

/// Pass after pass.
async fn passes(
    client: &Client,
    sources: &[Source],
    engine: &SourceEngine,
    mode: Mode,
    report: &Rc<Report>,
) -> anyhow::Result<()> {
    let mut plan = Plan { sources, engine, known: Known::Welcomed };
    loop {
        let begun = Instant::now();
        loop {
            match pass::run(client, &plan, report).await {
                Ok(point) => {
                    report.point(&point);
                    // Without an answer it is not known which point was made.
                    plan.known = match point.marked {
                        Some(_) => Known::Marked(point.contents),
                        None => Known::Nothing,
                    };
                    break;
                }
                Err(PassError::Stream(ClientError::PositionLost)) => plan.known = Known::Welcomed,
                Err(PassError::Stream(error)) => return Err(error.into()),
                Err(PassError::Source(error)) => match mode {
                    Mode::Once => return Err(error),
                    Mode::Every(_) => {
                        report.failed(&error);
                        plan.known = Known::Nothing;
                        break;
                    }
                },
            }
        }
        let Mode::Every(period) = mode else { return Ok(()) };
        tokio::time::sleep(period.saturating_sub(begun.elapsed())).await;
    }
}

/// The signals that ask a program to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let made = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: made(SignalKind::interrupt())?,
            terminate: made(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
