//! The engine as its users see it.

pub(crate) mod devices;
mod files;
mod sockets;
mod tasks;

use super::{Core, Engine, EngineSettings};

/// An engine of two cores; tests of one core use the first.
fn engine() -> Engine {
    let settings = EngineSettings { cores: 2, ring_entries: 64, blocking_threads: 2 };
    Engine::start(settings).expect("tests run on a kernel with io_uring")
}

fn first(engine: &Engine) -> Core {
    engine.cores()[0].clone()
}
