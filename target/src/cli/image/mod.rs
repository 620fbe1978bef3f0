//! `landfall image`: looks at image files, checks, makes, converts and serves them. Needs no target.

mod check;
mod convert;
mod create;
mod info;
mod map;
mod place;
mod serve;

use anyhow::Context;
use landfall_disks::uring::{Engine, EngineSettings};
use tokio::signal::unix::{SignalKind, signal};

/// Look at disk images, check, make, convert and serve them: VMDK, VHDX, VHD and raw
#[derive(clap::Subcommand)]
pub(super) enum ImageVerb {
    Info(info::Info),
    Check(check::Check),
    Create(create::Create),
    Convert(convert::Convert),
    Map(map::Map),
    Serve(serve::Serve),
}

impl ImageVerb {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Info(verb) => verb.run(),
            Self::Check(verb) => verb.run(),
            Self::Create(verb) => verb.run(),
            Self::Convert(verb) => verb.run(),
            Self::Map(verb) => verb.run(),
            Self::Serve(verb) => verb.run(),
        }
    }
}

/// A signal came before the image was complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("stopped by a signal: what was not complete has been removed")]
pub(super) struct Interrupted;

/// An engine for one command.
fn engine(cores: usize) -> anyhow::Result<Engine> {
    let settings = EngineSettings { cores, ..EngineSettings::default() };
    Engine::start(settings).context("starting io_uring")
}

/// Runs `work` on an I/O core of its own.
fn on_a_core<T: Send + 'static>(
    work: impl AsyncFnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let engine = engine(1)?;
    let done = engine.cores()[0].block_on(move || work()).context("the I/O core ended");
    engine.stop();
    done?
}

/// Runs `work` on an I/O core of its own, and drops it when a signal asks to stop.
fn run_until_signal<T: Send + 'static>(
    work: impl AsyncFnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let engine = engine(1)?;
    let waiting = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = waiting.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
        tokio::select! {
            done = engine.cores()[0].run(move || work()) => done.context("the I/O core ended")?,
            _ = interrupt.recv() => Err(Interrupted.into()),
            _ = terminate.recv() => Err(Interrupted.into()),
        }
    });
    // What was dropped may still be writing: nothing is removed before it has ended.
    engine.stop();
    done
}
