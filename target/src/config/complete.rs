//! From what is written to what applies: defaults, absolute paths, limits.

use super::file::{
    EncryptionSection, File, FoldSection, JournalSection, PolicySection, ScrubSection,
};
use super::iscsi;
use super::nbd::{self, NbdTls};
use super::{Address, Config, ConfigError, FoldConfig, Given, Listen, ListenGiven, PolicyDefaults};
use crate::encryption::{EncryptionConfig, KeySource};
use crate::service::ScrubSettings;
use crate::units::{ByteSize, Period};
use landfall_retention::policy::{Policy, PolicyError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Smallest and largest journal segment, in bytes. The smallest has room for any record: a batch of a stream and a piece
/// of a branch write carry at most 1 MiB, the tables before it less than another.
const SEGMENT_LIMITS: (u64, u64) = (2 << 20, 1 << 30);
/// How often everything is looked at unless something else is configured, and how fast.
const SCRUB_EVERY: Duration = Duration::from_secs(7 * 86_400);
const SCRUB_RATE: u64 = 64 << 20;
/// Segments of a lane that a start reads into the index unless something else is configured: a GiB of the usual ones.
const SEGMENTS_AT_START: usize = 16;
/// From one checkpoint of the index to the next unless something else is configured.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(600);
/// Memory for block hashes unless something else is configured: for images of 64 GiB.
const HASH_CACHE_BYTES: u64 = 64 << 20;
const LEAF_CACHE_BYTES: u64 = 256 << 20;
const INDEX_CACHE_BYTES: u64 = 256 << 20;
const READ_CACHE_BYTES: u64 = 512 << 20;

/// The whole configuration. `here` is where relative data folders begin.
pub(super) fn complete(
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
        iscsi: address(file.listen.iscsi, "127.0.0.1:3260"),
        http: address(listen.http.or(file.listen.http), "127.0.0.1:9440"),
        control: inside(file.listen.control, "landfall.sock"),
    };
    let nbd = nbd::complete(file.nbd)?;
    check_exposure(&listen, nbd.tls, file.insecure)?;
    let memory = |size: Option<ByteSize>, default: u64, key| {
        let bytes = size.map_or(default, ByteSize::bytes);
        usize::try_from(bytes)
            .map_err(|_| ConfigError::Value { key, what: "more than can be addressed".to_owned() })
    };
    Ok(Config {
        journal: inside(file.paths.journal, "journal"),
        index: inside(file.paths.index, "index"),
        images: inside(file.paths.images, "images"),
        pki: inside(file.paths.pki, "pki"),
        listen,
        insecure: file.insecure,
        iscsi: iscsi::complete(file.iscsi)?,
        nbd,
        names: file.delta.names,
        segment_bytes,
        reserve_bytes,
        leaf_cache_bytes: memory(file.memory.leaf_cache, LEAF_CACHE_BYTES, "memory.leaf_cache")?,
        read_cache_bytes: memory(file.memory.read_cache, READ_CACHE_BYTES, "memory.read_cache")?,
        index_cache_bytes: memory(
            file.memory.index_cache,
            INDEX_CACHE_BYTES,
            "memory.index_cache",
        )?,
        hash_cache_bytes: memory(file.memory.hash_cache, HASH_CACHE_BYTES, "memory.hash_cache")?,
        checkpoint_every: every(
            file.index.checkpoint_every.as_deref(),
            "index.checkpoint_every",
            CHECKPOINT_EVERY,
        )?,
        segments_at_start: file.index.segments_at_start.unwrap_or(SEGMENTS_AT_START).max(1),
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

fn check_exposure(listen: &Listen, tls: NbdTls, insecure: bool) -> Result<(), ConfigError> {
    let nbd = listen.nbd.filter(|_| tls != NbdTls::Required);
    let plain = [("listen.nbd", nbd), ("listen.http", listen.http)];
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
