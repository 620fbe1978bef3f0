//! What the log says of standby files.

use crate::units::{ByteSize, Span, counted};
use landfall_retention::name::Name;
use landfall_retention::standby::{NotOurs, StandbyError, StandbyReport};
use std::time::Duration;

/// Files were brought to a moment.
pub(super) fn log_brought(machine: &Name, folder: &str, report: &StandbyReport, asked: bool) {
    let text = brought(machine, folder, report);
    let routine = report.made.is_empty() && report.compared.is_empty() && !asked;
    if routine { tracing::debug!("{text}") } else { tracing::info!("{text}") }
}

fn brought(machine: &Name, folder: &str, report: &StandbyReport) -> String {
    let StandbyReport { to, written, compared, made, .. } = report;
    if written.is_empty() {
        return format!("{machine}: the standby in {folder} holds {to} already");
    }
    let files = counted(written.len() as u64, "file");
    let mut text = format!(
        "{machine}: {files} of the standby in {folder} brought to {to}, {} written",
        ByteSize::new(report.written_bytes)
    );
    if !made.is_empty() {
        text.push_str(&format!("; made: {}", names(made)));
    }
    if !compared.is_empty() {
        text.push_str(&format!(
            "; compared, as it was not known what they held: {}",
            names(compared)
        ));
    }
    text
}

fn names(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// It failed.
pub(super) fn failed(machine: &Name, error: &StandbyError, pause: Duration) -> String {
    let next = match error {
        StandbyError::NotOurs { why: NotOurs::Written(_), .. } => format!(
            "it stays as it is; if nobody needs what was written: landfall standby sync {machine} --overwrite"
        ),
        _ => format!("trying again in {}", Span(pause)),
    };
    format!("{machine}: the standby is not brought forward: {error}; {next}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_retention::ids::{LineId, Sequence};
    use landfall_retention::manifest::standby::HeldMoment;
    use landfall_retention::standby::sidecar::HeldPoint;
    use landfall_retention::time::Timestamp;

    fn report(written: &[&str], compared: &[&str]) -> StandbyReport {
        let names = |names: &[&str]| -> Vec<Name> {
            names.iter().map(|name| Name::parse(name).expect("a name")).collect()
        };
        let time = Timestamp::from_nanoseconds(1_795_000_000_000_000_000);
        let at = HeldMoment { line: LineId::new(1), sequence: Sequence::new(7), time };
        StandbyReport {
            to: HeldPoint { at, kind: None, label: None },
            written: names(written),
            compared: names(compared),
            made: Vec::new(),
            written_bytes: 5 << 20,
            zeroed_bytes: 0,
        }
    }

    #[test]
    fn the_log_says_what_was_done_and_what_to_do() {
        let web = Name::parse("web").expect("a name");
        let text = brought(&web, "/srv", &report(&["os", "data"], &["data"]));
        assert!(text.contains("2 files of the standby in /srv brought to 2026-11-18T"), "{text}");
        assert!(text.contains("5 MiB written; compared, as it was not known"), "{text}");
        assert!(brought(&web, "/srv", &report(&[], &[])).ends_with("already"));
        let why = NotOurs::Written("its disk has 1 bytes".into());
        let error = StandbyError::NotOurs { path: "/srv/web-os.raw".into(), why };
        let text = failed(&web, &error, Duration::from_secs(60));
        assert!(text.contains("landfall standby sync web --overwrite"), "{text}");
        let text = failed(&web, &StandbyError::Gone, Duration::from_secs(60));
        assert!(text.contains("trying again in 60 s"), "{text}");
    }
}
