//! The control API: one handler per request of [`messages`](super::messages), no decisions beyond reading names.

use super::answers::{branch, line_name};
use super::messages::{
    Account, Branch, BranchAdd, Branches, DiskAdd, Export, ExportAdd, Exports, IscsiAdd, Machine,
    MachineAdd, Machines, Moment, Named, Nothing, Status,
};
use super::problem::{Problem, of_image};
use crate::exports::{machine_of, target_name};
use crate::images;
use crate::service::Target;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::routing::{delete, get};
use axum::{Json, Router};
use landfall_disks::image::Format;
use landfall_protocols::iscsi::name::Name as IscsiName;
use landfall_retention::ids::ExportId;
use landfall_retention::manifest::iscsi::{ChapAccount, IscsiAccess, MAX_INITIATORS};
use landfall_retention::name::{MomentName, Name, When};
use landfall_retention::{
    ChangeError, ExportStatus, ImageSpec, IngestError, IngestMode, MachineStatus, NewDisk,
    NewExport, NewMachine, Retention,
};
use serde::de::DeserializeOwned;
use std::path::{Component, Path as FilePath};
use std::sync::Arc;
use zeroize::Zeroizing;

/// How often another generated name is tried when somebody was quicker.
const NAME_TRIES: u32 = 10_000;

pub(super) type Answer<T> = Result<Json<T>, Problem>;

/// A body, refused in the API's own words.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(Problem::bad(rejection.body_text())),
        }
    }
}

/// `?name=`, refused in the API's own words.
pub(super) struct Asked(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<Named>::from_request_parts(parts, state).await {
            Ok(Query(named)) => Ok(Self(named.name)),
            Err(_) => Err(Problem::bad("this needs ?name=NAME and nothing else")),
        }
    }
}

/// Everything under `/v1`.
pub(crate) fn router(target: Arc<Target>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/machines", get(machines).post(add_machine))
        .route("/v1/machines/{name}", get(machine).delete(remove_machine))
        .route("/v1/moment", get(moment))
        .merge(super::points::router())
        .merge(super::changes::router())
        .merge(super::disks::router())
        .merge(super::policy::router())
        .merge(super::integrity::router())
        .merge(super::streams::router())
        .merge(super::ingest::router())
        .merge(super::keys::router())
        .merge(super::standby::router())
        .merge(super::groups::router())
        .route("/v1/branches", get(branches).post(add_branch).delete(discard_branch))
        .merge(super::promote::router())
        .route("/v1/exports", get(exports).post(add_export))
        .route("/v1/exports/{id}", delete(remove_export))
        .fallback(async || Problem::unknown("no such path; see docs/control-api.md"))
        .method_not_allowed_fallback(async || Problem::bad("not a method of this path"))
        .with_state(target)
}

impl Target {
    /// Removes an export, and sees that nobody goes on with it. Must be polled to its end: an export that is not in the manifest any
    /// more cannot be removed again.
    ///
    /// First nobody finds it any more, also after a restart. Then its units go: when this returns, no write begins any more,
    /// so the branch may be promoted or discarded, and its initiators may have another one. Its sessions are ended last, which
    /// takes their initiators some time and gives back what they hold.
    async fn remove_export(self: Arc<Self>, export: ExportId) -> Result<(), Problem> {
        let exports = self.retention.exports();
        let removed = exports.iter().find(|one| one.id == export && one.iscsi.is_some());
        self.on_core(move |retention| async move { retention.remove_export(export).await }).await?;
        tracing::info!(%export, "export removed");
        self.targets.withdraw(export);
        if let Some(removed) = removed {
            self.portal.dismiss(&target_name(&self.config.iscsi.prefix, removed));
        }
        Ok(())
    }

    /// Runs what retention does on an I/O core.
    pub(super) async fn on_core<T, E, F, Fut>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(Arc<Retention>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + 'static,
        Problem: From<E>,
    {
        let retention = Arc::clone(&self.retention);
        Ok(self.core.run(move || work(retention)).await??)
    }

    /// The machine of that name, as it is.
    pub(super) fn machine_named(&self, name: &Name) -> Result<MachineStatus, Problem> {
        let mut machines = self.retention.machines();
        let found = machines.iter().position(|machine| machine.name == *name);
        found.map(|found| machines.swap_remove(found)).ok_or_else(|| {
            let known: Vec<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
            Problem::unknown(match known.as_slice() {
                [] => format!("no machine {name}; there are no machines yet"),
                known => format!("no machine {name}; machines: {}", known.join(" ")),
            })
        })
    }
}

/// A machine or a branch: a name without moment and disk.
pub(super) fn read_line(text: &str) -> Result<(Name, Option<Name>), Problem> {
    let name = MomentName::parse(text)?;
    if text.contains('@') || name.disk.is_some() {
        return Err(Problem::bad(format!(
            "{text:?}: name a machine or a branch here, without /DISK and @WHEN, such as {}",
            line_name(&name.machine, name.branch.as_ref())
        )));
    }
    Ok((name.machine, name.branch))
}

async fn status(State(target): State<Arc<Target>>) -> Answer<Status> {
    let journal = target.on_core(|retention| async move { retention.journal().await }).await?;
    Ok(Json(target.status(&journal)))
}

async fn machines(State(target): State<Arc<Target>>) -> Answer<Machines> {
    Ok(Json(Machines { machines: target.all_machines() }))
}

async fn machine(State(target): State<Arc<Target>>, Path(name): Path<String>) -> Answer<Machine> {
    let status = target.machine_named(&Name::parse(&name)?)?;
    Ok(Json(target.machine(&status)))
}

async fn add_machine(
    State(target): State<Arc<Target>>,
    Body(wanted): Body<MachineAdd>,
) -> Answer<Machine> {
    let name = Name::parse(&wanted.name)?;
    if wanted.display_name.len() > 256 || wanted.display_name.chars().any(char::is_control) {
        return Err(Problem::bad("a display name has at most 256 bytes of printable text"));
    }
    let mut disks = Vec::with_capacity(wanted.disks.len());
    for disk in &wanted.disks {
        disks.push(new_disk(&target, &name, disk).await?);
    }
    let group = wanted.group.as_deref().map(Name::parse).transpose()?;
    let ingest = super::ingest::read_mode(wanted.ingest.as_deref())?;
    // Before anything is made.
    if ingest == Some(IngestMode::Ordered) && disks.len() > 1 {
        return Err(IngestError::OrderOfSeveral { machine: name, disks: disks.len() }.into());
    }
    group.as_ref().map(|group| target.retention.group(group)).transpose()?;
    let new = NewMachine { name: name.clone(), display_name: wanted.display_name, disks };
    let joining = name.clone();
    target
        .on_core(move |retention| async move {
            retention.add_machine(new).await?;
            if ingest.is_some() {
                retention.set_ingest(&joining, ingest).await?;
            }
            match group {
                Some(group) => retention.join_group(&group, &joining).await,
                None => Ok(()),
            }
        })
        .await?;
    tracing::info!(machine = %name, "machine added");
    let status = target.machine_named(&name)?;
    Ok(Json(target.machine(&status)))
}

/// A disk as it is to be made, or adopted.
pub(super) async fn new_disk(
    target: &Target,
    machine: &Name,
    disk: &DiskAdd,
) -> Result<NewDisk, Problem> {
    let name = Name::parse(&disk.name)?;
    let format: Option<Format> = match &disk.format {
        None => None,
        Some(text) => {
            Some(text.parse().map_err(|error| Problem::bad(format!("disk {name}: {error}")))?)
        }
    };
    let given = disk.path.as_deref().map(|path| image_path(target, path)).transpose()?;
    if let Some((path, true)) = given {
        let (images, adopted) = (Arc::clone(&target.images), path.clone());
        let found = target.core.run(move || async move { images.look(&adopted, format).await });
        let found = found.await?.map_err(|error| of_image(&error.to_string(), &error))?;
        let size_bytes = disk.size_bytes.unwrap_or(found.size_bytes);
        let image = ImageSpec { format: found.format.to_string(), path, size_bytes };
        return Ok(NewDisk { name, image, adopt: true });
    }
    let Some(size_bytes) = disk.size_bytes else {
        return Err(Problem::bad(match &disk.path {
            None => format!("disk {name} needs a size: size=40GiB"),
            Some(path) => format!("{path}: no such file; give size= for a new image"),
        }));
    };
    let given = given.map(|(path, _)| path);
    let format =
        format.unwrap_or_else(|| images::default_format(given.as_deref().map(FilePath::new)));
    let path =
        given.unwrap_or_else(|| images::default_path(machine.as_str(), name.as_str(), format));
    let image = ImageSpec { format: format.to_string(), path, size_bytes };
    Ok(NewDisk { name, image, adopt: false })
}

/// A path that was given, in the form it is kept in, and whether there is a file.
fn image_path(target: &Target, text: &str) -> Result<(String, bool), Problem> {
    let given = FilePath::new(text);
    let plain = given.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    let (Some(parent), Some(file), true) =
        (given.parent(), given.file_name(), given.is_absolute() && plain)
    else {
        return Err(Problem::bad(format!("{text:?} is not an absolute path of a file")));
    };
    let parent = parent
        .canonicalize()
        .map_err(|error| Problem::bad(format!("{}: {error}", parent.display())))?;
    let path = parent.join(file);
    let inside = |folder: &FilePath| {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        path.strip_prefix(folder).ok().map(FilePath::to_owned)
    };
    let kept = match inside(&target.config.images) {
        Some(relative) => relative,
        None if inside(&target.config.data).is_some() => {
            return Err(Problem::bad(format!(
                "{text}: the data folder is the target's own; images lie outside of it, or in {}",
                target.config.images.display()
            )));
        }
        None => path.clone(),
    };
    let kept = kept.to_str().ok_or_else(|| Problem::bad(format!("{text}: not UTF-8")))?;
    Ok((kept.to_owned(), path.exists()))
}

async fn remove_machine(
    State(target): State<Arc<Target>>,
    Path(name): Path<String>,
) -> Answer<Nothing> {
    let name = Name::parse(&name)?;
    let exports = target.retention.exports();
    let own = |export: &&ExportStatus| machine_of(&export.name) == name.as_str();
    if let Some(export) = exports.iter().find(own) {
        return Err(Problem::conflict(format!(
            "machine {name} is exported ({}); remove it first: landfall export remove {}",
            export.name, export.id
        )));
    }
    let machine = name.clone();
    target
        .on_core(move |retention| async move { retention.remove_machine(&machine).await })
        .await?;
    tracing::info!(machine = %name, "machine removed");
    Ok(Json(Nothing {}))
}

async fn moment(State(target): State<Arc<Target>>, Asked(name): Asked) -> Answer<Moment> {
    let name = MomentName::parse(&name)?;
    let status = target.machine_named(&name.machine)?;
    let disk = name.disk.clone();
    let moment =
        target.on_core(move |retention| async move { retention.resolve(&name).await }).await?;
    let wanted =
        |one: &&landfall_retention::DiskStatus| disk.as_ref().is_none_or(|disk| *disk == one.name);
    let disks: Vec<_> = status.disks.iter().filter(wanted).collect();
    if let Some(disk) = &disk {
        // Says what exists, and when it was there.
        target.retention.view(&moment, disk)?;
    }
    Ok(Json(target.moment(&moment, &disks)))
}

async fn branches(State(target): State<Arc<Target>>) -> Answer<Branches> {
    let machines = target.retention.machines();
    let all = machines.iter().flat_map(|machine| {
        machine.branches.iter().map(|one| branch(&machine.name, one)).collect::<Vec<_>>()
    });
    Ok(Json(Branches { branches: all.collect() }))
}

async fn add_branch(
    State(target): State<Arc<Target>>,
    Body(wanted): Body<BranchAdd>,
) -> Answer<Branch> {
    let origin = read_origin(&wanted.origin)?;
    let name = Name::parse(&wanted.name)?;
    let machine = origin.machine.clone();
    let status = target
        .on_core(move |retention| async move {
            let moment = retention.resolve(&origin).await?;
            retention.add_branch(&moment, name).await
        })
        .await?;
    let made = branch(&machine, &status);
    tracing::info!(branch = made.name, origin = made.origin_sequence, "branch added");
    Ok(Json(made))
}

/// A moment of a whole machine.
fn read_origin(text: &str) -> Result<MomentName, Problem> {
    let name = MomentName::parse(text)?;
    match &name.disk {
        None => Ok(name),
        Some(disk) => Err(Problem::bad(format!(
            "{text:?}: this takes the whole machine, leave /{disk} out; each disk gets an address of its own"
        ))),
    }
}

async fn discard_branch(State(target): State<Arc<Target>>, Asked(name): Asked) -> Answer<Nothing> {
    let (machine, branch) = read_line(&name)?;
    let Some(branch) = branch else {
        return Err(Problem::bad(format!(
            "{machine} is a machine; name a branch as {machine}~BRANCH, see `landfall branch list`"
        )));
    };
    target
        .on_core(move |retention| async move { retention.discard_branch(&machine, &branch).await })
        .await?;
    tracing::info!(branch = name, "branch discarded");
    Ok(Json(Nothing {}))
}

async fn exports(State(target): State<Arc<Target>>) -> Answer<Exports> {
    Ok(Json(Exports { exports: target.all_exports() }))
}

async fn add_export(
    State(target): State<Arc<Target>>,
    Body(wanted): Body<ExportAdd>,
) -> Answer<Export> {
    let origin = read_origin(&wanted.name)?;
    let branch = wanted.branch.as_deref().map(Name::parse).transpose()?;
    if branch.is_some() && !wanted.writable {
        return Err(Problem::bad("only a writable export makes a branch"));
    }
    let iscsi = wanted.iscsi.map(|wanted| iscsi_access(&target, wanted)).transpose()?;
    if iscsi.is_some() {
        // Before it is promised that it can be reached.
        target.portal.open().map_err(|error| Problem::conflict(format!("{error:#}")))?;
    }
    let export = target
        .on_core(move |retention| async move {
            match wanted.writable {
                false => export_moment(&retention, &origin, iscsi).await,
                true => export_writable(&retention, &origin, branch, iscsi).await,
            }
        })
        .await?;
    tracing::info!(export = %export.id, name = export.name, writable = export.writable, "exported");
    Ok(Json(target.export(&export)))
}

/// Fewest characters of a secret (RFC 7143 section 9.2.1: 96 bits).
const SHORTEST_SECRET: usize = 12;

/// What an export is to be over iSCSI, checked.
fn iscsi_access(target: &Target, wanted: IscsiAdd) -> Result<Arc<IscsiAccess>, Problem> {
    let IscsiAdd { initiators, chap, mutual_chap, removable } = wanted;
    if initiators.len() > MAX_INITIATORS {
        return Err(Problem::bad(format!("at most {MAX_INITIATORS} initiators can be named")));
    }
    let named = |text: &String| IscsiName::of_initiator(text).and_then(IscsiName::formed);
    let name = |text: &String| match named(text) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(error) => Err(Problem::bad(format!("initiator {text:?}: {error}"))),
    };
    let initiators = initiators.iter().map(name).collect::<Result<Vec<_>, _>>()?;
    if target.targets.is_guarded() && chap.is_none() && initiators.is_empty() {
        return Err(Problem::bad(
            "iSCSI listens beyond loopback: say who may have it, with --chap and \
             --chap-secret-file or --initiator",
        ));
    }
    if mutual_chap.is_some() && chap.is_none() {
        return Err(Problem::bad(
            "the target proves itself only to those that do, too: add --chap",
        ));
    }
    let (chap, mutual) =
        (chap.map(chap_account).transpose()?, mutual_chap.map(chap_account).transpose()?);
    if let (Some(chap), Some(mutual)) = (&chap, &mutual)
        && chap.secret == mutual.secret
    {
        return Err(Problem::bad(
            "the two secrets must differ, or one side could answer for the other",
        ));
    }
    Ok(Arc::new(IscsiAccess { initiators, chap, mutual, removable }))
}

/// An account that CHAP can use.
fn chap_account(Account { user, secret }: Account) -> Result<ChapAccount, Problem> {
    let secret = Zeroizing::new(secret);
    if user.is_empty() || user.len() > 255 || secret.len() > 255 {
        return Err(Problem::bad("a user and a secret have 1 to 255 characters"));
    }
    // A value of iSCSI ends at a zero byte, also that of the target's own name.
    if user.chars().chain(secret.chars()).any(char::is_control) {
        return Err(Problem::bad("a user and a secret have no control characters"));
    }
    if secret.len() < SHORTEST_SECRET {
        return Err(Problem::bad(format!("a secret has at least {SHORTEST_SECRET} characters")));
    }
    Ok(ChapAccount { user, secret })
}

/// A read-only export: of a moment that stays the same, whatever the name means later.
async fn export_moment(
    retention: &Retention,
    name: &MomentName,
    iscsi: Option<Arc<IscsiAccess>>,
) -> Result<ExportStatus, ChangeError> {
    let moment = retention.resolve(name).await?;
    let export = NewExport {
        machine: moment.machine,
        branch: moment.branch,
        sequence: Some(moment.sequence),
        writable: false,
        iscsi,
    };
    retention.add_export(export).await
}

/// A writable export: of a branch that is named, or of a new one.
async fn export_writable(
    retention: &Retention,
    name: &MomentName,
    wanted: Option<Name>,
    iscsi: Option<Arc<IscsiAccess>>,
) -> Result<ExportStatus, ChangeError> {
    let machine = name.machine.clone();
    let export = |branch| NewExport {
        machine: machine.clone(),
        branch: Some(branch),
        sequence: None,
        writable: true,
        iscsi: iscsi.clone(),
    };
    if let (Some(branch), When::Latest, None) = (&name.branch, &name.when, &wanted) {
        return retention.add_export(export(branch.clone())).await;
    }
    let branch = make_branch(retention, name, wanted).await?;
    let exported = retention.add_export(export(branch.clone())).await;
    if exported.is_err()
        && let Err(error) = retention.discard_branch(&machine, &branch).await
    {
        tracing::warn!(%error, branch = %branch, "a branch made for an export stays");
    }
    exported
}

async fn make_branch(
    retention: &Retention,
    origin: &MomentName,
    wanted: Option<Name>,
) -> Result<Name, ChangeError> {
    let moment = retention.resolve(origin).await?;
    if let Some(name) = wanted {
        return Ok(retention.add_branch(&moment, name).await?.name);
    }
    let mut number = 1;
    loop {
        let name = Name::parse(&format!("export-{number}")).expect("a valid name");
        match retention.add_branch(&moment, name).await {
            Ok(branch) => return Ok(branch.name),
            Err(ChangeError::Exists { .. }) if number < NAME_TRIES => number += 1,
            Err(error) => return Err(error),
        }
    }
}

async fn remove_export(
    State(target): State<Arc<Target>>,
    Path(id): Path<String>,
) -> Answer<Nothing> {
    let number = id.parse().map_err(|_| Problem::bad(format!("{id:?} is not a number")))?;
    // A task of its own: whoever asked for it may go before it is done, and with it this future.
    let removal = tokio::spawn(target.remove_export(ExportId::new(number)));
    removal.await.map_err(|error| Problem::failed(format!("removing the export: {error}")))??;
    Ok(Json(Nothing {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_such_that_chap_can_use_them() {
        let account = |user: &str, secret: &str| {
            let (user, secret) = (user.to_owned(), secret.to_owned());
            chap_account(Account { user, secret }).is_ok()
        };
        assert!(account("backup host", "a long secret, \u{e9}"));
        for (user, secret) in [
            ("", "a long secret"),
            ("host", "too short"),
            ("ho\0st", "a long secret"),
            ("host\n", "a long secret"),
            ("host", "a long\tsecret"),
        ] {
            assert!(!account(user, secret), "{user:?} {secret:?}");
        }
        assert!(!account(&"u".repeat(256), "a long secret"));
    }
}
