//! `docs/interop-iscsi.md` says of commands and sense data what the code does: its tables are made
//! from it.

use super::command::{Attentions, Entry, Medium, TABLE};
use super::sense::Additional;

/// The page.
const PAGE: &str = include_str!("../../../../docs/interop-iscsi.md");

/// The lines between the marks called `name`.
fn part(name: &str) -> &'static str {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (_, rest) = PAGE.split_once(&begin).expect("the mark is there");
    rest.split_once(&end).expect("its end is there").0
}

fn row(entry: &Entry) -> String {
    let hexadecimal =
        |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let action = entry.service_action.map_or(String::new(), |action| format!("/{action:02x}h"));
    let needs = match (entry.medium, entry.attentions) {
        (Medium::Unneeded, Attentions::Kept) => "nothing; unit attentions stay",
        (Medium::Unneeded, Attentions::Told) => "nothing",
        (Medium::Needed, _) => "a medium",
        (Medium::Written, _) => "a medium that may be written",
    };
    format!(
        "| {:02x}h{action} | {} | {needs} | `{}` | {} |\n",
        entry.operation_code(),
        entry.name,
        hexadecimal(entry.usage),
        if entry.ignored.is_empty() {
            String::new()
        } else {
            format!("`{}`", hexadecimal(entry.ignored))
        }
    )
}

fn check(name: &str, head: &str, rows: impl Iterator<Item = String>) {
    let right = rows.fold(head.to_owned(), |all, row| all + &row);
    assert!(part(name) == right, "the page should say between the marks {name}:\n{right}");
}

#[test]
fn the_page_has_every_command() {
    let head = "| code | command | needs | bits that mean something | bits that are ignored |\n\
                |---|---|---|---|---|\n";
    check("commands", head, TABLE.iter().map(row));
}

#[test]
fn the_page_has_every_sense_code() {
    let head = "| code | text of the standard | when |\n|---|---|---|\n";
    let rows = Additional::ALL.iter().zip(Additional::WHEN).map(|((code, text), when)| {
        let Additional { code, qualifier } = code;
        format!("| {code:02x}h/{qualifier:02x}h | {text} |{when} |\n")
    });
    check("sense", head, rows);
}
