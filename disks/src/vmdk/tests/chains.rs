//! Children and parents: what is read through, what is their own, and what is refused.

use super::*;
use crate::image::MAX_PARENTS;
use crate::mapped::OwnRange;
use crate::vmdk::ParentLink;

/// Makes a parent of zeroes, `base.vmdk`, and tells a child what to say of it.
pub(super) async fn zero_parent(folder: &Arc<dyn Folder>, size: u64) -> ParentLink {
    let location = at(folder, "base.vmdk");
    create(&location, &Recipe::new(CreateType::MonolithicSparse, size)).await.expect("created");
    link(&location).await
}

/// What a child says of the disk at `location`.
async fn link(location: &Location) -> ParentLink {
    let image = open(location, Access::Read).await.expect("opened");
    let cid = image.identity.expect("there is one").value;
    ParentLink { hint: location.path.display().to_string(), cid }
}

/// The ranges that a disk has itself.
async fn own(image: &Image) -> Vec<(u64, u64)> {
    let whole = image.disk.geometry().whole();
    let (mut at, mut found) = (whole.start(), Vec::new());
    while at < whole.end() {
        let rest = ByteRange::new(at, whole.end()).expect("before the end");
        for OwnRange { range, content } in image.disk.own(rest).await.expect("told") {
            let (start, end) = (range.start().bytes(), range.end().bytes());
            at = range.end();
            match found.last_mut() {
                _ if content.is_none() => {}
                Some((_, last)) if *last == start => *last = end,
                _ => found.push((start, end)),
            }
        }
    }
    found
}

#[test]
fn children_conform_and_read_through() {
    for (kind, sparse) in writable_kinds() {
        if !sparse {
            continue;
        }
        for zeroed_grains in [false, true] {
            in_memory(1, async |folder, _| {
                let made = Cell::new(0);
                let make = async |size| {
                    made.set(made.get() + 1);
                    let _ = folder.remove(&PathBuf::from("base.vmdk")).await;
                    let parent = Some(zero_parent(&folder, size).await);
                    let location = at(&folder, &format!("disk{}.vmdk", made.get()));
                    let recipe =
                        Recipe { zeroed_grains, parent, ..Recipe::new(kind.clone(), size) };
                    new_disk(&location, &recipe).await.disk as Arc<dyn Disk>
                };
                conformance::writable(&mut Seed::new(8), make).await;
            });
        }
    }
}

#[test]
fn a_chain_reads_as_its_topmost_disk_and_each_lists_its_own() {
    in_memory(3, async |folder, _| {
        let size = 4 * MIB;
        let grain = 65_536;
        let names = ["base.vmdk", "one.vmdk", "two.vmdk"];
        let mut expected = vec![0; usize::try_from(size).expect("small")];
        let mut parent = None;
        for (number, name) in (0u8..).zip(names) {
            let location = at(&folder, name);
            let kind = if number == 1 {
                CreateType::TwoGbMaxExtentSparse
            } else {
                CreateType::MonolithicSparse
            };
            let recipe = Recipe { parent: parent.take(), ..Recipe::new(kind, size) };
            let image = new_disk(&location, &recipe).await;
            let start = grain * u64::from(number);
            write(&*image.disk, start + 512, filled(65_536, number + 1)).await.expect("written");
            image.disk.flush().await.expect("flushed");
            drop(image);
            let start = usize::try_from(start).expect("small") + 512;
            expected[start..start + 65_536].fill(number + 1);
            parent = Some(link(&location).await);
        }
        let image = open(&at(&folder, "two.vmdk"), Access::Read).await.expect("opened");
        let found = read(&*image.disk, 0, size).await;
        assert!(found == expected);
        let layers: Vec<&Image> = image.chain().collect();
        assert_eq!(layers.len(), 3);
        assert_eq!(own(layers[0]).await, [(2 * grain, 4 * grain)]);
        assert_eq!(own(layers[1]).await, [(grain, 3 * grain)]);
        assert_eq!(look(&at(&folder, "two.vmdk"), false).await.findings, []);
    });
}

#[test]
fn a_parent_of_other_content_is_refused() {
    in_memory(3, async |folder, _| {
        let parent = Some(zero_parent(&folder, MIB).await);
        let location = at(&folder, "child.vmdk");
        let recipe = Recipe { parent, ..Recipe::new(CreateType::MonolithicSparse, MIB) };
        create(&location, &recipe).await.expect("created");
        let base = open(&at(&folder, "base.vmdk"), Access::Write).await.expect("opened");
        write(&*base.disk, 0, filled(512, 1)).await.expect("written");
        drop(base);
        let error = open(&location, Access::Read).await.err().expect("another content");
        assert!(matches!(error, ImageError::ParentMismatch { .. }), "{error}");
        let report = look(&location, false).await;
        assert_eq!(report.findings.len(), 1);
        let found = report.findings[0].problem.to_string();
        assert!(found.contains("parentCID"), "{found}");
        folder.remove(&PathBuf::from("base.vmdk")).await.expect("removed");
        let error = open(&location, Access::Read).await.err().expect("no parent");
        assert!(matches!(error, ImageError::Missing { .. }), "{error}");
    });
}

#[test]
fn a_chain_ends() {
    in_memory(3, async |folder, _| {
        let child = |own: &str, parent: &str, hint: &str| {
            format!(
                "# Disk DescriptorFile\nversion=1\nCID={own}\nparentCID={parent}\ncreateType=\"custom\"\n\
                     {hint}RW 8 ZERO\n"
            )
        };
        put(&folder, "self.vmdk", child("1", "1", "parentFileNameHint=\"self.vmdk\"\n").as_bytes())
            .await;
        put(&folder, "a.vmdk", child("1", "2", "parentFileNameHint=\"b.vmdk\"\n").as_bytes()).await;
        put(&folder, "b.vmdk", child("2", "1", "parentFileNameHint=\"a.vmdk\"\n").as_bytes()).await;
        for name in ["self.vmdk", "a.vmdk"] {
            let error = open(&at(&folder, name), Access::Read).await.err().expect("a loop");
            assert!(matches!(error, ImageError::ChainLoop { .. }), "{error}");
        }
        put(&folder, "0.vmdk", child("1", "ffffffff", "").as_bytes()).await;
        for number in 1..=MAX_PARENTS + 1 {
            let hint = format!("parentFileNameHint=\"{}.vmdk\"\n", number - 1);
            put(&folder, &format!("{number}.vmdk"), child("1", "1", &hint).as_bytes()).await;
        }
        let longest = at(&folder, &format!("{MAX_PARENTS}.vmdk"));
        assert_eq!(
            open(&longest, Access::Read).await.expect("opened").chain().count(),
            MAX_PARENTS + 1
        );
        let longer = at(&folder, &format!("{}.vmdk", MAX_PARENTS + 1));
        let error = open(&longer, Access::Read).await.err().expect("too long");
        assert!(matches!(error, ImageError::ChainTooLong { .. }), "{error}");
        put(&folder, "half.vmdk", child("1", "1", "").as_bytes()).await;
        let error = open(&at(&folder, "half.vmdk"), Access::Read).await.err().expect("no name");
        assert!(error.to_string().contains("parentFileNameHint is missing"), "{error}");
        let hint = "parentFileNameHint=\"0.vmdk\"\n";
        put(&folder, "other.vmdk", child("1", "ffffffff", hint).as_bytes()).await;
        let error = open(&at(&folder, "other.vmdk"), Access::Read).await.err().expect("no CID");
        assert!(error.to_string().contains("parentCID is ffffffff"), "{error}");
        for path in ["/etc/passwd", "../base.vmdk"] {
            let text = child("1", "ffffffff", "").replace("ZERO", &format!("FLAT \"{path}\" 0"));
            put(&folder, "trick.vmdk", text.as_bytes()).await;
            let error =
                open(&at(&folder, "trick.vmdk"), Access::Read).await.err().expect("refused");
            assert!(matches!(error, ImageError::Refused { .. }), "{error}");
        }
    });
}
