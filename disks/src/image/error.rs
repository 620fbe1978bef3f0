//! What is wrong with an image, and where.
//!
//! Images come from outside, so everything in them is checked before it is believed. What fails a check is reported as
//! [`Malformed`]: structure, offset, field, value, and what would have been right. A person with a hex editor finds it.

use crate::disk::DiskError;
use crate::file::FileError;
use std::borrow::Cow;
use std::path::PathBuf;

/// A structure of an image that breaks the rules of its format.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{structure} at {offset}: {field} is {value}; expected {expected}")]
pub struct Malformed {
    /// What is broken, in the words of the format's specification.
    pub structure: &'static str,
    /// Where it starts in its file, in bytes.
    pub offset: u64,
    /// Which field of it.
    pub field: &'static str,
    /// What was found.
    pub value: String,
    /// What would be right.
    pub expected: Cow<'static, str>,
}

/// Why an image cannot be opened, made, checked or repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The content breaks the format's rules.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: Malformed,
    },
    /// Sound, but of a kind that is not supported here.
    #[error("{path}: {what}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported, and why.
        what: String,
    },
    /// Cannot be made as asked.
    #[error("{path}: cannot be created: {why}")]
    CannotCreate {
        /// The file.
        path: PathBuf,
        /// Which wish is impossible in the format.
        why: String,
    },
    /// The image names another file that it may not have.
    #[error("{path}: refers to {reference:?}, which is refused: {why}")]
    Refused {
        /// The file that refers to it.
        path: PathBuf,
        /// The text of the reference.
        reference: String,
        /// Which rule of the gate.
        why: Cow<'static, str>,
    },
    /// The image names another file that is not there.
    #[error("{path}: refers to {reference:?}, which is not found; looked for {}", list(tried))]
    Missing {
        /// The file that refers to it.
        path: PathBuf,
        /// The text of the reference.
        reference: String,
        /// Where it was looked for.
        tried: Vec<PathBuf>,
    },
    /// The parent is not the one that the child was made of, or it was changed since.
    #[error("{path}: was made of a parent with {kind} {expected}, but {parent} has {found}")]
    ParentMismatch {
        /// The child.
        path: PathBuf,
        /// The parent that was found.
        parent: PathBuf,
        /// What identifies parents in this format.
        kind: &'static str,
        /// The parent's identity according to the child.
        expected: String,
        /// The parent's identity.
        found: String,
    },
    /// A chain of parents that leads back to itself.
    #[error("{path}: the chain of its parents comes back to {again}")]
    ChainLoop {
        /// The image that was opened.
        path: PathBuf,
        /// The file that comes twice.
        again: PathBuf,
    },
    /// A chain of parents that is longer than any that is made on purpose.
    #[error("{path}: has more than {limit} parents")]
    ChainTooLong {
        /// The image that was opened.
        path: PathBuf,
        /// Most parents that are followed.
        limit: usize,
    },
    /// A file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl ImageError {
    /// Says in which file `problem` is.
    pub fn malformed(path: impl Into<PathBuf>, problem: Malformed) -> Self {
        Self::Malformed { path: path.into(), problem }
    }

    /// A kind of image that is not supported, or not for what was asked.
    pub fn unsupported(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), what: what.into() }
    }

    /// A wish that the format cannot fulfil.
    pub fn cannot_create(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Self::CannotCreate { path: path.into(), why: why.into() }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
