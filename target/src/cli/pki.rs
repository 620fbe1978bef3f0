//! `landfall pki`: certificates of the delta stream. Works on the folder; no target has to run.

use super::{Place, say};
use crate::service::LOCAL_CLIENT;
use anyhow::Context;
use landfall_protocols::pki::{Authority, Validity};
use std::path::PathBuf;

/// Make certificates for sources on other machines
#[derive(clap::Subcommand)]
pub(super) enum PkiVerb {
    /// Make the certificate authority and the target's certificate
    ///
    /// `landfall serve` does this on its first start. Nothing that exists is replaced, but for a certificate of the target
    /// that expires soon or lacks a name.
    Init,
    /// Make the credentials of a source: a folder to copy to where it runs
    #[command(after_help = "\
Example:
  landfall pki issue esx-7 --output ./esx-7
  scp -r ./esx-7 esx-7:/etc/landfall/client
  esx-7$ landfall replicate web --disk os=/vm/web.raw --to target:9443 --pki /etc/landfall/client

The target must be known by a name of its certificate: see `names` in landfall.toml.")]
    Issue {
        /// Name of the source: letters, digits, . - _
        name: String,
        /// Folder to write to [default: DATA/pki/clients/NAME]
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

impl PkiVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let config = place.load()?;
        let authority = Authority::open_or_create(&config.pki, Validity::default())
            .context("the certificate authority")?;
        match self {
            Self::Init => {
                authority.ensure_server(&config.certificate_names())?;
                let local = authority.ensure_client(LOCAL_CLIENT)?;
                say(&format!(
                    "authority   {}\ntarget      {}\nlocal use   {}",
                    config.pki.join("ca.pem").display(),
                    config.pki.join("server.pem").display(),
                    local.display()
                ));
            }
            Self::Issue { name, output } => {
                let folder = match output {
                    None => authority.ensure_client(&name)?,
                    Some(folder) => {
                        authority.issue_client(&name)?.write_client(&folder)?;
                        folder
                    }
                };
                say(&format!(
                    "credentials of {name} are in {}\n\
                     copy that folder to where the source runs and name it there: landfall replicate … --pki DIR",
                    folder.display()
                ));
            }
        }
        Ok(())
    }
}
