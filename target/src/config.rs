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
//! **Invariant:** no [`Config`] has a plain listener beyond loopback unless the file says `insecure = true`. The delta
//! stream is never plain.

use crate::encryption::{EncryptionConfig, KeySource};
use crate::service::ScrubSettings;
use crate::service::{FoldingSettings, PaceLimits};
use crate::units::{ByteSize, Period};
use landfall_retention::policy::{Policy, PolicyError};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a configuration is looked for when neither `--config` nor a data folder says otherwise.
const SYSTEM_FILE: &str = "/etc/landfall/landfall.toml";
/// Name of a configuration inside a data folder.
const DATA_FILE: &str = "landfall.toml";

/// Smallest and largest journal segment, in bytes. The smallest has room for any record: a batch of a stream and a piece
/// of a branch write carry at most 1 MiB, the tables before it less than another.
const SEGMENT_LIMITS: (u64, u64) = (2 << 20, 1 << 30);

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
    /// More names the target's certificate is good for.
    pub(crate) names: Vec<String>,
    /// Bytes of a journal segment.
    pub(crate) segment_bytes: u64,
    /// Bytes of free space that streams must leave.
    pub(crate) reserve_bytes: u64,
    /// Memory for resolved leaves of views, in bytes.
    pub(crate) leaf_cache_bytes: usize,
    /// Memory for blocks of the index, in bytes.
    pub(crate) index_cache_bytes: usize,
    /// Memory for block hashes of images, in bytes.
    pub(crate) hash_cache_bytes: usize,
    /// From one checkpoint of the index to the next; `None`: there are none.
    pub(crate) checkpoint_every: Option<Duration>,
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
         listen on 127.0.0.1 or ::1, or write `insecure = true` if the network is trusted"
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

/// The file as it is written.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    data: Option<PathBuf>,
    insecure: bool,
    paths: PathsSection,
    listen: ListenSection,
    delta: DeltaSection,
    journal: JournalSection,
    memory: MemorySection,
    index: IndexSection,
    engine: EngineSection,
    scrub: ScrubSection,
    policy: PolicySection,
    fold: FoldSection,
    encryption: EncryptionSection,
    volumes: VolumesSection,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct VolumesSection {
    allow: Vec<Allowed>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct EncryptionSection {
    key: Option<KeySource>,
    earlier: Vec<KeySource>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct FoldSection {
    every: Option<String>,
    rate: Option<ByteSize>,
    slower_percent: Option<u32>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct PolicySection {
    keep: Option<String>,
    rpo: Option<String>,
    app_every: Option<String>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct PathsSection {
    journal: Option<PathBuf>,
    index: Option<PathBuf>,
    images: Option<PathBuf>,
    pki: Option<PathBuf>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct ListenSection {
    delta: Option<Address>,
    nbd: Option<Address>,
    nbd_socket: Option<PathBuf>,
    http: Option<Address>,
    control: Option<PathBuf>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct DeltaSection {
    names: Vec<String>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct JournalSection {
    segment: Option<ByteSize>,
    reserve: Option<ByteSize>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct MemorySection {
    leaf_cache: Option<ByteSize>,
    index_cache: Option<ByteSize>,
    hash_cache: Option<ByteSize>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct IndexSection {
    checkpoint_every: Option<String>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct ScrubSection {
    every: Option<String>,
    rate: Option<ByteSize>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct EngineSection {
    cores: Option<usize>,
}

/// How often everything is looked at unless something else is configured, and how fast.
const SCRUB_EVERY: Duration = Duration::from_secs(7 * 86_400);
const SCRUB_RATE: u64 = 64 << 20;
/// From one checkpoint of the index to the next unless something else is configured.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(600);
/// Memory for block hashes unless something else is configured: for images of 64 GiB.
const DEFAULT_HASH_CACHE_BYTES: usize = 64 << 20;

/// The configuration with every key at its default, as `landfall serve --help` shows it.
pub(crate) const EXAMPLE: &str = r#"# landfall.toml; every key is optional, these are the defaults.
data = "/var/lib/landfall"          # or --data, or LANDFALL_DATA
insecure = false                    # true: plain listeners beyond loopback are allowed

[paths]                             # relative ones are inside the data folder
journal = "journal"
index = "index"
images = "images"
pki = "pki"

[listen]                            # "off" closes one; port 0 takes a free one
delta = "127.0.0.1:9443"            # replication: TLS 1.3, certificates on both sides
nbd = "127.0.0.1:10809"
nbd_socket = "nbd.sock"             # inside the data folder
http = "127.0.0.1:9440"             # /metrics and /healthz
control = "landfall.sock"           # inside the data folder; for its owner only

[delta]
names = []                          # host names and addresses the target's certificate is good for,
                                    # besides localhost

[journal]
segment = "64MiB"                   # size of one file of the journal
reserve = "256MiB"                  # free space that streams leave on the journal's file system

[memory]
leaf_cache = "256MiB"               # where the blocks of points lie
index_cache = "256MiB"
hash_cache = "64MiB"                # what blocks of images are checked by; 1 MiB for a GiB of images

[index]
checkpoint_every = "10m"            # or "off"; what a lost index is brought up to date from

[scrub]                             # journal, index and images against what they should be
every = "7d"                        # or "off": only landfall scrub
rate = "64MiB"                      # a second, at most

[policy]                            # of machines that were given none: landfall policy set
keep = "keep all for 2h, minutely for 24h"
rpo = "15m"                         # status warns when the newest point is older
app_every = "60m"                   # and when the newest app point is, where there are any

[fold]                              # what policies let go moves from the journal into images
every = "1h"                        # when the start of a history can move by so much
slower_percent = 10                 # by which acknowledgements may get slower meanwhile, on average
# rate = "200MiB"                   # most bytes a second; default: what that leaves

[encryption]                        # of what journal and index hold; images are never encrypted
# key = { file = "/etc/landfall/kek" }          # 64 hexadecimal digits, readable by its owner alone; or
# key = { command = ["/usr/bin/fetch-key"] }    # a program that prints them
earlier = []                        # keys of that kind that were used before: what they wrapped is wrapped anew

[volumes]
allow = []                          # what is refused otherwise: "any-file-system" (FAT, tmpfs), "page-cache"
                                    # (no O_DIRECT), "journal-beside-images" (where [paths] puts it elsewhere),
                                    # "others-may-write"

[engine]
# cores = 4                         # I/O threads; default: one per processor
"#;

impl Config {
    /// Finds, reads and completes the configuration.
    pub(crate) fn load(given: &Given, listen: &ListenGiven) -> Result<Self, ConfigError> {
        let file = match Self::find(given) {
            None => File::default(),
            Some(path) => read(&path)?,
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

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Malformed {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })
}

fn complete(
    file: File,
    given: &Given,
    listen: &ListenGiven,
    here: &Path,
) -> Result<Config, ConfigError> {
    let data = given.data.as_ref().or(file.data.as_ref()).ok_or(ConfigError::NoData)?;
    let data: PathBuf = here.join(data).components().collect();
    let inside = |path: Option<PathBuf>, default: &str| {
        data.join(path.as_deref().unwrap_or(Path::new(default)))
    };
    let (segment_bytes, reserve_bytes) = journal_sizes(&file.journal)?;
    let nbd_socket = match file.listen.nbd_socket {
        Some(path) if path.as_os_str() == "off" => None,
        path => Some(inside(path, "nbd.sock")),
    };
    let listen = Listen {
        delta: address(listen.delta.or(file.listen.delta), "127.0.0.1:9443"),
        nbd: address(listen.nbd.or(file.listen.nbd), "127.0.0.1:10809"),
        nbd_socket,
        http: address(listen.http.or(file.listen.http), "127.0.0.1:9440"),
        control: inside(file.listen.control, "landfall.sock"),
    };
    check_exposure(&listen, file.insecure)?;
    let memory = |size: Option<ByteSize>, key| {
        let bytes = size.map_or(256 << 20, ByteSize::bytes);
        usize::try_from(bytes)
            .map_err(|_| ConfigError::Value { key, what: "more than can be addressed".to_owned() })
    };
    Ok(Config {
        journal: inside(file.paths.journal, "journal"),
        index: inside(file.paths.index, "index"),
        images: inside(file.paths.images, "images"),
        pki: inside(file.paths.pki, "pki"),
        listen,
        names: file.delta.names,
        segment_bytes,
        reserve_bytes,
        leaf_cache_bytes: memory(file.memory.leaf_cache, "memory.leaf_cache")?,
        index_cache_bytes: memory(file.memory.index_cache, "memory.index_cache")?,
        hash_cache_bytes: match file.memory.hash_cache {
            None => DEFAULT_HASH_CACHE_BYTES,
            given => memory(given, "memory.hash_cache")?,
        },
        checkpoint_every: every(
            file.index.checkpoint_every.as_deref(),
            "index.checkpoint_every",
            CHECKPOINT_EVERY,
        )?,
        scrub: scrub(&file.scrub)?,
        cores: cores(file.engine.cores)?,
        policy: policy(&file.policy)?,
        fold: fold(&file.fold)?,
        encryption: encryption(file.encryption, &data)?,
        allowed: file.volumes.allow,
        data,
    })
}

fn address(written: Option<Address>, default: &str) -> Option<SocketAddr> {
    match written {
        Some(Address::Off) => None,
        Some(Address::At(address)) => Some(address),
        None => Some(default.parse().expect("a default is an address")),
    }
}

fn check_exposure(listen: &Listen, insecure: bool) -> Result<(), ConfigError> {
    let plain = [("listen.nbd", listen.nbd), ("listen.http", listen.http)];
    for (key, address) in plain {
        if let Some(address) = address.filter(|address| !address.ip().is_loopback() && !insecure) {
            return Err(ConfigError::Exposed { key, address });
        }
    }
    Ok(())
}

fn journal_sizes(journal: &JournalSection) -> Result<(u64, u64), ConfigError> {
    let segment = journal.segment.unwrap_or(ByteSize::new(64 << 20));
    let (least, most) = (ByteSize::new(SEGMENT_LIMITS.0), ByteSize::new(SEGMENT_LIMITS.1));
    if segment < least || segment > most || !segment.bytes().is_multiple_of(4096) {
        let what = format!("{segment} is not between {least} and {most} in whole 4 KiB");
        return Err(ConfigError::Value { key: "journal.segment", what });
    }
    Ok((segment.bytes(), journal.reserve.unwrap_or(ByteSize::new(256 << 20)).bytes()))
}

/// How often something is done, if it is not "off".
fn every(
    written: Option<&str>,
    key: &'static str,
    default: Duration,
) -> Result<Option<Duration>, ConfigError> {
    match written {
        None => Ok(Some(default)),
        Some("off") => Ok(None),
        Some(text) => {
            let period: Result<Period, String> = text.parse();
            Ok(Some(period.map_err(|what| ConfigError::Value { key, what })?.0))
        }
    }
}

fn scrub(section: &ScrubSection) -> Result<ScrubSettings, ConfigError> {
    let every = every(section.every.as_deref(), "scrub.every", SCRUB_EVERY)?;
    let rate = section.rate.map_or(SCRUB_RATE, ByteSize::bytes);
    if rate == 0 {
        let what = "nothing a second would never end".to_owned();
        return Err(ConfigError::Value { key: "scrub.rate", what });
    }
    Ok(ScrubSettings { every, rate })
}

fn policy(section: &PolicySection) -> Result<PolicyDefaults, ConfigError> {
    let keep = match &section.keep {
        None => Policy::default(),
        Some(text) => text.parse().map_err(|error: PolicyError| ConfigError::Value {
            key: "policy.keep",
            what: error.to_string(),
        })?,
    };
    Ok(PolicyDefaults {
        keep,
        rpo: period("policy.rpo", section.rpo.as_ref(), 15)?,
        app_every: period("policy.app_every", section.app_every.as_ref(), 60)?,
    })
}

fn period(
    key: &'static str,
    text: Option<&String>,
    default_minutes: u64,
) -> Result<Duration, ConfigError> {
    let Some(text) = text else { return Ok(Duration::from_secs(60 * default_minutes)) };
    let period: Result<Period, String> = text.parse();
    period.map(|period| period.0).map_err(|what| ConfigError::Value { key, what })
}

fn fold(section: &FoldSection) -> Result<FoldConfig, ConfigError> {
    let slower_percent = section.slower_percent.unwrap_or(10);
    if !(1..=1000).contains(&slower_percent) {
        let what = format!("{slower_percent} is not 1 to 1000");
        return Err(ConfigError::Value { key: "fold.slower_percent", what });
    }
    let bytes_per_second = section.rate.map(ByteSize::bytes);
    if bytes_per_second.is_some_and(|rate| rate < 1 << 20) {
        let what = "less than 1 MiB a second; to keep more history, set a policy".to_owned();
        return Err(ConfigError::Value { key: "fold.rate", what });
    }
    let every = period("fold.every", section.every.as_ref(), 60)?;
    Ok(FoldConfig { every, bytes_per_second, slower_percent })
}

/// A key that lies beside what it locks goes wherever that goes.
fn encryption(section: EncryptionSection, data: &Path) -> Result<EncryptionConfig, ConfigError> {
    let EncryptionSection { key, earlier } = section;
    for source in key.iter().chain(&earlier) {
        let what = match source {
            KeySource::File(path) if !path.is_absolute() => "an absolute path, please",
            KeySource::File(path) if path.starts_with(data) => {
                "it is inside the data folder, and whoever takes that has it: put it elsewhere"
            }
            KeySource::Command(words) if words.is_empty() => "a command has at least a program",
            _ => continue,
        };
        return Err(ConfigError::Value { key: "encryption", what: format!("{source}: {what}") });
    }
    Ok(EncryptionConfig { key, earlier })
}

fn cores(cores: Option<usize>) -> Result<Option<usize>, ConfigError> {
    match cores {
        Some(count) if !(1..=256).contains(&count) => Err(ConfigError::Value {
            key: "engine.cores",
            what: format!("{count} is not 1 to 256"),
        }),
        cores => Ok(cores),
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| {
            format!("{text:?} is not an address: write IP:PORT, such as 127.0.0.1:0, or off")
        })
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, data: Option<&str>) -> Result<Config, ConfigError> {
        let given = Given { config: None, data: data.map(PathBuf::from) };
        let file = parse(Path::new("landfall.toml"), text)?;
        complete(file, &given, &ListenGiven::default(), Path::new("/here"))
    }

    fn refused(text: &str) -> String {
        load(text, Some("/d")).expect_err(text).to_string()
    }

    #[test]
    fn a_data_folder_is_all_it_takes() {
        let config = load("", Some("./state")).expect("complete");
        assert_eq!(config.data, Path::new("/here/state"));
        assert_eq!(config.journal, Path::new("/here/state/journal"));
        assert_eq!(config.listen.control, Path::new("/here/state/landfall.sock"));
        assert_eq!(config.listen.nbd, Some("127.0.0.1:10809".parse().unwrap()));
        assert!(matches!(load("", None), Err(ConfigError::NoData)));
    }

    #[test]
    fn the_example_holds_the_defaults() {
        let written = load(EXAMPLE, None).expect("the example is valid");
        assert_eq!(written, load("", Some("/var/lib/landfall")).unwrap());
    }

    #[test]
    fn what_is_given_wins_over_what_is_written() {
        assert_eq!(load("data = '/b'", Some("/a")).unwrap().data, Path::new("/a"));
        let given = Given { config: None, data: Some("/d".into()) };
        let listen = ListenGiven { nbd: Some(Address::Off), ..ListenGiven::default() };
        let file = parse(Path::new("x"), "[listen]\nnbd = '127.0.0.1:1'").unwrap();
        assert_eq!(complete(file, &given, &listen, Path::new("/")).unwrap().listen.nbd, None);
    }

    #[test]
    fn unknown_keys_are_named() {
        assert!(refused("dta = '/x'").contains("dta"));
        assert!(refused("[listen]\nndb = 'off'").contains("ndb"));
    }

    #[test]
    fn plain_listeners_stay_on_loopback() {
        let open = "[listen]\nnbd = '0.0.0.0:10809'";
        assert!(refused(open).contains("insecure = true"));
        assert!(refused("[listen]\nhttp = '192.0.2.1:1'").contains("listen.http"));
        assert!(load(&format!("insecure = true\n{open}"), Some("/d")).is_ok());
        assert!(load("[listen]\ndelta = '0.0.0.0:9443'", Some("/d")).is_ok());
    }

    #[test]
    fn listeners_can_be_closed() {
        let text = "[listen]\nnbd = 'off'\nnbd_socket = 'off'\nhttp = 'off'\ndelta = 'off'";
        let listen = load(text, Some("/d")).unwrap().listen;
        assert_eq!((listen.nbd, listen.http, listen.delta), (None, None, None));
        assert_eq!(listen.nbd_socket, None);
    }

    #[test]
    fn values_outside_their_limits_are_refused() {
        assert!(refused("[journal]\nsegment = '1KiB'").contains("journal.segment"));
        assert!(refused("[journal]\nsegment = '4 parsecs'").contains("not a size"));
        assert!(refused("[engine]\ncores = 0").contains("engine.cores"));
        assert!(refused("[policy]\nkeep = 'hourly'").contains("policy.keep"));
        let quota = load("[policy]\nkeep = 'keep all, quota 1GiB hold'", Some("/d"));
        assert!(quota.unwrap().policy.keep.space().is_some());
        assert!(refused("[policy]\nrpo = 'soon'").contains("policy.rpo"));
        assert!(refused("[listen]\nnbd = 'localhost'").contains("not an address"));
        assert!(refused("[volumes]\nallow = ['tmpfs']").contains("any-file-system"));
        assert!(refused("[fold]\nslower_percent = 0").contains("fold.slower_percent"));
        assert!(refused("[fold]\nrate = '1KiB'").contains("fold.rate"));
        assert!(refused("[fold]\nevery = 'never'").contains("fold.every"));
        assert!(refused("[encryption]\nkey = { file = 'kek' }").contains("absolute"));
        assert!(refused("[encryption]\nkey = { file = '/d/kek' }").contains("inside"));
        assert!(refused("[encryption]\nkey = { command = [] }").contains("a program"));
        assert!(refused("[encryption]\nkey = { tpm = 'x' }").contains("tpm"));
        let keys = "[encryption]\nkey = { command = ['a', 'b'] }\nearlier = [{ file = '/k' }]";
        assert_eq!(load(keys, Some("/d")).unwrap().encryption.earlier.len(), 1);
    }
}
