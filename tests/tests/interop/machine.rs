//! A target with one machine, `web`, whose disk `os` is fed from an image file.

use landfall_tests::harness::{MIB, Source, Target, run};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A point, and the copy of the source that was kept when it was made.
pub(crate) struct Kept {
    pub(crate) time: String,
    pub(crate) sequence: u64,
    pub(crate) copy: PathBuf,
}

/// The machine and its history.
pub(crate) struct Web {
    pub(crate) target: Target,
    pub(crate) source: Source,
    pub(crate) kept: Vec<Kept>,
}

pub(crate) const SIZE: u64 = 24 * MIB;

impl Web {
    /// A machine without points.
    pub(crate) fn empty() -> Self {
        Self::on(Target::start())
    }

    /// The same on a target of one's own.
    pub(crate) fn on(target: Target) -> Self {
        let source = Source::create(target.folder(), "web.raw", SIZE, 7);
        let disk = format!("name=os,size={SIZE}");
        target.landfall(&["machine", "add", "web", "--disk", &disk]).ok();
        Self { target, source, kept: Vec::new() }
    }

    /// A machine with `points` points, each after some changes.
    pub(crate) fn with_points(points: usize) -> Self {
        let mut web = Self::empty();
        web.point();
        for _ in 1..points {
            web.source.change(12);
            web.point();
        }
        web
    }

    /// One pass, which makes a point; keeps a copy of what it has to hold.
    #[track_caller]
    pub(crate) fn point(&mut self) {
        let disk = self.source.as_disk("os");
        let said = self.target.landfall(&["replicate", "web", "--disk", &disk, "--once"]).ok();
        assert!(said.contains("web: crash point "), "{said}");
        let points = points(&self.target, "web");
        assert_eq!(points.len(), self.kept.len() + 1, "one point per pass");
        let newest = points.last().expect("just made");
        let text = |name: &str| newest[name].as_str().expect("text").to_owned();
        let (time, sequence) = (text("time"), newest["sequence"].as_u64().expect("a number"));
        assert!(said.contains(&format!("crash point {time} seq {sequence}:")), "{said}");
        let copy = self.target.folder().join(format!("copy-{sequence}.raw"));
        self.source.keep(&copy);
        self.kept.push(Kept { time, sequence, copy });
    }

    /// `web/os@` and the time of a point.
    pub(crate) fn by_time(&self, index: usize) -> String {
        format!("web/os@{}", self.kept[index].time)
    }
}

/// The points of a machine, as `--json` has them.
#[track_caller]
pub(crate) fn points(target: &Target, name: &str) -> Vec<Value> {
    let listed = target.json(&["point", "list", name, "--json"]);
    listed["points"].as_array().expect("a list").clone()
}

/// `qemu-img compare` of a raw file and something over NBD.
#[track_caller]
pub(crate) fn same(copy: &Path, uri: &str) {
    let said = run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(copy), uri]);
    assert!(said.contains("Images are identical."), "{uri}: {said}");
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the tests is text")
}
