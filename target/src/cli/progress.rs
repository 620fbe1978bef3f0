//! How far a copy is: a bar on a terminal, a line now and then otherwise.

use crate::units::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often a line is printed.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress of one disk or image.
pub(super) struct Progress {
    disk: String,
    total: u64,
    done: Cell<u64>,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines(Cell<Instant>),
}

impl Progress {
    /// Nothing of `total` bytes is done.
    pub(super) fn new(disk: &str, total: u64) -> Self {
        let shown = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = "  {prefix} {bar:30} {percent:>3} %  {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
            bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
            bar.set_prefix(disk.to_owned());
            Shown::Bar(bar)
        } else {
            Shown::Lines(Cell::new(Instant::now()))
        };
        Self { disk: disk.to_owned(), total, done: Cell::new(0), shown }
    }

    /// So many bytes more are done.
    pub(super) fn add(&self, bytes: u64) {
        let done = self.done.get() + bytes;
        self.done.set(done);
        match &self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines(last) if last.get().elapsed() >= LINE_EVERY => {
                last.set(Instant::now());
                let (done, total) = (ByteSize::new(done), ByteSize::new(self.total));
                eprintln!("  {}: {done} of {total}", self.disk);
            }
            Shown::Lines(_) => {}
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
