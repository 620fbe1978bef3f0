//! Where blocks come from and what changed since, while history moves: who keeps what, and which moments lie in the past of which.

use super::past::*;
use super::promote::{branch_at, promote, write};
use landfall_disks::{BLOCK_SIZE, ByteRange, DiskError};
use landfall_retention::ids::Sequence;
use landfall_retention::name::When;
use landfall_retention::{Change, ChangesError, ChangesSince, FoldError, Holder, Retention, Shown};

async fn shown(store: &Retention, at: &str) -> Shown {
    Shown::Moment(store.resolve(&moment(at)).await.expect(at))
}

fn whole() -> ByteRange {
    ByteRange::up_to(SIZES[0])
}

fn when(text: &str) -> When {
    When::parse(text).expect(text)
}

async fn since(store: &Retention, shown: &Shown, text: &str) -> Result<ChangesSince, ChangesError> {
    store.changes_since(shown, &when(text), &name("d0")).await
}

/// Blocks that were written.
async fn written(since: &ChangesSince) -> Vec<u64> {
    let parts = since.within(whole()).await.expect("it is there");
    assert_eq!(parts.last().expect("some").0.end(), whole().end());
    let written = parts.iter().filter(|(_, change)| *change == Change::Written);
    written
        .flat_map(|(part, _)| part.chunks(BLOCK_SIZE).map(|b| b.start().block().index()))
        .collect()
}

/// The depth of each block.
async fn depths(store: &Retention, shown: &Shown) -> Vec<u32> {
    let provenance = store.provenance(shown, &name("d0")).expect("it is there");
    let parts = provenance.depths(whole()).await.expect("it is there");
    let each = |(part, depth): &(ByteRange, u32)| {
        std::iter::repeat_n(*depth, part.chunks(BLOCK_SIZE).count())
    };
    parts.iter().flat_map(each).collect()
}

#[test]
fn the_moment_that_changes_are_told_since_is_kept_until_nobody_asks_any_more() {
    let (world, points) = past(91, 4);
    with_store(&world, async |store, _| {
        let newest = shown(&store, "web@latest").await;
        let old = points[1].0;
        let since = since(&store, &newest, &format!("seq:{old}")).await.expect("a point");
        assert_eq!(since.from().sequence, Sequence::new(old));
        let before = written(&since).await;
        assert!(!before.is_empty());
        let refused = fold(&store, points[2].0).await;
        let reader = Holder::Reader(Sequence::new(old));
        assert!(
            matches!(&refused, Err(FoldError::Held { holders, .. }) if *holders == [reader]),
            "{refused:?}"
        );
        assert_eq!(written(&since).await, before);
        drop(since);
        fold(&store, points[2].0).await.expect("nobody holds it");
        let gone = super::provenance::since(&store, &newest, &format!("seq:{old}")).await;
        assert!(gone.is_err_and(|error| error.to_string().contains("now begins at")));
    });
}

#[test]
fn what_is_told_since_a_moment_lies_in_its_past() {
    let (world, points) = past(92, 4);
    with_store(&world, async |store, _| {
        let seq = |index: usize| format!("seq:{}", points[index].0);
        branch_at(&store, points[2].0, "b").await;
        let mut content = points[2].1[0].clone();
        write(&store, "b", &mut content, 3).await;
        let place = store.resolve(&moment("web~b@latest")).await.expect("its head");
        store.add_branch(&place, name("c")).await.expect("a branch of a branch");
        write(&store, "c", &mut content, 5).await;

        let later = since(&store, &shown(&store, &format!("web@{}", seq(1))).await, &seq(2)).await;
        assert!(matches!(later, Err(ChangesError::NotBefore { .. })), "{:?}", later.err());
        for (line, own) in [("b", vec![1, 2, 3]), ("c", vec![1, 2, 3, 4, 5])] {
            let fixed = shown(&store, &format!("web~{line}@latest")).await;
            let head = Shown::Head { machine: name("web"), branch: name(line) };
            for shown in [fixed, head] {
                // Its own writes come after the moment it starts from, which is the trunk's.
                let told = since(&store, &shown, &seq(2)).await.expect("it starts there");
                assert_eq!(written(&told).await, own, "{shown}");
                let told = since(&store, &shown, "tag:p1").await.expect("the trunk's");
                assert!(written(&told).await.len() > own.len(), "{shown}");
                // What the trunk went on to is nobody's past but its own.
                for later in [&seq(3), "tag:p4"] {
                    let refused = since(&store, &shown, later).await.err().expect("later");
                    let said = refused.to_string();
                    assert!(said.contains("no point") || said.contains("not a point"), "{said}");
                }
                let none = since(&store, &shown, "latest").await.expect("itself");
                assert_eq!(written(&none).await, Vec::<u64>::new());
                let marked = store.points_before(&shown, &name("d0"), 2).expect("there");
                let marked: Vec<u64> = marked.iter().map(|p| p.sequence.number()).collect();
                assert_eq!(marked, [points[2].0, points[1].0]);
            }
        }
        // A head is told of as it is when somebody asks.
        let head = Shown::Head { machine: name("web"), branch: name("b") };
        let told = since(&store, &head, "latest").await.expect("its head");
        write(&store, "b", &mut content, 2).await;
        assert_eq!(written(&told).await, [1, 2]);
        store.discard_branch(&name("web"), &name("c")).await.expect("nobody needs it");
        store.discard_branch(&name("web"), &name("b")).await.expect("nobody needs it");
        let gone = told.within(whole()).await;
        assert!(matches!(gone, Err(DiskError::Gone(_))), "{gone:?}");
    });
}

#[test]
fn depth_is_counted_by_lines_and_folds_move_blocks_into_the_image() {
    let (world, points) = past(93, 4);
    with_store(&world, async |store, _| {
        let at = |index: usize| format!("web@seq:{}", points[index].0);
        branch_at(&store, points[3].0, "b").await;
        let mut content = points[3].1[0].clone();
        write(&store, "b", &mut content, 3).await;
        let point = shown(&store, &at(3)).await;
        let head = Shown::Head { machine: name("web"), branch: name("b") };
        let since_first =
            since(&store, &point, &format!("seq:{}", points[0].0)).await.expect("one");
        let journal = written(&since_first).await;
        drop(since_first);
        let trunk = depths(&store, &point).await;
        for (block, depth) in (0..).zip(&trunk) {
            assert_eq!(*depth == 1, journal.contains(&block), "block {block} lies {depth} deep");
            assert!(*depth <= 2);
        }
        let branch = depths(&store, &head).await;
        for (block, (depth, below)) in branch.iter().zip(&trunk).enumerate() {
            let own = (1..=3).contains(&block);
            let expected = if own {
                1
            } else if *below == 0 {
                0
            } else {
                below + 1
            };
            assert_eq!(*depth, expected, "block {block}");
        }
        // Zeroes that were folded are holes; all else is in the image now.
        fold(&store, points[3].0).await.expect("nobody holds anything older");
        let folded = depths(&store, &point).await;
        assert!(folded.iter().all(|depth| matches!(depth, 0 | 2)), "{folded:?}");
        let held = &points[3].1[0];
        for (block, depth) in folded.iter().enumerate() {
            let end = (block * 4096 + 4096).min(held.len());
            assert!(*depth == 2 || held[block * 4096..end].iter().all(|byte| *byte == 0));
        }
        // Promoted, the branch is the trunk, and what it was before is no deeper than what it wrote.
        promote(&store, "b").await.expect("nobody feeds it");
        let newest = shown(&store, "web@latest").await;
        let promoted = depths(&store, &newest).await;
        for (block, depth) in promoted.iter().enumerate() {
            assert_eq!(*depth == 1, (1..=3).contains(&block), "block {block} lies {depth} deep");
        }
        let told = since(&store, &newest, &format!("seq:{}", points[3].0)).await.expect("its own");
        assert_eq!(written(&told).await, [1, 2, 3]);
        let view =
            store.view(&store.resolve(&moment("web@latest")).await.expect("one"), &name("d0"));
        assert_eq!(view.expect("there").geometry().size_bytes, SIZES[0]);
    });
}
