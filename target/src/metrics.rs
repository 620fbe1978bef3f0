//! `/metrics`: what the parts count and hold, named by Prometheus' rules, read anew for every scrape.
//!
//! Base units (seconds, bytes); counters end in `_total` and start at zero with the process. The parts count for
//! themselves and know nothing of Prometheus: a scrape reads them into a fresh registry, so nothing can go stale.
//! Labels are names of machines and fixed words, never what a peer sent.

mod groups;
mod integrity;
mod iscsi;
mod read_cache;
mod standby;

use crate::exports::ServingCounters;
use crate::service::{CheckpointCounters, FoldingCounters, Target, TrunkFolding};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use landfall_protocols::delta;
use landfall_protocols::nbd;
use landfall_retention::time::{Clock, SystemClock, Timestamp};
use landfall_retention::{DiskState, Holder, JournalStatus, KeyState, MachineStatus, StreamState};
use prometheus::{CounterVec, GaugeVec, Opts, Registry, TextEncoder};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// `/metrics` and `/healthz`.
pub(crate) fn router(target: Arc<Target>) -> Router {
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(health)).with_state(target)
}

async fn metrics(State(target): State<Arc<Target>>) -> Response {
    match scrape(&target).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
            .into_response(),
        Err(error) => {
            tracing::error!("metrics: {error:#}");
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics failed; see the log\n").into_response()
        }
    }
}

/// Whether the target can do its work: its cores answer, its journal can be looked at, and no lane of it has failed.
async fn health(State(target): State<Arc<Target>>) -> Response {
    match target.journal().await {
        Ok(journal) => match journal.lanes.iter().find_map(|lane| lane.failed.as_ref()) {
            None => (StatusCode::OK, "ok\n").into_response(),
            Some(reason) => {
                let text = format!("the journal refuses writes until a restart: {reason}\n");
                (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
            }
        },
        Err(error) => {
            tracing::error!("health: {error:#}");
            (StatusCode::SERVICE_UNAVAILABLE, "the journal cannot be read\n").into_response()
        }
    }
}

async fn scrape(target: &Target) -> anyhow::Result<String> {
    let journal = target.journal().await?;
    let page = Page::default();
    process(&page, target)?;
    machines(&page, &target.retention.machines())?;
    policies(&page, target)?;
    integrity::write(&page, target)?;
    standby::write(&page, target)?;
    read_cache::write(&page, target)?;
    groups::write(&page, target)?;
    folding(&page, &target.folding.counters(), target.folding.share())?;
    histories(&page, &machine_histories(target))?;
    if let Some(lasts) = target.folding.volume_lasts(journal.free_bytes) {
        let help = "When the volume of the journal is full at the rate of the last hour.";
        page.gauge("landfall_journal_full_seconds", help, lasts.as_secs_f64())?;
    }
    journal_numbers(&page, &journal)?;
    index_checkpoints(&page, target.checkpointer.counters())?;
    let help = "Segments of the journal that the index has still to be built from; 0 when it has them all.";
    page.gauge("landfall_index_segments_left", help, segments_left(target))?;
    data_keys(&page, target)?;
    if let Some(server) = &target.delta {
        delta_numbers(&page, &server.counters())?;
    }
    nbd_numbers(&page, target.nbd.counters(), &target.nbd_serving)?;
    iscsi::write(&page, target.portal.service().counters())?;
    Ok(TextEncoder::new().encode_to_string(&page.registry.gather())?)
}

/// A page in the making.
#[derive(Default)]
struct Page {
    registry: Registry,
}

type Written = Result<(), prometheus::Error>;

impl Page {
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        let family = GaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<CounterVec> {
        let family = CounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn gauge(&self, name: &str, help: &str, value: f64) -> Written {
        self.gauges(name, help, &[])?.with_label_values::<&str>(&[]).set(value);
        Ok(())
    }

    fn counter(&self, name: &str, help: &str, value: u64) -> Written {
        self.counters(name, help, &[])?.with_label_values::<&str>(&[]).inc_by(float(value));
        Ok(())
    }

    /// Counters of a service, by name and help.
    fn totals(&self, totals: &[(&str, &str, &AtomicU64)]) -> Written {
        totals
            .iter()
            .try_for_each(|(name, help, value)| self.counter(name, help, value.load(Relaxed)))
    }
}

/// Prometheus knows only floats; above 2^53 the last digits are lost, which a rate does not notice.
#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn float(value: u64) -> f64 {
    value as f64
}

fn data_keys(page: &Page, target: &Target) -> Written {
    let help = "Data keys that histories are sealed by, by what can be done with them.";
    let family = page.gauges("landfall_data_keys", help, &["state"])?;
    let keys = target.retention.list_keys(None).unwrap_or_default();
    for key in &keys {
        let state = match key.state {
            KeyState::Writing(_) => "writing",
            KeyState::Reading(_) => "reading",
            KeyState::Locked(_) => "locked",
            KeyState::Damaged(_) => "damaged",
            KeyState::Destroyed(_) => "destroyed",
        };
        family.with_label_values(&[state]).inc();
    }
    Ok(())
}

fn process(page: &Page, target: &Target) -> Written {
    let build = "Version of the target; always 1.";
    page.gauges("landfall_build_info", build, &["version"])?
        .with_label_values(&[env!("CARGO_PKG_VERSION")])
        .set(1.0);
    let uptime = target.started.elapsed().as_secs_f64();
    page.gauge("landfall_uptime_seconds", "Time since the target started.", uptime)?;
    page.gauge(
        "landfall_exports",
        "Exports that were set up by hand.",
        float(target.retention.exports().len() as u64),
    )?;
    page.counter(
        "landfall_recovery_records_replayed_total",
        "Records of the journal that the last start had to index again.",
        target.report.records_replayed,
    )?;
    page.gauge(
        "landfall_journal_damage",
        "Damaged places of the journal found by the last start, or while the index was built since.",
        float((target.report.damage.len() + target.retention.index_status().damage.len()) as u64),
    )
}

fn machines(page: &Page, machines: &[MachineStatus]) -> Written {
    let count = float(machines.len() as u64);
    page.gauge("landfall_machines", "Machines that are protected.", count)?;
    let label = &["machine"];
    let points = page.gauges("landfall_points", "Points of the trunk of a machine.", label)?;
    let age = page.gauges(
        "landfall_newest_point_age_seconds",
        "Age of the newest consistent moment: what would be lost now (RPO); 0 while a source delivers \
         in order. Absent without one.",
        label,
    )?;
    let app_age = page.gauges(
        "landfall_newest_app_point_age_seconds",
        "Age of the newest app point. Absent without one.",
        label,
    )?;
    let branches = page.gauges("landfall_branches", "Branches of a machine.", label)?;
    let streams =
        page.gauges("landfall_stream_open", "1 while a stream feeds a machine.", label)?;
    let states = page.gauges(
        "landfall_stream_state",
        "1 for what the stream of a machine is at: seed, resync, catchup or ordered.",
        &["machine", "state"],
    )?;
    let sizes = page.gauges("landfall_disk_size_bytes", "Size of a disk.", &["machine", "disk"])?;
    let lost = page.gauges(
        "landfall_image_lost",
        "1 if the image of a disk is lost and the disk needs a resync.",
        &["machine", "disk"],
    )?;
    let now = SystemClock.now();
    for machine in machines {
        let name = &[machine.name.as_str()];
        points.with_label_values(name).set(float(machine.points as u64));
        branches.with_label_values(name).set(float(machine.branches.len() as u64));
        streams.with_label_values(name).set(if machine.stream.is_some() { 1.0 } else { 0.0 });
        if let Some(newest) = machine.newest_moment {
            let lost = if machine.is_fed_in_order() { Duration::ZERO } else { now.since(newest) };
            age.with_label_values(name).set(lost.as_secs_f64());
        }
        for state in StreamState::ALL {
            let is_at = machine.stream_state.is_some_and(|change| change.state == state);
            let value = if is_at { 1.0 } else { 0.0 };
            states.with_label_values(&[machine.name.as_str(), state.word()]).set(value);
        }
        if let Some(newest) = &machine.newest_app {
            app_age.with_label_values(name).set(now.since(newest.commit_time).as_secs_f64());
        }
        for disk in &machine.disks {
            let names = &[machine.name.as_str(), disk.name.as_str()];
            sizes.with_label_values(names).set(float(disk.size_bytes));
            let is_lost = matches!(disk.state, DiskState::NeedsResync(_));
            lost.with_label_values(names).set(if is_lost { 1.0 } else { 0.0 });
        }
    }
    Ok(())
}

fn policies(page: &Page, target: &Target) -> Written {
    let counters = target.thinner.counters();
    let totals = [
        ("landfall_thinning_passes_total", "Times policies were applied.", counters.passes),
        ("landfall_thinning_failures_total", "Times that failed.", counters.failures),
        ("landfall_points_dropped_total", "Points dropped by policies.", counters.dropped),
    ];
    for (name, help, value) in totals {
        page.counter(name, help, value)?;
    }
    page.gauge(
        "landfall_clock_alarm",
        "1 while the clock is not trusted: nothing is dropped and no lock ends.",
        f64::from(u8::from(target.retention.clock_alarm().is_some())),
    )?;
    page.gauge(
        "landfall_rpo_threshold_seconds",
        "Age of the newest point above which status warns.",
        target.config.policy.rpo.as_secs_f64(),
    )
}

fn folding(page: &Page, counters: &FoldingCounters, share: f64) -> Written {
    let totals = [
        ("landfall_folds_total", "Folds that ended well.", counters.folds),
        ("landfall_fold_failures_total", "Folds that failed.", counters.failures),
        ("landfall_folded_bytes_total", "Bytes of data moved into images.", counters.data_bytes),
        ("landfall_folded_zero_bytes_total", "Bytes of images made zero.", counters.zero_bytes),
        (
            "landfall_released_segments_total",
            "Files of the journal that are gone because nobody needs them.",
            counters.released_segments,
        ),
        ("landfall_released_bytes_total", "Bytes of those.", counters.released_bytes),
        (
            "landfall_compacted_segments_total",
            "Segments that were needed in part and are gone.",
            counters.compacted_segments,
        ),
        ("landfall_compacted_bytes_total", "Bytes of those.", counters.compacted_bytes),
        (
            "landfall_compaction_moved_bytes_total",
            "Bytes written anew for what was needed of them.",
            counters.moved_bytes,
        ),
        (
            "landfall_release_failures_total",
            "Looks for files that nobody needs that failed.",
            counters.forget_failures,
        ),
    ];
    for (name, help, value) in totals {
        page.counter(name, help, value)?;
    }
    let help = "Share of the time that folds may work, by what they cost acknowledgements.";
    page.gauge("landfall_fold_share", help, share)
}

/// Of each machine: its oldest point, where history begins, and what is known of its folds.
type Histories = Vec<(String, Option<Timestamp>, TrunkFolding)>;

fn machine_histories(target: &Target) -> Histories {
    let machines = target.retention.machines().into_iter();
    let of = |machine: MachineStatus| {
        let trunk = target.retention.trunk(&machine.name).ok()?;
        let oldest = machine.oldest.map(|oldest| oldest.commit_time);
        Some((machine.name.to_string(), oldest, target.folding.of(trunk)))
    };
    machines.filter_map(of).collect()
}

fn histories(page: &Page, histories: &Histories) -> Written {
    let label = &["machine"];
    let gauge = |name, help| page.gauges(name, help, label);
    let oldest = gauge(
        "landfall_oldest_point_timestamp_seconds",
        "When the oldest point was committed, Unix time. Absent without one.",
    )?;
    let held_for = gauge(
        "landfall_history_held_seconds",
        "How much longer history is kept than its policy wants, because somebody holds it.",
    )?;
    let failing = gauge("landfall_fold_failing", "1 while the last fold of a machine failed.")?;
    let took = gauge(
        "landfall_fold_last_duration_seconds",
        "How long the last fold took, rests included. Absent before the first one since the start.",
    )?;
    let help = "Who holds moments that the policy of a machine does not keep, by reason.";
    let holders = page.gauges("landfall_history_holders", help, &["machine", "reason"])?;
    let used = gauge(
        "landfall_history_bytes",
        "Bytes of the journal that the history of a machine needs, branches included.",
    )?;
    let quota = gauge("landfall_quota_bytes", "Its quota. Absent without one.")?;
    let held = gauge(
        "landfall_quota_held",
        "1 while nothing more is taken of a machine because its quota is used up.",
    )?;
    let full_in = gauge(
        "landfall_quota_full_seconds",
        "When the quota is used up at the rate of the last hour. Absent without one, or a rate.",
    )?;
    let shrinks = gauge(
        "landfall_history_shrinks",
        "1 while the quota is used up within a day, and history then shorter than its policy wants.",
    )?;
    for (machine, first, known) in histories {
        let name = &[machine.as_str()];
        if let Some(first) = first {
            let since_epoch = first.since(Timestamp::default()).as_secs_f64();
            oldest.with_label_values(name).set(since_epoch);
        }
        held_for.with_label_values(name).set(known.held_for.as_secs_f64());
        if let Some(space) = &known.space {
            used.with_label_values(name).set(float(space.used_bytes));
            held.with_label_values(name).set(f64::from(u8::from(space.held.is_some())));
            if let Some(of) = space.policy.space() {
                quota.with_label_values(name).set(float(of.bytes));
            }
            if let Some(lasts) = space.left_bytes().and_then(|left| known.growth.lasts(left)) {
                full_in.with_label_values(name).set(lasts.as_secs_f64());
            }
        }
        shrinks.with_label_values(name).set(f64::from(u8::from(known.shrinks.is_some())));
        let fails = known.failure.is_some() || known.stalled;
        failing.with_label_values(name).set(f64::from(u8::from(fails)));
        if let Some(last) = known.last_took {
            took.with_label_values(name).set(last.as_secs_f64());
        }
        for holder in &known.held_by {
            holders.with_label_values(&[machine.as_str(), reason(holder)]).inc();
        }
    }
    Ok(())
}

fn reason(holder: &Holder) -> &'static str {
    match holder {
        Holder::Pin(_) => "pin",
        Holder::Lock { .. } => "lock",
        Holder::Branch { .. } => "branch",
        Holder::Export { .. } => "export",
        Holder::Reader(_) => "reader",
        _ => "other",
    }
}

fn segments_left(target: &Target) -> f64 {
    u32::try_from(target.retention.index_status().left).map_or(f64::INFINITY, f64::from)
}

fn index_checkpoints(page: &Page, counters: CheckpointCounters) -> Written {
    let CheckpointCounters { made, failures, age, restored } = counters;
    let help = "Checkpoints of the index that were made.";
    page.counter("landfall_index_checkpoints_total", help, made)?;
    let help = "Checkpoints of the index that could not be made.";
    page.counter("landfall_index_checkpoint_failures_total", help, failures)?;
    let help = "1 if a checkpoint took the place of a lost or damaged index at the last start.";
    page.gauge("landfall_index_restored", help, f64::from(u8::from(restored)))?;
    if let Some(age) = age {
        let help = "Age of the newest checkpoint of the index. Absent before the first.";
        page.gauge("landfall_index_checkpoint_age_seconds", help, age.as_secs_f64())?;
    }
    Ok(())
}

fn journal_numbers(page: &Page, journal: &JournalStatus) -> Written {
    let gauges = [
        ("landfall_journal_segments", "Files of the journal.", journal.segments as u64),
        ("landfall_journal_size_bytes", "Bytes of the journal's files.", journal.segment_bytes),
        (
            "landfall_journal_free_bytes",
            "Bytes free on the file system of the journal.",
            journal.free_bytes,
        ),
        ("landfall_index_size_bytes", "Bytes of the index.", journal.index_bytes),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help, float(value))?;
    }
    let family = |name, help| page.counters(name, help, &["lane"]);
    let records = family("landfall_lane_records_total", "Records appended to a lane.")?;
    let aborts = family(
        "landfall_lane_aborts_total",
        "Records appended to a lane that make void what clients aborted while it was being written.",
    )?;
    let flushes = family("landfall_lane_flushes_total", "Groups of records made durable.")?;
    let bytes = family("landfall_lane_written_bytes_total", "Bytes appended to a lane.")?;
    let full = family(
        "landfall_lane_refused_full_total",
        "Batches refused because there was no space for the journal.",
    )?;
    let failed = page.gauges(
        "landfall_lane_failed",
        "1 while a lane refuses all writes, which it does from a failed write or flush to a restart.",
        &["lane"],
    )?;
    for (number, lane) in journal.lanes.iter().enumerate() {
        let label = &[number.to_string()];
        records.with_label_values(label).inc_by(float(lane.records));
        aborts.with_label_values(label).inc_by(float(lane.aborts));
        flushes.with_label_values(label).inc_by(float(lane.flushes));
        bytes.with_label_values(label).inc_by(float(lane.bytes));
        full.with_label_values(label).inc_by(float(lane.refused_full));
        failed.with_label_values(label).set(f64::from(u8::from(lane.failed.is_some())));
    }
    Ok(())
}

fn delta_numbers(page: &Page, values: &delta::CounterValues) -> Written {
    let gauges = [
        ("landfall_delta_connections", "Delta connections open now.", values.connections_open),
        ("landfall_delta_streams", "Streams past their handshake now.", values.streams_open),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help, float(value))?;
    }
    let counters = [
        ("connections", "Delta connections accepted.", values.connections_accepted),
        ("tls_failures", "Connections without an accepted certificate.", values.tls_failures),
        ("connections_lost", "Streams that broke without a farewell.", values.connections_lost),
        ("takeovers", "Connections replaced by a newer one of their stream.", values.takeovers),
        ("batches", "Batches applied.", values.batches),
        ("replayed", "Batches and marks acknowledged again, not applied again.", values.replayed),
        ("wire_bytes", "Bytes of batches as received.", values.wire_bytes),
        ("content_bytes", "Bytes of content in batches, decompressed.", values.plain_bytes),
        ("zero_bytes", "Bytes that batches zeroed.", values.zero_bytes),
        ("marks", "Marks that became points.", values.marks),
        ("hash_blocks", "Blocks answered in hash exchanges.", values.hash_blocks),
    ];
    for (name, help, value) in counters {
        page.counter(&format!("landfall_delta_{name}_total"), help, value)?;
    }
    let help = "Streams refused, by the rule they broke.";
    let refused = page.counters("landfall_delta_refused_total", help, &["code"])?;
    for (code, count) in &values.refused {
        refused.with_label_values(&[code.as_str()]).inc_by(float(*count));
    }
    Ok(())
}

fn nbd_numbers(page: &Page, counters: &nbd::Counters, serving: &ServingCounters) -> Written {
    let open = float(counters.connections.open.load(Relaxed));
    page.gauge("landfall_nbd_connections", "NBD connections open now.", open)?;
    let totals = [
        ("connections", "NBD connections accepted.", &counters.connections.accepted),
        (
            "connections_refused",
            "NBD connections closed at once because too many were open.",
            &counters.connections.refused,
        ),
        (
            "handshakes_failed",
            "NBD connections that ended while negotiating.",
            &counters.handshakes_failed,
        ),
        (
            "connections_broken",
            "NBD connections ended by a breach of the protocol or a failed socket.",
            &counters.connections_broken,
        ),
        ("read_bytes", "Bytes of disk content sent to NBD clients.", &counters.bytes_read),
        ("written_bytes", "Bytes of disk content stored for NBD clients.", &counters.bytes_written),
    ];
    for (name, help, counter) in totals {
        page.counter(&format!("landfall_nbd_{name}_total"), help, counter.load(Relaxed))?;
    }
    let help = "Time that NBD requests have waited because of [nbd.limit], all added up.";
    let waited = Duration::from_nanos(serving.waited.load(Relaxed)).as_secs_f64();
    let name = "landfall_nbd_limit_wait_seconds_total";
    page.counters(name, help, &[])?.with_label_values::<&str>(&[]).inc_by(waited);
    let help =
        "Reads of booting machines that were in memory, since an earlier boot had read them.";
    page.counter("landfall_nbd_boot_reads_total", help, serving.boot_reads.load(Relaxed))?;
    let help = "NBD requests answered, by kind and how they ended.";
    let requests = page.counters("landfall_nbd_requests_total", help, &["command", "outcome"])?;
    for reading in counters.commands() {
        let done = reading.requests.saturating_sub(reading.refused + reading.failed);
        for (outcome, count) in
            [("done", done), ("refused", reading.refused), ("failed", reading.failed)]
        {
            requests.with_label_values(&[reading.command, outcome]).inc_by(float(count));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_retention::LaneStatus;
    use landfall_retention::ids::Sequence;

    #[test]
    fn every_number_has_a_name_and_a_unit() {
        let page = Page::default();
        let lane = LaneStatus { records: 3, flushes: 2, bytes: 4096, ..LaneStatus::default() };
        let journal = JournalStatus {
            segments: 1,
            segment_bytes: 64 << 20,
            free_bytes: 1 << 30,
            index_bytes: 7,
            lanes: vec![lane],
        };
        journal_numbers(&page, &journal).unwrap();
        folding(&page, &FoldingCounters { folds: 2, ..FoldingCounters::default() }, 0.5).unwrap();
        let held_by = vec![Holder::Pin(Sequence::new(3)), Holder::Pin(Sequence::new(4))];
        let held = TrunkFolding { held_by, ..TrunkFolding::default() };
        histories(&page, &vec![("web".into(), Some(Timestamp::from_nanoseconds(0)), held)])
            .unwrap();
        delta_numbers(&page, &delta::Counters::default().read()).unwrap();
        let serving = ServingCounters::default();
        serving.waited.store(1_500_000_000, Relaxed);
        nbd_numbers(&page, &nbd::Counters::default(), &serving).unwrap();
        let text = TextEncoder::new().encode_to_string(&page.registry.gather()).unwrap();
        for line in [
            "landfall_journal_free_bytes 1073741824",
            "landfall_lane_records_total{lane=\"0\"} 3",
            "landfall_lane_failed{lane=\"0\"} 0",
            "landfall_folds_total 2",
            "landfall_fold_share 0.5",
            "landfall_oldest_point_timestamp_seconds{machine=\"web\"} 0",
            "landfall_history_holders{machine=\"web\",reason=\"pin\"} 2",
            "landfall_delta_refused_total{code=\"wrong_hash\"} 0",
            "landfall_nbd_requests_total{command=\"read\",outcome=\"failed\"} 0",
            "landfall_nbd_limit_wait_seconds_total 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
