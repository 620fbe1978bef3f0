//! The parent locator (section 2.6.2.6): which file holds what a differencing one does not.
//!
//! ```text
//!   type, count │ entries: offsets and lengths │ keys and values in UTF-16, anywhere behind
//! ```

use crate::Guid;
use crate::error::{At, Malformed};
use crate::identifier::utf16_units;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Parents that are VHDX files: the only type there is.
pub const LOCATOR_TYPE_VHDX: Guid = Guid::from_groups(
    0xb04a_efb7,
    0xd19e,
    0x4a81,
    [0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13],
);

/// Most keys of a locator that are accepted; the specification names five.
pub const MAX_LOCATOR_ENTRIES: u16 = 256;

const STRUCTURE: &str = "VHDX parent locator";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredLocator {
    locator_type: [u8; 16],
    reserved: U16,
    key_value_count: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredEntry {
    key_offset: U32,
    value_offset: U32,
    key_length: U16,
    value_length: U16,
}

const _: () = assert!(size_of::<StoredLocator>() == 20);
// 2 * 4 + 2 * 2
const _: () = assert!(size_of::<StoredEntry>() == 12);

/// A key and what it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocatorEntry {
    /// `parent_linkage`, `relative_path` or another.
    pub key: String,
    /// What it says.
    pub value: String,
}

/// How a path to the parent is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathKind {
    /// `relative_path`: from the folder of the child, with backslashes, as `.\base.vhdx`.
    Relative,
    /// `volume_path`: from a volume, as `\\?\Volume{…}\disks\base.vhdx`.
    Volume,
    /// `absolute_win32_path`: from a drive, as `\\?\c:\disks\base.vhdx`.
    AbsoluteWin32,
}

impl PathKind {
    /// In the order they are to be tried.
    pub const ALL: [Self; 3] = [Self::Relative, Self::Volume, Self::AbsoluteWin32];

    /// The key in the locator.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Relative => "relative_path",
            Self::Volume => "volume_path",
            Self::AbsoluteWin32 => "absolute_win32_path",
        }
    }
}

/// One place the parent may be at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParentPath<'a> {
    /// How the text is meant.
    pub kind: PathKind,
    /// As stored.
    pub text: &'a str,
}

/// Names the parent of a differencing disk, by the `DataWriteGuid` of its header and by paths.
///
/// ```
/// use vhdx_parse::{Guid, ParentLocator};
///
/// let guid: Guid = "83ed0ec1-24c8-49a6-a959-5e4bd1288480".parse().unwrap();
/// let locator = ParentLocator::new(guid, &[("relative_path", r".\base.vhdx")]);
/// assert!(locator.names(guid));
/// assert_eq!(locator.paths().next().unwrap().text, r".\base.vhdx");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParentLocator {
    linkage: Guid,
    linkage_2: Option<Guid>,
    entries: Vec<LocatorEntry>,
}

impl ParentLocator {
    /// A locator of the parent whose `DataWriteGuid` is `linkage`; `paths` are keys and values.
    pub fn new(linkage: Guid, paths: &[(&str, &str)]) -> Self {
        let mut entries = vec![LocatorEntry {
            key: "parent_linkage".to_owned(),
            value: format!("{{{linkage}}}"),
        }];
        entries.extend(paths.iter().map(|(key, value)| LocatorEntry {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        }));
        Self { linkage, linkage_2: None, entries }
    }

    /// The `DataWriteGuid` that the parent had when this child was made.
    pub fn linkage(&self) -> Guid {
        self.linkage
    }

    /// A second `DataWriteGuid` that is accepted, after an interrupted merge into the parent.
    pub fn linkage_2(&self) -> Option<Guid> {
        self.linkage_2
    }

    /// Whether a file with this `DataWriteGuid` is the parent.
    pub fn names(&self, data_write_guid: Guid) -> bool {
        self.linkage == data_write_guid || self.linkage_2 == Some(data_write_guid)
    }

    /// Where the parent may be, in the order it is to be looked for.
    pub fn paths(&self) -> impl Iterator<Item = ParentPath<'_>> {
        PathKind::ALL.into_iter().filter_map(|kind| {
            let entry = self.entries.iter().find(|entry| entry.key == kind.key())?;
            Some(ParentPath { kind, text: &entry.value })
        })
    }

    /// All keys and values.
    pub fn entries(&self) -> &[LocatorEntry] {
        &self.entries
    }

    /// Reads the item that was found at `offset`, and checks every rule.
    pub fn parse(bytes: &[u8], offset: u64) -> Result<Self, Malformed> {
        let at = At::new(STRUCTURE, offset);
        let head = at.take(bytes, size_of::<StoredLocator>())?;
        let stored = StoredLocator::read_from_bytes(head).expect("cut to its size");
        let kind = Guid::from_stored(stored.locator_type);
        at.expect(kind == LOCATOR_TYPE_VHDX, "LocatorType", kind, LOCATOR_TYPE_VHDX.to_string())?;
        let count = stored.key_value_count.get();
        at.expect(count <= MAX_LOCATOR_ENTRIES, "KeyValueCount", count, "at most 256")?;
        let end = size_of::<StoredLocator>() + usize::from(count) * size_of::<StoredEntry>();
        let stored = at.take(bytes, end)?;
        let mut entries: Vec<LocatorEntry> = Vec::new();
        for stored in stored[size_of::<StoredLocator>()..].chunks_exact(size_of::<StoredEntry>()) {
            let stored = StoredEntry::read_from_bytes(stored).expect("cut to its size");
            let key = text(at, bytes, "KeyOffset", stored.key_offset, stored.key_length)?;
            let value = text(at, bytes, "ValueOffset", stored.value_offset, stored.value_length)?;
            let again = entries.iter().any(|entry| entry.key == key);
            at.expect(!again, "Key", &key, "each key once")?;
            entries.push(LocatorEntry { key, value });
        }
        let linkage = |key: &'static str| {
            let entry = entries.iter().find(|entry| entry.key == key)?;
            Some(entry.value.parse::<Guid>().map_err(|_| at.malformed(key, &entry.value, "a GUID")))
        };
        let missing = || Err(at.malformed("parent_linkage", "absent", "a GUID"));
        let (first, second) = (linkage("parent_linkage"), linkage("parent_linkage2"));
        let locator = Self {
            linkage: first.unwrap_or_else(missing)?,
            linkage_2: second.transpose()?,
            entries,
        };
        at.expect(locator.paths().next().is_some(), "paths", "absent", "at least one path")?;
        Ok(locator)
    }

    /// The bytes of the item.
    ///
    /// # Panics
    ///
    /// If a key or value has more than 32,767 UTF-16 units.
    pub fn encode(&self) -> Vec<u8> {
        let units =
            |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
        let count = u16::try_from(self.entries.len()).expect("few keys");
        let head = StoredLocator {
            locator_type: *LOCATOR_TYPE_VHDX.stored(),
            reserved: 0.into(),
            key_value_count: count.into(),
        };
        let mut table = head.as_bytes().to_vec();
        let mut texts = Vec::new();
        let start = table.len() + self.entries.len() * size_of::<StoredEntry>();
        let mut place = |text: &str| {
            let bytes = units(text);
            let offset = u32::try_from(start + texts.len()).expect("a short locator");
            let length = u16::try_from(bytes.len()).expect("a short text");
            texts.extend_from_slice(&bytes);
            (U32::new(offset), U16::new(length))
        };
        for entry in &self.entries {
            let (key_offset, key_length) = place(&entry.key);
            let (value_offset, value_length) = place(&entry.value);
            let stored = StoredEntry { key_offset, value_offset, key_length, value_length };
            table.extend_from_slice(stored.as_bytes());
        }
        [table, texts].concat()
    }
}

fn text(
    at: At,
    bytes: &[u8],
    field: &'static str,
    offset: U32,
    length: U16,
) -> Result<String, Malformed> {
    let start = usize::try_from(offset.get()).unwrap_or(usize::MAX);
    let end = start.saturating_add(length.get().into());
    let found = bytes.get(start..end).filter(|_| start >= size_of::<StoredLocator>());
    let found = found.filter(|found| !found.is_empty() && found.len().is_multiple_of(2));
    let found = found.ok_or_else(|| {
        let expected = format!("whole UTF-16 units ({length} bytes) within {} bytes", bytes.len());
        at.malformed(field, offset, expected)
    })?;
    let units: Vec<u16> = utf16_units(found).collect();
    String::from_utf16(&units).map_err(|_| at.malformed(field, offset, "UTF-16"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn locators() -> impl Strategy<Value = ParentLocator> {
        let paths = proptest::collection::vec("\\PC{1,80}", 1..4);
        (any::<[u8; 16]>(), paths).prop_map(|(guid, paths)| {
            let keys = PathKind::ALL.map(PathKind::key);
            let paths: Vec<(&str, &str)> =
                keys.into_iter().zip(paths.iter().map(String::as_str)).collect();
            ParentLocator::new(Guid::from_stored(guid), &paths)
        })
    }

    proptest! {
        #[test]
        fn round_trip(locator in locators()) {
            prop_assert_eq!(ParentLocator::parse(&locator.encode(), 0), Ok(locator));
        }

        #[test]
        fn any_change_is_read_or_refused(
            locator in locators(),
            changes in proptest::collection::vec((0usize..400, any::<u8>()), 0..10),
        ) {
            let mut bytes = locator.encode();
            for (place, byte) in changes {
                let length = bytes.len();
                bytes[place % length] = byte;
            }
            let _ = ParentLocator::parse(&bytes, 0);
        }
    }

    fn locator(entries: &[(&str, &str)]) -> Result<ParentLocator, Malformed> {
        let entries =
            entries.iter().map(|(k, v)| LocatorEntry { key: (*k).into(), value: (*v).into() });
        let entries = entries.collect();
        let written = ParentLocator { linkage: Guid::ZERO, linkage_2: None, entries };
        ParentLocator::parse(&written.encode(), 5 << 20)
    }

    #[test]
    fn both_linkages_name_the_parent() {
        let [one, two] = [1, 2].map(|number| Guid::from_random([number; 16]));
        let found = locator(&[
            ("parent_linkage2", &two.to_string()),
            ("absolute_win32_path", r"\\?\c:\base.vhdx"),
            ("parent_linkage", &format!("{one:?}")),
            ("relative_path", r"..\base.vhdx"),
        ]);
        let found = found.expect("valid");
        assert!(found.names(one) && found.names(two) && !found.names(Guid::ZERO));
        let order: Vec<PathKind> = found.paths().map(|path| path.kind).collect();
        assert_eq!(order, [PathKind::Relative, PathKind::AbsoluteWin32]);
    }

    #[test]
    fn what_names_no_parent() {
        let guid = ("parent_linkage", "{83ed0ec1-24c8-49a6-a959-5e4bd1288480}");
        let path = ("relative_path", "x");
        for (entries, field) in [
            (vec![path], "parent_linkage"),
            (vec![("parent_linkage", "nobody"), path], "parent_linkage"),
            (vec![guid], "paths"),
            (vec![guid, path, path], "Key"),
            (vec![guid, ("relative_path", "")], "ValueOffset"),
        ] {
            let problem = locator(&entries).expect_err("it names none");
            assert_eq!((problem.field, problem.offset), (field, 5 << 20), "{entries:?}");
        }
        let mut other = ParentLocator::new(Guid::ZERO, &[path]).encode();
        other[0] ^= 1;
        assert_eq!(ParentLocator::parse(&other, 0).expect_err("a type").field, "LocatorType");
    }
}
