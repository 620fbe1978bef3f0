//! `landfall.toml` as it is written: every key optional, unknown ones refused.

use super::iscsi::IscsiSection;
use super::nbd::NbdSection;
use super::{Address, Allowed, ConfigError};
use crate::encryption::KeySource;
use crate::units::ByteSize;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The file as it is written.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) data: Option<PathBuf>,
    pub(super) insecure: bool,
    pub(super) paths: PathsSection,
    pub(super) listen: ListenSection,
    pub(super) nbd: NbdSection,
    pub(super) iscsi: IscsiSection,
    pub(super) delta: DeltaSection,
    pub(super) journal: JournalSection,
    pub(super) memory: MemorySection,
    pub(super) index: IndexSection,
    pub(super) engine: EngineSection,
    pub(super) scrub: ScrubSection,
    pub(super) policy: PolicySection,
    pub(super) fold: FoldSection,
    pub(super) encryption: EncryptionSection,
    pub(super) volumes: VolumesSection,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct VolumesSection {
    pub(super) allow: Vec<Allowed>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EncryptionSection {
    pub(super) key: Option<KeySource>,
    pub(super) earlier: Vec<KeySource>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FoldSection {
    pub(super) every: Option<String>,
    pub(super) rate: Option<ByteSize>,
    pub(super) slower_percent: Option<u32>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PolicySection {
    pub(super) keep: Option<String>,
    pub(super) rpo: Option<String>,
    pub(super) app_every: Option<String>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PathsSection {
    pub(super) journal: Option<PathBuf>,
    pub(super) index: Option<PathBuf>,
    pub(super) images: Option<PathBuf>,
    pub(super) pki: Option<PathBuf>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListenSection {
    pub(super) delta: Option<Address>,
    pub(super) nbd: Option<Address>,
    pub(super) nbd_socket: Option<PathBuf>,
    pub(super) iscsi: Option<Address>,
    pub(super) http: Option<Address>,
    pub(super) control: Option<PathBuf>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DeltaSection {
    pub(super) names: Vec<String>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct JournalSection {
    pub(super) segment: Option<ByteSize>,
    pub(super) reserve: Option<ByteSize>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MemorySection {
    pub(super) read_cache: Option<ByteSize>,
    pub(super) leaf_cache: Option<ByteSize>,
    pub(super) index_cache: Option<ByteSize>,
    pub(super) hash_cache: Option<ByteSize>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IndexSection {
    pub(super) checkpoint_every: Option<String>,
    pub(super) segments_at_start: Option<usize>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ScrubSection {
    pub(super) every: Option<String>,
    pub(super) rate: Option<ByteSize>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EngineSection {
    pub(super) cores: Option<usize>,
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// What its text says.
pub(super) fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Malformed {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })
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
