//! What the configuration says of NBD: TLS of the TCP listener, and which certificate may open what.
//!
//! **Invariant:** a certificate that is not named opens nothing. The same authority signs those of replication sources, and
//! feeding one machine is no reason to read another. Reading one is no reason to feed it.

use super::ConfigError;
use landfall_protocols::pki::check_client_name;
use landfall_retention::name::Name;
use serde::Deserialize;
use std::collections::BTreeMap;

/// In place of a machine: all of them.
const EVERYTHING: &str = "*";

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
    allow: BTreeMap<String, Vec<String>>,
    feed: BTreeMap<String, Vec<String>>,
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
}

/// The section, checked.
pub(super) fn complete(section: NbdSection) -> Result<NbdConfig, ConfigError> {
    let (tls, allow, feed) = (section.tls, section.allow, section.feed);
    Ok(NbdConfig {
        tls,
        allow: grants("nbd.allow", tls, allow)?,
        feed: grants("nbd.feed", tls, feed)?,
    })
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
