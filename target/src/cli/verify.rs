//! `landfall verify`: whether the history of lines is the one it was.

use super::scrub::wait;
use super::{Format, Place};
use crate::http::client::escaped;
use crate::http::integrity::messages::{Chain, Heads, Scrub, VerifyStart};
use crate::units::{ByteSize, counted};
use anyhow::{Context, bail};
use std::io::Write;
use std::path::PathBuf;

/// Check the chain that runs through the history of each line, against heads that were written down if there are any
///
/// Each record carries a hash over everything before it. `--export` writes down how far each line is and the hash there; kept where
/// nobody can change it, that file proves later that history is still the one it was, and says where it parts if not.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall verify --export heads.json
  landfall verify --head heads.json
  landfall verify web")]
pub(super) struct Verify {
    /// A machine [default: all of them]
    name: Option<String>,
    /// A file of heads that were written down before; may be given several times
    #[arg(long, value_name = "FILE", conflicts_with = "export")]
    head: Vec<PathBuf>,
    /// Write down the present heads, and check nothing
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Bytes a second at most [default: as configured]
    #[arg(long, value_name = "SIZE", conflicts_with = "export")]
    rate: Option<ByteSize>,
    #[command(flatten)]
    format: Format,
}

impl Verify {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        if let Some(file) = &self.export {
            let path = self
                .name
                .as_ref()
                .map_or("/v1/heads".to_owned(), |name| format!("/v1/heads?name={}", escaped(name)));
            let heads: Heads = control.get(&path)?;
            write(file, &heads)?;
            self.format.print(&heads, |heads| {
                let lines = counted(heads.lines.len() as u64, "line");
                format!("{lines} written down in {}", file.display())
            });
            return Ok(());
        }
        let heads = read(&self.head)?;
        let start = VerifyStart {
            machine: self.name.clone(),
            rate_bytes: self.rate.map(ByteSize::bytes),
            heads,
        };
        let begun: Scrub = control.post("/v1/verify", &start)?;
        let answer = wait(&control, begun)?;
        let Some(ended) = &answer.last else { bail!("the target was restarted meanwhile") };
        self.format.print(ended, |ended| ended.chains.iter().map(in_words).collect());
        if let Some(error) = &ended.error {
            bail!("the verification could not go on: {error}");
        }
        if !ended.complete {
            bail!("the verification was stopped");
        }
        if ended.damaged > 0 {
            bail!(
                "{} of the journal cannot be read: landfall scrub",
                counted(ended.damaged, "place")
            );
        }
        let bad = |chain: &&Chain| {
            let heads = chain.heads.iter().any(|head| head.verdict != "same");
            !chain.breaks.is_empty() || heads
        };
        match ended.chains.iter().filter(bad).count() {
            0 => Ok(()),
            bad => bail!("{} not as it was", counted(bad as u64, "line")),
        }
    }
}

fn in_words(chain: &Chain) -> String {
    let first = chain.after + 1;
    let mut text = match chain.last {
        Some(last) => format!("{}, seq:{first} to seq:{last}: ", chain.name),
        None if chain.after > 0 => format!("{}, from seq:{first} on: ", chain.name),
        None => format!("{}: ", chain.name),
    };
    if chain.breaks.is_empty() {
        text.push_str("one chain from the first record to the last\n");
    } else {
        text.push_str("the chain is broken\n");
    }
    for broken in &chain.breaks {
        text.push_str(&format!("  {broken}\n"));
    }
    for head in &chain.heads {
        text.push_str(&format!("  {}\n", head.says));
    }
    text
}

/// Heads of several files as one.
fn read(files: &[PathBuf]) -> anyhow::Result<Option<Heads>> {
    let mut all: Option<Heads> = None;
    for file in files {
        let what = || file.display().to_string();
        let bytes = std::fs::read(file).with_context(what)?;
        let heads: Heads = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no file of heads", file.display()))?;
        match &mut all {
            None => all = Some(heads),
            Some(all) if all.data == heads.data && all.version == heads.version => {
                all.lines.extend(heads.lines);
            }
            Some(_) => bail!("{} is of another target than the files before it", file.display()),
        }
    }
    Ok(all)
}

/// Durable on return. An existing file is left alone: somebody may count on it.
fn write(file: &PathBuf, heads: &Heads) -> anyhow::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(heads).expect("answers are plain data");
    bytes.push(b'\n');
    let what = || file.display().to_string();
    let mut made = std::fs::File::create_new(file).with_context(what)?;
    made.write_all(&bytes).with_context(what)?;
    made.sync_all().with_context(what)
}
