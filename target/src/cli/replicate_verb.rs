//! The command line of `landfall replicate`; the work is in [`super::replicate`].

use super::Place;
use super::replicate::{self, Mode, Replicate};
use crate::http::client::Control;
use crate::http::messages::Status;
use crate::service::LOCAL_CLIENT;
use crate::units::Period;
use landfall_disks::image::Format;
use landfall_protocols::pki::client_folder;
use std::path::PathBuf;
use std::str::FromStr;

/// Where credentials are looked for on a machine that is only a source.
const CREDENTIALS: &str = "/etc/landfall/client";

/// Bring a machine up to date from image files, and make a point
///
/// The first run sends all data and skips holes; later runs compare and send what differs. It ends well when the point is
/// durable at the target. When the target goes away it tries again until it is back, and goes on where it was.
///
/// A source is a raw file, a block device, or a VMDK, VHDX or VHD image with the images it stands on; what a file is, its
/// content tells. A guest can make its raw disk look like an image: SOURCE,format=raw says that it is none.
///
/// When the image of a snapshot (an AVHDX file, a VMDK delta) stands on what was sent last, only what it holds itself is
/// read and sent, and nothing is compared.
///
/// A point is `crash` if no file changed while it was read, and `fuzzy` otherwise; replicate a snapshot of a disk that is
/// in use. An image that somebody writes to is refused.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall replicate web --disk os=/images/web.raw --once
  landfall replicate db --disk os=/vm/os.raw --disk data=/vm/data.raw --every 5m
  landfall replicate db --disk os=/vm/os.vmdk --disk data=/vm/data_7A1C.avhdx
  landfall replicate web --disk os=/vm/web.raw --to target:9443 --pki /etc/landfall/client")]
pub(super) struct ReplicateVerb {
    /// Name of the machine at the target
    machine: String,
    /// A disk and the image file it is read from
    #[arg(long = "disk", required = true, value_name = "NAME=SOURCE")]
    disks: Vec<DiskSource>,
    /// The target [default: the one of this machine]
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
    /// Replicate once, which is the default
    #[arg(long, conflicts_with = "every")]
    once: bool,
    /// Replicate again and again, beginning every so often: 30s, 5m, 1h
    #[arg(long, value_name = "TIME")]
    every: Option<Period>,
    /// Folder with ca.pem, client.pem and client.key, as made by `landfall pki issue`
    /// [default: those the target of this machine made, or /etc/landfall/client]
    #[arg(long, env = "LANDFALL_PKI", value_name = "DIR")]
    pki: Option<PathBuf>,
}

/// `NAME=SOURCE[,format=FORMAT]`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct DiskSource {
    name: String,
    path: PathBuf,
    format: Option<Format>,
}

impl FromStr for DiskSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                let (path, format) = match path.rsplit_once(",format=") {
                    Some((path, format)) => {
                        (path, Some(format.parse().map_err(|error| format!("{error}"))?))
                    }
                    None => (path, None),
                };
                Ok(Self { name: name.to_owned(), path: path.into(), format })
            }
            _ => Err(format!("{text:?} is not NAME=SOURCE, such as os=/images/web.raw")),
        }
    }
}

impl ReplicateVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        // Only a target on this machine has a data folder here; without one the rest must be told.
        let config = place.load().ok();
        let to = self.to.or_else(|| {
            let listen = &config.as_ref()?.listen;
            running(&Control::at(&listen.control)).or(listen.delta.map(|a| a.to_string()))
        });
        let credentials = match self.pki {
            Some(folder) => vec![folder],
            None => {
                let local = config.map(|config| client_folder(&config.pki, LOCAL_CLIENT));
                local.into_iter().chain([CREDENTIALS.into()]).collect()
            }
        };
        let mode = self.every.map_or(Mode::Once, |period| Mode::Every(period.0));
        replicate::run(Replicate {
            machine: self.machine,
            disks: self.disks.into_iter().map(|disk| (disk.name, disk.path, disk.format)).collect(),
            to,
            credentials,
            mode,
        })
    }
}

/// Where the target of this machine really listens: the port may have been chosen at its start.
fn running(control: &Control) -> Option<String> {
    control.get::<Status>("/v1/status").ok()?.listen.delta
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_name_and_a_file() {
        let disk: DiskSource = "os=/a=b.raw".parse().expect("valid");
        assert_eq!((disk.name.as_str(), disk.path), ("os", "/a=b.raw".into()));
        let disk: DiskSource = "os=/a,b=c,format=raw".parse().expect("valid");
        assert_eq!((disk.path, disk.format), ("/a,b=c".into(), Some(Format::Raw)));
        for bad in ["os", "=x", "os=", "os=/a,format=qcow2"] {
            assert!(bad.parse::<DiskSource>().is_err(), "{bad:?} passed");
        }
    }
}
