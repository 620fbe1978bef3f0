//! The part of the control API that is about machines that are fed over NBD.

use super::control::{Answer, Body};
use super::messages::{Ingest, IngestDisk, IngestSet, Machine};
use super::problem::Problem;
use crate::service::Target;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use landfall_retention::name::Name;
use landfall_retention::{FedDiskStatus, IngestError, IngestMode, StreamError};
use std::sync::Arc;

/// Everything under `/v1/ingest`.
pub(super) fn router() -> Router<Arc<Target>> {
    Router::new().route("/v1/ingest", post(set))
}

async fn set(State(target): State<Arc<Target>>, Body(wanted): Body<IngestSet>) -> Answer<Machine> {
    let machine = Name::parse(&wanted.machine)?;
    let mode = read_mode(wanted.mode.as_deref())?;
    let of = machine.clone();
    target.on_core(move |retention| async move { retention.set_ingest(&of, mode).await }).await?;
    let words = mode.map_or("not over NBD", IngestMode::word);
    tracing::info!(%machine, fed = words, "ingest set");
    let status = target.machine_named(&machine)?;
    Ok(Json(target.machine(&status)))
}

/// `sync` or `ordered`.
pub(super) fn read_mode(text: Option<&str>) -> Result<Option<IngestMode>, Problem> {
    text.map(str::parse).transpose().map_err(Problem::bad)
}

impl Target {
    /// How a machine is fed over NBD, if it is.
    pub(super) fn ingest(&self, machine: &Name) -> Option<Ingest> {
        let feed = self.retention.feed_status(machine)?;
        let (trouble_time, trouble) = feed.trouble.unzip();
        Some(Ingest {
            mode: feed.mode.to_string(),
            in_order: feed.in_order,
            disks: feed.disks.iter().map(|disk| self.ingest_disk(machine, disk)).collect(),
            trouble,
            trouble_time: trouble_time.map(|time| time.to_string()),
        })
    }

    fn ingest_disk(&self, machine: &Name, disk: &FedDiskStatus) -> IngestDisk {
        let name = format!("{machine}/{}", disk.name);
        let socket = self.listening.nbd_socket.as_ref();
        let over_socket = socket.map(|socket| crate::uri::over_socket(&name, socket.as_ref()));
        let tls = self.config.nbd.tls;
        let over_tcp = self.nbd_address.map(|address| crate::uri::over_tcp(&name, address, tls));
        IngestDisk {
            disk: disk.name.to_string(),
            writer: disk.writer.as_ref().map(|writer| writer.peer.clone()),
            writer_since: disk.writer.as_ref().map(|writer| writer.since.to_string()),
            broken: disk.broken.clone(),
            whole: disk.is_whole,
            awaited: disk.is_awaited,
            uris: over_socket.into_iter().chain(over_tcp).collect(),
        }
    }
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Self {
        let text = error.to_string();
        match error {
            IngestError::Resolve(error) => error.into(),
            IngestError::Stream(StreamError::Append(error)) => super::problem::of_append(&error),
            IngestError::Busy { .. }
            | IngestError::NotCopied { .. }
            | IngestError::OrderOfSeveral { .. }
            | IngestError::Stream(
                StreamError::Busy { .. }
                | StreamError::NotFedByWrites { .. }
                | StreamError::NotIndexed { .. },
            ) => Self::conflict(text),
            _ => Self::failed(text),
        }
    }
}
