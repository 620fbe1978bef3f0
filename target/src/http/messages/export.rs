//! Exports.

use serde::{Deserialize, Serialize};

/// An export to be set up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportAdd {
    /// `MACHINE@WHEN` or `MACHINE~BRANCH`.
    pub(crate) name: String,
    /// Whether it can be written; makes a branch unless `name` is one.
    #[serde(default)]
    pub(crate) writable: bool,
    /// Name of the branch that is made.
    #[serde(default)]
    pub(crate) branch: Option<String>,
    /// Makes it a target of iSCSI, too.
    #[serde(default)]
    pub(crate) iscsi: Option<IscsiAdd>,
}

/// A target to be set up.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct IscsiAdd {
    /// Names of initiators that may have it; all, if none is named.
    pub(crate) initiators: Vec<String>,
    /// What they have to know.
    pub(crate) chap: Option<Account>,
    /// What the target answers with when it is asked to prove itself.
    pub(crate) mutual_chap: Option<Account>,
    /// Its disks are media that can be ejected.
    pub(crate) removable: bool,
}

/// A user of CHAP. Never an answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Account {
    /// Its name.
    pub(crate) user: String,
    /// Its secret.
    pub(crate) secret: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({})", self.user)
    }
}

/// Exports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Exports {
    /// By id.
    pub(crate) exports: Vec<Export>,
}

/// An export that was set up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Export {
    /// Its id.
    pub(crate) id: u32,
    /// What it shows.
    pub(crate) name: String,
    /// Whether it can be written.
    pub(crate) writable: bool,
    /// Where its disks are, one after the other.
    pub(crate) uris: Vec<String>,
    /// What it is over iSCSI, if it is.
    pub(crate) iscsi: Option<IscsiTarget>,
}

/// A target of iSCSI.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct IscsiTarget {
    /// Its name.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) portal: Option<String>,
    /// Its disks by their numbers, from 0 on.
    pub(crate) units: Vec<String>,
    /// Initiators that may have it; all, if none is named.
    pub(crate) initiators: Vec<String>,
    /// The user that initiators have to be.
    pub(crate) chap_user: Option<String>,
    /// The user that the target says to be.
    pub(crate) mutual_chap_user: Option<String>,
    /// Its disks are media that can be ejected.
    pub(crate) removable: bool,
}
