//! `landfall status`: how the target is, on one screen.

use super::machine;
use super::{Format, Place};
use crate::http::messages::Status as Answer;
use crate::units::{ByteSize, Span, counted};
use std::time::Duration;

/// Show how the target is: machines, newest points, space, what needs attention
#[derive(clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    format: Format,
}

impl Status {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let status: Answer = place.control()?.get("/v1/status")?;
        self.format.print(&status, show);
        Ok(())
    }
}

fn show(status: &Answer) -> String {
    let off = || "off".to_owned();
    let listen = &status.listen;
    let nbd: Vec<String> =
        [listen.nbd_socket.clone(), listen.nbd.clone()].into_iter().flatten().collect();
    let journal = &status.journal;
    let lines = [
        ("data", status.data.clone()),
        (
            "journal",
            format!(
                "{} in {}, {} free; index {}",
                ByteSize::new(journal.bytes),
                counted(journal.segments, "file"),
                ByteSize::new(journal.free_bytes),
                ByteSize::new(journal.index_bytes)
            ),
        ),
        (
            "folded",
            format!(
                "{} into images by {}, {} of the journal released",
                ByteSize::new(status.folding.folded_bytes),
                counted(status.folding.folds, "fold"),
                ByteSize::new(status.folding.released_bytes)
            ),
        ),
        ("delta", listen.delta.clone().unwrap_or_else(off)),
        ("nbd", if nbd.is_empty() { off() } else { nbd.join(", ") }),
        ("metrics", listen.http.clone().map_or_else(off, |a| format!("http://{a}/metrics"))),
        ("exports", status.exports.len().to_string()),
    ];
    let index = status.index.as_ref().map(|build| {
        let left = format!("being built, {} of {} segments left", build.left, build.segments);
        ("index", left)
    });
    let mut text = format!(
        "landfall {}, up {}, process {}\n",
        status.version,
        Span(Duration::from_secs(status.uptime_seconds)),
        status.pid
    );
    for (what, value) in lines.into_iter().chain(index) {
        text.push_str(&format!("  {what:<8} {value}\n"));
    }
    text.push_str(&format!("\n{}", machine::list(&status.machines)));
    for machine in &status.machines {
        if let Some(held) = machine::held(machine) {
            text.push_str(&format!("\nheld: history of {} reaches {held}", machine.name));
        }
        if let Some(fold) = &machine.history.folding {
            text.push_str(&format!(
                "\nfolding: {}/{} to seq:{}, {} of {} looked at",
                machine.name,
                fold.disk,
                fold.floor,
                ByteSize::new(fold.done_bytes),
                ByteSize::new(fold.size_bytes)
            ));
        }
    }
    for warning in &status.warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}
