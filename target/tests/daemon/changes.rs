//! Changes between moments, told by the real binary, against what the moments read as.

use crate::harness::{Target, control, noise, write_image};
use futures_util::future::join_all;
use landfall_disks::{Buffer, ByteOffset, Durability};
use serde_json::Value;

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;

/// The ranges of an answer, as offsets and lengths in blocks.
fn blocks(changes: &Value) -> Vec<(u64, u64)> {
    let number = |range: &Value, key: &str| range[key].as_u64().expect("a number");
    let range = |range: &Value| {
        assert_eq!(range["written"], true);
        (number(range, "offset") / 4096, number(range, "length").div_ceil(4096))
    };
    changes["ranges"].as_array().expect("a list").iter().map(range).collect()
}

fn differing(one: &[u8], other: &[u8]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (number, (old, new)) in one.chunks(BLOCK).zip(other.chunks(BLOCK)).enumerate() {
        let number = number as u64;
        match ranges.last_mut() {
            _ if old == new => {}
            Some((start, length)) if *start + *length == number => *length += 1,
            _ => ranges.push((number, 1)),
        }
    }
    ranges
}

/// A pass compares and sends 64 KiB at a time, so that much is written where anything differs.
fn assert_told(told: &[(u64, u64)], differ: &[(u64, u64)], what: &str) {
    let all = |ranges: &[(u64, u64)]| -> Vec<u64> {
        ranges.iter().flat_map(|(start, length)| *start..start + length).collect()
    };
    let (told, differ) = (all(told), all(differ));
    let units: Vec<u64> = differ.iter().map(|block| block / 16).collect();
    assert!(differ.iter().all(|block| told.contains(block)), "{what}: {differ:?} of {told:?}");
    assert!(told.iter().all(|block| units.contains(&(block / 16))), "{what}: {told:?}, {differ:?}");
}

#[test]
fn changes_between_any_two_moments_are_what_their_exports_differ_in() {
    let target = Target::start().with_machine(&noise(1, 4 * MIB + 512));
    let source = target.path("disk.raw");
    let write = |at: usize, bytes: &[u8]| write_image(&source, at as u64, bytes);
    write(3 * BLOCK, &noise(2, 2 * BLOCK));
    write(4 * MIB, &noise(3, 512));
    target.replicate();
    write(4 * BLOCK, &vec![0; 70 * BLOCK]);
    target.replicate();
    let points = target.points();
    let name = |index: usize| points[index]["name"].as_str().expect("a name");
    target.run(&["branch", "add", name(1), "--name", "b"]);
    target.run(&["export", "add", "web~b", "--writable"]);
    target.write("web~b/os", MIB as u64, &noise(4, 3 * BLOCK)).expect("written");
    let disk = |moment: &str| moment.replacen("@", "/os@", 1);
    let moments = [name(0), name(1), name(2), "web~b@latest"];
    for from in moments {
        for to in moments {
            let told = target.json(&["changes", "web/os", "--from", from, "--to", to]);
            let read = |moment: &str| target.read(&disk(moment)).expect("it opens").0;
            let differ = differing(&read(from), &read(to));
            assert_told(&blocks(&told), &differ, &format!("{from} to {to}"));
            assert_eq!(told["size_bytes"], 4 * MIB + 512);
        }
    }
    // On a branch, a moment without a line is one of the branch.
    let told = target.json(&["changes", "web~b/os", "--from", "web@latest", "--to", "latest"]);
    let origin = points[1]["sequence"].as_u64().expect("a number");
    assert_eq!(told["to"], format!("web~b/os@seq:{}", origin + 1));
    let text = target.run(&["changes", "web/os", "--from", name(0), "--to", name(1)]);
    assert!(text.contains("OFFSET") && text.contains("2 ranges, 64.5 KiB of"), "{text}");
    let text = target.run(&["changes", "web/os", "--from", name(0), "--to", name(1), "--summary"]);
    assert!(!text.contains("OFFSET") && text.contains("2 ranges"), "{text}");
    let sums = target.json(&["changes", "web/os", "--from", name(0), "--to", name(1), "--summary"]);
    assert_eq!(sums["written_bytes"], (64 << 10) + 512);
    let none = target.run(&["changes", "web/os", "--from", "latest", "--to", "latest"]);
    assert!(none.contains("nothing was written between"), "{none}");
}

#[test]
fn changes_that_cannot_be_told_are_refused_with_a_reason() {
    let target = Target::start().with_machine(&noise(1, MIB));
    let refused = |disk: &str, from: &str| {
        target.refused(&["changes", disk, "--from", from, "--to", "latest"])
    };
    assert!(refused("web", "latest").contains("MACHINE/DISK"));
    assert!(refused("web/os@latest", "latest").contains("without @WHEN"));
    assert!(refused("web/data", "latest").contains("its disks: os"));
    assert!(refused("web/os", "seq:77").contains("seq:77"));
    assert!(refused("web/os", "db@latest").contains("moments of one disk"));
    assert!(refused("web/os", "yesterday").contains("not a moment"));
    assert!(refused("web~b/os", "latest").contains("no branch b"));
}

/// More ranges than a page: they come in pages, none is missing, and one that goes on in the next page is one.
#[test]
fn many_changes_come_in_pages_and_are_whole() {
    const RANGES: u64 = 10_500;
    let target = Target::start().with_machine(&vec![0; 96 * MIB]);
    target.run(&["branch", "add", "web@latest", "--name", "b"]);
    target.run(&["export", "add", "web~b", "--writable"]);
    target.with_clients("web~b/os", 1, async |clients| {
        let numbers: Vec<u64> = (0..RANGES).collect();
        for some in numbers.chunks(200) {
            let write = |number: &u64| {
                let (at, data) = (ByteOffset::new(number * 2 * 4096), Buffer::zeroed(BLOCK));
                clients[0].write(at, data, Durability::Durable)
            };
            for written in join_all(some.iter().map(write)).await {
                written.expect("written");
            }
        }
        let tail = Buffer::zeroed(64 * BLOCK);
        let at = ByteOffset::new(RANGES * 2 * 4096);
        clients[0].write(at, tail, Durability::Durable).await.expect("written");
    });
    let told = target.json(&["changes", "web~b/os", "--from", "web@latest", "--to", "latest"]);
    let mut expected: Vec<(u64, u64)> = (0..RANGES).map(|number| (number * 2, 1)).collect();
    expected.push((RANGES * 2, 64));
    assert_eq!(blocks(&told), expected);
    assert_eq!(told["range_count"], RANGES + 1);
    let pages = |limit: usize| {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let path = format!(
                "/v1/changes?disk=web~b/os&from=web@latest&to=latest&limit={limit}&after={after}"
            );
            let page = control(&target, [("GET", path.as_str(), Value::Null)]).remove(0);
            let page: Value = serde_json::from_str(&page).expect("JSON");
            all.extend(blocks(&page));
            match page["next"].as_u64() {
                Some(next) => after = next,
                None => return all,
            }
        }
    };
    assert_eq!(pages(777), expected);
}
