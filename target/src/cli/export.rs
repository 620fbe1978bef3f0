//! `landfall export`: moments and branches that somebody set up to be opened.

use super::table::Table;
use super::{Format, Place, say};
use crate::http::messages::{Export, ExportAdd, Exports, Nothing};

/// Add, list and remove exports
#[derive(clap::Subcommand)]
pub(super) enum ExportVerb {
    /// Make a moment or a branch reachable, and print where
    ///
    /// Read-only, any moment can be opened over NBD without this. With --writable a branch starts at the moment, unless
    /// the name is that of a branch; what is written goes there and nowhere else.
    #[command(after_help = "\
Examples:
  landfall export add web@-15m --nbd --writable       # a quarter of an hour ago, to be booted
  landfall export add web~test --nbd --writable       # go on with branch test")]
    Add {
        /// MACHINE@WHEN or MACHINE~BRANCH
        name: String,
        /// Over NBD, which is the default and the one way there is so far
        #[arg(long)]
        nbd: bool,
        /// Allow writes, which go to a branch
        #[arg(long)]
        writable: bool,
        /// Name of the branch that is made [default: export-1, export-2 …]
        #[arg(long, value_name = "BRANCH", requires = "writable")]
        branch: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// List exports that were set up
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Remove an export; its branch stays
    Remove {
        /// The number that `export list` shows
        id: u32,
    },
}

impl ExportVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        match self {
            Self::Add { name, nbd: _, writable, branch, format } => {
                let wanted = ExportAdd { name, writable, branch };
                let export: Export = control.post("/v1/exports", &wanted)?;
                format.print(&export, added);
            }
            Self::List { format } => {
                let exports: Exports = control.get("/v1/exports")?;
                format.print(&exports, |exports| list(&exports.exports));
            }
            Self::Remove { id } => {
                let Nothing {} = control.delete(&format!("/v1/exports/{id}"))?;
                say(&format!("export {id} removed; who has it open keeps it until they go"));
            }
        }
        Ok(())
    }
}

fn access(export: &Export) -> &'static str {
    if export.writable { "writable" } else { "read-only" }
}

fn added(export: &Export) -> String {
    let mut text = format!("export {}: {}, {}\n", export.id, export.name, access(export));
    for uri in &export.uris {
        text.push_str(&format!("  {uri}\n"));
    }
    text
}

/// A line per address.
pub(super) fn list(exports: &[Export]) -> String {
    if exports.is_empty() {
        return "no exports; any moment can be read over NBD without one".to_owned();
    }
    let mut table = Table::new(&[">ID", "NAME", "ACCESS", "URI"]);
    for export in exports {
        let (id, name) = (export.id.to_string(), export.name.clone());
        let mut uris = export.uris.iter().cloned();
        table.row(vec![id, name, access(export).to_owned(), uris.next().unwrap_or_default()]);
        for uri in uris {
            table.row(vec![" ".to_owned(), " ".to_owned(), " ".to_owned(), uri]);
        }
    }
    table.text()
}
