//! Answers the kernel's questions until there are none.
//!
//! ```text
//!   Mounted ──signal──▶ Leaving ──second signal──▶ end
//!      │                   │
//!      └─────ended─────────┴──▶ end            unmounted, by us or by somebody else, and nobody uses it
//! ```

use super::files::File;
use super::filesystem::{Folder, Owner, Question, Wanted};
use super::session::{self, Options, Unmounted};
use crate::cli::say;
use anyhow::Context;
use fuser::{BackgroundSession, Errno, ReplyData, ReplyLseek};
use landfall_disks::{ByteOffset, ByteRange, Content, Disk, DiskError};
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Reads that failed and are told; more of them would tell nothing new.
const MAX_TOLD: u32 = 20;

/// How long connections may take to end in good order.
const FAREWELL: Duration = Duration::from_secs(1);

/// The connections to the target, a task each, which end when the disks they are of are gone.
pub(super) struct Connections {
    pub(super) running: Vec<JoinHandle<()>>,
    /// Why one has ended before.
    pub(super) lost: UnboundedReceiver<String>,
}

/// A mount, and everything that answers for it.
pub(super) struct Serving {
    files: Arc<Vec<File>>,
    session: BackgroundSession,
    dir: PathBuf,
    questions: UnboundedReceiver<Question>,
    ended: oneshot::Receiver<()>,
    target: Connections,
    signals: Signals,
}

/// What asks it to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(Self { interrupt: listen(interrupt)?, terminate: listen(terminate)? })
    }

    async fn next(&mut self) -> Option<()> {
        tokio::select! {
            signal = self.interrupt.recv() => signal,
            signal = self.terminate.recv() => signal,
        }
    }
}

impl Serving {
    /// Mounts `files`, which are read over the connections to the target, on `dir`.
    pub(super) fn start(
        files: Vec<File>,
        target: Connections,
        dir: PathBuf,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let files = Arc::new(files);
        let (asked, questions) = mpsc::unbounded_channel();
        let (ends, ended) = oneshot::channel();
        let owner = Owner {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
            others_may_read: options.allow_other,
        };
        let folder = Folder {
            files: Arc::clone(&files),
            time: options.time,
            owner,
            questions: asked,
            ended: Some(ends),
        };
        // Before there is a mount: whoever ended the process by a signal would leave one that nobody answers.
        let signals = Signals::listen()?;
        let session = session::mount(folder, &dir, options)?;
        Ok(Self { files, session, dir, questions, ended, target, signals })
    }

    /// What is mounted.
    pub(super) fn files(&self) -> &[File] {
        &self.files
    }

    /// Answers until it is unmounted, or a second signal comes.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { files, session, dir, mut questions, mut ended, mut target, mut signals } = self;
        let told = Rc::new(Cell::new(0));
        let mut mounted = Some(session);
        let mut leaving: Option<JoinHandle<anyhow::Result<Unmounted>>> = None;
        loop {
            tokio::select! {
                Some(question) = questions.recv() => answer(&files, question, &told),
                Some(why) = target.lost.recv() => {
                    tracing::warn!("reads fail from now on, until it is mounted again: {why}");
                }
                // An end is told by dropping the other half.
                _ = &mut ended => break,
                left = async { leaving.as_mut().expect("asked for").await }, if leaving.is_some() => {
                    leaving = None;
                    if left.context("unmounting")?? == Unmounted::InUse {
                        eprintln!(
                            "{} is in use: what is open can be read until it is closed; \
                             a second signal ends it now",
                            dir.display()
                        );
                    }
                }
                Some(()) = signals.next() => match mounted.take() {
                    Some(session) => {
                        let dir = dir.clone();
                        // It blocks, and may need answers meanwhile.
                        leaving = Some(tokio::task::spawn_blocking(move || {
                            session::unmount(session, &dir)
                        }));
                    }
                    None => break,
                },
            }
        }
        match mounted {
            Some(session) => session::leave(session),
            None => {
                if let Some(leaving) = leaving.filter(|leaving| leaving.is_finished()) {
                    leaving.await.context("unmounting")??;
                }
            }
        }
        drop((files, questions));
        let ending = futures_util::future::join_all(target.running);
        if tokio::time::timeout(FAREWELL, ending).await.is_err() {
            tracing::debug!("the target does not let go");
        }
        say(&format!("{} is unmounted", dir.display()));
        Ok(())
    }
}

/// Begins to answer.
fn answer(files: &Arc<Vec<File>>, question: Question, told: &Rc<Cell<u32>>) {
    let (files, told) = (Arc::clone(files), Rc::clone(told));
    tokio::task::spawn_local(async move {
        match question {
            Question::Read { file, offset, length, reply } => {
                read(&files[file], range(offset, length), reply, &told).await;
            }
            Question::Seek { file, offset, wanted, reply } => {
                find(&files[file], offset, wanted, reply, &told).await;
            }
        }
    });
}

async fn read(file: &File, range: ByteRange, reply: ReplyData, told: &Cell<u32>) {
    match file.content.read(range).await {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => {
            tell(file, &error, told);
            // All of it, also if a part could be read: fewer bytes than were asked for would be the end of the file. The
            // kernel asks again, page by page, for what somebody really wants.
            reply.error(Errno::EIO);
        }
    }
}

async fn find(file: &File, offset: u64, wanted: Wanted, reply: ReplyLseek, told: &Cell<u32>) {
    match seek(&*file.content, offset, wanted).await {
        Ok(Some(found)) => match i64::try_from(found) {
            Ok(found) => reply.offset(found),
            Err(_) => reply.error(Errno::EOVERFLOW),
        },
        Ok(None) => reply.error(Errno::ENXIO),
        Err(error) => {
            tell(file, &error, told);
            reply.error(Errno::EIO);
        }
    }
}

/// Where data, or a hole, begins at or behind `offset`, which is before the end. There is a hole behind the end.
async fn seek(disk: &dyn Disk, offset: u64, wanted: Wanted) -> Result<Option<u64>, DiskError> {
    let end = disk.geometry().size_bytes;
    let mut at = offset;
    while at < end {
        for known in disk.map(range(at, end - at)).await? {
            let is_data = known.content == Content::Data;
            if is_data == (wanted == Wanted::Data) {
                return Ok(Some(known.range.start().bytes().max(at)));
            }
            at = known.range.end().bytes().max(at);
        }
    }
    Ok((wanted == Wanted::Hole).then_some(end))
}

fn tell(file: &File, error: &DiskError, told: &Cell<u32>) {
    let before = told.get();
    told.set(before.saturating_add(1));
    if before < MAX_TOLD {
        tracing::warn!(file = file.name, %error, "cannot be read");
    } else if before == MAX_TOLD {
        tracing::warn!("more reads fail; they are not told one by one");
    }
}

/// Part of a file, of which it is known that it is one.
fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(offset), length).expect("within a file")
}
