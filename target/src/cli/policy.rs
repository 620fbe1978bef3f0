//! `landfall policy`: how long and how densely points are kept.

use super::table::Table;
use super::{Format, Place, say};
use crate::http::client::escaped;
use crate::http::messages::{Nothing, Policy, PolicySet, Simulation, Thinned};
use crate::units::{ByteSize, Span, counted};
use std::time::Duration;

/// Show, set and try out how long and how densely points are kept
#[derive(clap::Subcommand)]
pub(super) enum PolicyVerb {
    /// Show the policy of a machine, or of the group that it is in
    Show {
        /// The machine
        name: String,
        #[command(flatten)]
        format: Format,
    },
    /// Set the policy of a machine and its branches; what it does not keep goes at once
    ///
    /// Machines of a group have one policy: it is set for all of them.
    ///
    /// Everything is kept for a while, then one point per slot: the app point of a slot before others, the first one of those. Pinned
    /// and locked points, those that branches start from or exports show, and the newest always stay.
    #[command(after_help = "\
Example:
  landfall policy set web 'keep all for 2h, minutely for 24h, hourly for 7d, every 12h for 30d'
Try it first:
  landfall policy simulate web 'keep all for 2h, minutely for 24h'")]
    Set {
        /// The machine
        name: String,
        /// `keep all [for TIME]`, then rules such as `hourly for 7d` or `every 15m for 3d`
        policy: String,
        #[command(flatten)]
        format: Format,
    },
    /// Say what a policy would keep of the history that there is, and what that would take; changes nothing
    Simulate {
        /// The machine
        name: String,
        /// The policy [default: the one that the machine has]
        policy: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Say that the clock is right, after it was moved or the target stood still for long
    AcknowledgeClock {
        #[command(flatten)]
        format: Format,
    },
}

impl PolicyVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        match self {
            Self::Show { name, format } => {
                let policy: Policy = control.get(&format!("/v1/policy?name={}", escaped(&name)))?;
                format.print(&policy, show);
            }
            Self::Set { name, policy, format } => {
                let done: Thinned = control.post("/v1/policy", &PolicySet { name, policy })?;
                format.print(&done, set);
            }
            Self::Simulate { name, policy, format } => {
                let mut path = format!("/v1/policy/simulate?name={}", escaped(&name));
                if let Some(policy) = policy {
                    path.push_str(&format!("&policy={}", escaped(&policy)));
                }
                let simulation: Simulation = control.get(&path)?;
                format.print(&simulation, simulated);
            }
            Self::AcknowledgeClock { format } => {
                let done: Nothing = control.post("/v1/clock/acknowledge", &Nothing {})?;
                if format.json {
                    format.print(&done, |_| String::new());
                } else {
                    say("the clock is taken to be right; policies apply again");
                }
            }
        }
        Ok(())
    }
}

fn span(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

fn show(policy: &Policy) -> String {
    let whose = if policy.own { "" } else { "   (the default; it has none of its own)" };
    format!(
        "{}: {}{whose}\na point is due every {}, an app point every {}",
        concerned(policy),
        policy.policy,
        span(policy.rpo_seconds),
        span(policy.app_every_seconds)
    )
}

/// Whose policy it is.
fn concerned(policy: &Policy) -> String {
    match &policy.group {
        None => policy.machine.clone(),
        Some(group) => format!("group {} ({})", group.name, group.machines.join(", ")),
    }
}

fn set(done: &Thinned) -> String {
    let Thinned { policy, dropped, suspended } = done;
    let what = match (suspended, dropped) {
        (true, _) => {
            "nothing is dropped while the clock is not acknowledged: see landfall status".to_owned()
        }
        (false, 0) => "nothing had to go".to_owned(),
        (false, dropped) => format!("{} dropped", counted(*dropped, "point")),
    };
    format!("{}: {}\n{what}", concerned(policy), policy.policy)
}

fn simulated(simulation: &Simulation) -> String {
    let Simulation { machine, policy, recorded, kept, by, dropped, space, .. } = simulation;
    let mut table = Table::new(&["KEPT BY", ">POINTS", "OLDEST"]);
    for one in by {
        let oldest = one.kept.oldest.clone().unwrap_or_default();
        table.row(vec![one.rule.clone(), one.kept.points.to_string(), oldest]);
    }
    let oldest = kept.oldest.clone().unwrap_or_default();
    table.row(vec!["all of these".to_owned(), kept.points.to_string(), oldest]);
    let mut text = format!("{machine}: {policy}\n\n{}", table.text());
    text.push_str(&format!(
        "\n{} on record{}; {} of them would go\n",
        counted(recorded.points, "point"),
        recorded
            .oldest
            .as_ref()
            .map_or_else(String::new, |oldest| format!(", the oldest of {oldest}")),
        dropped
    ));
    let (needed, all) = (ByteSize::new(space.needed_bytes), ByteSize::new(space.recorded_bytes));
    text.push_str(&format!(
        "data in the journal: {needed} of {all} would be needed beside the image, once history is folded and compacted\n"
    ));
    let entries = counted(space.entries, "entry").replace("entrys", "entries");
    text.push_str(&match space.complete {
        true => format!(
            "counted from {entries} of the index; without heads of records and what branches need\n"
        ),
        false => format!(
            "counted from the first {entries} of the index, by disk and place: a part of it; \
             take the proportion, not the bytes\n"
        ),
    });
    if let Some(quota) = simulation.quota_bytes {
        let quota = ByteSize::new(quota);
        let fits = if needed <= quota { "fits into" } else { "does not fit into" };
        text.push_str(&format!("that {fits} the quota of {quota}\n"));
    }
    text.push_str("what was dropped before is not counted: no policy brings it back\n");
    text
}
