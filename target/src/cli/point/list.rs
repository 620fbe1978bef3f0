//! `landfall point list`: the points of a line, page by page, so that neither end holds them all.

use super::super::machine::ago;
use super::super::stream::instants_in_words;
use super::super::table::Table;
use super::super::{Format, say};
use crate::http::client::{Control, escaped};
use crate::http::messages::{Instants, Point, Points, PointsAsked};
use crate::units::counted;
use clap::Args;
use serde_json::json;

/// List the points of a machine or branch, oldest first
#[derive(Args)]
pub(in crate::cli) struct List {
    /// MACHINE or MACHINE~BRANCH
    name: String,
    /// None before this: a time, or -15m
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// None after this: a time, or -15m
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// Only points of this kind: app, crash or fuzzy; several with commas
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only the newest so many of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    format: Format,
}

impl List {
    pub(super) fn run(self, control: &Control) -> anyhow::Result<()> {
        let mut printer = Printer::new(self.format, self.is_narrowed());
        match self.limit {
            None => {
                let mut page = self.page(control, "oldest", None, None)?;
                loop {
                    printer.print(&page);
                    let Some(next) = page.next else { break };
                    page = self.page(control, "oldest", Some(next), None)?;
                }
                printer.end(&page);
            }
            Some(limit) => {
                let page = self.newest(control, limit)?;
                printer.print(&page);
                printer.end(&page);
            }
        }
        Ok(())
    }

    /// The newest `limit` points as one page, oldest first.
    fn newest(&self, control: &Control, limit: u64) -> anyhow::Result<Points> {
        let mut all = self.page(control, "newest", None, Some(limit))?;
        while let Some(next) = all.next.filter(|_| (all.points.len() as u64) < limit) {
            let missing = limit - all.points.len() as u64;
            let page = self.page(control, "newest", Some(next), Some(missing))?;
            all.next = page.next;
            all.points.extend(page.points);
        }
        all.next = None;
        all.points.reverse();
        Ok(all)
    }

    fn page(
        &self,
        control: &Control,
        first: &str,
        after: Option<u64>,
        limit: Option<u64>,
    ) -> anyhow::Result<Points> {
        let asked = PointsAsked {
            name: self.name.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            kind: self.kind.clone(),
            first: Some(first.to_owned()),
            after,
            limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        };
        Ok(control.get(&format!("/v1/points?{}", query(&asked)))?)
    }

    fn is_narrowed(&self) -> bool {
        self.from.is_some() || self.to.is_some() || self.kind.is_some()
    }
}

/// The query that asks for these points.
fn query(asked: &PointsAsked) -> String {
    let mut query = format!("name={}", escaped(&asked.name));
    let numbers = [
        ("after", asked.after.map(|n| n.to_string())),
        ("limit", asked.limit.map(|n| n.to_string())),
    ];
    let texts =
        [("from", &asked.from), ("to", &asked.to), ("kind", &asked.kind), ("first", &asked.first)];
    let texts = texts.map(|(key, value)| (key, value.clone()));
    for (key, value) in texts.into_iter().chain(numbers) {
        if let Some(value) = value {
            query.push_str(&format!("&{key}={}", escaped(&value)));
        }
    }
    query
}

/// Prints pages as they come.
struct Printer {
    format: Format,
    narrowed: bool,
    table: Table,
    printed: u64,
    newest: Option<Point>,
    instants: Vec<Instants>,
}

impl Printer {
    fn new(format: Format, narrowed: bool) -> Self {
        let table = Table::new(&["TIME", "AGE", "KIND", "NAME", "LABEL", "KEPT"]);
        Self { format, narrowed, table, printed: 0, newest: None, instants: Vec::new() }
    }

    fn print(&mut self, page: &Points) {
        if self.format.json {
            self.print_json(page);
        } else if !page.points.is_empty() {
            page.points.iter().for_each(|point| self.table.row(row(point)));
            say(self.table.take().trim_end());
        }
        self.printed += page.points.len() as u64;
        self.instants.extend(page.instants.iter().cloned());
        self.newest = page.points.last().cloned().or_else(|| self.newest.take());
    }

    /// One document over all pages, a line per point.
    fn print_json(&self, page: &Points) {
        if self.printed == 0 {
            let (machine, branch) = (json!(page.machine), json!(page.branch));
            say(&format!("{{\"machine\": {machine}, \"branch\": {branch}, \"points\": ["));
        }
        for (index, point) in page.points.iter().enumerate() {
            let comma = if self.printed == 0 && index == 0 { "" } else { "," };
            say(&format!("{comma}{}", json!(point)));
        }
    }

    fn end(&self, last: &Points) {
        if self.format.json {
            match self.instants.is_empty() {
                true => say("]}"),
                false => say(&format!("], \"instants\": {}}}", json!(self.instants))),
            }
            return;
        }
        let line = match &last.branch {
            None => last.machine.clone(),
            Some(branch) => format!("{}~{branch}", last.machine),
        };
        let Some(newest) = &self.newest else {
            return say(&match (&last.branch, self.narrowed) {
                (_, true) => format!("no point of {line} is like that"),
                (None, _) => format!("{line} has no points yet: the first copy must end first"),
                (Some(_), _) => {
                    format!("nobody marked a point of {line}; any instant of it can be opened")
                }
            });
        };
        for instants in &self.instants {
            say(&format!("\n{}", instants_in_words(&line, instants)));
        }
        let count = counted(self.printed, "point");
        say(&format!("\n{count}; a time from this list names its point: {line}@TIME"));
        if let Some(uri) = newest.uris.first() {
            say(&format!("read the newest of these: {uri}"));
        }
    }
}

fn row(point: &Point) -> Vec<String> {
    vec![
        point.time.clone(),
        ago(point.age_seconds),
        point.kind.clone(),
        point.name.clone(),
        point.label.clone().unwrap_or_default(),
        kept(point),
    ]
}

fn kept(point: &Point) -> String {
    let locked = point.locked_until.as_ref().map(|until| format!("locked until {until}"));
    let pinned = point.pinned.then(|| "pinned".to_owned());
    [pinned, locked].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_not_asked_for() {
        let asked = PointsAsked { name: "web~a".to_owned(), ..PointsAsked::default() };
        assert_eq!(query(&asked), "name=web~a");
        let asked = PointsAsked {
            from: Some("2026-11-21T14:03:05+01:00".to_owned()),
            kind: Some("app,crash".to_owned()),
            after: Some(7),
            limit: Some(20),
            ..asked
        };
        let wanted =
            "name=web~a&from=2026-11-21T14%3A03%3A05%2B01%3A00&kind=app%2Ccrash&after=7&limit=20";
        assert_eq!(query(&asked), wanted);
    }
}
