//! Errors of the control API: which status a refusal has, and its words.
//!
//! What a caller did wrong is answered and not logged; what failed here is both.

use super::messages::Problem as Body;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use landfall_disks::DiskError;
use landfall_disks::file::FileError;
use landfall_disks::image::ImageError;
use landfall_disks::uring::CoreStopped;
use landfall_retention::groups::GroupError;
use landfall_retention::manifest::ManifestError;
use landfall_retention::name::NameError;
use landfall_retention::{AppendError, ChangeError, ResolveError};

/// Why a request was not done.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    text: String,
}

impl Problem {
    /// The request makes no sense.
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: text.into() }
    }

    /// What is asked for is not there.
    pub(super) fn unknown(text: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, text: text.into() }
    }

    /// The present state forbids it.
    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, text: text.into() }
    }

    /// Something here failed.
    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, text: text.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::error!(status = self.status.as_u16(), "control request: {}", self.text);
        }
        (self.status, Json(Body { error: self.text })).into_response()
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Index(error) => Self::failed(error.to_string()),
            ResolveError::NotIndexed { .. } => Self::conflict(error.to_string()),
            other => Self::unknown(other.to_string()),
        }
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let text = error.to_string();
        match error {
            ChangeError::Resolve(error) => error.into(),
            ChangeError::Exists { .. }
            | ChangeError::ImageTaken { .. }
            | ChangeError::InUse { .. }
            | ChangeError::LastDisk { .. }
            | ChangeError::RemovedDisk { .. }
            | ChangeError::Locked { .. }
            | ChangeError::NotPromotable { .. }
            | ChangeError::InPass { .. } => Self::conflict(text),
            ChangeError::DiskCount(_)
            | ChangeError::Size { .. }
            | ChangeError::Shrink { .. }
            | ChangeError::TooLong { .. }
            | ChangeError::LockInThePast { .. }
            | ChangeError::NotWritable(_) => Self::bad(text),
            ChangeError::Manifest(ManifestError::Overtaken(_)) => Self::conflict(text),
            ChangeError::UnknownExport(_) => {
                Self::unknown(format!("{text}; see `landfall export list`"))
            }
            ChangeError::Image { source, .. } => of_image(&text, &source),
            ChangeError::Append(error) => of_append(&error),
            ChangeError::Ingest(error) => (*error).into(),
            _ => Self::failed(text),
        }
    }
}

/// What became of an image, in `text`; what is wrong with a file that somebody names is theirs to put right.
pub(super) fn of_image(text: &str, source: &ImageError) -> Problem {
    match source {
        ImageError::File(error) | ImageError::Disk(DiskError::File(error)) => match error {
            FileError::Exists { .. } => Problem::conflict(format!(
                "{text}; an earlier machine may have left it: remove the file, or adopt it with path=FILE"
            )),
            FileError::Locked { .. } => Problem::conflict(text),
            _ => Problem::failed(text),
        },
        ImageError::Disk(DiskError::WrongSize { .. }) => {
            Problem::bad(format!("{text}; a file is adopted with the size it has"))
        }
        ImageError::Disk(DiskError::InvalidSize { .. })
        | ImageError::Malformed { .. }
        | ImageError::Unsupported { .. }
        | ImageError::CannotCreate { .. }
        | ImageError::Refused { .. }
        | ImageError::Missing { .. }
        | ImageError::ParentMismatch { .. }
        | ImageError::ChainLoop { .. }
        | ImageError::ChainTooLong { .. } => Problem::bad(text),
        _ => Problem::failed(text),
    }
}

pub(super) fn of_append(error: &AppendError) -> Problem {
    let status = match error {
        AppendError::JournalFull { .. } | AppendError::QuotaUsedUp(_) => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        AppendError::LineGone | AppendError::Promoted | AppendError::Sealed(_) => {
            StatusCode::CONFLICT
        }
        AppendError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem { status, text: error.to_string() }
}

impl From<GroupError> for Problem {
    fn from(error: GroupError) -> Self {
        let text = error.to_string();
        match error {
            GroupError::Resolve(error) => error.into(),
            GroupError::Change(error) => error.into(),
            GroupError::Unknown { .. }
            | GroupError::NoPoints { .. }
            | GroupError::NoSuchPoint { .. } => Self::unknown(text),
            GroupError::Barriers
            | GroupError::Fuzzy
            | GroupError::FuzzyMoment { .. }
            | GroupError::NotAMachine { .. }
            | GroupError::NotEachOnce { .. } => Self::bad(text),
            GroupError::Manifest(ManifestError::Overtaken(_))
            | GroupError::HasMachines { .. }
            | GroupError::InGroup { .. }
            | GroupError::NotInGroup { .. }
            | GroupError::TooMany { .. }
            | GroupError::Alone { .. }
            | GroupError::BarrierUnderWay { .. }
            | GroupError::Late { .. } => Self::conflict(text),
            _ => Self::failed(text),
        }
    }
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<CoreStopped> for Problem {
    fn from(_: CoreStopped) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            text: "the target is being stopped".to_owned(),
        }
    }
}
