//! What the configuration says of NBD: TLS of the TCP listener, which certificate may open what, and how much of the target
//! clients may use.
//!
//! **Invariant:** a certificate that is not named opens nothing. The same authority signs those of replication sources, and
//! feeding one machine is no reason to read another. Reading one is no reason to feed it.

use super::ConfigError;
use super::range::within;
use crate::units::{ByteSize, Period};
use landfall_disks::throttle::Limits;
use landfall_protocols::nbd::serve::Settings;
use landfall_protocols::pki::check_client_name;
use landfall_retention::name::Name;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

/// In place of a machine: all of them.
const EVERYTHING: &str = "*";

/// Connections of a listener at a time, and requests of a connection in flight.
const CONNECTIONS: std::ops::RangeInclusive<u64> = 1..=65_536;
const IN_FLIGHT: std::ops::RangeInclusive<u32> = 1..=65_536;
/// Bytes of payload in flight. A request of the size that is announced to clients has to fit.
const BYTES_IN_FLIGHT: std::ops::RangeInclusive<u64> = (32 << 20)..=(1 << 30);
/// Time for negotiation.
const HANDSHAKE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(600);

/// Whether NBD over TCP is encrypted. The Unix socket never is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NbdTls {
    /// Never; loopback only.
    #[default]
    Off,
    /// Where the client asks for it; loopback only, since it need not.
    Offered,
    /// Always, with a certificate of the client.
    Required,
}

/// What a certificate may open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Grant {
    /// Every machine.
    Everything,
    /// These machines, with all their disks, moments and branches.
    Machines(Vec<Name>),
}

impl Grant {
    /// Whether the machine called `machine` is in it.
    pub(crate) fn covers(&self, machine: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Machines(machines) => machines.iter().any(|one| one.as_str() == machine),
        }
    }
}

/// The section `[nbd]`.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NbdSection {
    tls: NbdTls,
    connections: Option<u64>,
    in_flight: Option<u32>,
    bytes_in_flight: Option<ByteSize>,
    handshake: Option<String>,
    allow: BTreeMap<String, Vec<String>>,
    feed: BTreeMap<String, Vec<String>>,
    limit: BTreeMap<String, LimitSection>,
}

/// A line of `[nbd.limit]`.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct LimitSection {
    iops: Option<NonZeroU64>,
    bandwidth: Option<ByteSize>,
}

/// NBD as it applies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NbdConfig {
    /// TLS of `listen.nbd`.
    pub(crate) tls: NbdTls,
    /// What may be read, and branches that may be written, by the name a certificate gives its owner.
    pub(crate) allow: BTreeMap<String, Grant>,
    /// Which machines may be fed, likewise.
    pub(crate) feed: BTreeMap<String, Grant>,
    /// What connections may hold, and for how long they may negotiate.
    pub(crate) settings: Settings,
    limits: BTreeMap<String, Limits>,
}

impl NbdConfig {
    /// What all clients together may use of each disk of a machine.
    pub(crate) fn limits_of(&self, machine: &str) -> Limits {
        let found = self.limits.get(machine).or_else(|| self.limits.get(EVERYTHING));
        found.copied().unwrap_or_default()
    }
}

/// The section, checked.
pub(super) fn complete(section: NbdSection) -> Result<NbdConfig, ConfigError> {
    let settings = settings(&section)?;
    let NbdSection { tls, allow, feed, limit, .. } = section;
    Ok(NbdConfig {
        tls,
        allow: grants("nbd.allow", tls, allow)?,
        feed: grants("nbd.feed", tls, feed)?,
        settings,
        limits: limit.into_iter().map(limits).collect::<Result<_, _>>()?,
    })
}

fn settings(section: &NbdSection) -> Result<Settings, ConfigError> {
    let usual = Settings::default();
    let bytes = section.bytes_in_flight.map_or(usual.bytes_in_flight.into(), ByteSize::bytes);
    let bytes =
        within("nbd.bytes_in_flight", bytes, &BYTES_IN_FLIGHT, |b| ByteSize::new(b).to_string())?;
    let refused = |what| ConfigError::Value { key: "nbd.handshake", what };
    let handshake = match &section.handshake {
        None => usual.handshake_time,
        Some(text) => text.parse::<Period>().map_err(refused)?.0,
    };
    Ok(Settings {
        connections: within(
            "nbd.connections",
            section.connections.unwrap_or(usual.connections),
            &CONNECTIONS,
            |count| count.to_string(),
        )?,
        requests_in_flight: within(
            "nbd.in_flight",
            section.in_flight.unwrap_or(usual.requests_in_flight),
            &IN_FLIGHT,
            |count| count.to_string(),
        )?,
        bytes_in_flight: u32::try_from(bytes).expect("at most a GiB"),
        handshake_time: within("nbd.handshake", handshake, &HANDSHAKE, |time| {
            format!("{} s", time.as_secs())
        })?,
        ..usual
    })
}

fn limits((machine, section): (String, LimitSection)) -> Result<(String, Limits), ConfigError> {
    let refused = |what: String| ConfigError::Value { key: "nbd.limit", what };
    if machine != EVERYTHING {
        Name::parse(&machine).map_err(|error| {
            refused(format!("{error}; write the name of a machine, or \"{EVERYTHING}\""))
        })?;
    }
    let bandwidth = section.bandwidth.map(|size| NonZeroU64::new(size.bytes()).ok_or(size));
    let limits = Limits {
        requests_per_second: section.iops,
        bytes_per_second: bandwidth.transpose().map_err(|_| {
            refused(format!("{machine}: nothing could be read at 0 bytes a second"))
        })?,
    };
    Ok((machine, limits))
}

fn grants(
    key: &'static str,
    tls: NbdTls,
    written: BTreeMap<String, Vec<String>>,
) -> Result<BTreeMap<String, Grant>, ConfigError> {
    if tls != NbdTls::Required && !written.is_empty() {
        let what = "nobody has to show a certificate, so this would keep nobody out; set nbd.tls \
                    to \"required\", or leave it out";
        return Err(ConfigError::Value { key, what: what.to_owned() });
    }
    let grant = |(owner, machines): (String, Vec<String>)| {
        let named = check_client_name(&owner);
        named.map_err(|error| ConfigError::Value { key, what: error.to_string() })?;
        let grant = if machines.iter().any(|machine| machine == EVERYTHING) {
            Grant::Everything
        } else {
            let names: Result<Vec<Name>, _> =
                machines.iter().map(|machine| Name::parse(machine)).collect();
            Grant::Machines(names.map_err(|error| ConfigError::Value {
                key,
                what: format!("{owner}: {error}; write names of machines, or \"{EVERYTHING}\""),
            })?)
        };
        Ok((owner, grant))
    };
    written.into_iter().map(grant).collect()
}
