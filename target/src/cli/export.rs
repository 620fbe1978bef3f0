//! `landfall export`: moments and branches that somebody set up to be opened.

use super::table::Table;
use super::{Format, Place, say};
use crate::http::messages::{Account, Export, ExportAdd, Exports, IscsiAdd, IscsiTarget, Nothing};
use anyhow::Context;
use std::path::PathBuf;
use zeroize::Zeroizing;

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
  landfall export add web~test --nbd --writable       # go on with branch test
  landfall export add web@latest --iscsi --writable --initiator iqn.1998-01.com.vmware:esx1
  landfall export add web@-1h --iscsi --chap esx --chap-secret-file ./secret")]
    Add {
        /// MACHINE@WHEN or MACHINE~BRANCH
        name: String,
        /// Over NBD, as it always is: any moment can be read over it without an export
        #[arg(long)]
        nbd: bool,
        /// Over iSCSI, too: a target with a unit for each disk of the machine, in their order
        #[arg(long)]
        iscsi: bool,
        /// Only for this initiator; may be given again [default: any that reaches the target]
        #[arg(long = "initiator", value_name = "IQN", requires = "iscsi")]
        initiators: Vec<String>,
        /// Initiators have to prove by CHAP that they are this user
        #[arg(long, value_name = "USER", requires_all = ["iscsi", "chap_secret_file"])]
        chap: Option<String>,
        /// Its secret, in the first line of this file: 12 characters at least
        #[arg(long, value_name = "FILE", requires = "chap")]
        chap_secret_file: Option<PathBuf>,
        /// The target proves by CHAP that it is this user, to initiators that ask
        #[arg(long, value_name = "USER", requires_all = ["chap", "mutual_chap_secret_file"])]
        mutual_chap: Option<String>,
        /// Its secret, another one
        #[arg(long, value_name = "FILE", requires = "mutual_chap")]
        mutual_chap_secret_file: Option<PathBuf>,
        /// Say that the disks are media that can be ejected
        #[arg(long, requires = "iscsi")]
        removable: bool,
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
    /// Remove an export; its branch stays. iSCSI sessions lose their disks at once, NBD clients keep theirs until they go
    Remove {
        /// The number that `export list` shows
        id: u32,
    },
}

impl ExportVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        match self {
            Self::Add {
                name,
                nbd: _,
                iscsi,
                initiators,
                chap,
                chap_secret_file,
                mutual_chap,
                mutual_chap_secret_file,
                removable,
                writable,
                branch,
                format,
            } => {
                let chap = account(chap, chap_secret_file)?;
                let mutual_chap = account(mutual_chap, mutual_chap_secret_file)?;
                let access = IscsiAdd { initiators, chap, mutual_chap, removable };
                let iscsi = iscsi.then_some(access);
                let wanted = ExportAdd { name, writable, branch, iscsi };
                let export: Export = control.post("/v1/exports", &wanted)?;
                format.print(&export, added);
            }
            Self::List { format } => {
                let exports: Exports = control.get("/v1/exports")?;
                format.print(&exports, |exports| list(&exports.exports));
            }
            Self::Remove { id } => {
                let Nothing {} = control.delete(&format!("/v1/exports/{id}"))?;
                say(&format!(
                    "export {id} removed; iSCSI sessions end, NBD clients that have it open keep it until they go"
                ));
            }
        }
        Ok(())
    }
}

/// A user and the secret in a file.
fn account(user: Option<String>, file: Option<PathBuf>) -> anyhow::Result<Option<Account>> {
    let (Some(user), Some(file)) = (user, file) else { return Ok(None) };
    let text = std::fs::read_to_string(&file).map(Zeroizing::new);
    let text = text.with_context(|| file.display().to_string())?;
    let secret = text.lines().next().unwrap_or_default().to_owned();
    Ok(Some(Account { user, secret }))
}

fn access(export: &Export) -> &'static str {
    if export.writable { "writable" } else { "read-only" }
}

fn added(export: &Export) -> String {
    let mut text = format!("export {}: {}, {}\n", export.id, export.name, access(export));
    for uri in &export.uris {
        text.push_str(&format!("  {uri}\n"));
    }
    if let Some(target) = &export.iscsi {
        text.push_str(&iscsi(target));
    }
    text
}

fn iscsi(target: &IscsiTarget) -> String {
    let portal = target.portal.as_deref().unwrap_or("nowhere yet");
    let mut text = format!("  iSCSI target {} at {portal}\n", target.name);
    for (number, disk) in target.units.iter().enumerate() {
        text.push_str(&format!(
            "    unit {number}: {disk}  iscsi://{portal}/{}/{number}\n",
            target.name
        ));
    }
    if let Some(user) = &target.chap_user {
        text.push_str(&format!("    by CHAP as {user}\n"));
    }
    if !target.initiators.is_empty() {
        text.push_str(&format!("    only for {}\n", target.initiators.join(", ")));
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
        let targets = export.iscsi.iter().flat_map(|target| {
            let portal = target.portal.as_deref().unwrap_or("nowhere");
            let uri = move |number| format!("iscsi://{portal}/{}/{number}", target.name);
            (0..target.units.len()).map(uri)
        });
        for uri in uris.chain(targets) {
            table.row(vec![" ".to_owned(), " ".to_owned(), " ".to_owned(), uri]);
        }
    }
    table.text()
}
