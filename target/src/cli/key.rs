//! `landfall key`: the data keys that histories are sealed by.

use super::table::Table;
use super::{Format, Place};
use crate::http::client::escaped;
use crate::http::messages::{DataKey, DataKeys, Named};
use crate::units::counted;
use anyhow::ensure;

/// List, rotate and destroy the keys that histories are encrypted by
#[derive(clap::Subcommand)]
pub(super) enum KeyVerb {
    /// List the data keys of all machines
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Give a machine a new data key; what is there stays readable by the earlier ones
    ///
    /// A machine whose history is not encrypted is from here on. What was written before stays as it is until it is folded.
    Rotate {
        /// The machine
        machine: String,
        #[command(flatten)]
        format: Format,
    },
    /// Destroy all data keys of a machine, and with them its history, for good
    ///
    /// Its points and branches cannot be opened any more, whoever has the disks. Its images are not encrypted and stay as
    /// they are. Copies of MANIFEST made elsewhere still have the wrapped keys.
    #[command(after_help = "\
Example:
  landfall key destroy web --yes-destroy-history")]
    Destroy {
        /// The machine
        machine: String,
        /// That it is meant
        #[arg(long)]
        yes_destroy_history: bool,
        #[command(flatten)]
        format: Format,
    },
}

impl KeyVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        match self {
            Self::List { format } => {
                let keys: DataKeys = control.get("/v1/keys")?;
                format.print(&keys, table);
            }
            Self::Rotate { machine, format } => {
                let key: DataKey = control.post("/v1/keys/rotate", &Named { name: machine })?;
                format.print(&key, |key| {
                    format!(
                        "what {} writes from now on is sealed by data key {}",
                        key.machine, key.key
                    )
                });
            }
            Self::Destroy { machine, yes_destroy_history, format } => {
                ensure!(
                    yes_destroy_history,
                    "this destroys the history of {machine} for good; say --yes-destroy-history if that is meant"
                );
                let path = format!("/v1/keys?name={}", escaped(&machine));
                let keys: DataKeys = control.delete(&path)?;
                format.print(&keys, |keys| {
                    let count = counted(keys.keys.len() as u64, "data key");
                    format!(
                        "{count} of {machine} destroyed; what they sealed cannot be read any more"
                    )
                });
            }
        }
        Ok(())
    }
}

fn table(keys: &DataKeys) -> String {
    if keys.keys.is_empty() {
        return "no history is encrypted; see [encryption] in `landfall serve --help`".to_owned();
    }
    let mut table = Table::new(&[">key", "machine", "since", "state", "wrapped with"]);
    for key in &keys.keys {
        let state = match &key.destroyed {
            Some(at) => format!("{} {at}", key.state),
            None => key.state.clone(),
        };
        let wrapped = key.wrapped_with.clone().unwrap_or_default();
        table.row(vec![
            key.key.to_string(),
            key.machine.clone(),
            key.added.clone(),
            state,
            wrapped,
        ]);
    }
    table.text()
}
