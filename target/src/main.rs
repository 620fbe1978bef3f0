//! landfall: where replicated disks come ashore. One binary: the target, and the commands that speak to it.
//!
//! ```text
//!   main ─▶ cli ──serve──▶ service ─▶ retention, protocols, disks
//!            └── every other verb ─▶ http::client ─▶ control socket │ delta stream │ NBD
//! ```
//!
//! **Invariant:** the process exits with 0 only when what was asked for is done and durable; 2 is a misuse of the
//! command line, 130 an interruption, 1 everything else.

mod cli;
mod config;
mod data_folder;
mod encryption;
mod exports;
mod http;
mod images;
mod metrics;
mod replicas;
mod service;
mod units;
mod uri;
mod volumes;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    landfall_disks::uring::keep_freed_memory();
    let cli = cli::Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error),
    }
}
