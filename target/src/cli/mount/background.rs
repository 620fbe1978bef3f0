//! Going to the background: the command starts itself once more, and ends when the other one has mounted.
//!
//! ```text
//!   landfall mount … --daemon           landfall mount … --detach
//!     │ starts ─────────────────────────▶ connects, mounts
//!     │ ◀── what it prints ────────────── says what is mounted
//!     │ ◀── end of output ─────────────── detach: a session of its own, no terminal
//!     ends with 0                         answers
//! ```
//!
//! A process that has threads cannot go on as a copy of itself, so there is none.

use anyhow::Context;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// The process in the background has ended, and has said why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the process in the background has ended without mounting")]
pub(in crate::cli) struct NotMounted;

/// Starts this command once more, and waits until that one has mounted or failed.
pub(super) fn start() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let place =
        arguments.iter().position(|word| word == "--daemon").expect("it was read from there");
    arguments[place] = "--detach".into();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the process in the background")?;
    let mut said = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut said).context("listening to it")?;
    if said.is_empty() {
        child.wait().context("waiting for it")?;
        return Err(NotMounted.into());
    }
    std::io::stdout().write_all(said.as_bytes()).context("standard output")?;
    Ok(())
}

/// Lets go of the terminal and of whoever started this.
pub(super) fn detach() -> anyhow::Result<()> {
    rustix::process::setsid().context("a session of its own")?;
    std::env::set_current_dir("/").context("/")?;
    let nothing =
        OpenOptions::new().read(true).write(true).open("/dev/null").context("/dev/null")?;
    rustix::stdio::dup2_stdout(&nothing).context("standard output")?;
    rustix::stdio::dup2_stderr(&nothing).context("standard error")?;
    Ok(())
}
