//! `landfall branch`: writable histories that start at a point, and may become the one that counts.

use super::table::Table;
use super::{Format, Place, say};
use crate::http::client::escaped;
use crate::http::messages::{Branch, BranchAdd, BranchPromote, BranchPromoted, Branches, Nothing};

/// Add, list, promote and discard branches
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
    /// Make a branch the machine: it is what `MACHINE@latest` means from then on
    #[command(after_help = "\
Nothing may write to the branch, and nothing replicate the machine: stop both first. Sources that
fed the machine up to now are refused; start a source anew to go on from what the branch has.
What the machine had after the moment the branch starts at is kept as a branch, which takes no
writes and holds history there: `landfall branch discard` lets it go, `promote` goes back to it.

Example:
  landfall export remove 3 && landfall branch promote web~test --keep before-the-attack")]
    Promote {
        /// MACHINE~BRANCH
        name: String,
        /// What the old history is called as a branch [default: old-1, old-2 …]
        #[arg(long, value_name = "BRANCH")]
        keep: Option<String>,
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
            Self::Promote { name, keep, format } => {
                let wanted = BranchPromote { name, keep };
                let promoted: BranchPromoted = control.post("/v1/branches/promote", &wanted)?;
                format.print(&promoted, in_words);
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

fn in_words(promoted: &BranchPromoted) -> String {
    let BranchPromoted { machine, branch, origin_sequence, head, old, .. } = promoted;
    format!(
        "{machine} is now what {machine}~{branch} was, up to seq:{head}\n\
         what it had after seq:{origin_sequence} is {} until you discard it: \
         landfall branch discard {}",
        old.name, old.name
    )
}

fn list(branches: &[Branch]) -> String {
    if branches.is_empty() {
        return "no branches".to_owned();
    }
    let mut table = Table::new(&["BRANCH", "STARTS AT", "OF", ">WRITES", "LAST WRITE"]);
    for branch in branches {
        let writes = branch.head.saturating_sub(branch.origin_sequence);
        let written = writes > 0;
        table.row(vec![
            branch.name.clone(),
            format!("seq:{}", branch.origin_sequence),
            branch.origin_time.clone(),
            if branch.sealed { "sealed".to_owned() } else { writes.to_string() },
            if written { branch.head_time.clone() } else { String::new() },
        ]);
    }
    table.text()
}
