//! The record about exports that are targets of iSCSI.
//!
//! **Invariant:** secrets are in the manifest as they were given, since CHAP needs them (RFC 7143 section 9.2.1): the file is for its owner
//! only, and none of them is ever shown.

use super::format::{FrameError, Reader, Writer};
use super::record::ManifestRecord;
use super::state::{ManifestState, Misfit};
use crate::ids::ExportId;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

mod kind {
    pub(super) const ISCSI_SET: u16 = 88;
}

/// Most initiators that an access list names.
pub const MAX_INITIATORS: usize = 64;

/// What an export is over iSCSI, and to whom.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IscsiAccess {
    /// Names of initiators that may have it; all, if none is named.
    pub initiators: Vec<String>,
    /// What they have to know.
    pub chap: Option<ChapAccount>,
    /// What the target answers with when it is asked to prove itself.
    pub mutual: Option<ChapAccount>,
    /// Its disks are media that can be ejected.
    pub removable: bool,
}

/// A name and a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ChapAccount {
    /// `CHAP_N`.
    pub user: String,
    /// What both sides know.
    pub secret: Zeroizing<String>,
}

impl fmt::Debug for ChapAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChapAccount({})", self.user)
    }
}

impl ManifestRecord {
    /// Encodes the kinds of this module; `false` for any other.
    pub(super) fn encode_iscsi(&self, to: &mut Writer<'_>) -> bool {
        let Self::IscsiSet { export, access } = self else { return false };
        to.u16(kind::ISCSI_SET);
        to.u32(export.number());
        to.u8(u8::from(access.removable));
        to.u16(u16::try_from(access.initiators.len()).expect("at most 64"));
        access.initiators.iter().for_each(|initiator| to.text(initiator));
        for account in [&access.chap, &access.mutual] {
            to.u8(u8::from(account.is_some()));
            if let Some(ChapAccount { user, secret }) = account {
                to.text(user);
                to.text(secret);
            }
        }
        true
    }

    /// Decodes the kinds of this module.
    pub(super) fn decode_iscsi(kind: u16, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        if kind != kind::ISCSI_SET {
            return Self::decode_aborts(kind);
        }
        let export = ExportId::new(from.u32()?);
        let removable = flag(from.u8()?)?;
        let count = usize::from(from.u16()?);
        if count > MAX_INITIATORS {
            return Err(FrameError::Field("number of initiators"));
        }
        let mut access = IscsiAccess { removable, ..IscsiAccess::default() };
        for _ in 0..count {
            access.initiators.push(from.text()?.to_owned());
        }
        for account in [&mut access.chap, &mut access.mutual] {
            if flag(from.u8()?)? {
                let user = from.text()?.to_owned();
                let secret = Zeroizing::new(from.text()?.to_owned());
                *account = Some(ChapAccount { user, secret });
            }
        }
        Ok(Self::IscsiSet { export, access: Arc::new(access) })
    }
}

fn flag(byte: u8) -> Result<bool, FrameError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(FrameError::Field("flag of iSCSI")),
    }
}

impl ManifestState {
    /// Applies the kinds of this module; `false` for any other.
    pub(super) fn apply_iscsi(&mut self, record: &ManifestRecord) -> Result<bool, Misfit> {
        let ManifestRecord::IscsiSet { export, access } = record else { return Ok(false) };
        let entry = self.exports.get_mut(export);
        let entry = entry.ok_or_else(|| Misfit::missing("IscsiSet", export))?;
        entry.iscsi = Some(Arc::clone(access));
        Ok(true)
    }

    /// Records of what this module adds to a state. Come behind those of exports.
    pub(super) fn iscsi_records(&self, into: &mut Vec<ManifestRecord>) {
        into.extend(self.exports.values().filter_map(|export| {
            let access = Arc::clone(export.iscsi.as_ref()?);
            Some(ManifestRecord::IscsiSet { export: export.id, access })
        }));
    }
}
