//! The data keys of machines: listed, rotated, destroyed; each change durable when its call returns.
//!
//! A machine that is added while there is a key to wrap with has a data key from its first record on; an older one gets its
//! first by a rotation. What was written before stays as it is, sealed by an earlier key or plain.

use crate::change::ChangeError;
use crate::ids::{KeyId, MachineId};
use crate::keeping::check_unlocked;
use crate::manifest::keys::{KeyEntry, KeyMaterial, KeyRecord};
use crate::manifest::record::ManifestRecord;
use crate::manifest::{Manifest, ManifestError};
use crate::moment::ResolveError;
use crate::name::Name;
use crate::retention::{Random, Retention};
use crate::sealing::{
    DataKey, Encryption, KekId, KeyEncryptionKey, KeyOwner, Keyring, SealError, WrappedKey,
};
use crate::time::Timestamp;
use landfall_disks::uring::offload;
use std::sync::Arc;

/// A data key, as listings show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyStatus {
    /// Its id.
    pub key: KeyId,
    /// The machine whose history it seals.
    pub machine: Name,
    /// Since when.
    pub added: Timestamp,
    /// What can be done with it.
    pub state: KeyState,
}

/// What can be done with a data key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyState {
    /// It seals what is written now. Which key-encryption key it is wrapped with.
    Writing(KekId),
    /// It opens what was written before another came.
    Reading(KekId),
    /// The key-encryption key it is wrapped with was not given.
    Locked(KekId),
    /// What the manifest has of it does not unwrap.
    Damaged(KekId),
    /// Nothing any more, since when.
    Destroyed(Timestamp),
}

/// Why keys were not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is nothing to wrap a new key with.
    #[error("no key-encryption key: name one in [encryption] of the configuration and restart")]
    NotConfigured,
    /// The machine has no keys that could be destroyed.
    #[error("the history of machine {0} is not encrypted; no key of it can be destroyed")]
    NotEncrypted(Name),
    /// A key of the machine is not there.
    #[error(transparent)]
    Sealed(#[from] SealError),
    /// The machine is not there, is in use or has a locked point.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<ManifestError> for KeyError {
    fn from(error: ManifestError) -> Self {
        Self::Change(error.into())
    }
}

impl From<ResolveError> for KeyError {
    fn from(error: ResolveError) -> Self {
        Self::Change(error.into())
    }
}

/// A data key that was just drawn, and all that wrapping it takes but for whose it is.
pub(crate) struct NewKey {
    data: DataKey,
    kek: KeyEncryptionKey,
    nonce: [u8; 12],
    folder: [u8; 16],
    at: Timestamp,
}

impl NewKey {
    /// The record that makes it the key of `machine`.
    pub(crate) fn record(&self, machine: MachineId, key: KeyId) -> ManifestRecord {
        let owner = KeyOwner { folder: self.folder, machine, key };
        let wrapped = self.kek.wrap(&self.data, &owner, self.nonce);
        ManifestRecord::Key(KeyRecord::Added { key, machine, at: self.at, wrapped })
    }
}

/// Opens the data keys, and wraps those anew that an earlier key-encryption key opens.
pub(crate) async fn open_keys(
    manifest: &Manifest,
    encryption: &Encryption,
    random: &dyn Random,
) -> Result<Keyring, ManifestError> {
    let keys = manifest.state().keys.clone();
    let folder = manifest.folder_id();
    let ring = Keyring::open(&keys, folder, encryption);
    let Some(kek) = &encryption.wrap_with else { return Ok(ring) };
    let mut records = Vec::new();
    for KeyEntry { id, machine, material, .. } in keys.iter().copied() {
        let other = matches!(material, KeyMaterial::Wrapped(wrapped) if wrapped.kek != kek.id());
        if let (true, Ok(data)) = (other, ring.reading(id)) {
            let owner = KeyOwner { folder, machine, key: id };
            let wrapped = kek.wrap(&data, &owner, nonce(random));
            records.push(ManifestRecord::Key(KeyRecord::Rewrapped { key: id, wrapped }));
        }
    }
    // A frame holds far more of them than there are ids of machines in use; the last ends what the first began.
    for some in records.chunks(REWRAPPED_AT_ONCE) {
        manifest.append(some.to_vec()).await?;
    }
    Ok(ring)
}

/// Keys that are wrapped anew in one frame.
const REWRAPPED_AT_ONCE: usize = 4096;

fn nonce(random: &dyn Random) -> [u8; 12] {
    let mut nonce = [0; 12];
    random.fill(&mut nonce);
    nonce
}

impl Retention {
    /// The keys that history is sealed by.
    pub(crate) fn keys(&self) -> &Arc<Keyring> {
        &self.reading.keys
    }

    /// Draws a key for a machine, if there is one to wrap it with.
    pub(crate) fn draw_key(&self) -> Option<NewKey> {
        let random = &*self.surroundings.random;
        self.encryption.wrap_with.clone().map(|kek| NewKey {
            data: DataKey::from_random(|bytes| random.fill(bytes)),
            kek,
            nonce: nonce(random),
            folder: self.manifest.folder_id(),
            at: self.surroundings.clock.now(),
        })
    }

    /// A key that is on record seals what a machine writes from now on.
    pub(crate) fn use_key(&self, machine: MachineId, key: KeyId, new: NewKey) {
        self.keys().put(machine, key, Ok(Arc::new(new.data)));
    }

    /// All data keys, in the order in which they came to be; of one machine or of all.
    pub fn list_keys(&self, machine: Option<&Name>) -> Result<Vec<KeyStatus>, ResolveError> {
        let wanted = machine.map(|machine| self.machine_id(machine)).transpose()?;
        let state = self.manifest.state();
        let status = |entry: &KeyEntry| {
            let newest = state.keys.of_machine(entry.machine).next_back();
            let writing = newest.is_some_and(|newest| newest.id == entry.id);
            Some(KeyStatus {
                key: entry.id,
                machine: state.machines.get(&entry.machine)?.name.clone(),
                added: entry.added,
                state: self.key_state(entry, writing),
            })
        };
        let of = state.keys.iter().filter(|key| wanted.is_none_or(|wanted| key.machine == wanted));
        Ok(of.filter_map(status).collect())
    }

    fn key_state(&self, entry: &KeyEntry, writing: bool) -> KeyState {
        let WrappedKey { kek, .. } = match entry.material {
            KeyMaterial::Destroyed(at) => return KeyState::Destroyed(at),
            KeyMaterial::Wrapped(wrapped) => wrapped,
        };
        match self.keys().reading(entry.id) {
            Ok(_) if writing => KeyState::Writing(kek),
            Ok(_) => KeyState::Reading(kek),
            Err(SealError::Damaged { .. }) => KeyState::Damaged(kek),
            Err(_) => KeyState::Locked(kek),
        }
    }

    /// Gives a machine a new key, which seals all records from the next one on; what is there stays readable by the earlier
    /// ones. A machine that was not encrypted is from here on.
    pub async fn rotate_key(&self, machine: &Name) -> Result<KeyStatus, KeyError> {
        let id = self.machine_id(machine)?;
        let new = self.draw_key().ok_or(KeyError::NotConfigured)?;
        self.keys().writing(id)?;
        let changed = self.manifest.change(|state| {
            self.machine_id(machine)?;
            let key = state.keys.next();
            Ok::<_, KeyError>((vec![new.record(id, key)], key))
        });
        let key = changed.await?;
        let (added, kek) = (new.at, new.kek.id());
        self.use_key(id, key, new);
        let (machine, state) = (machine.clone(), KeyState::Writing(kek));
        Ok(KeyStatus { key, machine, added, state })
    }

    /// Destroys all keys of a machine, and with them what they seal, for good: its points and branches cannot be opened any
    /// more, and nothing is taken of it. Images stay as they are. Gives the keys that are gone.
    pub async fn destroy_keys(&self, machine: &Name) -> Result<Vec<KeyStatus>, KeyError> {
        let id = self.machine_id(machine)?;
        if let Some(holder) = self.stream_holder(id) {
            let what = format!("machine {machine}");
            let by = format!("replication from {holder}");
            return Err(ChangeError::InUse { what, by }.into());
        }
        let at = self.surroundings.clock.now();
        let changed = self.manifest.change(|state| {
            check_unlocked(state, id, |_| true, || format!("a point of {machine}"))?;
            if let Some(at) = state.keys.destroyed(id) {
                let key =
                    state.keys.of_machine(id).next().map_or_else(KeyId::default, |key| key.id);
                return Err(SealError::Destroyed { key, at }.into());
            }
            if state.keys.of_machine(id).next().is_none() {
                return Err(KeyError::NotEncrypted(machine.clone()));
            }
            let record = ManifestRecord::Key(KeyRecord::Destroyed { machine: id, at });
            Ok((vec![record], ()))
        });
        let changed = changed.await;
        // Also where a file has them still: they are out of use, and durably so.
        if self.manifest.state().keys.destroyed(id).is_some() {
            self.keys().destroy(&self.manifest.state().keys, id, at);
            self.forget_read().await;
        }
        changed?;
        Ok(self.list_keys(Some(machine))?)
    }

    /// Drops from memory what keys have opened.
    pub(crate) async fn forget_read(&self) {
        let reading = Arc::clone(&self.reading);
        offload(move || reading.cache.clear()).await;
    }

    /// Machines that cannot write because a key is not there, and why; not those whose keys were destroyed.
    pub fn locked_machines(&self) -> Vec<(Name, SealError)> {
        let state = self.manifest.state();
        let locked = state.machines.values().filter_map(|machine| {
            let keys = state.keys.of_machine(machine.id);
            let why = keys.filter_map(|key| self.keys().reading(key.id).err()).next()?;
            Some((machine.name.clone(), why))
        });
        locked.filter(|(_, why)| !matches!(why, SealError::Destroyed { .. })).collect()
    }

    /// That what is there of a machine can be read at all.
    pub(crate) fn check_not_destroyed(&self, machine: &Name) -> Result<(), ResolveError> {
        let state = self.manifest.state();
        let found = state.machine_named(machine).and_then(|found| state.keys.destroyed(found.id));
        match found {
            Some(at) => Err(ResolveError::Destroyed { machine: machine.clone(), at }),
            None => Ok(()),
        }
    }
}
