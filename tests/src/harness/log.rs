//! What a target says while it runs. Lines of level `WARN` and `ERROR`, and lines that are no log lines at all (a panic),
//! have to be expected by the test.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a line that has to come may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The lines so far, of all runs of one target.
#[derive(Clone, Default, Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Default, Debug)]
struct Shared {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default, Debug)]
struct State {
    lines: Vec<String>,
    expected: Vec<String>,
}

impl Log {
    /// Takes every line of `from`, until it ends.
    pub(super) fn follow(&self, from: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                let Ok(line) = line else { return };
                log.state().lines.push(line);
                log.shared.more.notify_all();
            }
        })
    }

    /// Warnings and errors that hold `text` are fine.
    pub fn expect(&self, text: &str) {
        self.state().expected.push(text.to_owned());
    }

    /// Lines that hold all `parts`.
    pub fn count(&self, parts: &[&str]) -> usize {
        self.state().lines.iter().filter(|line| holds(line, parts)).count()
    }

    /// Waits until at least `count` lines hold all `parts`.
    #[track_caller]
    pub fn wait_for(&self, count: usize, parts: &[&str]) {
        let begun = Instant::now();
        let mut state = self.state();
        while state.lines.iter().filter(|line| holds(line, parts)).count() < count {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero(), "no {count} lines with {parts:?} in\n{}", state.text());
            let waited = self.shared.more.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything.
    pub fn text(&self) -> String {
        self.state().text()
    }

    /// Lines that are alarming and were not expected.
    pub fn alarming(&self) -> Vec<String> {
        let state = self.state();
        let fine = |line: &&String| {
            is_quiet(line) || state.expected.iter().any(|text| line.contains(text))
        };
        state.lines.iter().filter(|line| !fine(line)).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn text(&self) -> String {
        self.lines.join("\n")
    }
}

fn holds(line: &str, parts: &[&str]) -> bool {
    parts.iter().all(|part| line.contains(part))
}

/// `2026-11-21T02:07:13.94Z  INFO landfall: …`
fn is_quiet(line: &str) -> bool {
    let level = line.split_whitespace().nth(1);
    level.is_some_and(|level| ["INFO", "DEBUG", "TRACE"].contains(&level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_errors_and_panics_are_alarming_unless_expected() {
        let lines = "2026-11-21T02:07:13Z  INFO landfall: ready\n\
                     2026-11-21T02:07:14Z  WARN landfall: a peer misbehaved\n\
                     2026-11-21T02:07:15Z ERROR landfall: the disk burns\n\
                     thread 'main' panicked at main.rs:1:1:\n";
        let log = Log::default();
        log.follow(lines.as_bytes()).join().unwrap();
        assert_eq!(log.alarming().len(), 3);
        log.expect("a peer misbehaved");
        assert_eq!(log.alarming().len(), 2);
        assert_eq!(log.count(&["ERROR", "burns"]), 1);
        log.wait_for(1, &["ready"]);
    }
}
