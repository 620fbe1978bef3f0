//! `landfall branch`: writable histories that start at a point.

use super::table::Table;
use super::{Format, Place, say};
use crate::http::client::escaped;
use crate::http::messages::{Branch, BranchAdd, Branches, Nothing};

/// Add, list and discard branches
#[derive(clap::Subcommand)]
pub(super) enum BranchVerb {
    /// Start a branch at a moment; nothing is copied
    #[command(after_help = "\
Example:
  landfall branch add web@-15m --name test && landfall export add web~test --writable")]
    Add {
        /// Where it starts: MACHINE@WHEN
        origin: String,
        /// Its name
        #[arg(long, value_name = "BRANCH")]
        name: String,
        #[command(flatten)]
        format: Format,
    },
    /// List all branches
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Throw a branch away, with everything that was written to it
    Discard {
        /// MACHINE~BRANCH
        name: String,
    },
}

impl BranchVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        match self {
            Self::Add { origin, name, format } => {
                let branch: Branch = control.post("/v1/branches", &BranchAdd { origin, name })?;
                format.print(&branch, |branch| {
                    format!(
                        "branch {} starts at seq:{} ({})\n\
                         write to it: landfall export add {} --writable",
                        branch.name, branch.origin_sequence, branch.origin_time, branch.name
                    )
                });
            }
            Self::List { format } => {
                let branches: Branches = control.get("/v1/branches")?;
                format.print(&branches, |branches| list(&branches.branches));
            }
            Self::Discard { name } => {
                let Nothing {} =
                    control.delete(&format!("/v1/branches?name={}", escaped(&name)))?;
                say(&format!("branch {name} discarded"));
            }
        }
        Ok(())
    }
}

fn list(branches: &[Branch]) -> String {
    if branches.is_empty() {
        return "no branches".to_owned();
    }
    let mut table = Table::new(&["BRANCH", "STARTS AT", "OF", ">WRITES", "LAST WRITE"]);
    for branch in branches {
        let written = branch.head > 0;
        table.row(vec![
            branch.name.clone(),
            format!("seq:{}", branch.origin_sequence),
            branch.origin_time.clone(),
            branch.head.to_string(),
            if written { branch.head_time.clone() } else { String::new() },
        ]);
    }
    table.text()
}
