//! `landfall serve`: the target itself.

use super::Place;
use crate::config::{Address, Config, EXAMPLE, ListenGiven};
use crate::service;

/// Run a target: receive replicated disks, keep their points, serve them over NBD
///
/// A data folder is all it needs; everything in it is made on the first start, certificates included. Stop it with
/// SIGTERM or SIGINT; a second one ends it at once, which loses nothing that was acknowledged.
#[derive(clap::Args)]
#[command(after_long_help = after_help())]
pub(super) struct Serve {
    /// Listen here for delta streams: IP:PORT, port 0 for a free one, or `off`
    #[arg(long, value_name = "ADDRESS")]
    delta: Option<Address>,
    /// Listen here for NBD over TCP, besides the socket in the data folder
    #[arg(long, value_name = "ADDRESS")]
    nbd: Option<Address>,
    /// Listen here for /metrics and /healthz
    #[arg(long, value_name = "ADDRESS")]
    http: Option<Address>,
}

fn after_help() -> String {
    format!(
        "Examples:\n  landfall serve --data /var/lib/landfall\n  \
         landfall serve --data ./try --delta 127.0.0.1:0 --nbd off --http off\n\n{EXAMPLE}"
    )
}

impl Serve {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let listen = ListenGiven { delta: self.delta, nbd: self.nbd, http: self.http };
        service::run(Config::load(&place.given(), &listen)?)
    }
}
