//! Keys: those that seal history, and the one that wraps them.

use crate::ids::{KeyId, MachineId};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;
/// Bytes of a wrapped key: the key, and the tag behind it.
pub const WRAPPED_BYTES: usize = KEY_BYTES + 16;
/// Hexadecimal digits of a key-encryption key in a file.
const KEY_DIGITS: usize = 2 * KEY_BYTES;

const KEK_ID_CONTEXT: &str = "landfall 2026 id of a key-encryption key";
const WRAPPING_CONTEXT: &str = "landfall 2026 wrapping of data keys";

/// Says which key-encryption key was used, and nothing about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KekId([u8; 8]);

impl KekId {
    /// The id that these bytes are.
    pub const fn new(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// As the manifest has it.
    pub const fn bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kek {self}")
    }
}

/// Why a text is no key-encryption key. Says nothing of what the text is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyTextError {
    /// Another number of characters.
    #[error("{found} characters where a key has {KEY_DIGITS} hexadecimal digits")]
    Length {
        /// How many there are, without white space around them.
        found: usize,
    },
    /// Something that is no digit.
    #[error("character {at} is no hexadecimal digit")]
    Digit {
        /// Where, from 1.
        at: usize,
    },
    /// A key nobody drew.
    #[error("every byte of it is the same: not a key that was drawn at random")]
    Constant,
}

/// Wraps data keys. Comes from outside, and is never stored.
#[derive(Clone)]
pub struct KeyEncryptionKey {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    id: KekId,
}

impl KeyEncryptionKey {
    /// The key that these bytes are.
    pub fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let derived = Zeroizing::new(blake3::derive_key(KEK_ID_CONTEXT, &*bytes));
        let mut id = [0; 8];
        id.copy_from_slice(&derived[..8]);
        Self { bytes, id: KekId(id) }
    }

    /// Reads 64 hexadecimal digits, with white space around them or not.
    pub fn parse(text: &[u8]) -> Result<Self, KeyTextError> {
        let text = text.trim_ascii();
        if text.len() != KEY_DIGITS {
            return Err(KeyTextError::Length { found: text.len() });
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        for (at, digit) in text.iter().enumerate() {
            let value =
                char::from(*digit).to_digit(16).ok_or(KeyTextError::Digit { at: at + 1 })?;
            let byte = &mut bytes[at / 2];
            *byte = *byte << 4 | value.to_le_bytes()[0];
        }
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(KeyTextError::Constant);
        }
        Ok(Self::new(bytes))
    }

    /// Which one it is.
    pub fn id(&self) -> KekId {
        self.id
    }

    /// Wraps a data key; `nonce` is random.
    pub fn wrap(&self, key: &DataKey, owner: &KeyOwner, nonce: [u8; 12]) -> WrappedKey {
        let mut bytes = Zeroizing::new(*key.0);
        let aad = Aad::from(owner.bytes());
        let sealed = self.cipher().seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            aad,
            &mut *bytes,
        );
        let tag = sealed.expect("a key is far below the limit of a message");
        let mut wrapped = [0; WRAPPED_BYTES];
        wrapped[..KEY_BYTES].copy_from_slice(&*bytes);
        wrapped[KEY_BYTES..].copy_from_slice(tag.as_ref());
        WrappedKey { kek: self.id, nonce, wrapped }
    }

    /// Unwraps a data key of `owner`.
    pub fn unwrap(&self, wrapped: &WrappedKey, owner: &KeyOwner) -> Result<DataKey, UnwrapError> {
        if wrapped.kek != self.id {
            return Err(UnwrapError::OtherKey { needed: wrapped.kek, given: self.id });
        }
        let mut bytes = Zeroizing::new(wrapped.wrapped);
        let nonce = Nonce::assume_unique_for_key(wrapped.nonce);
        let opened = self.cipher().open_in_place(nonce, Aad::from(owner.bytes()), &mut *bytes);
        let opened = opened.map_err(|_| UnwrapError::Damaged { key: owner.key })?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        key.copy_from_slice(opened);
        Ok(DataKey(key))
    }

    fn cipher(&self) -> LessSafeKey {
        let derived = Zeroizing::new(blake3::derive_key(WRAPPING_CONTEXT, &*self.bytes));
        cipher(&derived)
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyEncryptionKey({}, …)", self.id)
    }
}

/// AES-256-GCM with a key of ours. The crate wipes nothing: what it expands lives as long as the value.
pub(super) fn cipher(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes"))
}

/// Whose key it is: part of what wrapping proves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyOwner {
    /// The data folder.
    pub folder: [u8; 16],
    /// The machine.
    pub machine: MachineId,
    /// The key.
    pub key: KeyId,
}

impl KeyOwner {
    fn bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.folder);
        bytes[16..20].copy_from_slice(&self.machine.number().to_le_bytes());
        bytes[20..].copy_from_slice(&self.key.number().to_le_bytes());
        bytes
    }
}

/// Seals blocks of one machine.
pub struct DataKey(Zeroizing<[u8; KEY_BYTES]>);

impl DataKey {
    /// A new key from random numbers of the kernel.
    pub fn from_random(fill: impl FnOnce(&mut [u8])) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        fill(&mut *bytes);
        Self(bytes)
    }

    /// What it is derived into for some purpose: `context` says which.
    pub(super) fn derive(&self, context: &str, material: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut all = Zeroizing::new(Vec::with_capacity(KEY_BYTES + material.len()));
        all.extend_from_slice(&*self.0);
        all.extend_from_slice(material);
        Zeroizing::new(blake3::derive_key(context, &all))
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

/// A data key as the manifest has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WrappedKey {
    /// What it was wrapped with.
    pub kek: KekId,
    /// Random.
    pub nonce: [u8; 12],
    /// The key, sealed, and its tag.
    pub wrapped: [u8; WRAPPED_BYTES],
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKey({:?}, …)", self.kek)
    }
}

/// Why a data key cannot be unwrapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnwrapError {
    /// It was wrapped with another key-encryption key.
    #[error("it is wrapped with key-encryption key {needed}, and {given} was given")]
    OtherKey {
        /// With which it was wrapped.
        needed: KekId,
        /// Which was given.
        given: KekId,
    },
    /// It is the right one, and what is wrapped is not what was.
    #[error("wrapped data key {key} is damaged")]
    Damaged {
        /// Which.
        key: KeyId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kek(byte: u8) -> KeyEncryptionKey {
        let mut bytes = Zeroizing::new([byte; KEY_BYTES]);
        bytes[0] = 0;
        KeyEncryptionKey::new(bytes)
    }

    fn owner() -> KeyOwner {
        KeyOwner { folder: [1; 16], machine: MachineId::new(2), key: KeyId::new(3) }
    }

    #[test]
    fn a_wrapped_key_opens_for_its_owner_and_by_its_key_alone() {
        let key = DataKey::from_random(|bytes| bytes.fill(9));
        let wrapped = kek(5).wrap(&key, &owner(), [4; 12]);
        assert_eq!(kek(5).unwrap(&wrapped, &owner()).expect("it is ours").0, key.0);
        let needed = kek(5).id();
        let other = kek(6).unwrap(&wrapped, &owner()).err();
        assert_eq!(other, Some(UnwrapError::OtherKey { needed, given: kek(6).id() }));
        for wrong in [
            KeyOwner { folder: [0; 16], ..owner() },
            KeyOwner { machine: MachineId::new(9), ..owner() },
            KeyOwner { key: KeyId::new(9), ..owner() },
        ] {
            let refused = kek(5).unwrap(&wrapped, &wrong).err();
            assert_eq!(refused, Some(UnwrapError::Damaged { key: wrong.key }), "{wrong:?}");
        }
        for at in 0..WRAPPED_BYTES {
            let mut ruined = wrapped;
            ruined.wrapped[at] ^= 1;
            assert!(kek(5).unwrap(&ruined, &owner()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn keys_are_read_from_hexadecimal_digits_and_nothing_else() {
        let digits = "00112233445566778899aabbccddeeffFFEEDDCCBBAA99887766554433221100";
        let key = KeyEncryptionKey::parse(format!(" {digits}\n").as_bytes()).expect("a key");
        assert_eq!(key.bytes[..3], [0, 0x11, 0x22]);
        assert_eq!(key.bytes[29..], [0x22, 0x11, 0]);
        let refused = |text: &str| KeyEncryptionKey::parse(text.as_bytes()).err();
        assert_eq!(refused(&digits[1..]), Some(KeyTextError::Length { found: 63 }));
        assert_eq!(refused(""), Some(KeyTextError::Length { found: 0 }));
        assert_eq!(refused(&digits.replace("aa", "ag")), Some(KeyTextError::Digit { at: 22 }));
        assert_eq!(refused(&"5a".repeat(32)), Some(KeyTextError::Constant));
    }

    #[test]
    fn no_key_is_ever_printed() {
        let key = DataKey::from_random(|bytes| bytes.fill(0xab));
        let wrapped = kek(0xab).wrap(&key, &owner(), [0xab; 12]);
        let printed = format!("{key:?} {:?} {wrapped:?}", kek(0xab));
        assert!(!printed.contains("171") && !printed.contains("abab"), "{printed}");
        assert_eq!(printed.matches('…').count(), 3, "{printed}");
    }
}
