//! What a person sees: a progress bar on a terminal, plain lines otherwise, and one line per point.
//!
//! Progress, events and warnings go to standard error; lines about points to standard output, for scripts.

use super::pass::{Point, Sums};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use landfall_protocols::delta::wire::MarkKind;
use landfall_protocols::delta::{ClientEvent, Name};
use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Time between two plain lines of progress.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Tells what happens.
pub(super) struct Report {
    machine: String,
    target: String,
    terminal: bool,
    bar: RefCell<Option<ProgressBar>>,
    passing: Cell<bool>,
}

impl Report {
    /// For one machine and target.
    pub(super) fn new(machine: &Name, target: &str) -> Self {
        Self {
            machine: machine.to_string(),
            target: target.to_owned(),
            terminal: std::io::stderr().is_terminal(),
            bar: RefCell::new(None),
            passing: Cell::new(true),
        }
    }

    /// A pass over `total` bytes begins.
    pub(super) fn begin(self: &Rc<Self>, total: u64) -> Passing {
        self.clear();
        self.passing.set(true);
        if self.terminal {
            let style = ProgressStyle::with_template(
                "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg} eta {eta}",
            )
            .expect("the template is fixed");
            let bar = ProgressBar::new(total).with_style(style).with_prefix(self.machine.clone());
            self.bar.replace(Some(bar));
        }
        Passing {
            report: Rc::clone(self),
            total,
            sums: Cell::new(Sums::default()),
            begun: Instant::now(),
            told: Cell::new(Instant::now()),
        }
    }

    /// Whether no pass is under way.
    pub(super) fn is_between_passes(&self) -> bool {
        !self.passing.get()
    }

    /// Takes the progress bar away.
    pub(super) fn clear(&self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// A point is durable.
    pub(super) fn point(&self, point: &Point) {
        self.clear();
        self.passing.set(false);
        let line = point_line(&self.machine, point);
        let mut out = std::io::stdout().lock();
        // A reader that has gone away changes nothing about the point.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    /// A pass failed and will be tried again.
    pub(super) fn failed(&self, error: &anyhow::Error) {
        self.clear();
        self.passing.set(false);
        self.warn(&format!("no point: {error:#}"));
    }

    /// Something a person should look at.
    pub(super) fn warn(&self, text: &str) {
        self.say(&format!("warning: {text}"));
    }

    /// Something happened to the connection.
    pub(super) fn event(&self, event: &ClientEvent) {
        let target = &self.target;
        let seconds = |pause: &Duration| format!("{:.1} s", pause.as_secs_f64());
        self.say(&match event {
            ClientEvent::Connected => format!("connected to {target}"),
            ClientEvent::Lost { why, retry_in } => {
                format!("no connection to {target}: {why}; trying again in {}", seconds(retry_in))
            }
            ClientEvent::Resumed { position, resent } => {
                format!("resumed at position {position}, {resent} batches are sent again")
            }
            ClientEvent::PositionLost => {
                "the target no longer knows the position; the pass begins again by comparing"
                    .to_owned()
            }
            ClientEvent::Refused { message, retry_in, .. } => {
                format!("{target} refused: {message}; trying again in {}", seconds(retry_in))
            }
        });
    }

    fn say(&self, line: &str) {
        match &*self.bar.borrow() {
            Some(bar) => bar.println(line),
            None => eprintln!("{}: {line}", self.machine),
        }
    }
}

/// Progress of one pass.
pub(super) struct Passing {
    report: Rc<Report>,
    total: u64,
    sums: Cell<Sums>,
    begun: Instant,
    told: Cell<Instant>,
}

impl Passing {
    /// More has been done.
    pub(super) fn add(&self, more: Sums) {
        let before = self.sums.get();
        let sums = Sums {
            examined: before.examined + more.examined,
            sent: before.sent + more.sent,
            wire: before.wire + more.wire,
        };
        self.sums.set(sums);
        if let Some(bar) = &*self.report.bar.borrow() {
            bar.set_position(sums.examined);
            bar.set_message(format!("sent {}", HumanBytes(sums.wire)));
        } else if self.told.get().elapsed() >= PLAIN_EVERY {
            self.told.set(Instant::now());
            self.report.say(&progress_line(&sums, self.total, self.elapsed()));
        }
    }

    /// What was done so far.
    pub(super) fn sums(&self) -> Sums {
        self.sums.get()
    }

    /// Since the pass began.
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

fn progress_line(sums: &Sums, total: u64, took: Duration) -> String {
    format!(
        "{} of {} examined, {} sent in {}, {}/s",
        HumanBytes(sums.examined),
        HumanBytes(total),
        HumanBytes(sums.sent),
        HumanBytes(sums.wire),
        HumanBytes(rate(sums.examined, took)),
    )
}

fn point_line(machine: &str, point: &Point) -> String {
    let kind = match point.kind {
        MarkKind::App => "app",
        MarkKind::Crash => "crash",
        MarkKind::Fuzzy => "fuzzy",
    };
    let at = match &point.marked {
        None => format!("{kind} point is durable (the connection broke before its number came)"),
        Some(marked) => {
            let nanoseconds = i128::from(marked.commit_time.nanoseconds());
            let time = jiff::Timestamp::from_nanosecond(nanoseconds)
                .map_or_else(|_| "?".to_owned(), |time| time.to_string());
            format!("{kind} point {time} seq {}", marked.sequence)
        }
    };
    let Sums { examined, sent, wire } = point.sums;
    let ways: String = point.ways.iter().map(|way| format!("; {way}")).collect();
    format!(
        "{machine}: {at}: sent {} ({} on the wire), skipped {}, in {:.1} s ({}/s){ways}",
        HumanBytes(sent),
        HumanBytes(wire),
        HumanBytes(examined - sent),
        point.took.as_secs_f64(),
        HumanBytes(rate(examined, point.took)),
    )
}

/// Bytes per second.
fn rate(bytes: u64, took: Duration) -> u64 {
    let milliseconds = took.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / milliseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_protocols::delta::wire::Marked;
    use landfall_protocols::delta::{Position, Timestamp};

    #[test]
    fn a_point_is_one_line_that_says_when_what_and_how_much() {
        let marked = Marked {
            position: Position::new(9),
            sequence: 42,
            commit_time: Timestamp::from_nanoseconds(1_700_000_000_123_456_789),
            kind: MarkKind::Crash,
        };
        let sums = Sums { examined: 512 << 20, sent: 3 << 20, wire: 1 << 20 };
        let took = Duration::from_secs(2);
        let (ways, contents) = (Vec::new(), Vec::new());
        let marked = Some(marked);
        let mut point = Point { marked, kind: MarkKind::Crash, sums, took, ways, contents };
        assert_eq!(
            point_line("web", &point),
            "web: crash point 2023-11-14T22:13:20.123456789Z seq 42: sent 3.00 MiB (1.00 MiB on the wire), \
             skipped 509.00 MiB, in 2.0 s (256.00 MiB/s)"
        );
        point.ways = vec!["os compared by hash: why".to_owned()];
        let line = point_line("web", &point);
        assert!(line.ends_with("(256.00 MiB/s); os compared by hash: why"), "{line}");
        point.marked = None;
        assert!(point_line("web", &point).contains("crash point is durable"));
    }
}
