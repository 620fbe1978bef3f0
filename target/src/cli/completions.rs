//! `landfall completions`: what a shell needs to complete the command line.

use super::{Cli, say};
use clap::CommandFactory;
use clap_complete::Shell;

/// Print completions for a shell
///
/// For bash: landfall completions bash > /etc/bash_completion.d/landfall
#[derive(clap::Args)]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "landfall", &mut script);
        say(String::from_utf8(script)?.trim_end());
        Ok(())
    }
}
