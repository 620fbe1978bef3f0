//! The part of the control API about streams: what each is at, since when, and what that means for its points.

use super::control::Answer;
use super::messages::{Instants, StreamAt, Streams};
use super::problem::Problem;
use crate::service::Target;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use landfall_retention as retention;
use landfall_retention::name::Name;
use std::sync::Arc;

/// Everything under `/v1/streams`.
pub(super) fn router() -> Router<Arc<Target>> {
    Router::new().route("/v1/streams", get(streams))
}

async fn streams(State(target): State<Arc<Target>>) -> Answer<Streams> {
    let mut streams = Vec::new();
    for report in target.retention.streams() {
        let instants = target.instants(&report.machine).await?;
        streams.push(stream(&report, instants));
    }
    Ok(Json(Streams { streams }))
}

impl Target {
    /// Where any instant of a machine can be chosen.
    pub(super) async fn instants(&self, machine: &Name) -> Result<Vec<Instants>, Problem> {
        let of = machine.clone();
        let found = self.on_core(move |retention| async move { retention.instants(&of).await });
        Ok(found.await?.iter().map(instants).collect())
    }
}

fn stream(report: &retention::StreamReport, instants: Vec<Instants>) -> StreamAt {
    let retention::StreamReport { machine, state, open } = report;
    StreamAt {
        machine: machine.to_string(),
        state: state.map(|change| change.state.to_string()),
        meaning: state.map(|change| change.state.meaning().to_owned()),
        since: state.map(|change| change.time.to_string()),
        at_sequence: state.map(|change| change.at.number()),
        peer: open.as_ref().map(|open| open.peer.clone()),
        peer_since: open.as_ref().map(|open| open.since.to_string()),
        position: open.as_ref().map(|open| open.position.number()),
        instants,
    }
}

fn instants(one: &retention::Instants) -> Instants {
    Instants {
        from: one.from.commit_time.to_string(),
        to: one.to.commit_time.to_string(),
        from_sequence: one.from.sequence.number(),
        to_sequence: one.to.sequence.number(),
        grows: one.grows,
    }
}
