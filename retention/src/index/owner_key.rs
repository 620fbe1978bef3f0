//! Whose index it is (key kind 9): the number of the data folder, as its manifest has it.
//!
//! ```text
//!   owner  9  →  16 bytes
//! ```
//!
//! An index, or a checkpoint of one, that was left lying where another data folder now keeps its own would lead to blocks of
//! other disks.

use super::{IndexBatch, IndexError, IndexStore};

const OWNER: [u8; 1] = [9];

/// Checks that the index is that of the data folder `id`. One that says nothing, because it is new or from before this was
/// noted, is from now on.
pub(crate) fn check_owner(store: &dyn IndexStore, id: [u8; 16]) -> Result<(), IndexError> {
    match store.get(&OWNER)? {
        Some(owner) if owner == id => Ok(()),
        Some(_) => Err(IndexError::Foreign),
        None => {
            let mut batch = IndexBatch::default();
            batch.put(OWNER, id);
            store.write(batch)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryIndex;
    use super::*;

    #[test]
    fn an_index_is_of_the_first_folder_that_opened_it() {
        let store = MemoryIndex::default();
        check_owner(&store, [1; 16]).unwrap();
        check_owner(&store, [1; 16]).unwrap();
        assert!(matches!(check_owner(&store, [2; 16]), Err(IndexError::Foreign)));
    }
}
