//! The part of the control API that is about points: pages of them, marks, pins.

use super::answers::line_name;
use super::control::{Answer, Body, read_line};
use super::messages::{Moment, Named, Point, PointLock, PointMark, Points, PointsAsked};
use super::problem::Problem;
use crate::service::Target;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use landfall_retention::PointStatus;
use landfall_retention::ids::Sequence;
use landfall_retention::name::{Label, MomentName, When};
use landfall_retention::point::{KindSet, PointKind, PointOrder, PointQuery};
use landfall_retention::time::{Clock, SystemClock, Timestamp};
use std::sync::Arc;

/// Most points of a page: some hundred kilobytes of text.
const PAGE: usize = 1000;

/// Everything under `/v1/points`.
pub(super) fn router() -> Router<Arc<Target>> {
    Router::new()
        .route("/v1/points", get(points).post(mark))
        .route("/v1/points/pin", post(pin))
        .route("/v1/points/unpin", post(unpin))
        .route("/v1/points/lock", post(lock))
        .route("/v1/points/unlock", post(unlock))
}

async fn points(
    State(target): State<Arc<Target>>,
    asked: Result<Query<PointsAsked>, QueryRejection>,
) -> Answer<Points> {
    let Query(asked) = asked.map_err(|error| Problem::bad(error.body_text()))?;
    let (machine, branch) = read_line(&asked.name)?;
    let query = read_query(&asked, SystemClock.now())?;
    let disks = target.machine_named(&machine)?.disks;
    let found = target.retention.points(&machine, branch.as_ref(), &query)?;
    // Every instant of a branch can be chosen, and they are said to be with the first page of a trunk.
    let instants = match (&branch, query.after) {
        (None, None) => target.instants(&machine).await?,
        _ => Vec::new(),
    };
    let full = found.len() == query.limit;
    let next = found.last().filter(|_| full).map(|last| last.point.sequence.number());
    let points =
        found.iter().map(|one| target.point(&machine, branch.as_ref(), &disks, one)).collect();
    let branch = branch.map(|branch| branch.to_string());
    Ok(Json(Points { machine: machine.to_string(), branch, points, next, instants }))
}

fn read_query(asked: &PointsAsked, now: Timestamp) -> Result<PointQuery, Problem> {
    let time = |text: &Option<String>| text.as_deref().map(|text| read_time(text, now)).transpose();
    let all = PointQuery::all(PAGE);
    let kinds = match &asked.kind {
        None => KindSet::ALL,
        Some(words) => words.split(',').map(read_kind).collect::<Result<KindSet, Problem>>()?,
    };
    let order = match asked.first.as_deref() {
        None | Some("oldest") => PointOrder::OldestFirst,
        Some("newest") => PointOrder::NewestFirst,
        Some(other) => {
            return Err(Problem::bad(format!("first={other}: write oldest or newest")));
        }
    };
    if asked.limit == Some(0) {
        return Err(Problem::bad("limit=0 asks for nothing"));
    }
    Ok(PointQuery {
        from: time(&asked.from)?.unwrap_or(all.from),
        to: time(&asked.to)?.unwrap_or(all.to),
        kinds,
        order,
        after: asked.after.map(Sequence::new),
        limit: asked.limit.unwrap_or(PAGE).min(PAGE),
    })
}

fn read_time(text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    match When::parse(text)? {
        When::At(time) => Ok(time),
        When::Ago(ago) => Ok(now.earlier(ago)),
        _ => Err(Problem::bad(format!(
            "{text:?} is not a time: write RFC 3339 with a zone, -15m or 15m-ago"
        ))),
    }
}

fn read_kind(word: &str) -> Result<PointKind, Problem> {
    PointKind::of_word(word.trim()).ok_or_else(|| {
        Problem::bad(format!("{word:?} is not a kind of point: app, crash or fuzzy"))
    })
}

async fn mark(State(target): State<Arc<Target>>, Body(wanted): Body<PointMark>) -> Answer<Point> {
    let (machine, branch) = read_line(&wanted.name)?;
    let kind = match wanted.kind.as_str() {
        "crash" => PointKind::Crash,
        "app" => PointKind::App,
        other => return Err(Problem::bad(format!("{other:?} is neither crash nor app"))),
    };
    let label = wanted.label.as_deref().map(Label::parse).transpose()?;
    let disks = target.machine_named(&machine)?.disks;
    let (on, of) = (machine.clone(), branch.clone());
    // Nobody but whoever asks can say what the disks of such a machine are.
    let point = if branch.is_none() && target.retention.ingest_mode(&machine).is_some() {
        target
            .on_core(move |retention| async move { retention.mark_fed(&on, kind, label).await })
            .await?
    } else {
        target
            .on_core(
                move |retention| async move { retention.mark(&on, of.as_ref(), kind, label).await },
            )
            .await?
    };
    let line = line_name(&machine, branch.as_ref());
    tracing::info!(line, sequence = %point.sequence, kind = %point.kind, "point marked");
    let status = PointStatus { point, pinned: false, locked_until: None };
    Ok(Json(target.point(&machine, branch.as_ref(), &disks, &status)))
}

async fn pin(State(target): State<Arc<Target>>, Body(named): Body<Named>) -> Answer<Moment> {
    set_pin(&target, &named.name, true).await
}

async fn unpin(State(target): State<Arc<Target>>, Body(named): Body<Named>) -> Answer<Moment> {
    set_pin(&target, &named.name, false).await
}

/// A moment of a whole machine.
fn read_point(text: &str) -> Result<MomentName, Problem> {
    let name = MomentName::parse(text)?;
    if name.disk.is_some() {
        return Err(Problem::bad(format!(
            "{text:?}: points are of whole machines, leave /DISK out"
        )));
    }
    Ok(name)
}

async fn set_pin(target: &Target, text: &str, pinned: bool) -> Answer<Moment> {
    let name = read_point(text)?;
    let status = target.machine_named(&name.machine)?;
    let moment = target
        .on_core(move |retention| async move {
            if pinned { retention.pin(&name).await } else { retention.unpin(&name).await }
        })
        .await?;
    tracing::info!(point = moment.absolute_name(None), pinned, "point pinned or unpinned");
    Ok(Json(target.moment(&moment, &status.disks.iter().collect::<Vec<_>>())))
}

async fn lock(State(target): State<Arc<Target>>, Body(wanted): Body<PointLock>) -> Answer<Moment> {
    let name = read_point(&wanted.name)?;
    let until = Timestamp::parse(&wanted.until).map_err(|error| Problem::bad(error.to_string()))?;
    let status = target.machine_named(&name.machine)?;
    let moment =
        target.on_core(move |retention| async move { retention.lock(&name, until).await }).await?;
    tracing::info!(point = moment.absolute_name(None), %until, "point locked");
    Ok(Json(target.moment(&moment, &status.disks.iter().collect::<Vec<_>>())))
}

async fn unlock(State(target): State<Arc<Target>>, Body(named): Body<Named>) -> Answer<Moment> {
    let name = read_point(&named.name)?;
    let status = target.machine_named(&name.machine)?;
    let moment =
        target.on_core(move |retention| async move { retention.unlock(&name).await }).await?;
    Ok(Json(target.moment(&moment, &status.disks.iter().collect::<Vec<_>>())))
}
