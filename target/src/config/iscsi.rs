//! What the configuration says of iSCSI: how targets are called, and how much of the target initiators may use.

use super::ConfigError;
use super::range::within;
use crate::units::{ByteSize, Period};
use landfall_protocols::iscsi::name::Name;
use landfall_protocols::iscsi::scsi::{Naming, NotAnOui};
use landfall_protocols::iscsi::serve::Settings;
use landfall_protocols::iscsi::session::terms::Offer;
use serde::Deserialize;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What names of targets begin with unless something else is configured.
const PREFIX: &str = "iqn.2026-11.internal.landfall:";

/// Sessions and logins at a time, and commands of a session.
const COUNT: RangeInclusive<u64> = 1..=4096;
/// Bytes that the commands of a session hold. One of the size that is announced to initiators has to fit.
const BYTES_IN_FLIGHT: RangeInclusive<u64> = (32 << 20)..=(1 << 30);
/// Time for a login or a discovery, and without a word.
const TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// The section `[iscsi]`.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IscsiSection {
    prefix: Option<String>,
    oui: Option<String>,
    sessions: Option<u64>,
    discoveries: Option<u64>,
    logging_in: Option<u64>,
    commands: Option<u64>,
    bytes_in_flight: Option<ByteSize>,
    login: Option<String>,
    discovery: Option<String>,
    idle: Option<String>,
}

/// iSCSI as it applies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IscsiConfig {
    /// What names of targets begin with.
    pub(crate) prefix: String,
    /// What world wide names of disks are made of.
    pub(crate) naming: Naming,
    /// How many sessions there may be, what they may hold, and for how long they may be silent.
    pub(crate) settings: Settings,
}

/// The section, checked.
pub(super) fn complete(section: IscsiSection) -> Result<IscsiConfig, ConfigError> {
    let settings = settings(&section)?;
    Ok(IscsiConfig { prefix: prefix(section.prefix)?, naming: naming(section.oui)?, settings })
}

fn naming(written: Option<String>) -> Result<Naming, ConfigError> {
    let Some(written) = written else { return Ok(Naming::Local) };
    let oui = written.parse().map_err(|error: NotAnOui| error.to_string());
    oui.map(Naming::Registered).map_err(|what| ConfigError::Value { key: "iscsi.oui", what })
}

/// They have to be names of iSCSI with the name of a machine and a number behind it.
fn prefix(written: Option<String>) -> Result<String, ConfigError> {
    let prefix = written.unwrap_or_else(|| PREFIX.to_owned());
    let longest = format!("{prefix}{}:{}", "m".repeat(63), u32::MAX);
    let refused = |what: String| ConfigError::Value { key: "iscsi.prefix", what };
    match Name::parse(&longest) {
        Ok(name) if name.as_str() == longest => Ok(prefix),
        Ok(_) => Err(refused("small letters, please".into())),
        Err(error) => Err(refused(error.to_string())),
    }
}

fn settings(section: &IscsiSection) -> Result<Settings, ConfigError> {
    let usual = Settings::default();
    let bytes = section.bytes_in_flight.map_or(usual.bytes_in_flight, ByteSize::bytes);
    let logging_in = section.logging_in.unwrap_or(u64::try_from(usual.logging_in).unwrap_or(1));
    let commands = section.commands.unwrap_or(usual.offer.window.into());
    let window = count("iscsi.commands", commands)?;
    Ok(Settings {
        sessions: count("iscsi.sessions", section.sessions.unwrap_or(usual.sessions))?,
        discoveries: count("iscsi.discoveries", section.discoveries.unwrap_or(usual.discoveries))?,
        logging_in: usize::try_from(count("iscsi.logging_in", logging_in)?).expect("a small one"),
        offer: Offer { window: u32::try_from(window).expect("a small one"), ..usual.offer },
        bytes_in_flight: within("iscsi.bytes_in_flight", bytes, &BYTES_IN_FLIGHT, |bytes| {
            ByteSize::new(bytes).to_string()
        })?,
        login_time: time("iscsi.login", section.login.as_ref(), usual.login_time)?,
        discovery_time: time("iscsi.discovery", section.discovery.as_ref(), usual.discovery_time)?,
        idle_time: time("iscsi.idle", section.idle.as_ref(), usual.idle_time)?,
        ..usual
    })
}

fn count(key: &'static str, count: u64) -> Result<u64, ConfigError> {
    within(key, count, &COUNT, |count| count.to_string())
}

fn time(
    key: &'static str,
    written: Option<&String>,
    usual: Duration,
) -> Result<Duration, ConfigError> {
    let refused = |what| ConfigError::Value { key, what };
    let time = match written {
        None => usual,
        Some(text) => text.parse::<Period>().map_err(refused)?.0,
    };
    within(key, time, &TIME, |time| format!("{} s", time.as_secs()))
}
