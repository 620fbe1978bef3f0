//! Which machines have standby files, and where: added, removed, paused; each durable when its call returns.

use super::known::{Owner, check_owner};
use super::place::{Place, StandbyPlaces, file_name, parts};
use super::{LEAST_INTERVAL, MOST_INTERVAL, NotOurs, StandbyError};
use crate::manifest::record::ManifestRecord;
use crate::manifest::standby::{MAX_FOLDER_BYTES, StandbyKept};
use crate::manifest::state::{Machine, ManifestState};
use crate::name::Name;
use crate::retention::Retention;
use landfall_disks::image::Format;
use std::path::PathBuf;

impl Retention {
    /// Keeps standby files of a machine from here on. The folder must exist; nothing is written yet.
    pub async fn add_standby(
        &self,
        machine: &Name,
        kept: StandbyKept,
        places: &dyn StandbyPlaces,
    ) -> Result<(), StandbyError> {
        check_kept(&kept)?;
        let id = self.machine_id(machine)?;
        let place = Place::open(places, &kept.folder, kept.format).await?;
        for (disk, owner) in self.standby_disks(id) {
            let name = file_name(machine, &disk, kept.format);
            check_free(&place, &name, &owner).await?;
        }
        self.manifest
            .change(|state| {
                if let Some(entry) = state.standbys.get(&id) {
                    let (machine, folder) = (machine.clone(), entry.kept.folder.clone());
                    return Err(StandbyError::Exists { machine, folder });
                }
                check_alone(state, &kept, machine)?;
                Ok((vec![ManifestRecord::StandbyAdded { machine: id, kept }], ()))
            })
            .await
    }

    /// Keeps them no longer; the files stay, or are removed with their sidecars.
    pub async fn remove_standby(
        &self,
        machine: &Name,
        places: &dyn StandbyPlaces,
        delete_files: bool,
    ) -> Result<Vec<PathBuf>, StandbyError> {
        let (id, entry) = self.standby_of(machine)?;
        // Whoever writes to them has to end first.
        let under_way = || StandbyError::UnderWay { machine: machine.clone() };
        let _moves = self.standbys.begin(id).ok_or_else(under_way)?;
        let mut removed = Vec::new();
        if delete_files {
            let place = Place::open(places, &entry.kept.folder, entry.kept.format).await?;
            for (disk, owner) in self.standby_disks(id) {
                let name = file_name(machine, &disk, entry.kept.format);
                let Some(sidecar) = place.sidecar(&name).await? else { continue };
                let ours = sidecar.map_err(NotOurs::from);
                let ours = ours.and_then(|sidecar| check_owner(&owner, &sidecar));
                let path = place.path_of(&name);
                ours.map_err(|why| StandbyError::NotOurs { path: path.clone(), why })?;
                place.remove(&name).await?;
                removed.push(path);
            }
        }
        let record = ManifestRecord::StandbyRemoved { machine: id };
        self.manifest.append(vec![record]).await?;
        Ok(removed)
    }

    /// Has them stay as they are, or not any longer.
    pub async fn pause_standby(&self, machine: &Name, paused: bool) -> Result<(), StandbyError> {
        let (id, _) = self.standby_of(machine)?;
        let record = ManifestRecord::StandbyPaused { machine: id, paused };
        self.manifest
            .change(|state| match state.standbys.get(&id) {
                None => Err(StandbyError::None { machine: machine.clone() }),
                Some(entry) if entry.paused == paused => Ok((Vec::new(), ())),
                Some(_) => Ok((vec![record], ())),
            })
            .await
    }
}

fn check_kept(kept: &StandbyKept) -> Result<(), StandbyError> {
    let refuse = |why: String| Err(StandbyError::Impossible(why));
    if kept.folder.len() > MAX_FOLDER_BYTES {
        return refuse(format!("the path of the folder has more than {MAX_FOLDER_BYTES} bytes"));
    }
    if !(LEAST_INTERVAL..=MOST_INTERVAL).contains(&kept.every) {
        return refuse("a standby is brought forward every 10 seconds to every 30 days".into());
    }
    if kept.format == Format::Vhd {
        return refuse("standby files are raw, VMDK or VHDX".into());
    }
    Ok(())
}

/// That no other machine's standby uses the names, and that no image of a machine has one of them.
fn check_alone(
    state: &ManifestState,
    kept: &StandbyKept,
    machine: &Name,
) -> Result<(), StandbyError> {
    let names = |machine: &Machine, format| -> Vec<String> {
        let disks = machine.disks.iter().filter_map(|disk| state.disks.get(disk));
        disks.map(|disk| file_name(&machine.name, &disk.name, format)).collect()
    };
    let own = state.machine_named(machine).map(|own| names(own, kept.format)).unwrap_or_default();
    let others = state
        .standbys
        .iter()
        .filter(|(_, other)| other.kept.folder == kept.folder && other.kept.format == kept.format);
    for (id, _) in others {
        let Some(other) = state.machines.get(id) else { continue };
        if let Some(name) = names(other, kept.format).iter().find(|name| own.contains(name)) {
            return Err(StandbyError::Impossible(format!(
                "{name} in that folder is the standby of machine {}; keep this one in another folder",
                other.name
            )));
        }
    }
    Ok(())
}

/// That a name is free, or that of a standby file of this disk that was kept before.
async fn check_free(place: &Place<'_>, name: &str, owner: &Owner) -> Result<(), StandbyError> {
    let refuse = |why| Err(StandbyError::NotOurs { path: place.path_of(name), why });
    match place.sidecar(name).await? {
        Some(Ok(sidecar)) => match check_owner(owner, &sidecar) {
            Ok(()) => Ok(()),
            Err(why) => refuse(why),
        },
        Some(Err(fault)) => refuse(fault.into()),
        None => {
            for one in [name.to_owned()].into_iter().chain(parts(name)) {
                if place.exists(&one).await? {
                    return Err(StandbyError::NotOurs {
                        path: place.path_of(&one),
                        why: NotOurs::Unmarked,
                    });
                }
            }
            Ok(())
        }
    }
}
