//! The records about data keys: wrapped keys that come to be, are wrapped anew, and are destroyed.
//!
//! ```text
//!   KeyAdded ─▶ wrapped ─▶ KeyRewrapped ─▶ wrapped otherwise ─▶ KeysDestroyed ─▶ only that there was one (KeyGone)
//! ```
//!
//! **Invariants:** ids of keys grow and none is given twice, not even after its machine is removed; a machine whose keys were
//! destroyed gets none again. What takes a wrapped key away makes the log be rewritten at once, and what the file was before be
//! overwritten: no file that this program keeps has it any more (`ManifestRecord::erases`).

use super::format::{FrameError, Reader, Writer};
use super::record::ManifestRecord;
use super::state::{ManifestState, Misfit};
use crate::ids::{KeyId, MachineId};
use crate::sealing::{KekId, WrappedKey};
use crate::time::Timestamp;
use std::collections::BTreeMap;

mod kind {
    pub(super) const KEY_ADDED: u16 = 96;
    pub(super) const KEY_REWRAPPED: u16 = 97;
    pub(super) const KEYS_DESTROYED: u16 = 98;
    pub(super) const KEY_GONE: u16 = 99;
    pub(super) const KEYS_GIVEN: u16 = 100;
}

/// A fact about data keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyRecord {
    /// A machine has a new key, which seals what it writes from now on.
    Added {
        /// The key.
        key: KeyId,
        /// The machine.
        machine: MachineId,
        /// When.
        at: Timestamp,
        /// The key itself, wrapped.
        wrapped: WrappedKey,
    },
    /// A key is wrapped otherwise from now on.
    Rewrapped {
        /// The key.
        key: KeyId,
        /// The key itself, wrapped.
        wrapped: WrappedKey,
    },
    /// All keys of a machine are gone, and what they sealed with them.
    Destroyed {
        /// The machine.
        machine: MachineId,
        /// When.
        at: Timestamp,
    },
    /// In a snapshot: there was a key.
    Gone {
        /// The key.
        key: KeyId,
        /// The machine.
        machine: MachineId,
        /// When it was added.
        at: Timestamp,
        /// When it was destroyed.
        destroyed: Timestamp,
    },
    /// In a snapshot: the highest id given out.
    Given {
        /// The id.
        key: KeyId,
    },
}

/// A data key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyEntry {
    /// Its id.
    pub id: KeyId,
    /// Whose it is.
    pub machine: MachineId,
    /// Since when.
    pub added: Timestamp,
    /// What is left of it.
    pub material: KeyMaterial,
}

/// What is left of a data key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyMaterial {
    /// All of it, wrapped.
    Wrapped(WrappedKey),
    /// When it was destroyed.
    Destroyed(Timestamp),
}

/// All data keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Keys {
    keys: BTreeMap<KeyId, KeyEntry>,
    given: KeyId,
}

impl Keys {
    /// Every key, in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = &KeyEntry> {
        self.keys.values()
    }

    /// The keys of a machine, in the order of ids: the last is the one it writes by.
    pub fn of_machine(&self, machine: MachineId) -> impl DoubleEndedIterator<Item = &KeyEntry> {
        self.keys.values().filter(move |key| key.machine == machine)
    }

    /// When the keys of a machine were destroyed, if they were.
    pub fn destroyed(&self, machine: MachineId) -> Option<Timestamp> {
        self.of_machine(machine).find_map(|key| match key.material {
            KeyMaterial::Destroyed(at) => Some(at),
            KeyMaterial::Wrapped(_) => None,
        })
    }

    /// The id of the next key.
    pub fn next(&self) -> KeyId {
        self.given.next()
    }

    pub(super) fn forget_machine(&mut self, machine: MachineId) {
        self.keys.retain(|_, key| key.machine != machine);
    }

    fn add(&mut self, record: &'static str, entry: KeyEntry) -> Result<(), Misfit> {
        if entry.id <= self.given {
            let what = format!("{:?} was given before", entry.id);
            return Err(Misfit { record, what });
        }
        let newest = self.of_machine(entry.machine).next_back().map(|key| key.material);
        let wrapped = matches!(entry.material, KeyMaterial::Wrapped(_));
        if newest.is_some_and(|newest| matches!(newest, KeyMaterial::Wrapped(_)) != wrapped) {
            let what = format!("some keys of {:?} were destroyed and some not", entry.machine);
            return Err(Misfit { record, what });
        }
        self.given = entry.id;
        self.keys.insert(entry.id, entry);
        Ok(())
    }

    fn rewrap(&mut self, key: KeyId, wrapped: &WrappedKey) -> Result<(), Misfit> {
        let entry = self.keys.get_mut(&key);
        let there = entry.filter(|entry| matches!(entry.material, KeyMaterial::Wrapped(_)));
        let entry = there.ok_or_else(|| Misfit::missing("KeyRewrapped", key))?;
        entry.material = KeyMaterial::Wrapped(*wrapped);
        Ok(())
    }

    fn destroy(&mut self, machine: MachineId, at: Timestamp) -> Result<(), Misfit> {
        let of_machine = self.keys.values_mut().filter(|key| key.machine == machine);
        let wrapped = of_machine.filter(|key| matches!(key.material, KeyMaterial::Wrapped(_)));
        let destroyed = wrapped.map(|key| key.material = KeyMaterial::Destroyed(at)).count();
        if destroyed == 0 { Err(Misfit::missing("KeysDestroyed", machine)) } else { Ok(()) }
    }
}

impl ManifestRecord {
    /// Encodes the kinds of this module; `false` for any other.
    pub(super) fn encode_keys(&self, to: &mut Writer<'_>) -> bool {
        let Self::Key(record) = self else { return false };
        match record {
            KeyRecord::Added { key, machine, at, wrapped } => {
                to.u16(kind::KEY_ADDED);
                to.u32(key.number());
                to.u32(machine.number());
                to.u64(at.nanoseconds());
                encode_wrapped(wrapped, to);
            }
            KeyRecord::Rewrapped { key, wrapped } => {
                to.u16(kind::KEY_REWRAPPED);
                to.u32(key.number());
                encode_wrapped(wrapped, to);
            }
            KeyRecord::Destroyed { machine, at } => {
                to.u16(kind::KEYS_DESTROYED);
                to.u32(machine.number());
                to.u64(at.nanoseconds());
            }
            KeyRecord::Gone { key, machine, at, destroyed } => {
                to.u16(kind::KEY_GONE);
                to.u32(key.number());
                to.u32(machine.number());
                to.u64(at.nanoseconds());
                to.u64(destroyed.nanoseconds());
            }
            KeyRecord::Given { key } => {
                to.u16(kind::KEYS_GIVEN);
                to.u32(key.number());
            }
        }
        true
    }

    /// Decodes the kinds of this module.
    pub(super) fn decode_keys(kind: u16, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let key = |from: &mut Reader<'_>| from.u32().map(KeyId::new);
        let machine = |from: &mut Reader<'_>| from.u32().map(MachineId::new);
        let time = |from: &mut Reader<'_>| from.u64().map(Timestamp::from_nanoseconds);
        let record = match kind {
            kind::KEY_ADDED => KeyRecord::Added {
                key: key(from)?,
                machine: machine(from)?,
                at: time(from)?,
                wrapped: decode_wrapped(from)?,
            },
            kind::KEY_REWRAPPED => {
                KeyRecord::Rewrapped { key: key(from)?, wrapped: decode_wrapped(from)? }
            }
            kind::KEYS_DESTROYED => {
                KeyRecord::Destroyed { machine: machine(from)?, at: time(from)? }
            }
            kind::KEY_GONE => KeyRecord::Gone {
                key: key(from)?,
                machine: machine(from)?,
                at: time(from)?,
                destroyed: time(from)?,
            },
            kind::KEYS_GIVEN => KeyRecord::Given { key: key(from)? },
            _ => return Self::decode_standby(kind, from),
        };
        Ok(Self::Key(record))
    }

    /// Whether it takes a wrapped key away that `before` has: whatever file it stands in must not stay.
    pub(super) fn erases(&self, before: &ManifestState) -> bool {
        match self {
            Self::Key(KeyRecord::Rewrapped { .. } | KeyRecord::Destroyed { .. }) => true,
            Self::MachineRemoved { machine } => before.keys.of_machine(*machine).next().is_some(),
            _ => false,
        }
    }
}

fn encode_wrapped(wrapped: &WrappedKey, to: &mut Writer<'_>) {
    to.array(wrapped.kek.bytes());
    to.array(wrapped.nonce);
    to.array(wrapped.wrapped);
}

fn decode_wrapped(from: &mut Reader<'_>) -> Result<WrappedKey, FrameError> {
    let kek = KekId::new(from.array()?);
    Ok(WrappedKey { kek, nonce: from.array()?, wrapped: from.array()? })
}

impl ManifestState {
    /// Applies the kinds of this module.
    pub(super) fn apply_key(&mut self, record: &KeyRecord) -> Result<(), Misfit> {
        let there = |machine: &MachineId, name| match self.machines.contains_key(machine) {
            true => Ok(*machine),
            false => Err(Misfit::missing(name, machine)),
        };
        match record {
            KeyRecord::Added { key, machine, at, wrapped } => {
                let machine = there(machine, "KeyAdded")?;
                let material = KeyMaterial::Wrapped(*wrapped);
                self.keys.add("KeyAdded", KeyEntry { id: *key, machine, added: *at, material })
            }
            KeyRecord::Rewrapped { key, wrapped } => self.keys.rewrap(*key, wrapped),
            KeyRecord::Destroyed { machine, at } => {
                self.check_unlocked("KeysDestroyed", |line| line.machine == *machine)?;
                self.keys.destroy(*machine, *at)
            }
            KeyRecord::Gone { key, machine, at, destroyed } => {
                let machine = there(machine, "KeyGone")?;
                let material = KeyMaterial::Destroyed(*destroyed);
                self.keys.add("KeyGone", KeyEntry { id: *key, machine, added: *at, material })
            }
            KeyRecord::Given { key } if *key < self.keys.given => {
                let what = format!("{:?} was given, which is above {key:?}", self.keys.given);
                Err(Misfit { record: "KeysGiven", what })
            }
            KeyRecord::Given { key } => {
                self.keys.given = *key;
                Ok(())
            }
        }
    }

    /// Records of all keys; after those of the machines.
    pub(super) fn key_records(&self, into: &mut Vec<ManifestRecord>) {
        let record = |entry: &KeyEntry| {
            let KeyEntry { id: key, machine, added: at, material } = *entry;
            ManifestRecord::Key(match material {
                KeyMaterial::Wrapped(wrapped) => KeyRecord::Added { key, machine, at, wrapped },
                KeyMaterial::Destroyed(destroyed) => {
                    KeyRecord::Gone { key, machine, at, destroyed }
                }
            })
        };
        into.extend(self.keys.iter().map(record));
        if self.keys.given != KeyId::default() {
            into.push(ManifestRecord::Key(KeyRecord::Given { key: self.keys.given }));
        }
    }
}

#[cfg(test)]
mod tests;
