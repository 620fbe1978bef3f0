//! The keys that are open, and what became of the others.

use super::key::{DataKey, KekId, KeyEncryptionKey, KeyOwner, UnwrapError};
use crate::ids::{KeyId, MachineId};
use crate::manifest::keys::{KeyEntry, KeyMaterial, Keys};
use crate::time::Timestamp;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How history is encrypted.
#[derive(Clone, Debug, Default)]
pub struct Encryption {
    /// Wraps new data keys. Without one, new machines are not encrypted.
    pub wrap_with: Option<KeyEncryptionKey>,
    /// Open what was wrapped before, which is wrapped anew by the first.
    pub earlier: Vec<KeyEncryptionKey>,
}

impl Encryption {
    /// All keys that may open something.
    fn all(&self) -> impl Iterator<Item = &KeyEncryptionKey> {
        self.wrap_with.iter().chain(&self.earlier)
    }
}

/// Why something sealed cannot be opened, or something cannot be sealed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// Nobody gave the key-encryption key.
    #[error(
        "data key {key} is wrapped with key-encryption key {kek}, which was not given; \
         name it in [encryption] of the configuration and restart"
    )]
    Locked {
        /// The data key.
        key: KeyId,
        /// What opens it.
        kek: KekId,
    },
    /// The manifest has something else in its place.
    #[error("wrapped data key {key} is damaged; restore MANIFEST from a copy")]
    Damaged {
        /// The data key.
        key: KeyId,
    },
    /// It was destroyed.
    #[error("data key {key} was destroyed at {at}; what it sealed cannot be read any more")]
    Destroyed {
        /// The data key.
        key: KeyId,
        /// When.
        at: Timestamp,
    },
    /// The manifest does not have it.
    #[error("data key {key} is not known")]
    Unknown {
        /// The data key.
        key: KeyId,
    },
}

/// The data keys of all machines.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    keys: BTreeMap<KeyId, Result<Arc<DataKey>, SealError>>,
    /// What new records of a machine are sealed by.
    writing: BTreeMap<MachineId, KeyId>,
}

impl Keyring {
    /// Opens what can be opened.
    pub(crate) fn open(keys: &Keys, folder: [u8; 16], encryption: &Encryption) -> Self {
        let ring = Self::default();
        for entry in keys.iter() {
            let opened = unwrap(entry, folder, encryption).map(Arc::new);
            ring.put(entry.machine, entry.id, opened);
        }
        ring
    }

    /// A key of a machine, which is the one it writes by if it is the newest.
    pub(crate) fn put(
        &self,
        machine: MachineId,
        key: KeyId,
        opened: Result<Arc<DataKey>, SealError>,
    ) {
        let mut inner = self.inner.write();
        inner.keys.insert(key, opened);
        let writing = inner.writing.entry(machine).or_insert(key);
        *writing = key.max(*writing);
    }

    /// Forgets the keys of a machine: they were destroyed.
    pub(crate) fn destroy(&self, keys: &Keys, machine: MachineId, at: Timestamp) {
        let mut inner = self.inner.write();
        for key in keys.of_machine(machine) {
            inner.keys.insert(key.id, Err(SealError::Destroyed { key: key.id, at }));
        }
    }

    /// Forgets a machine that was removed.
    pub(crate) fn remove(&self, machine: MachineId, keys: &[KeyId]) {
        let mut inner = self.inner.write();
        inner.writing.remove(&machine);
        keys.iter().for_each(|key| {
            inner.keys.remove(key);
        });
    }

    /// What opens blocks that were sealed by `key`.
    pub(crate) fn reading(&self, key: KeyId) -> Result<Arc<DataKey>, SealError> {
        self.inner.read().keys.get(&key).cloned().unwrap_or(Err(SealError::Unknown { key }))
    }

    /// Whether a machine's new records are sealed.
    pub(crate) fn seals(&self, machine: MachineId) -> bool {
        self.inner.read().writing.contains_key(&machine)
    }

    /// What a machine writes by; none if it is not encrypted.
    pub(crate) fn writing(
        &self,
        machine: MachineId,
    ) -> Result<Option<(KeyId, Arc<DataKey>)>, SealError> {
        let inner = self.inner.read();
        let Some(key) = inner.writing.get(&machine) else { return Ok(None) };
        let found = inner.keys.get(key).cloned().unwrap_or(Err(SealError::Unknown { key: *key }));
        found.map(|data| Some((*key, data)))
    }
}

fn unwrap(
    entry: &KeyEntry,
    folder: [u8; 16],
    encryption: &Encryption,
) -> Result<DataKey, SealError> {
    let wrapped = match &entry.material {
        KeyMaterial::Wrapped(wrapped) => wrapped,
        KeyMaterial::Destroyed(at) => {
            return Err(SealError::Destroyed { key: entry.id, at: *at });
        }
    };
    let owner = KeyOwner { folder, machine: entry.machine, key: entry.id };
    for kek in encryption.all() {
        match kek.unwrap(wrapped, &owner) {
            Ok(key) => return Ok(key),
            Err(UnwrapError::OtherKey { .. }) => {}
            Err(UnwrapError::Damaged { key }) => return Err(SealError::Damaged { key }),
        }
    }
    Err(SealError::Locked { key: entry.id, kek: wrapped.kek })
}
