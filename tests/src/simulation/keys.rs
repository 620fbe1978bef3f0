//! Keys, in every other simulation: what is written is sealed, machines get new keys at any time, and each life may bring a new
//! key-encryption key. And that no nonce comes twice, whatever the power cuts tear.

use super::life::{Alive, Life, machine};
use super::model::Model;
use crate::world::World;
use landfall_disks::faults::{Seed, run};
use landfall_disks::file::{Caching, FileError, Folder, OpenMode};
use landfall_disks::{BLOCK_BYTES, Buffer};
use landfall_retention::journal::format::{ExtentContent, Record, SegmentHeader};
use landfall_retention::sealing::{Encryption, KeyEncryptionKey};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A key, a life of a segment, and a unit of it: what a nonce is made of.
pub(super) type NonceUse = (u32, u32, u64, u32);

impl Model {
    /// Keys to open the store with: none, those of the life before, or a new one to wrap with.
    pub(super) fn encryption(&mut self, choices: &mut Seed) -> Encryption {
        if !self.sealed {
            return Encryption::default();
        }
        if self.keks.is_empty() || choices.chance(1, 3) {
            let mut bytes = [0; 32];
            choices.fill(&mut bytes);
            self.keks.insert(0, KeyEncryptionKey::new(bytes.into()));
        }
        let (newest, earlier) = self.keks.split_first().expect("there is one");
        Encryption { wrap_with: Some(newest.clone()), earlier: earlier.to_vec() }
    }
}

impl Life<'_> {
    /// The machine gets a new key, if there are any.
    pub(super) async fn rotate_key(&mut self) -> Alive<()> {
        if !self.model.sealed {
            return Ok(());
        }
        let rotated = self.retention.rotate_key(&machine()).await;
        let key = self.alive(rotated, "rotate key")?.key;
        self.model.say(format!("writes by {key:?}"));
        Ok(())
    }
}

/// Looks at every sealed block that is on the medium, beyond ends and in torn tails too: none has the nonce of another.
pub(super) fn check_nonces(world: &World, model: &mut Model) {
    let uses = run(&mut Seed::new(0), |_| sealed_blocks(world));
    assert!(model.sealed || uses.is_empty(), "nothing was to be sealed");
    for (nonce, content) in uses {
        let seen = model.nonces.entry(nonce).or_default();
        seen.insert(content);
        assert_eq!(seen.len(), 1, "key, segment, salt and unit {nonce:?} sealed two blocks");
    }
}

async fn sealed_blocks(world: &World) -> Vec<(NonceUse, [u8; 32])> {
    let mut found = Vec::new();
    for lane in 0..2 {
        let folder = PathBuf::from(format!("{lane}"));
        let names = match world.folder.list(&folder).await {
            Err(FileError::NotFound { .. }) => continue,
            names => names.expect("a list"),
        };
        for name in names.iter().filter(|name| name.ends_with(".seg")) {
            add_blocks(&read(world, &folder.join(name)).await, &mut found);
        }
    }
    found
}

async fn read(world: &World, path: &Path) -> Vec<u8> {
    let file = world.folder.open(path, OpenMode::ReadWrite, Caching::Buffered).await;
    let file = file.expect("it was listed");
    let length = usize::try_from(file.length().await.expect("a length")).expect("small");
    file.read_at(0, Buffer::zeroed(length)).await.expect("its bytes").to_vec()
}

/// Blocks whose tags are there. One that was torn may be the old content of the medium: what was never written has no nonce.
fn add_blocks(bytes: &[u8], found: &mut Vec<(NonceUse, [u8; 32])>) {
    let Ok(header) = SegmentHeader::parse(bytes) else { return };
    for start in (0..bytes.len()).step_by(BLOCK_BYTES) {
        let Ok(record) = Record::parse(&bytes[start..], header.salt) else { continue };
        for (number, extent) in record.extents.iter().enumerate() {
            let ExtentContent::Data { body, hash } = extent.content else { continue };
            let Some((origin, tags)) = record.seal_of(number, 0, header.salt) else { continue };
            let whole = start + body as usize;
            let length = usize::try_from(extent.range.length()).expect("small");
            let Some(body) = bytes.get(whole..whole + length) else { continue };
            if *blake3::hash(body).as_bytes() != hash {
                continue;
            }
            for (at, (block, _)) in (0..).zip(body.chunks(BLOCK_BYTES).zip(tags)) {
                let of =
                    (origin.key.number(), origin.segment.number(), origin.salt, origin.unit + at);
                found.push((of, *blake3::hash(block).as_bytes()));
            }
        }
    }
}

/// Which contents were found under each nonce.
pub(super) type Nonces = BTreeMap<NonceUse, BTreeSet<[u8; 32]>>;
