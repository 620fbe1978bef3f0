//! The machine that is measured on: what it has, and how busy it is.

use crate::figure::Host;
use std::path::Path;

/// The machine as it is now, before anything is measured in `folder`.
pub(crate) fn now(folder: &Path) -> Host {
    let load = load();
    Host {
        processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        kernel: proc_text("/proc/sys/kernel/osrelease"),
        folder: folder.display().to_string(),
        load_before: load,
        load_after: load,
    }
}

/// Processes that wanted to run in the last minute, on average; zero if the kernel does not tell.
pub(crate) fn load() -> f64 {
    let text = proc_text("/proc/loadavg");
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

fn proc_text(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}
