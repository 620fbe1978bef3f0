//! `landfall.toml`: where things are kept, where the target listens, how much it may use.
//!
//! ```text
//!   --config FILE │ LANDFALL_CONFIG      else <data>/landfall.toml      else, with no data folder given, /etc/landfall/…
//!        ▼
//!   File (as written, every key optional)  +  --data │ LANDFALL_DATA │ data = "…"
//!        ▼
//!   Config (complete, absolute, checked)
//! ```
//!
//! Only the data folder has to be known; everything else has a default. Unknown keys are errors: a misspelt key must not
//! silently be a default.
//!
//! **Invariant:** no [`Config`] has a plain listener beyond loopback unless the file says `insecure = true`; NBD counts as
//! plain unless TLS is required. The delta
//! stream is never plain.

mod complete;
mod file;
mod iscsi;
mod nbd;
mod range;

use crate::encryption::EncryptionConfig;
use crate::service::{FoldingSettings, PaceLimits, ScrubSettings};
use complete::complete;
use file::File;
pub(crate) use iscsi::IscsiConfig;
use landfall_retention::policy::Policy;
pub(crate) use nbd::{Grant, NbdConfig, NbdTls};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where a configuration is looked for when neither `--config` nor a data folder says otherwise.
const SYSTEM_FILE: &str = "/etc/landfall/landfall.toml";
/// Name of a configuration inside a data folder.
const DATA_FILE: &str = "landfall.toml";

/// A complete configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Config {
    /// The data folder.
    pub(crate) data: PathBuf,
    /// Folder of the journal.
    pub(crate) journal: PathBuf,
    /// Folder of the index.
    pub(crate) index: PathBuf,
    /// Folder of images that were given no path of their own.
    pub(crate) images: PathBuf,
    /// Folder of certificates.
    pub(crate) pki: PathBuf,
    /// Where the target listens.
    pub(crate) listen: Listen,
    /// Whether plain service beyond loopback is wanted.
    pub(crate) insecure: bool,
    /// What iSCSI targets are called, and how much initiators may use.
    pub(crate) iscsi: IscsiConfig,
    /// Who may open what over NBD, and how it is carried.
    pub(crate) nbd: NbdConfig,
    /// More names the target's certificate is good for.
    pub(crate) names: Vec<String>,
    /// Bytes of a journal segment.
    pub(crate) segment_bytes: u64,
    /// Bytes of free space that streams must leave.
    pub(crate) reserve_bytes: u64,
    /// Memory for resolved leaves of views, in bytes.
    pub(crate) leaf_cache_bytes: usize,
    /// Memory for blocks that were read, in bytes.
    pub(crate) read_cache_bytes: usize,
    /// Memory for blocks of the index, in bytes.
    pub(crate) index_cache_bytes: usize,
    /// Memory for block hashes of images, in bytes.
    pub(crate) hash_cache_bytes: usize,
    /// From one checkpoint of the index to the next; `None`: there are none.
    pub(crate) checkpoint_every: Option<Duration>,
    /// Segments of a lane that a start reads into an index that lacks them; more are read while the target runs.
    pub(crate) segments_at_start: usize,
    /// How often and how fast everything is looked at.
    pub(crate) scrub: ScrubSettings,
    /// I/O cores; `None` is one per processor.
    pub(crate) cores: Option<usize>,
    /// What is kept, and how often there should be something to keep.
    pub(crate) policy: PolicyDefaults,
    /// How histories are folded.
    pub(crate) fold: FoldConfig,
    /// Where the keys come from that histories are encrypted by.
    pub(crate) encryption: EncryptionConfig,
    /// What volumes may be that are refused otherwise.
    pub(crate) allowed: Vec<Allowed>,
}

/// What a volume or a folder may be although history is not safe on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Allowed {
    /// FAT, or a file system in memory.
    AnyFileSystem,
    /// One without O_DIRECT.
    PageCache,
    /// A journal that was given a place of its own, on the volume of the images.
    JournalBesideImages,
    /// Folders that others may write to.
    OthersMayWrite,
}

/// When and how fast what policies let go is moved into images.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FoldConfig {
    /// A history is folded when its start can move by so much.
    pub(crate) every: Duration,
    /// Most bytes a second.
    pub(crate) bytes_per_second: Option<u64>,
    /// By how many percent acknowledgements may get slower.
    pub(crate) slower_percent: u32,
}

impl FoldConfig {
    /// As the task takes it.
    pub(crate) fn settings(&self, needed_bytes: u64) -> FoldingSettings {
        let slowdown = f64::from(self.slower_percent) / 100.0;
        let pace = PaceLimits { bytes_per_second: self.bytes_per_second, slowdown };
        FoldingSettings { every: self.every, pace, needed_bytes }
    }
}

/// What applies to machines that were given no policy of their own, and when a point is overdue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PolicyDefaults {
    /// How long and how densely points are kept.
    pub(crate) keep: Policy,
    /// A newest point that is older than this is worth a warning.
    pub(crate) rpo: Duration,
    /// So is a newest app point that is older than this.
    pub(crate) app_every: Duration,
}

/// Where the target listens; `None` is nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Listen {
    /// The delta stream.
    pub(crate) delta: Option<SocketAddr>,
    /// NBD over TCP.
    pub(crate) nbd: Option<SocketAddr>,
    /// NBD over a Unix socket.
    pub(crate) nbd_socket: Option<PathBuf>,
    /// iSCSI, once something is exported over it.
    pub(crate) iscsi: Option<SocketAddr>,
    /// Metrics.
    pub(crate) http: Option<SocketAddr>,
    /// The control API, a Unix socket.
    pub(crate) control: PathBuf,
}

/// What the command line says about the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Given {
    /// `--config` or `LANDFALL_CONFIG`.
    pub(crate) config: Option<PathBuf>,
    /// `--data` or `LANDFALL_DATA`.
    pub(crate) data: Option<PathBuf>,
}

/// Addresses that the command line puts in the place of configured ones.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ListenGiven {
    /// `--delta`.
    pub(crate) delta: Option<Address>,
    /// `--nbd`.
    pub(crate) nbd: Option<Address>,
    /// `--http`.
    pub(crate) http: Option<Address>,
}

/// An address to listen on, or `off`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    /// Nowhere.
    Off,
    /// There; port 0 takes a free one.
    At(SocketAddr),
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be understood.
    #[error("{path}: {message}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where and what, over several lines.
        message: String,
    },
    /// Nobody said where the data is.
    #[error(
        "no data folder: give --data DIR, set LANDFALL_DATA, or write `data = \"DIR\"` in {SYSTEM_FILE}"
    )]
    NoData,
    /// A relative path cannot be made absolute.
    #[error("the current folder is not known: {0}")]
    NoFolder(std::io::Error),
    /// Plain service beyond loopback.
    #[error(
        "{key} = {address}: anybody who reaches this address could use it without authentication; \
         listen on 127.0.0.1 or ::1, or write `insecure = true` if the network is trusted; \
         NBD may be anywhere with `tls = \"required\"` in [nbd]"
    )]
    Exposed {
        /// The key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// A value outside its limits.
    #[error("{key}: {what}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
}

/// The configuration with every key at its default, as `landfall serve --help` shows it.
pub(crate) const EXAMPLE: &str = include_str!("example.toml");

impl Config {
    /// Finds, reads and completes the configuration.
    pub(crate) fn load(given: &Given, listen: &ListenGiven) -> Result<Self, ConfigError> {
        let file = match Self::find(given) {
            None => File::default(),
            Some(path) => file::read(&path)?,
        };
        // Without a dot in it: paths of the data folder are printed and pasted.
        let here = std::path::absolute(".").map_err(ConfigError::NoFolder)?;
        complete(file, given, listen, &here)
    }

    /// Names the target's certificate has to be good for.
    pub(crate) fn certificate_names(&self) -> Vec<String> {
        let ip = self.listen.delta.map(|address| address.ip());
        let ip = ip.filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
        self.names.iter().cloned().chain(ip.map(|ip| ip.to_string())).collect()
    }

    /// The file that applies. That of the system is about the data folder it names: its paths and ports must not become
    /// those of another one.
    fn find(given: &Given) -> Option<PathBuf> {
        if given.config.is_some() {
            return given.config.clone();
        }
        let own = given.data.as_ref().map(|data| data.join(DATA_FILE));
        own.or_else(|| Some(SYSTEM_FILE.into())).filter(|path| path.exists())
    }
}

#[cfg(test)]
mod tests;
