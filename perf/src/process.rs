//! Programs that are started, waited for and ended; and this one, when somebody interrupts it.

use anyhow::{Context, bail};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Time a server has until it listens.
const START: Duration = Duration::from_secs(30);
/// Between two looks for a socket.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// A server in the background; killed when this is dropped, or when the process is interrupted.
pub(crate) struct Server {
    child: Arc<Mutex<Child>>,
}

/// Every server there is.
static SERVERS: Mutex<Vec<Weak<Mutex<Child>>>> = Mutex::new(Vec::new());

fn servers() -> MutexGuard<'static, Vec<Weak<Mutex<Child>>>> {
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // It may have ended already; nothing that is measured depends on how it ends.
    let _ = child.kill();
    let _ = child.wait();
}

impl Server {
    /// Starts `command` and waits until `socket` takes connections. What it says goes to the file `log`.
    pub(crate) fn start(command: &mut Command, socket: &Path, log: &Path) -> anyhow::Result<Self> {
        Self::start_within(command, socket, log, START)
    }

    /// The same, for one that may take longer.
    pub(crate) fn start_within(
        command: &mut Command,
        socket: &Path,
        log: &Path,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let out = std::fs::File::create(log).with_context(|| log.display().to_string())?;
        let err = out.try_clone().with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| named(command))?;
        let server = Self { child: Arc::new(Mutex::new(child)) };
        servers().push(Arc::downgrade(&server.child));
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            if let Some(status) = server.ended().with_context(|| named(command))? {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("{} ended at its start ({status}): {}", named(command), said.trim());
            }
            if begun.elapsed() > patience {
                bail!("{} does not listen on {}", named(command), socket.display());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(server)
    }

    /// Bytes of memory that are its own or mapped, and in use.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let id = self.child.lock().unwrap_or_else(PoisonError::into_inner).id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.context("the kernel does not say how much memory a process has")? << 10)
    }

    fn ended(&self) -> std::io::Result<Option<ExitStatus>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill(&self.child);
        servers().retain(|child| {
            child.strong_count() > 0 && !child.ptr_eq(&Arc::downgrade(&self.child))
        });
    }
}

/// Runs a command to its end, which must be a good one; what it printed.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| named(command))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        bail!("{} failed ({}): {}", named(command), output.status, text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// Runs a command to its end, which must be a good one; how long that took.
pub(crate) fn timed(command: &mut Command) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    output(command)?;
    Ok(begun.elapsed())
}

fn named(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Does `work` in a temporary folder below `parent` and removes the folder. When SIGINT or SIGTERM comes first, the servers
/// are ended, the folder is removed and the process ends.
pub(crate) fn until_interrupted<T: Send + 'static>(
    parent: &Path,
    work: impl FnOnce(&Path) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let scratch = tempfile::Builder::new()
        .prefix("landfall-perf.")
        .tempdir_in(parent)
        .with_context(|| parent.display().to_string())?;
    let path = scratch.path().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (sender, receiver) = oneshot::channel();
        // A thread of its own: some of the work has a runtime of its own.
        let worker = std::thread::spawn(move || {
            // Nobody receives only when the process is about to end.
            let _ = sender.send(work(&path));
        });
        tokio::select! {
            done = receiver => match (done, worker.join()) {
                (Ok(done), _) => done,
                (Err(_), Err(panic)) => std::panic::resume_unwind(panic),
                (Err(_), Ok(())) => unreachable!("the worker sends before it ends"),
            },
            _ = interrupt.recv() => end(scratch),
            _ = terminate.recv() => end(scratch),
        }
    })
}

fn end(scratch: TempDir) -> ! {
    for child in servers().drain(..).filter_map(|child| child.upgrade()) {
        kill(&child);
    }
    // A worker that writes into the folder meanwhile may keep it from being removed; there is nobody left to tell.
    drop(scratch);
    std::process::exit(INTERRUPTED)
}
