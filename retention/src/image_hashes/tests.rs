use super::format::PAGES_OFFSET;
use super::*;
use crate::ids::Sequence;
use landfall_disks::faults::{FaultFolder, Seed, run};
use landfall_disks::file::{Caching, Folder, OpenMode};
use page::PAGE_SPAN;
use std::path::Path;

const DISK: DiskId = DiskId::new(5);
const OF: Described = Described { disk: DISK, folder: [7; 16] };
const PATH: &str = "image-hashes/5.hashes";
/// Four pages and a bit, ending within a block.
const SIZE: u64 = 4 * PAGE_SPAN + 3 * BLOCK_SIZE + 512;

fn cache() -> Arc<PageCache> {
    Arc::new(PageCache::new(1 << 20))
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).expect("in order")
}

fn bytes(length: u64, seed: &mut Seed) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).expect("small")];
    seed.fill(&mut bytes);
    bytes
}

/// A disk in memory, and which of its blocks are known.
#[derive(Clone)]
struct Model {
    content: Vec<u8>,
    known: Vec<bool>,
}

impl Model {
    fn new(known: bool) -> Self {
        let blocks = usize::try_from(SIZE.div_ceil(BLOCK_SIZE)).expect("small");
        Self { content: vec![0; usize::try_from(SIZE).expect("small")], known: vec![known; blocks] }
    }

    /// Some change, as the image would see it.
    fn change(&mut self, seed: &mut Seed) -> Sums {
        let blocks = SIZE.div_ceil(BLOCK_SIZE);
        let first = seed.below(blocks);
        let longest = *seed.pick(&[1, 20, 700, 3000]);
        let end = ((first + 1 + seed.below(longest)) * BLOCK_SIZE).min(SIZE);
        let range = range(first * BLOCK_SIZE, end);
        let index = |offset: u64| usize::try_from(offset).expect("small");
        let at = index(range.start().bytes())..index(end);
        let zeroes = seed.chance(1, 3);
        for block in at.start / BLOCK_BYTES..at.end.div_ceil(BLOCK_BYTES) {
            // A page of zeroes that is not there is left as it is: known or not.
            let page = PageNumber::of(ByteOffset::new(block as u64 * BLOCK_SIZE)).range();
            self.known[block] |= !(zeroes && range.contains(page));
        }
        if zeroes {
            self.content[at].fill(0);
            return Sums::zeroes(range, SIZE);
        }
        let new = bytes(range.length(), seed);
        self.content[at].copy_from_slice(&new);
        Sums::of(range.start(), &new, SIZE)
    }

    /// That exactly the known blocks are checked: each of them notices a flipped bit, no other does. Blocks of zeroes that are
    /// known without having been noted may be so.
    async fn verify(&self, hashes: &ImageHashes) {
        let whole = ByteRange::up_to(SIZE);
        let found = hashes.mismatch(whole, &self.content).await;
        assert_eq!(found, None, "a false alarm");
        let mut broken = self.content.clone();
        broken.iter_mut().step_by(BLOCK_BYTES).for_each(|byte| *byte ^= 1);
        for (block, known) in self.known.iter().enumerate() {
            let start = block as u64 * BLOCK_SIZE;
            let one = range(start, (start + BLOCK_SIZE).min(SIZE));
            let at = usize::try_from(start).expect("small");
            let end = broken.len().min(at + BLOCK_BYTES);
            let noticed = hashes.mismatch(one, &broken[at..end]).await.is_some();
            assert!(noticed || !known, "block {block} is not checked");
            let zero = self.content[at..end].iter().all(|byte| *byte == 0);
            assert!(!noticed || *known || zero, "block {block} is checked by nothing");
        }
    }
}

/// A fold: changes noted window by window, then finished.
async fn fold(
    hashes: &ImageHashes,
    sums: &[Sums],
    floor: u64,
) -> Result<(), landfall_disks::DiskError> {
    for some in sums.chunks(2) {
        let mut update = hashes.update().await;
        update.take(some).await?;
        update.settle().await?;
    }
    hashes.update().await.finish(Sequence::new(floor), SIZE).await
}

/// A folder without a file, a disk full of data, and the order of what is done.
fn of_all(number: u64) -> (FaultFolder, Model, Seed) {
    let mut seed = Seed::new(number);
    let folder = FaultFolder::new(seed.fork());
    let mut model = Model::new(true);
    model.content = bytes(SIZE, &mut seed);
    (folder, model, seed.fork())
}

/// Notes the hash of every block.
async fn note_all(folder: &FaultFolder, model: &Model) {
    let hashes = ImageHashes::create(folder, OF, true, &cache()).await;
    let sums = Sums::of(ByteOffset::new(0), &model.content, SIZE);
    fold(&hashes, &[sums], 1).await.expect("fine");
}

#[test]
fn what_was_noted_is_checked_and_nothing_else() {
    for number in 0..40 {
        let mut seed = Seed::new(number);
        let folder = FaultFolder::new(seed.fork());
        let mut order = seed.fork();
        run(&mut order, |_| async move {
            let zeroes = seed.chance(1, 2);
            let mut model = Model::new(zeroes);
            let mut hashes = ImageHashes::create(&folder, OF, zeroes, &cache()).await;
            for floor in 1..5 {
                let sums: Vec<_> = (0..seed.below(6)).map(|_| model.change(&mut seed)).collect();
                fold(&hashes, &sums, floor).await.expect("nothing fails");
                model.verify(&hashes).await;
                if seed.chance(1, 2) {
                    hashes = ImageHashes::open(&folder, OF, Sequence::new(floor), &cache()).await;
                    model.verify(&hashes).await;
                }
            }
        });
    }
}

/// Cuts the power at every flush and sync of a fold. Blocks that the fold does not write are checked by what they were, all
/// others by what they were or what they become; and the fold that is repeated leaves what it should.
#[test]
fn every_power_cut_leaves_the_old_or_the_new_of_what_a_fold_writes_and_all_else() {
    for number in 0..12 {
        for cut in 1..12 {
            let mut seed = Seed::new(number);
            let folder = FaultFolder::new(seed.fork());
            let mut before = Model::new(true);
            let first: Vec<_> = (0..4).map(|_| before.change(&mut seed)).collect();
            let mut after = before.clone();
            let second: Vec<_> = (0..4).map(|_| after.change(&mut seed)).collect();
            let done = run(&mut seed.fork(), |_| {
                let (folder, first, second) = (folder.clone(), &first, &second);
                async move {
                    let hashes = ImageHashes::create(&folder, OF, true, &cache()).await;
                    fold(&hashes, first, 1).await.expect("nothing fails");
                    folder.crash_after_flushes(cut);
                    fold(&hashes, second, 2).await.is_ok()
                }
            });
            let folder = folder.crash(&mut seed);
            let (before, after) = (&before, &after);
            run(&mut seed.fork(), |_| async move {
                let floor = Sequence::new(if done { 2 } else { 1 });
                let hashes = ImageHashes::open(&folder, OF, floor, &cache()).await;
                assert!(hashes.is_complete());
                for (block, at) in (0..SIZE).step_by(BLOCK_BYTES).enumerate() {
                    let one = range(at, (at + BLOCK_SIZE).min(SIZE));
                    let slice = |model: &Model| {
                        let start = block * BLOCK_BYTES;
                        model.content[start..model.content.len().min(start + BLOCK_BYTES)].to_vec()
                    };
                    let fits_new = hashes.mismatch(one, &slice(after)).await.is_none();
                    let fits_old = hashes.mismatch(one, &slice(before)).await.is_none();
                    let written = slice(after) != slice(before);
                    assert!(fits_new || !done && written && fits_old, "block {block}");
                    assert!(!written || fits_new != fits_old, "block {block} is not checked");
                }
                fold(&hashes, &second, 2).await.expect("nothing fails");
                after.verify(&hashes).await;
            });
            if done {
                break;
            }
        }
    }
}

#[test]
fn a_page_that_is_damaged_says_nothing_and_the_others_what_they_said() {
    let (folder, model, mut order) = of_all(1);
    run(&mut order, |_| async move {
        note_all(&folder, &model).await;
        folder.corrupt(PATH, PAGES_OFFSET + PAGE_BYTES as u64 + 700, 1);
        let hashes = ImageHashes::open(&folder, OF, Sequence::new(1), &cache()).await;
        let second = usize::try_from(PAGE_SPAN / BLOCK_SIZE).expect("small");
        let mut model = model;
        model.known[second..2 * second].fill(false);
        model.verify(&hashes).await;
        assert!(hashes.lost_some());
        // Without its header nothing of it is believed.
        folder.corrupt(PATH, 40, 1);
        let hashes = ImageHashes::open(&folder, OF, Sequence::new(1), &cache()).await;
        Model { known: vec![false; model.known.len()], ..model }.verify(&hashes).await;
        assert!(!hashes.is_complete());
    });
}

/// The medium gives a page wrongly once, and well from then on: whoever reads it later must see what it says.
#[test]
fn a_page_that_was_read_damaged_once_is_read_again() {
    let (folder, model, mut order) = of_all(6);
    run(&mut order, |_| async move {
        note_all(&folder, &model).await;
        let hashes = ImageHashes::open(&folder, OF, Sequence::new(1), &cache()).await;
        let file = folder.open(Path::new(PATH), OpenMode::ReadWrite, Caching::Direct).await;
        let file = file.expect("it is there");
        let at = PAGES_OFFSET + PAGE_BYTES as u64;
        let whole = file.read_at(at, Buffer::for_overwriting(PAGE_BYTES)).await.expect("fine");
        folder.corrupt(PATH, at + 700, 1);
        let block = range(PAGE_SPAN, PAGE_SPAN + BLOCK_SIZE);
        let other = [model.content[usize::try_from(PAGE_SPAN).expect("small")] ^ 1; BLOCK_BYTES];
        assert_eq!(hashes.mismatch(block, &other).await, None, "the page says nothing");
        let number = block.start().block();
        assert!(!hashes.proves(number, &other), "nor is that a proof");
        file.write_at(at, whole).await.expect("fine");
        assert_eq!(hashes.mismatch(block, &other).await, Some(block));
        let start = usize::try_from(PAGE_SPAN).expect("small");
        assert!(!hashes.proves(number, &other));
        assert!(hashes.proves(number, &model.content[start..start + BLOCK_BYTES]));
        model.verify(&hashes).await;
    });
}

#[test]
fn a_file_that_does_not_fit_the_image_is_not_believed() {
    let mut seed = Seed::new(2);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| async move {
        let hashes = ImageHashes::create(&folder, OF, true, &cache()).await;
        fold(&hashes, &[], 3).await.expect("nothing fails");
        let open = async |of, floor| ImageHashes::open(&folder, of, floor, &cache()).await;
        assert!(open(OF, Sequence::new(3)).await.is_complete());
        assert!(open(OF, Sequence::new(2)).await.is_complete(), "ahead: its fold is repeated");
        // Somebody folded who did not know of it.
        assert!(!open(OF, Sequence::new(4)).await.is_complete());
        assert!(!open(OF, Sequence::new(4)).await.is_complete(), "and it stays so");
        let elsewhere = Described { folder: [8; 16], ..OF };
        assert!(!open(elsewhere, Sequence::new(0)).await.is_complete());
    });
}

#[test]
fn a_full_disk_refuses_a_fold_and_takes_the_next_one() {
    let mut seed = Seed::new(3);
    let folder = FaultFolder::new(seed.fork());
    let mut model = Model::new(true);
    let sums: Vec<_> = (0..6).map(|_| model.change(&mut seed)).collect();
    run(&mut seed.fork(), |_| async move {
        let hashes = ImageHashes::create(&folder, OF, true, &cache()).await;
        folder.set_capacity(Some(0));
        assert!(fold(&hashes, &sums, 1).await.is_err());
        folder.set_capacity(None);
        fold(&hashes, &sums, 1).await.expect("there is space again");
        model.verify(&hashes).await;
    });
}

#[test]
fn an_empty_disk_of_64_tib_takes_no_space_whatever_is_zeroed() {
    let mut seed = Seed::new(4);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| async move {
        let size = landfall_disks::MAX_DISK_SIZE;
        for known in [true, false] {
            let hashes = ImageHashes::create(&folder, OF, known, &cache()).await;
            let data = Sums::of(ByteOffset::new(size / 2), &[1; 8192], size);
            let zeroes = Sums::zeroes(ByteRange::up_to(size), size);
            let mut update = hashes.update().await;
            update.take(&[data, zeroes]).await.expect("nothing fails");
            update.finish(Sequence::new(1), size).await.expect("nothing fails");
            drop(update);
            assert!(hashes.is_complete());
            let block = range(size - BLOCK_SIZE, size);
            assert_eq!(hashes.mismatch(block, &[0; 4096]).await, None);
            assert_eq!(hashes.mismatch(block, &[1; 4096]).await, Some(block));
            let block = range(size / 2, size / 2 + BLOCK_SIZE);
            assert_eq!(hashes.mismatch(block, &[1; 4096]).await, Some(block));
            let file = folder.open(Path::new(PATH), OpenMode::Read, Caching::Direct).await;
            let file = file.expect("it is there");
            let mut pages = 0;
            let mut at = PAGES_OFFSET;
            while let Some((start, end)) = file.next_data(at).await.expect("nothing fails") {
                pages += (end - start.max(at)) / PAGE_BYTES as u64;
                at = end;
            }
            assert!(pages <= 2, "{pages} pages for zeroes");
        }
    });
}

#[test]
fn what_a_first_copy_was_cut_off_at_is_not_known() {
    let mut seed = Seed::new(5);
    let folder = FaultFolder::new(seed.fork());
    run(&mut seed, |_| async move {
        let hashes = ImageHashes::create(&folder, OF, true, &cache()).await;
        hashes.doubt(range(0, BLOCK_SIZE));
        hashes.doubt(range(BLOCK_SIZE, 2 * BLOCK_SIZE));
        hashes.trust(range(0, BLOCK_SIZE));
        fold(&hashes, &[], 1).await.expect("nothing fails");
        let mut model = Model::new(true);
        model.known[1] = false;
        model.content[4096] = 9;
        model.verify(&hashes).await;
    });
}
