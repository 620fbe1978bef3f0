//! `landfall group`: machines that have points in common.

use super::table::Table;
use super::{Format, Place, say};
use crate::http::client::escaped;
use crate::http::messages::{
    BarriersGiven, CommonPoint, CommonPoints, Group, GroupAdd, GroupBranch, GroupBranched,
    GroupMark, GroupMarked, GroupMember, GroupSet, Groups, Nothing,
};
use crate::units::{Period, Span, counted};
use std::time::Duration;

/// Put machines into groups that have points in common: one moment of all of them
#[derive(clap::Subcommand)]
pub(super) enum GroupVerb {
    /// Make a group
    ///
    /// Every so often a barrier holds the writes of all its machines for some milliseconds and marks a point of each: one
    /// moment of the whole group. It needs sources that are synchronous (a write is done when the target has it); where
    /// sources are not, hold or stop them yourself and name the moments: landfall group mark GROUP --at MACHINE@WHEN …
    /// The policy of a group is that of each of its machines.
    #[command(after_help = "\
Examples:
  landfall group add shop --machine web --machine db
  landfall group add shop --machine web --machine db --every 30s
  landfall policy set web \"keep all for 2h, minutely for 24h\"     # of web's group: of db, too")]
    Add {
        /// Name: 1 to 63 of a-z 0-9 . -
        name: String,
        /// A machine to put into it
        #[arg(long = "machine", value_name = "MACHINE")]
        machines: Vec<String>,
        #[command(flatten)]
        barriers: BarrierTimes,
        #[command(flatten)]
        format: Format,
    },
    /// List groups: their machines, and how old what these have in common is
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Show a group, machine by machine, and its newest common points
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        format: Format,
    },
    /// Put a machine into a group
    Join {
        /// The group
        name: String,
        /// The machine
        machine: String,
    },
    /// Take a machine out of its group; it keeps its points and a copy of the policy
    Leave {
        /// The group
        name: String,
        /// The machine
        machine: String,
    },
    /// Change how barriers are made
    Set {
        /// The group
        name: String,
        #[command(flatten)]
        barriers: BarrierTimes,
        #[command(flatten)]
        format: Format,
    },
    /// List common points, the newest first
    Points {
        /// The group
        name: String,
        /// How many
        #[arg(long, default_value_t = 20, value_name = "NUMBER")]
        limit: usize,
        #[command(flatten)]
        format: Format,
    },
    /// Make a common point now
    ///
    /// By a barrier, or, with --at for each machine, of moments that you know to be one: you held or stopped the sources.
    #[command(after_help = "\
Examples:
  landfall group mark shop --label before-upgrade
  landfall group mark shop --kind app --at web@seq:412 --at db@latest")]
    Mark {
        /// The group
        name: String,
        /// Its label, for GROUP@tag:LABEL
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,
        /// app (the applications were quiesced) or crash
        #[arg(long, default_value = "crash", value_name = "KIND")]
        kind: String,
        /// The moment of a machine, MACHINE@WHEN; once for each of them
        #[arg(long = "at", value_name = "MACHINE@WHEN")]
        moments: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Start a branch of every machine at a common point: to test a failover of all of them, or to do it
    #[command(after_help = "\
Examples:
  landfall group branch shop --name drill                # the newest common point
  landfall group branch shop@-15m --name drill           # web~drill, db~drill
  landfall group branch shop@tag:before-upgrade --name before")]
    Branch {
        /// GROUP or GROUP@WHEN; seq:N is the number of a common point
        origin: String,
        /// Name of each branch
        #[arg(long, value_name = "NAME")]
        name: String,
        #[command(flatten)]
        format: Format,
    },
    /// Remove a group that has no machines any more
    Remove {
        /// The group
        name: String,
    },
}

/// How barriers are made.
#[derive(clap::Args)]
pub(super) struct BarrierTimes {
    /// How far apart barriers are, 1 s to 24 h
    #[arg(long, value_name = "TIME", conflicts_with = "never")]
    every: Option<Period>,
    /// No barriers but those that are asked for
    #[arg(long)]
    never: bool,
    /// How long a barrier waits for its machines before it is given up, at most 30 s
    #[arg(long, value_name = "TIME")]
    patience: Option<Period>,
}

impl BarrierTimes {
    fn given(&self) -> BarriersGiven {
        let milliseconds = |time: &Period| u64::try_from(time.0.as_millis()).unwrap_or(u64::MAX);
        BarriersGiven {
            every_ms: if self.never { Some(0) } else { self.every.as_ref().map(milliseconds) },
            patience_ms: self.patience.as_ref().map(milliseconds),
        }
    }
}

impl GroupVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        let control = place.control()?;
        match self {
            Self::Add { name, machines, barriers, format } => {
                let wanted = GroupAdd { name, machines, barriers: barriers.given() };
                let group: Group = control.post("/v1/groups", &wanted)?;
                format.print(&group, added);
            }
            Self::List { format } => {
                let groups: Groups = control.get("/v1/groups")?;
                format.print(&groups, |groups| list(&groups.groups));
            }
            Self::Show { name, format } => {
                let group: Group = control.get(&format!("/v1/groups/{}", escaped(&name)))?;
                format.print(&group, show);
            }
            Self::Join { name, machine } => {
                let wanted = GroupMember { name, machine };
                let _: Group = control.post("/v1/groups/join", &wanted)?;
                say(&format!("{} is in group {}", wanted.machine, wanted.name));
            }
            Self::Leave { name, machine } => {
                let wanted = GroupMember { name, machine };
                let _: Group = control.post("/v1/groups/leave", &wanted)?;
                say(&format!("{} is alone again", wanted.machine));
            }
            Self::Set { name, barriers, format } => {
                let wanted = GroupSet { name, barriers: barriers.given() };
                let group: Group = control.post("/v1/groups/set", &wanted)?;
                format.print(&group, show);
            }
            Self::Points { name, limit, format } => {
                let path = format!("/v1/groups/{}/points?limit={limit}", escaped(&name));
                let points: CommonPoints = control.get(&path)?;
                format.print(&points, |points| list_points(&name, points));
            }
            Self::Mark { name, label, kind, moments, format } => {
                let wanted = GroupMark { name, kind, label, moments };
                let marked: GroupMarked = control.post("/v1/groups/mark", &wanted)?;
                format.print(&marked, in_words);
            }
            Self::Branch { origin, name, format } => {
                let wanted = GroupBranch { origin, name };
                let made: GroupBranched = control.post("/v1/groups/branch", &wanted)?;
                format.print(&made, branched);
            }
            Self::Remove { name } => {
                let path = format!("/v1/groups?name={}", escaped(&name));
                let _: Nothing = control.delete(&path)?;
                say(&format!("group {name} is gone"));
            }
        }
        Ok(())
    }
}

fn milliseconds(number: u64) -> Span {
    Span(Duration::from_millis(number))
}

/// `every 10 s, given up after 2 s`.
fn barriers(group: &Group) -> String {
    let patience = milliseconds(group.patience_ms);
    match group.every_ms {
        0 => format!("only when asked for, given up after {patience}"),
        every => format!("every {}, given up after {patience}", milliseconds(every)),
    }
}

fn added(group: &Group) -> String {
    let machines: Vec<&str> = group.machines.iter().map(|one| one.machine.as_str()).collect();
    let has = match machines.as_slice() {
        [] => format!("no machines yet; landfall group join {} MACHINE", group.name),
        machines => machines.join(", "),
    };
    format!("group {} has {has}\nbarriers: {}", group.name, barriers(group))
}

fn age(group: &Group) -> String {
    match group.age_seconds {
        Some(seconds) => format!("{} old", Span(Duration::from_secs(seconds))),
        None => "none yet".to_owned(),
    }
}

/// A line per group.
fn list(groups: &[Group]) -> String {
    if groups.is_empty() {
        return "no groups; make one: landfall group add NAME --machine MACHINE --machine MACHINE"
            .to_owned();
    }
    let mut table = Table::new(&["GROUP", "MACHINES", "COMMON POINTS", "NEWEST", "BARRIERS"]);
    let mut errors = String::new();
    for group in groups {
        let machines: Vec<&str> = group.machines.iter().map(|one| one.machine.as_str()).collect();
        table.row(vec![
            group.name.clone(),
            machines.join(" "),
            group.points.to_string(),
            age(group),
            barriers(group),
        ]);
        if let Some(error) = &group.error {
            errors.push_str(&format!("\n{error}"));
        }
    }
    format!("{}{errors}", table.text())
}

fn show(group: &Group) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| text.push_str(&format!("{what:<9} {value}\n"));
    line("group", group.name.clone());
    line("barriers", barriers(group));
    line("points", counted(group.points, "common point"));
    if let Some(newest) = &group.newest {
        line("newest", format!("{}, {}, {}", newest.name, newest.kind, newest.time));
        line("is", newest.moments.join(" "));
        line("age", age(group));
    }
    if let Some(oldest) = &group.oldest {
        line("oldest", format!("{}, {}, {}", oldest.name, oldest.kind, oldest.time));
    }
    if let Some(error) = &group.error {
        line("error", error.clone());
    }
    if group.machines.is_empty() {
        return text;
    }
    let mut table = Table::new(&["MACHINE", "FOR A BARRIER"]);
    for one in &group.machines {
        let ready = one.late.clone().unwrap_or_else(|| "ready".to_owned());
        table.row(vec![one.machine.clone(), ready]);
    }
    format!("{text}\n{}", table.text())
}

fn list_points(group: &str, points: &CommonPoints) -> String {
    if points.points.is_empty() {
        return format!("no common points yet; make one: landfall group mark {group}");
    }
    let mut table = Table::new(&["POINT", "TIME", "KIND", "LABEL", "MOMENTS"]);
    for CommonPoint { name, time, kind, label, moments, .. } in &points.points {
        let label = label.clone().unwrap_or_default();
        let moments = moments.join(" ");
        table.row(vec![name.clone(), time.clone(), kind.clone(), label, moments]);
    }
    let shown = points.points.len() as u64;
    match points.total {
        total if total > shown => {
            format!("{}\n{shown} of {total}; more with --limit\n", table.text())
        }
        _ => table.text(),
    }
}

fn in_words(marked: &GroupMarked) -> String {
    let GroupMarked { point, unchanged, held_us } = marked;
    let moments = point.moments.join(" ");
    match (unchanged, held_us) {
        (true, _) => format!("nothing was written since {} ({moments})", point.name),
        (false, 0) => format!("{}: {moments}", point.name),
        (false, held) => {
            let held = Duration::from_micros(*held);
            format!("{}: {moments}\nwrites were held for {held:?}", point.name)
        }
    }
}

fn branched(made: &GroupBranched) -> String {
    let mut text = format!("at {} ({}):", made.point.name, made.point.time);
    for branch in &made.branches {
        text.push_str(&format!("\n  {}", branch.name));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        let point = CommonPoint {
            name: "shop@seq:7".into(),
            number: 7,
            time: "2026-11-21T14:03:05Z".into(),
            kind: "crash".into(),
            label: None,
            moments: vec!["db@seq:17".into(), "web@seq:41".into()],
        };
        let machine = |machine: &str, late: Option<&str>| crate::http::messages::GroupMachine {
            machine: machine.into(),
            late: late.map(str::to_owned),
        };
        Group {
            name: "shop".into(),
            machines: vec![machine("db", Some("is fed by no source")), machine("web", None)],
            every_ms: 10_000,
            patience_ms: 2000,
            points: 7,
            oldest: Some(point.clone()),
            newest: Some(point),
            holds_until: None,
            age_seconds: Some(95),
            error: Some("no common point of group shop: db is fed by no source".into()),
        }
    }

    #[test]
    fn a_group_says_who_is_late_and_how_old_its_newest_moment_is() {
        let text = show(&group());
        for part in
            ["shop@seq:7", "db@seq:17 web@seq:41", "95 s old", "is fed by no source", "ready"]
        {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let text = list(&[group()]);
        for part in ["db web", "every 10 s, given up after 2 s", "no common point of group shop"] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(list(&[]).contains("group add"));
    }

    #[test]
    fn what_is_not_given_stays_as_it_is() {
        let period = |text: &str| text.parse::<Period>().ok();
        let none = BarrierTimes { every: None, never: false, patience: None };
        assert_eq!(none.given(), BarriersGiven::default());
        let never = BarrierTimes { every: None, never: true, patience: period("3s") };
        assert_eq!(never.given(), BarriersGiven { every_ms: Some(0), patience_ms: Some(3000) });
    }
}
