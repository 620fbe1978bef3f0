//! A policy as text: `keep all for 2h, minutely for 24h, every 4h for 7d, quota 500GiB shorten, floor 50GiB`.
//!
//! What is read is printed back in one form: the units that divide without rest, the words where there are words.
//! Lengths of time are whole seconds (`s m h d w`), sizes whole bytes (`B KiB MiB GiB TiB`).

use super::{MAX_POLICY_BYTES, MAX_RULES, Policy, Quota, Rule, WhenFull};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Furthest a policy may reach back: a hundred years.
const MAX_REACH: Duration = Duration::from_secs(36_525 * 86_400);

const UNITS: [(u64, &str); 5] = [(604_800, "w"), (86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
const SIZES: [(u64, &str); 5] =
    [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")];
const WORDS: [(u64, &str); 5] =
    [(1, "secondly"), (60, "minutely"), (3600, "hourly"), (86_400, "daily"), (604_800, "weekly")];
const EXAMPLE: &str = "keep all for 2h, minutely for 24h, hourly for 7d, daily for 30d";

/// Why a text is not a policy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Far too long.
    #[error("a policy has at most {MAX_POLICY_BYTES} bytes, not {0}")]
    TooLong(usize),
    /// Does not begin with how long everything is kept.
    #[error("a policy begins with `keep all` or `keep all for TIME`, such as `{EXAMPLE}`")]
    NoBeginning,
    /// A part that is none of those there are.
    #[error(
        "{0:?} is no part of a policy: write `hourly for 7d`, `every 15m for 3d`, \
         `quota 500GiB shorten`, `quota 500GiB hold` or `floor 50GiB`"
    )]
    NotAPart(String),
    /// Not a length of time.
    #[error("{0:?} is not a length of time: write 90s, 15m, 24h, 7d or 4w")]
    NotATime(String),
    /// Not a size.
    #[error("{0:?} is not a size: write 500GiB, 2TiB or a number of bytes")]
    NotASize(String),
    /// A slot of no length, or one that reaches back further than anything.
    #[error(
        "{0} is out of its limits: a slot has a second or more, and nothing reaches back over 100 years"
    )]
    OutOfLimits(String),
    /// Part of a second.
    #[error("{0:?} is not a whole number of seconds")]
    NotWhole(Duration),
    /// Said twice.
    #[error("`{0}` stands there twice")]
    Twice(&'static str),
    /// Too many rules.
    #[error("a policy has at most {MAX_RULES} thinning rules")]
    TooManyRules,
    /// A rule that can never keep anything.
    #[error("`{rule}` keeps nothing: {why}")]
    Idle {
        /// The rule.
        rule: String,
        /// What does its work.
        why: String,
    },
    /// The floor lies above the quota, or there is no quota.
    #[error(
        "a floor is part of a quota and at most as large: write `quota SIZE shorten, floor SIZE`"
    )]
    FloorWithoutQuota,
    /// A quota of nothing.
    #[error("a quota of 0 bytes has room for no history at all")]
    NoRoom,
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLong(text.len()));
        }
        let mut parts = text.split(',').map(|part| part.split_whitespace().collect::<Vec<_>>());
        let keep_all = match parts.next().as_deref() {
            Some(["keep", "all"]) => None,
            Some(["keep", "all", "for", time]) => Some(read_time(time)?),
            _ => return Err(PolicyError::NoBeginning),
        };
        let (mut rules, mut quota, mut floor) = (Vec::new(), None, None);
        for part in parts {
            match part.as_slice() {
                ["every", every, "for", reach] => {
                    rules.push(Rule { every: read_time(every)?, reach: read_time(reach)? });
                }
                [word, "for", reach] => {
                    let known = WORDS.iter().find(|(_, known)| known == word);
                    let (seconds, _) =
                        known.ok_or_else(|| PolicyError::NotAPart(part.join(" ")))?;
                    let every = Duration::from_secs(*seconds);
                    rules.push(Rule { every, reach: read_time(reach)? });
                }
                ["quota", size, then @ ("shorten" | "hold")] => {
                    let then = if *then == "hold" { WhenFull::Hold } else { WhenFull::Shorten };
                    if quota.replace((read_size(size)?, then)).is_some() {
                        return Err(PolicyError::Twice("quota"));
                    }
                }
                ["floor", size] => {
                    if floor.replace(read_size(size)?).is_some() {
                        return Err(PolicyError::Twice("floor"));
                    }
                }
                other => return Err(PolicyError::NotAPart(other.join(" "))),
            }
        }
        let space = match (quota, floor) {
            (None, Some(_)) => return Err(PolicyError::FloorWithoutQuota),
            (None, None) => None,
            (Some((bytes, then)), floor) => {
                Some(Quota { bytes, then, floor_bytes: floor.unwrap_or(0) })
            }
        };
        rules.sort_by_key(|rule| rule.every);
        Self::new(keep_all, rules, space)
    }
}

/// That every part is within its limits and keeps something that no other part keeps.
pub(super) fn check(
    keep_all: Option<Duration>,
    rules: &[Rule],
    space: Option<&Quota>,
) -> Result<(), PolicyError> {
    if rules.len() > MAX_RULES {
        return Err(PolicyError::TooManyRules);
    }
    if let Some(keep_all) = keep_all {
        whole(keep_all)?;
        if keep_all > MAX_REACH {
            return Err(PolicyError::OutOfLimits(format!("`keep all for {}`", Time(keep_all))));
        }
    }
    let mut before: Option<&Rule> = None;
    for rule in rules {
        whole(rule.every)?;
        whole(rule.reach)?;
        if rule.every.is_zero() || rule.reach > MAX_REACH {
            return Err(PolicyError::OutOfLimits(format!("`{rule}`")));
        }
        let why = match (keep_all, before) {
            (None, _) => Some("all is kept for ever".to_owned()),
            (Some(all), _) if rule.reach <= all => {
                Some(format!("all is kept for {} already", Time(all)))
            }
            (_, Some(denser)) if denser.every == rule.every || denser.reach >= rule.reach => {
                Some(format!("`{denser}` keeps as much"))
            }
            _ => None,
        };
        if let Some(why) = why {
            return Err(PolicyError::Idle { rule: rule.to_string(), why });
        }
        before = Some(rule);
    }
    match space {
        Some(quota) if quota.bytes == 0 => Err(PolicyError::NoRoom),
        Some(quota) if quota.floor_bytes > quota.bytes => Err(PolicyError::FloorWithoutQuota),
        _ => Ok(()),
    }
}

fn whole(time: Duration) -> Result<(), PolicyError> {
    if time.subsec_nanos() == 0 { Ok(()) } else { Err(PolicyError::NotWhole(time)) }
}

/// A whole number and a unit: `90s`, `24h`; several may follow each other (`1d12h`).
fn read_time(text: &str) -> Result<Duration, PolicyError> {
    let not_a_time = || PolicyError::NotATime(text.to_owned());
    let (mut seconds, mut rest) = (0u64, text);
    if text.is_empty() {
        return Err(not_a_time());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| not_a_time())?;
        let unit_of = |(_, name): &&(u64, &str)| unit.starts_with(name);
        let (unit_seconds, _) = UNITS.iter().find(unit_of).ok_or_else(not_a_time)?;
        let more = number.checked_mul(*unit_seconds);
        seconds = more.and_then(|more| seconds.checked_add(more)).ok_or_else(not_a_time)?;
        rest = &unit[1..];
    }
    Ok(Duration::from_secs(seconds))
}

fn read_size(text: &str) -> Result<u64, PolicyError> {
    let not_a_size = || PolicyError::NotASize(text.to_owned());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| not_a_size())?;
    let scale = match unit {
        "" => 1,
        unit => SIZES.iter().find(|(_, name)| *name == unit).ok_or_else(not_a_size)?.0,
    };
    number.checked_mul(scale).ok_or_else(not_a_size)
}

struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        // A day is 24 hours to everybody, and 24h is what people write.
        let fits = |(unit, _): &&(u64, &str)| {
            seconds.is_multiple_of(*unit) && (seconds >= 2 * unit || *unit == 1)
        };
        let whole = UNITS.iter().find(fits).or(UNITS.last());
        let (unit, name) = whole.expect("there are units");
        write!(f, "{}{name}", seconds / unit)
    }
}

struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = SIZES.iter().find(|(unit, _)| self.0.is_multiple_of(*unit) && self.0 >= *unit);
        let (unit, name) = whole.unwrap_or(&(1, "B"));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WORDS.iter().find(|(seconds, _)| Duration::from_secs(*seconds) == self.every) {
            Some((_, word)) => write!(f, "{word}")?,
            None => write!(f, "every {}", Time(self.every))?,
        }
        write!(f, " for {}", Time(self.reach))
    }
}

impl fmt::Display for WhenFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shorten => "shorten",
            Self::Hold => "hold",
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keep all")?;
        if let Some(keep_all) = self.keep_all {
            write!(f, " for {}", Time(keep_all))?;
        }
        for rule in &self.rules {
            write!(f, ", {rule}")?;
        }
        if let Some(quota) = self.space {
            write!(f, ", quota {} {}", Size(quota.bytes), quota.then)?;
            if quota.floor_bytes > 0 {
                write!(f, ", floor {}", Size(quota.floor_bytes))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<String, String> {
        text.parse::<Policy>().map(|policy| policy.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_policy_is_printed_in_one_form() {
        for (text, printed) in [
            (EXAMPLE, "keep all for 2h, minutely for 24h, hourly for 7d, daily for 30d"),
            ("keep all", "keep all"),
            (
                "keep  all for 120m ,daily for 4w,every 60m for 1w",
                "keep all for 2h, hourly for 7d, daily for 4w",
            ),
            ("keep all for 0s, every 15m for 1d12h", "keep all for 0s, every 15m for 36h"),
            ("keep all for 90s, quota 1024MiB hold", "keep all for 90s, quota 1GiB hold"),
            (
                "keep all for 2h, floor 50GiB, quota 1TiB shorten",
                "keep all for 2h, quota 1TiB shorten, floor 50GiB",
            ),
        ] {
            assert_eq!(read(text).as_deref(), Ok(printed), "{text}");
            assert_eq!(read(printed).as_deref(), Ok(printed));
        }
        assert_eq!(Policy::default().to_string(), "keep all for 2h, minutely for 24h");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!("keep all{}", ", hourly for 7d".repeat(40));
        for (text, part) in [
            ("", "begins with"),
            ("hourly for 7d", "begins with"),
            ("keep all for", "begins with"),
            ("keep all for 2 h", "begins with"),
            ("keep all for 2x", "\"2x\" is not a length of time"),
            ("keep all for 99999999999999999999h", "not a length of time"),
            ("keep all for 18446744073709551615w", "not a length of time"),
            ("keep all for 2h, ", "\"\" is no part"),
            ("keep all for 2h, yearly for 7d", "\"yearly for 7d\" is no part"),
            ("keep all for 2h, every 0s for 7d", "out of its limits"),
            ("keep all for 2h, daily for 40000d", "out of its limits"),
            ("keep all for 40000d", "out of its limits"),
            ("keep all, hourly for 7d", "all is kept for ever"),
            ("keep all for 8d, hourly for 7d", "all is kept for 8d already"),
            ("keep all for 2h, hourly for 7d, daily for 6d", "`hourly for 7d` keeps as much"),
            ("keep all for 2h, hourly for 7d, hourly for 8d", "keeps as much"),
            ("keep all for 2h, floor 5GiB", "part of a quota"),
            ("keep all for 2h, quota 1GiB hold, floor 5GiB", "part of a quota"),
            ("keep all for 2h, quota 0 hold", "room for no history"),
            ("keep all for 2h, quota 1GiB", "\"quota 1GiB\" is no part"),
            ("keep all for 2h, quota 1GB hold", "\"1GB\" is not a size"),
            ("keep all for 2h, quota 1GiB hold, quota 1GiB hold", "twice"),
            (long.as_str(), "at most 512 bytes"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    fn policies() -> impl Strategy<Value = Policy> {
        let seconds = |limit: u64| (1..limit).prop_map(Duration::from_secs);
        let rule = (seconds(800_000), seconds(3_000_000));
        let quota = proptest::option::of((1u64.., any::<bool>(), any::<u64>()));
        let keep_all = proptest::option::weighted(0.9, (0u64..9000).prop_map(Duration::from_secs));
        (keep_all, proptest::collection::vec(rule, 0..4), quota).prop_filter_map(
            "a policy",
            |(keep_all, rules, quota)| {
                let mut rules: Vec<_> =
                    rules.into_iter().map(|(every, reach)| Rule { every, reach }).collect();
                rules.sort_by_key(|rule| rule.every);
                let quota = quota.map(|(bytes, hold, floor)| Quota {
                    bytes,
                    then: if hold { WhenFull::Hold } else { WhenFull::Shorten },
                    floor_bytes: floor % bytes,
                });
                Policy::new(keep_all, rules, quota).ok()
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(policy in policies()) {
            prop_assert_eq!(policy.to_string().parse(), Ok(policy));
        }

        #[test]
        fn no_text_breaks_the_reader(text in "(keep all( for [0-9]{1,25}[smhdwx])?)?(,? ?[a-z0-9 ,é]{0,40}){0,3}") {
            if let Ok(policy) = text.parse::<Policy>() {
                prop_assert_eq!(policy.to_string().parse(), Ok(policy));
            }
        }
    }
}
