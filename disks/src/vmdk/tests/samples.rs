//! Samples made by hand: malformed ones with what is said of each, and deltas of ESX, which nothing here writes.
//!
//! They are in `tests/fixtures/images/vmdk`; `expected.tsv` has a line for each that is malformed.

use super::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/images/vmdk");

/// Puts all samples into `folder`.
async fn load(folder: &Arc<dyn Folder>) {
    for entry in std::fs::read_dir(FOLDER).expect("the samples are there") {
        let path = entry.expect("listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name");
        put(folder, name, &std::fs::read(&path).expect("read")).await;
    }
}

/// What the sample is said to be.
async fn complaint(location: &Location, when: &str) -> String {
    let image = match (when, open(location, Access::Read).await) {
        ("open", Err(error)) => return error.to_string(),
        ("open", Ok(_)) => panic!("{} was opened", location.path.display()),
        (_, Ok(image)) => image,
        (_, Err(error)) => panic!("{}: opening: {error}", location.path.display()),
    };
    match when {
        "read" => {
            let whole = image.disk.geometry().whole();
            image.disk.read(whole).await.expect_err("it cannot be read").to_string()
        }
        "check" => {
            drop(image);
            open(location, Access::Write).await.err().expect("nobody writes beside damage");
            let report = look(location, true).await;
            assert!(!report.is_clean(), "no repair without loss: {report:?}");
            report.findings[0].problem.to_string()
        }
        other => panic!("no sample is found out by {other}"),
    }
}

#[test]
fn malformed_samples_are_named_with_structure_offset_and_value() {
    in_memory(1, async |folder, _| {
        load(&folder).await;
        let list = std::fs::read_to_string(format!("{FOLDER}/expected.tsv")).expect("read");
        let mut count = 0;
        for line in list.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split('\t').collect();
            let [name, when, expected] = fields[..] else { panic!("{line}") };
            let found = complaint(&at(&folder, name), when).await;
            assert!(found.contains(expected), "{name}:\n  found    {found}\n  expected {expected}");
            count += 1;
        }
        assert!(count >= 40, "{count} samples");
    });
}

#[test]
fn deltas_of_esx_are_read_through_their_parents() {
    in_memory(1, async |folder, _| {
        load(&folder).await;
        let size = 4096 * 512;
        for (name, unit, own) in [
            // Grains of a sector, each with its number plus one.
            ("cowd.vmdk", 512, &[(0, 1), (1, 2), (7, 8), (4095, 16)][..]),
            // Grains of 4 KiB; the fourth and fifth are zeroes by their entries.
            ("sesparse.vmdk", 4096, &[(0, 1), (3, 3), (4, 0), (5, 0), (511, 4)][..]),
        ] {
            let location = at(&folder, name);
            let image = open(&location, Access::Read).await.expect("opened");
            let mut expected = vec![0; size];
            for (number, byte) in own {
                expected[number * unit..(number + 1) * unit].fill(*byte);
            }
            assert!(read(&*image.disk, 0, size as u64).await == expected, "{name}");
            let whole = image.disk.geometry().whole();
            let mut listed = vec![false; size / unit];
            let mut start = whole.start();
            while start < whole.end() {
                let rest = ByteRange::new(start, whole.end()).expect("in order");
                for part in image.disk.own(rest).await.expect("told") {
                    let [from, to] = [part.range.start(), part.range.end()]
                        .map(|offset| usize::try_from(offset.bytes()).expect("small") / unit);
                    listed[from..to].fill(part.content.is_some());
                    start = part.range.end();
                }
            }
            let listed: Vec<usize> = listed
                .iter()
                .enumerate()
                .filter(|(_, own)| **own)
                .map(|(number, _)| number)
                .collect();
            assert_eq!(listed, own.iter().map(|(number, _)| *number).collect::<Vec<_>>(), "{name}");
            assert_eq!(image.chain().count(), 2);
            drop(image);
            let refused = open(&location, Access::Write).await.err().expect("read only");
            assert!(refused.to_string().contains("read only"), "{refused}");
            assert_eq!(look(&location, false).await.findings, [], "{name}");
        }
    });
}
