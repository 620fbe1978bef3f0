//! `landfall image check`: whether an image keeps the rules of its format.

use super::on_a_core;
use super::place::{Source, explain};
use crate::cli::Format;
use crate::units::{ByteSize, counted};
use anyhow::{Context, bail};
use landfall_disks::image::{Repair, Report, check};
use serde::Serialize;
use std::path::PathBuf;

/// Check an image by the rules of its format
///
/// The exit code is 0 only if nothing is wrong, or everything that was could be repaired. The guest's file systems are not looked
/// at.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall image check web.vmdk
  landfall image check --repair web.vhdx            # replays its log and puts right what can be without loss")]
pub(in crate::cli) struct Check {
    #[command(flatten)]
    source: Source,
    /// Put right what can be without losing anything
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Shown {
    clean: bool,
    blocks: u64,
    placed_blocks: u64,
    unused_bytes: u64,
    findings: Vec<ShownFinding>,
    more_findings: u64,
}

#[derive(Serialize)]
struct ShownFinding {
    file: PathBuf,
    structure: &'static str,
    offset: u64,
    field: &'static str,
    value: String,
    expected: String,
    /// `impossible`, `possible` or `done`.
    repair: &'static str,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { source, repair, format } = self;
        let path = source.path().to_owned();
        let report = on_a_core(async move || {
            let (location, gate, how) = source.parts()?;
            let mut opener = how.opener(&*gate);
            let checked = check(&mut opener, &location, how.format(), repair).await;
            checked.map_err(explain).with_context(|| source.path().display().to_string())
        })?;
        format.print(&Shown::of(&report), Shown::text);
        if !report.is_clean() {
            let repairable =
                report.findings.iter().any(|finding| finding.repair == Repair::Possible);
            let hint = if repairable { "; --repair puts right what can be" } else { "" };
            bail!("{} is not clean{hint}", path.display());
        }
        Ok(())
    }
}

impl Shown {
    fn of(report: &Report) -> Self {
        let findings = report.findings.iter().map(|finding| ShownFinding {
            file: finding.file.clone(),
            structure: finding.problem.structure,
            offset: finding.problem.offset,
            field: finding.problem.field,
            value: finding.problem.value.clone(),
            expected: finding.problem.expected.clone().into_owned(),
            repair: match finding.repair {
                Repair::Impossible => "impossible",
                Repair::Possible => "possible",
                Repair::Done => "done",
            },
        });
        Self {
            clean: report.is_clean(),
            blocks: report.blocks,
            placed_blocks: report.placed,
            unused_bytes: report.unused_bytes,
            findings: findings.collect(),
            more_findings: report.more,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let ShownFinding { structure, offset, field, value, expected, .. } = finding;
            text.push_str(&format!(
                "{}: {structure} at {offset}: {field} is {value}; expected {expected} ({})\n",
                finding.file.display(),
                match finding.repair {
                    "done" => "repaired",
                    "possible" => "can be repaired",
                    _ => "cannot be repaired",
                }
            ));
        }
        if self.more_findings > 0 {
            text.push_str(&format!("and {} more\n", self.more_findings));
        }
        let verdict = if self.clean { "no errors" } else { "not clean" };
        text.push_str(&format!("{verdict}: {}", counted(self.placed_blocks, "block")));
        text.push_str(&format!(" of {} in use, ", self.blocks));
        text.push_str(&format!("{} unused in the file\n", ByteSize::new(self.unused_bytes)));
        text
    }
}
