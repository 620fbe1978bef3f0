//! The daemon: joins engine, retention, protocols and HTTP, and takes them apart again in the right order.
//!
//! ```text
//!   start   data folder ─▶ engine ─▶ index ─▶ retention (replay) ─▶ lanes ─▶ listeners ─▶ ready
//!                                     └ lacks much of the journal: the rest of it comes afterwards (indexer.rs)
//!   stop    folds cut off ─▶ HTTP, NBD, delta: nothing new, what runs is finished ─▶ retention closed ─▶ engine stopped
//! ```
//!
//! **Invariants**
//! - A listener opens only when everything behind it works: who can connect is served.
//! - Retention is closed after everything that could still change it, and the engine stops last.
//! - A second signal ends the process at once. What was acknowledged is durable either way.

mod barriers;
mod checkpointer;
mod folding;
mod indexer;
mod listeners;
mod portal;
mod scrubber;
mod standby;
mod tasks;
mod thinner;

pub(crate) use checkpointer::CheckpointCounters;
pub(crate) use folding::{
    FoldingCounters, FoldingSettings, Growth, PaceLimits, TrunkFolding, shrinks_in_words,
    volume_in_words,
};
pub(crate) use listeners::on_this_machine;
pub(crate) use scrubber::{
    Busy, Ended as ScrubEnded, Running as ScrubRunning, ScrubSettings, StandbyScrubbed, Work,
};
pub(crate) use standby::{Ended as StandbyEnded, Look as StandbyLook, Standbys};
pub(crate) use thinner::in_words as alarm_in_words;

use crate::config::{Config, NbdTls};
use crate::data_folder::{self, DataFolder};
use crate::exports::{Levels, RetentionExports, RetentionTargets, ServingCounters, TargetSettings};
use crate::http;
use crate::http::messages::Listening;
use crate::images::Images;
use crate::metrics;
use crate::replicas::RetentionReplicas;
use crate::units::counted;
use crate::volumes;
use anyhow::Context;
use barriers::Barriers;
use checkpointer::Checkpointer;
use folding::Folding;
use indexer::Indexer;
use landfall_disks::uring::{self, Core, Directory, Engine, EngineSettings};
use landfall_protocols::delta;
use landfall_protocols::delta::tls;
use landfall_protocols::iscsi::serve as iscsi;
use landfall_protocols::nbd::serve as nbd;
use landfall_protocols::nbd::tls::{Security, server_config};
use landfall_protocols::pki::{Authority, Credentials, Validity};
use landfall_retention::index::IndexStore;
use landfall_retention::index::rocks::{RocksIndex, RocksSettings};
use landfall_retention::time::SystemClock;
use landfall_retention::{
    ImageStore, JournalSettings, JournalStatus, OpenReport, Opened, Random, Retention, Settings,
    Surroundings,
};
use listeners::Listeners;
pub(crate) use portal::Portal;
use scrubber::Scrubber;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thinner::Thinner;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Folder of what machines read when they boot, inside the data folder.
const BOOTS: &str = "boots";
/// Name of the certificate that commands on this machine use.
pub(crate) const LOCAL_CLIENT: &str = "local";

/// How often idle lanes vouch for what they hold.
const TICK: Duration = Duration::from_secs(1);
/// Time that streams and NBD clients get to finish when the target stops.
const DRAIN_TIME: Duration = Duration::from_secs(15);
/// Time that a scrub gets to write down how far it is when the target stops.
const SCRUB_STOP_TIME: Duration = Duration::from_secs(5);
/// Threads of control work.
const CONTROL_THREADS: usize = 2;

/// A running target, as the control API and metrics see it.
pub(crate) struct Target {
    /// How it was configured.
    pub(crate) config: Config,
    /// All machines and their history.
    pub(crate) retention: Arc<Retention>,
    /// Where their images are.
    pub(crate) images: Arc<Images>,
    /// Where calls of retention run.
    pub(crate) core: Core,
    /// NBD, whether it listens or not.
    pub(crate) nbd: Arc<nbd::Service>,
    /// What there is over iSCSI.
    pub(crate) targets: Arc<RetentionTargets>,
    /// Where.
    pub(crate) portal: Portal,
    /// Between NBD and the disks.
    pub(crate) nbd_serving: ServingCounters,
    /// The delta stream, if it listens.
    pub(crate) delta: Option<Arc<delta::Server>>,
    /// Where it listens, in words.
    pub(crate) listening: Listening,
    /// Where NBD clients reach it over TCP.
    pub(crate) nbd_address: Option<SocketAddr>,
    /// What the start found.
    pub(crate) report: OpenReport,
    /// What applies policies.
    pub(crate) thinner: Arc<Thinner>,
    /// What looks for damage.
    pub(crate) scrubber: Arc<Scrubber>,
    /// What builds an index that lacks much of the journal.
    pub(crate) indexer: Indexer,
    /// What makes checkpoints of the index.
    pub(crate) checkpointer: Arc<Checkpointer>,
    /// What gives back the space of what they let go.
    pub(crate) folding: Arc<Folding>,
    /// What keeps standby files near the newest points.
    pub(crate) standbys: Arc<Standbys>,
    /// What makes common points of groups.
    pub(crate) barriers: Arc<Barriers>,
    /// When it started.
    pub(crate) started: Instant,
}

impl Target {
    /// The journal in numbers.
    pub(crate) async fn journal(&self) -> anyhow::Result<JournalStatus> {
        let retention = Arc::clone(&self.retention);
        Ok(self.core.run(move || async move { retention.journal().await }).await??)
    }
}

/// Random numbers of the kernel.
struct KernelRandom;

impl Random for KernelRandom {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(16) {
            chunk.copy_from_slice(&tls::random::<16>()[..chunk.len()]);
        }
    }
}

/// Runs a target until a signal ends it.
pub(crate) fn run(config: Config) -> anyhow::Result<()> {
    let begun = Instant::now();
    raise_open_files();
    let _folders = take_folders(&config)?;
    let tls = prepare_certificates(&config)?;
    let engine = start_engine(&config)?;
    let images = Arc::new(Images::open(&config.images)?);
    let checkpointer = Arc::new(Checkpointer::new(&config));
    let rocks = RocksSettings { cache_bytes: config.index_cache_bytes, ..RocksSettings::default() };
    let index = Arc::new(checkpointer.open_index(rocks)?);
    let opened = open_retention(&config, &engine, &images, &index)?;
    start_lanes(&engine, opened.lanes, &opened.retention);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("starting the control threads")?;
    let outcome = runtime.block_on(async {
        // Before anything can be connected to: a signal must find somebody who listens.
        let mut signals = Signals::new()?;
        let found = Found {
            retention: Arc::clone(&opened.retention),
            images,
            report: opened.report,
            checkpointer,
        };
        let (target, listeners) = assemble(config, &engine, found, tls)?;
        let (stop, stopping) = watch::channel(false);
        let needed = target.retention.exports().iter().any(|export| export.iscsi.is_some());
        let waiting = (needed && !target.portal.open_for_exports()).then(|| {
            let target = Arc::clone(&target);
            tokio::spawn(async move { target.portal.keep_opening(portal::RETRY).await })
        });
        let running = listeners.start(&target, engine.cores(), stopping);
        target.thinner.start(&target.core, &target.retention);
        target.scrubber.start(&target.core, &target.retention);
        target.folding.start();
        target.checkpointer.start(&index, &target.retention);
        target.indexer.start(&target.core, &target.retention, target.folding.governor());
        drop(index);
        target.standbys.start();
        target.barriers.start();
        announce(&target, begun);
        signals.next().await;
        tracing::info!("stopping");
        tokio::spawn(async move {
            signals.next().await;
            tracing::warn!("a second signal: ending at once");
            std::process::exit(1);
        });
        stop.send_replace(true);
        if let Some(waiting) = waiting {
            waiting.abort();
        }
        target.scrubber.stopped(SCRUB_STOP_TIME).await;
        target.barriers.stop().await;
        target.standbys.stop().await;
        target.indexer.stop().await;
        target.folding.stop().await;
        if tokio::time::timeout(DRAIN_TIME, running.finished(&target)).await.is_err() {
            tracing::warn!("some clients were still connected when the time for draining was over");
        }
        anyhow::Ok(())
    });
    drop(runtime);
    let closed = close(&engine, opened.retention);
    engine.stop();
    outcome?;
    closed?;
    tracing::info!("stopped");
    Ok(())
}

/// Every connection, segment and image is a descriptor; the usual soft limit of 1024 is soon reached.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Takes the data folder, and the journal if it is elsewhere: two configurations may name one by mistake. The index has a
/// lock of its own, and so has each image. Then the volumes below them are looked at.
fn take_folders(config: &Config) -> anyhow::Result<Vec<DataFolder>> {
    let mut held = vec![DataFolder::take(&config.data)?];
    for folder in [&config.journal, &config.index, &config.images] {
        data_folder::make(folder)?;
    }
    if !config.journal.starts_with(&config.data) {
        held.push(DataFolder::take(&config.journal)?);
    }
    volumes::check(config)?;
    Ok(held)
}

/// The target's certificate, and one for commands on this machine; made on the first start.
fn prepare_certificates(config: &Config) -> anyhow::Result<Credentials> {
    let authority = Authority::open_or_create(&config.pki, Validity::default())
        .context("the certificate authority")?;
    authority.ensure_client(LOCAL_CLIENT).context("the certificate of local commands")?;
    authority.ensure_server(&config.certificate_names()).context("the certificate of the target")
}

fn start_engine(config: &Config) -> anyhow::Result<Engine> {
    let mut settings = EngineSettings::default();
    if let Some(cores) = config.cores {
        settings.cores = cores;
    }
    Engine::start(settings).context("starting the I/O engine")
}

fn open_retention(
    config: &Config,
    engine: &Engine,
    images: &Arc<Images>,
    index: &Arc<RocksIndex>,
) -> anyhow::Result<Opened> {
    let folder = |path| Directory::open(path).map(Arc::new);
    let surroundings = Surroundings {
        data: folder(&config.data)?,
        journal: folder(&config.journal)?,
        images: Arc::clone(images) as Arc<dyn ImageStore>,
        index: Arc::clone(index) as Arc<dyn IndexStore>,
        clock: Arc::new(SystemClock),
        random: Arc::new(KernelRandom),
    };
    let settings = Settings {
        journal: JournalSettings {
            segment_bytes: config.segment_bytes,
            reserve_bytes: config.reserve_bytes,
        },
        leaf_cache_bytes: config.leaf_cache_bytes,
        read_cache_bytes: config.read_cache_bytes,
        hash_cache_bytes: config.hash_cache_bytes,
        lanes: u16::try_from(engine.cores().len()).context("too many I/O cores")?,
        default_policy: config.policy.keep.clone(),
        encryption: config.encryption.load().context("[encryption]")?,
        index_at_once: config.segments_at_start,
    };
    let opened = engine.cores()[0]
        .block_on(move || async move { Retention::open(surroundings, settings).await })??;
    for damage in &opened.report.damage {
        tracing::error!("the journal is damaged: {damage}");
    }
    for lost in &opened.report.images_lost {
        tracing::error!("an image is lost: {lost}");
    }
    for (machine, why) in opened.retention.locked_machines() {
        tracing::error!(machine = %machine, "history cannot be opened: {why}");
    }
    Ok(opened)
}

fn start_lanes(
    engine: &Engine,
    lanes: Vec<landfall_retention::LaneTask>,
    retention: &Arc<Retention>,
) {
    for (lane, core) in lanes.into_iter().zip(engine.cores().iter().cycle()) {
        core.spawn(move || lane.run());
    }
    let retention = Arc::downgrade(retention);
    engine.cores()[0].spawn(move || async move {
        loop {
            uring::sleep(TICK).await;
            let Some(retention) = retention.upgrade() else { return };
            retention.tick().await;
        }
    });
}

/// What a start has opened.
struct Found {
    retention: Arc<Retention>,
    images: Arc<Images>,
    report: OpenReport,
    checkpointer: Arc<Checkpointer>,
}

/// What NBD over TCP asks of its clients.
fn nbd_security(config: &Config, credentials: &Credentials) -> anyhow::Result<Security> {
    let tls = || server_config(credentials.clone()).context("TLS of NBD");
    Ok(match config.nbd.tls {
        NbdTls::Off => Security::Plain,
        NbdTls::Offered => Security::Offered(tls()?),
        NbdTls::Required => Security::Required(tls()?),
    })
}

/// Opens the listeners and puts the target together. Nobody is served yet.
fn assemble(
    config: Config,
    engine: &Engine,
    found: Found,
    credentials: Credentials,
) -> anyhow::Result<(Arc<Target>, Listeners)> {
    let Found { retention, images, report, checkpointer } = found;
    let security = nbd_security(&config, &credentials)?;
    let listeners = Listeners::open(&config.listen, security)?;
    let (boots, core) = (config.data.join(BOOTS), engine.cores()[0].clone());
    let exports = RetentionExports::new(Arc::clone(&retention), &config.nbd, boots, core);
    let exports = Arc::new(exports);
    let exposed = config.listen.iscsi.is_some_and(|address| !address.ip().is_loopback());
    let guarded = exposed && !config.insecure;
    let levels: Arc<Levels> = Arc::default();
    let settings = TargetSettings {
        prefix: config.iscsi.prefix.clone(),
        naming: config.iscsi.naming,
        guarded,
    };
    let of_targets = Arc::clone(&levels);
    let targets = Arc::new(RetentionTargets::new(Arc::clone(&exports), of_targets, settings));
    let replicas = Arc::new(RetentionReplicas::new(Arc::clone(&retention)));
    let tls = tls::server_config(credentials).context("TLS of the delta stream")?;
    let server = || delta::Server::new(delta::ServerSettings::default(), tls, replicas);
    let thinner: Arc<Thinner> = Arc::default();
    let passed = Arc::clone(&thinner.passed);
    let needed = config.segment_bytes.saturating_add(config.reserve_bytes);
    let fold = config.fold.settings(needed);
    let folding = Folding::new(fold, &retention, engine.cores(), levels, passed);
    let standbys = Standbys::new(&retention, engine.cores(), folding.governor());
    let barriers = Arc::new(Barriers::new(&retention, &engine.cores()[0]));
    let target = Target {
        retention,
        images,
        core: engine.cores()[0].clone(),
        targets: Arc::clone(&targets),
        portal: Portal::new(
            Arc::new(iscsi::Service::new(
                Arc::<RetentionTargets>::clone(&targets),
                config.iscsi.settings,
            )),
            config.listen.iscsi,
            engine.cores(),
        ),
        nbd_serving: exports.counters().clone(),
        nbd: Arc::new(nbd::Service::new(exports, config.nbd.settings)),
        delta: listeners.has_delta().then(server),
        listening: listeners.in_words(&config.listen),
        nbd_address: listeners.nbd_address(),
        report,
        thinner,
        scrubber: Arc::new(Scrubber::new(config.scrub)),
        indexer: Indexer::default(),
        checkpointer,
        folding: Arc::new(folding),
        standbys: Arc::new(standbys),
        barriers,
        started: Instant::now(),
        config,
    };
    Ok((Arc::new(target), listeners))
}

/// What a person who starts a target wants to see once.
fn announce(target: &Target, begun: Instant) {
    let listening = &target.listening;
    let machines = target.retention.machines();
    let points: usize = machines.iter().map(|machine| machine.points).sum();
    let off = || "off".to_owned();
    let nbd = [listening.nbd_socket.clone(), listening.nbd.clone()];
    let nbd: Vec<String> = nbd.into_iter().flatten().collect();
    let recovered = match target.report.records_replayed {
        0 => "nothing to recover".to_owned(),
        records => format!("{} of the journal indexed again", counted(records, "record")),
    };
    let rebuilt = match target.report.index_left {
        0 if target.report.index_rebuilt => ", the index was rebuilt".to_owned(),
        0 => String::new(),
        left => format!(", {} left for later", counted(left as u64, "segment")),
    };
    let lines = [
        ("data", target.config.data.display().to_string()),
        ("machines", format!("{}, with {}", machines.len(), counted(points as u64, "point"))),
        ("recovery", format!("{recovered}{rebuilt}")),
        ("delta", listening.delta.clone().unwrap_or_else(off)),
        ("nbd", if nbd.is_empty() { off() } else { nbd.join(", ") }),
        ("metrics", listening.http.clone().map_or_else(off, |a| format!("http://{a}/metrics"))),
        ("control", listening.control.clone()),
    ];
    let mut text = format!("landfall {}\n", env!("CARGO_PKG_VERSION"));
    for (what, value) in lines {
        text.push_str(&format!("  {what:<9} {value}\n"));
    }
    let ready = begun.elapsed().as_secs_f64();
    text.push_str(&format!("ready after {ready:.2} s"));
    crate::cli::say(&text);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
}

fn close(engine: &Engine, retention: Arc<Retention>) -> anyhow::Result<()> {
    engine.cores()[0]
        .block_on(move || async move { retention.close().await })?
        .context("closing the index; what was acknowledged is in the journal")
}

/// The signals that end a target.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The routers of the two HTTP listeners.
fn routers(target: &Arc<Target>) -> (axum::Router, axum::Router) {
    (http::control::router(Arc::clone(target)), metrics::router(Arc::clone(target)))
}
