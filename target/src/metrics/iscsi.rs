//! Numbers of iSCSI.

use super::{Page, Written, float};
use landfall_protocols::iscsi::Counters;
use std::sync::atomic::Ordering::Relaxed;

pub(super) fn write(page: &Page, counters: &Counters) -> Written {
    for (name, help, count) in [
        ("connections", "iSCSI connections open now.", &counters.connections.open),
        ("sessions", "iSCSI sessions open now, discovery among them.", &counters.sessions_open),
        (
            "sessions_lingering",
            "iSCSI sessions that are gone and have commands which still run.",
            &counters.sessions_lingering,
        ),
    ] {
        page.gauge(&format!("landfall_iscsi_{name}"), help, float(count.load(Relaxed)))?;
    }
    page.totals(&[
        (
            "landfall_iscsi_connections_total",
            "iSCSI connections accepted.",
            &counters.connections.accepted,
        ),
        (
            "landfall_iscsi_connections_refused_total",
            "iSCSI logins refused because too many sessions were there, or had left commands that run.",
            &counters.connections.refused,
        ),
        (
            "landfall_iscsi_logins_failed_total",
            "iSCSI logins that led nowhere.",
            &counters.logins_failed,
        ),
        (
            "landfall_iscsi_authentications_failed_total",
            "iSCSI logins whose initiator did not prove who it is.",
            &counters.authentications_failed,
        ),
        (
            "landfall_iscsi_sessions_broken_total",
            "iSCSI sessions ended by a breach of the protocol, silence or a failed socket.",
            &counters.sessions_broken,
        ),
        (
            "landfall_iscsi_sessions_replaced_total",
            "iSCSI sessions that made way for another one of the same initiator.",
            &counters.sessions_replaced,
        ),
        ("landfall_iscsi_commands_total", "SCSI commands started.", &counters.commands),
        (
            "landfall_iscsi_commands_failed_total",
            "SCSI commands that ended with another status than GOOD.",
            &counters.commands_failed,
        ),
        (
            "landfall_iscsi_commands_aborted_total",
            "SCSI commands that initiators aborted, or reset, after they were started.",
            &counters.commands_aborted,
        ),
        (
            "landfall_iscsi_aborts_too_late_total",
            "Aborted SCSI commands of which some was done when the abort came: that is there.",
            &counters.aborts_too_late,
        ),
        (
            "landfall_iscsi_commands_dropped_total",
            "SCSI commands that were aborted because their session ended.",
            &counters.commands_dropped,
        ),
        ("landfall_iscsi_read_bytes_total", "Bytes that commands read.", &counters.bytes_read),
        (
            "landfall_iscsi_written_bytes_total",
            "Bytes that commands were given.",
            &counters.bytes_written,
        ),
    ])
}
