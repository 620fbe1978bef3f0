//! The part of the control API about data keys: they are listed, rotated and destroyed.

use super::control::{Answer, Asked, Body};
use super::messages::{DataKey, DataKeys, Named};
use super::problem::Problem;
use crate::service::Target;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use landfall_retention::name::Name;
use landfall_retention::{ChangeError, KeyError, KeyState, KeyStatus};
use std::sync::Arc;

/// Everything under `/v1/keys`.
pub(super) fn router() -> Router<Arc<Target>> {
    Router::new()
        .route("/v1/keys", get(list).delete(destroy))
        .route("/v1/keys/rotate", post(rotate))
}

async fn list(State(target): State<Arc<Target>>) -> Answer<DataKeys> {
    let keys = target.retention.list_keys(None)?;
    Ok(Json(DataKeys { keys: keys.iter().map(shown).collect() }))
}

async fn rotate(State(target): State<Arc<Target>>, Body(named): Body<Named>) -> Answer<DataKey> {
    let machine = Name::parse(&named.name)?;
    let of = machine.clone();
    let key =
        target.on_core(move |retention| async move { retention.rotate_key(&of).await }).await?;
    tracing::info!(machine = %machine, key = %key.key, "a new data key seals its history");
    Ok(Json(shown(&key)))
}

async fn destroy(State(target): State<Arc<Target>>, Asked(name): Asked) -> Answer<DataKeys> {
    let machine = Name::parse(&name)?;
    let of = machine.clone();
    let keys =
        target.on_core(move |retention| async move { retention.destroy_keys(&of).await }).await?;
    tracing::info!(machine = %machine, keys = keys.len(), "data keys destroyed, and its history with them");
    Ok(Json(DataKeys { keys: keys.iter().map(shown).collect() }))
}

fn shown(status: &KeyStatus) -> DataKey {
    let (state, kek, destroyed) = match status.state {
        KeyState::Writing(kek) => ("writing", Some(kek), None),
        KeyState::Reading(kek) => ("reading", Some(kek), None),
        KeyState::Locked(kek) => ("locked", Some(kek), None),
        KeyState::Damaged(kek) => ("damaged", Some(kek), None),
        KeyState::Destroyed(at) => ("destroyed", None, Some(at)),
    };
    DataKey {
        key: status.key.number(),
        machine: status.machine.to_string(),
        added: status.added.to_string(),
        state: state.to_owned(),
        wrapped_with: kek.map(|kek| kek.to_string()),
        destroyed: destroyed.map(|at| at.to_string()),
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        let text = error.to_string();
        match error {
            KeyError::Change(ChangeError::Resolve(error)) => error.into(),
            KeyError::Change(error) => error.into(),
            KeyError::NotConfigured | KeyError::NotEncrypted(_) | KeyError::Sealed(_) => {
                Self::conflict(text)
            }
            _ => Self::failed(text),
        }
    }
}
