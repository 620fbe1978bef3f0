//! Exports that are targets of iSCSI.

use super::stays;
use landfall_retention::ids::ExportId;
use landfall_retention::manifest::iscsi::{ChapAccount, IscsiAccess};
use landfall_retention::manifest::record::ManifestRecord;
use std::sync::Arc;

const FIXTURE: &str = include_str!("../../../tests/fixtures/manifest-v1-iscsi.hex");

fn account(user: &str, secret: &str) -> Option<ChapAccount> {
    Some(ChapAccount { user: user.into(), secret: secret.to_owned().into() })
}

#[test]
fn records_of_iscsi_are_read_and_written_as_ever() {
    let set = |export, access| ManifestRecord::IscsiSet {
        export: ExportId::new(export),
        access: Arc::new(access),
    };
    let guarded = IscsiAccess {
        initiators: ["a", "b"].map(|name| format!("iqn.2026-11.example:{name}")).to_vec(),
        chap: account("host", "secret-of-the-host"),
        mutual: account("landfall", "secret-of-ours"),
        removable: true,
    };
    stays(&[set(7, IscsiAccess::default()), set(9, guarded)], FIXTURE);
}
