//! What landfall costs and gains, measured beside peers and beside the device.
//!
//! ```text
//!   landfall-perf                    every workload, a table, a few minutes
//!   landfall-perf --json FILE        the same, and everything measured as JSON
//!   landfall-perf compare OLD NEW    two such files side by side
//!   landfall-perf history            a long history, generated and measured
//! ```
//!
//! Landfall and its peer take turns within one run, so that a machine that is busy or slow meets both alike; what counts is
//! the ratio of the medians. Everything happens in one temporary folder, over Unix sockets and ports of the kernel's choice.
//!
//! **Invariant:** a figure is printed only if every round of it, landfall's and the peer's, succeeded.

mod compare;
mod figure;
mod first_block;
mod history;
mod host;
mod image;
mod limit;
mod peer;
mod plain;
mod process;
mod relay;
mod table;
mod target;
mod tgt;
mod workload;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use figure::Report;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use workload::{Settings, Workload};

/// Measure landfall beside nbdcopy, qemu-nbd and plain programs
#[derive(Parser)]
#[command(name = "landfall-perf", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Verb {
    /// Show two reports side by side
    Compare {
        /// A report of `--json`, before
        old: PathBuf,
        /// Another, after
        new: PathBuf,
    },
    /// Generate a long history and measure what it costs
    History(history::Options),
    /// Serve a raw image by the bare loop that servers are measured against
    #[command(hide = true)]
    Limit { file: PathBuf, socket: PathBuf },
}

#[derive(clap::Args)]
struct Run {
    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure only this; may be given again [default: everything]
    #[arg(long, value_name = "WORKLOAD")]
    only: Vec<Workload>,
    /// Rounds of each workload
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Size of the image, in MiB
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(64..=65536))]
    size_mib: u64,
    /// Seconds of each round of random access
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// The binary to measure [default: the one beside this program]
    #[arg(long, value_name = "FILE", env = "LANDFALL_BIN")]
    landfall: Option<PathBuf>,
    /// Folder in which the temporary folder is made; its device is what is measured
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.verb {
        Some(Verb::Compare { old, new }) => compare_reports(&old, &new),
        Some(Verb::History(options)) => options.run(),
        Some(Verb::Limit { file, socket }) => limit::serve(&file, &socket),
        None => cli.run.measure(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("landfall-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare_reports(old: &Path, new: &Path) -> anyhow::Result<()> {
    let (old, new) = (Report::load(old)?, Report::load(new)?);
    print!("{}", compare::compare(&old, &new));
    Ok(())
}

/// The binary that is measured: what was given, or the one beside this program.
fn binary(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let landfall = match given {
        Some(path) => path,
        None => {
            std::env::current_exe().context("where this program lies")?.with_file_name("landfall")
        }
    };
    let path = landfall.display();
    ensure!(landfall.is_file(), "no {path}: build it first, or name it with --landfall");
    Ok(landfall)
}

impl Run {
    fn measure(self) -> anyhow::Result<()> {
        let landfall = binary(self.landfall)?;
        let settings = Settings {
            landfall,
            rounds: self.rounds,
            size_bytes: self.size_mib << 20,
            seconds: self.seconds,
        };
        let folder = self.dir.unwrap_or_else(std::env::temp_dir);
        let only = if self.only.is_empty() { Workload::ALL.to_vec() } else { self.only };
        let report = process::until_interrupted(&folder, move |scratch| {
            workload::run(&settings, &only, scratch)
        })?;
        print!("{}", table::table(&report));
        if let Some(path) = self.json {
            report.save(&path)?;
            println!("\nEverything measured is in {}.", path.display());
        }
        Ok(())
    }
}
