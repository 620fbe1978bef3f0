//! libiscsi's conformance tests, every one, on the real binary; `docs/interop-iscsi.md` says test by test what came of it.
//!
//! ```text
//!   iscsi-test-cu ─▶ a writable thin unit, by two paths ─▶ passed │ failed │ skipped, and why
//!                                                                   │          ├─▶ it is for units of another kind: again on one
//!                                                                   ╳          ├─▶ a command that is not there: a row that says so
//!                                                                              ╳   anything else
//! ```
//!
//! The tool calls a test passed that it skipped, so its output is what is read. The unit is a branch with a raw image, whose
//! physical blocks have 512 bytes; those of a VHDX have 4096 (`docs/decisions/0028-physical-blocks.md`).
//!
//! `make iscsi-page` writes the table; without that, a table that is not what was seen fails the test.

use crate::iscsi::{export, units, uri};
use crate::machine::text;
use landfall_tests::harness::{MIB, Source, Target, attempt};
use std::collections::BTreeSet;
use std::path::Path;

/// How long all tests may take, in seconds: half a minute where nothing else runs.
const LIMIT: &str = "400";

/// Larger than the 65536 blocks that the tool unmaps at once.
const SIZE: u64 = 100 * MIB;

/// What the tool says when it skips a test that is for units of another kind, and that kind.
const OTHER_KINDS: [(&str, Kind); 3] = [
    ("LBPPB < 2", Kind::LargerPhysicalBlocks),
    ("is not removable", Kind::Removable),
    ("Logical unit is not write-protected", Kind::WriteProtected),
];

/// What the tool says when it skips a test, and the command that is not there.
const MISSING: [(&str, &str); 7] = [
    ("PERSISTENT RESERVE IN is not implemented", "persistent reservations"),
    ("PROUT Not Supported", "persistent reservations"),
    ("RESERVE6 is not implemented", "RESERVE and RELEASE"),
    ("EXTENDEDCOPY is not implemented", "EXTENDED COPY"),
    ("RECEIVECOPYRESULT is not implemented", "EXTENDED COPY"),
    ("WRITEATOMIC16 is not implemented", "WRITE ATOMIC"),
    ("--allow-sanitize flag is not set", "SANITIZE"),
];

/// Kinds of units besides the usual one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    LargerPhysicalBlocks,
    Removable,
    WriteProtected,
}

impl Kind {
    fn described(self) -> &'static str {
        match self {
            Self::LargerPhysicalBlocks => "on a unit with physical blocks of 4096 bytes",
            Self::Removable => "on a removable unit",
            Self::WriteProtected => "on a moment, which is write protected",
        }
    }
}

/// Where units of each kind are.
struct Units {
    usual: String,
    larger: String,
    removable: String,
    protected: String,
}

impl Units {
    fn of(&self, kind: Kind) -> &str {
        match kind {
            Kind::LargerPhysicalBlocks => &self.larger,
            Kind::Removable => &self.removable,
            Kind::WriteProtected => &self.protected,
        }
    }
}

/// What came of a test.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    /// What the tool said of why.
    Skipped(String),
    /// What it said of what was wrong.
    Failed(String),
}

/// Every test in the output of the tool, as `SUITE.TEST`, in order.
fn outcomes(output: &str) -> Vec<(String, Outcome)> {
    let mut found: Vec<(String, Outcome)> = Vec::new();
    let (mut suite, mut skipped, mut under_way) = ("", None, None);
    for line in output.lines() {
        if let Some(name) = line.strip_prefix("Suite: ") {
            suite = name;
            continue;
        }
        let mut said = line;
        if let Some((name, rest)) =
            line.strip_prefix("  Test: ").and_then(|one| one.split_once(" ..."))
        {
            assert!(under_way.is_none(), "{under_way:?} has no end before {name}");
            (under_way, skipped, said) = (Some(format!("{suite}.{name}")), None, rest);
        }
        // What follows the verdict in its line is of the next suite.
        if said.starts_with("passed") {
            let outcome = skipped.take().map_or(Outcome::Passed, Outcome::Skipped);
            found.push((under_way.take().expect("a test passed"), outcome));
        } else if said.starts_with("FAILED") {
            found.push((under_way.take().expect("a test failed"), Outcome::Failed(String::new())));
        } else if under_way.is_none() {
            // The reasons of a failure come behind it.
            if let Some((_, Outcome::Failed(why))) = found.last_mut()
                && said.starts_with("    ")
            {
                why.push_str(said);
            }
        } else if let Some((_, why)) = said.split_once("[SKIPPED] ") {
            skipped.get_or_insert_with(|| why.trim_end_matches(". Skipping test").to_owned());
        }
    }
    if let Some(test) = under_way {
        found.push((test, Outcome::Failed("it has no end".to_owned())));
    }
    found
}

/// Runs the tests of `selection` on a unit, by two paths to it.
#[track_caller]
fn conformance(unit: &str, selection: &str) -> Vec<(String, Outcome)> {
    let tests = format!("--test={selection}");
    let said = attempt("timeout", &[LIMIT, "iscsi-test-cu", "--dataloss", &tests, unit, unit]);
    let found = outcomes(&said.out);
    let failed = found.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
    let complaint = "it ended otherwise than with its last test (124: it took too long)";
    assert_eq!(said.code, Some(i32::from(failed)), "{complaint}:\n{}{}", said.out, said.err);
    // Nothing is lost between its own count and ours.
    let summary = said.out.lines().find_map(|line| line.trim().strip_prefix("tests "));
    let counts: Vec<&str> = summary.expect("a summary").split_whitespace().collect();
    let (total, ran) = (counts[0], counts[1]);
    assert_eq!((total, ran), (&*found.len().to_string(), total), "{}", said.out);
    found
}

/// The rows of the table, and what is amiss.
fn rows(units: &Units) -> (Vec<String>, Vec<String>) {
    let (mut rows, mut amiss) = (Vec::new(), Vec::new());
    for (test, outcome) in conformance(&units.usual, "ALL") {
        match row(units, &test, outcome) {
            Ok(said) => rows.push(format!("| {test} | {said} |")),
            Err(wrong) => amiss.push(format!("{test}: {wrong}")),
        }
    }
    (rows, amiss)
}

/// What the table says of a test, or what is wrong with it.
fn row(units: &Units, test: &str, outcome: Outcome) -> Result<String, String> {
    let why = match outcome {
        Outcome::Passed => return Ok("passed".to_owned()),
        Outcome::Failed(why) => return Err(format!("FAILED {why}")),
        Outcome::Skipped(why) => why,
    };
    if let Some((_, kind)) = OTHER_KINDS.iter().find(|(text, _)| why.contains(text)) {
        let again = conformance(units.of(*kind), &format!("ALL.{test}"));
        let [(_, Outcome::Passed)] = &again[..] else {
            return Err(format!("{}: {again:?}", kind.described()));
        };
        return Ok(format!("passed {}", kind.described()));
    }
    let missing = MISSING.iter().find(|(text, _)| why.contains(text));
    missing.map(|(_, what)| format!("skipped: {what}")).ok_or(format!("skipped, {why}"))
}

/// What stands between the marks: a sum and a row for each test.
fn table(rows: &[String]) -> String {
    let of = |part: &str| rows.iter().filter(|row| row.contains(part)).count();
    let (passed, others, skipped) = (of("| passed"), of("| passed on"), of("| skipped"));
    format!(
        "{} tests: {passed} passed, {others} of them on units of another kind; {skipped} skipped; none failed.\n\n\
         | test | |\n|---|---|\n{}\n",
        rows.len(),
        rows.join("\n")
    )
}

const MARKS: [&str; 2] = ["<!-- iscsi-test-cu -->\n", "<!-- /iscsi-test-cu -->"];

/// The page is as `right` says, or is made so.
#[track_caller]
fn settle_page(right: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/interop-iscsi.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let (before, rest) = page.split_once(MARKS[0]).expect("the mark is there");
    let (stands, after) = rest.split_once(MARKS[1]).expect("its end is there");
    if stands == right {
        return;
    }
    if std::env::var_os("LANDFALL_WRITE_PAGES").is_some() {
        let page = [before, MARKS[0], right, MARKS[1], after].concat();
        return std::fs::write(&path, page).expect("the page is written");
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (stands, seen) = (lines(stands), lines(right));
    let list = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other).cloned().collect::<Vec<_>>().join("\n")
    };
    panic!(
        "docs/interop-iscsi.md is not what was seen (`make iscsi-page` writes it).\nIt says:\n{}\nSeen:\n{}",
        list(&stands, &seen),
        list(&seen, &stands)
    );
}

/// A unit of a machine of its own whose medium can be removed.
fn removable(target: &Target) -> String {
    target.landfall(&["machine", "add", "cd", "--disk", "name=raw,size=100MiB"]).ok();
    let source = Source::empty(target.folder(), "cd.raw", SIZE, 3);
    let disk = format!("raw={}", text(source.path()));
    target.landfall(&["replicate", "cd", "--once", "--disk", &disk]).ok();
    uri(&export(target, &["cd@latest", "--writable", "--removable"]), "")
}

#[test]
fn every_test_of_libiscsi_has_its_row() {
    let mut target = Target::start();
    // It writes so much in so short a time that a volume that is rather full would be full in a day.
    target.log().expect("the volume of the journal is full in");
    let add = ["machine", "add", "web", "--disk", "name=raw,size=100MiB"];
    target.landfall(&[&add[..], &["--disk", "name=vhdx,size=100MiB,format=vhdx"]].concat()).ok();
    let source = Source::empty(target.folder(), "empty.raw", SIZE, 3);
    let disks = [format!("raw={}", text(source.path())), format!("vhdx={}", text(source.path()))];
    let replicate = ["replicate", "web", "--once", "--disk", &disks[0], "--disk", &disks[1]];
    target.landfall(&replicate).ok();
    let writable = units(&export(&target, &["web@latest", "--writable"]), "");
    let [usual, larger] = writable.try_into().expect("a unit for each disk");
    // One of another machine: the tool is one initiator, which has one branch of a machine.
    let removable = removable(&target);
    let protected = uri(&export(&target, &["web@latest"]), "");
    let (rows, amiss) = rows(&Units { usual, larger, removable, protected });
    assert!(amiss.is_empty(), "{}", amiss.join("\n"));
    settle_page(&table(&rows));
    // Whatever was sent to it: it stops in good order, without a word of warning.
    target.stop();
}

#[test]
fn what_the_tool_says_is_understood() {
    let output = "    [SKIPPED] PERSISTENT RESERVE IN is not implemented.\n\n\
        Suite: Some\n  Test: Good ...passed\n  Test: Loud ...    [FAILED] on purpose\n    [WARNING] odd.\npassed\n  \
        Test: Left ...    [SKIPPED] LBPPB < 2. Skipping test\n    [SKIPPED] again\npassed    [SKIPPED] of the next suite\n\n\
        Suite: Other\n  Test: Good ...FAILED\n    1. file.c:1  - CU_FAIL    [SKIPPED] of the next suite\n  Test: Last ...\n";
    let named = |name: &str, outcome| (name.to_owned(), outcome);
    let why = "    1. file.c:1  - CU_FAIL    [SKIPPED] of the next suite";
    assert_eq!(
        outcomes(output),
        [
            named("Some.Good", Outcome::Passed),
            named("Some.Loud", Outcome::Passed),
            named("Some.Left", Outcome::Skipped("LBPPB < 2".into())),
            named("Other.Good", Outcome::Failed(why.into())),
            named("Other.Last", Outcome::Failed("it has no end".into())),
        ]
    );
}
