//! What a check of an image found.

use super::error::Malformed;
use std::path::PathBuf;

/// Most findings that are listed; more are counted.
pub const MAX_FINDINGS: usize = 100;

/// What can be done about a finding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// Nothing: content is lost, or nobody can tell what is right.
    Impossible,
    /// A repair puts it right without loss.
    Possible,
    /// It was put right.
    Done,
}

/// Something that is wrong with an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// In which file.
    pub file: PathBuf,
    /// What, and where.
    pub problem: Malformed,
    /// What can be done about it.
    pub repair: Repair,
}

/// The result of a check.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Report {
    /// Blocks of the disk.
    pub blocks: u64,
    /// Blocks that have space in the image.
    pub placed: u64,
    /// Bytes of the files that nothing uses.
    pub unused_bytes: u64,
    /// The first [`MAX_FINDINGS`] things that are wrong.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more: u64,
}

impl Report {
    /// Notes something that is wrong.
    pub fn add(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }

    /// Whether nothing is wrong, or not any more.
    pub fn is_clean(&self) -> bool {
        self.more == 0 && self.findings.iter().all(|finding| finding.repair == Repair::Done)
    }
}
