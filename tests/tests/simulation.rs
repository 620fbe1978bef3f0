//! The simulation over many seeds. `LANDFALL_SIMULATION_SEEDS` says how many (20 unless told), `LANDFALL_SEED` picks one.

use landfall_tests::simulation::simulate;
use std::panic::catch_unwind;

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match number("LANDFALL_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("LANDFALL_SIMULATION_SEEDS").unwrap_or(20)).collect(),
    }
}

#[test]
fn every_seed_keeps_the_promises() {
    let seeds = seeds();
    let alone = seeds.len() == 1;
    let fails = |seed: &u64| match catch_unwind(|| simulate(*seed)) {
        Ok(log) if alone => {
            log.iter().for_each(|line| println!("{line}"));
            false
        }
        ended => ended.is_err(),
    };
    let failed: Vec<u64> = seeds.into_iter().filter(fails).collect();
    for seed in &failed {
        eprintln!("seed {seed} failed; alone: make simulation SEED={seed}");
    }
    assert_eq!(failed, Vec::<u64>::new(), "failed seeds");
}

#[test]
fn the_same_seed_gives_the_same_log() {
    for seed in [1, 2, 3] {
        let log = simulate(seed);
        assert!(log.len() > 5, "seed {seed} does next to nothing: {log:?}");
        assert_eq!(log, simulate(seed), "seed {seed}");
    }
}

#[test]
fn scrubs_find_what_was_damaged_and_heal_some_of_it() {
    let (mut healed, mut said, mut refused) = (0, 0, 0);
    for seed in 100..160 {
        for line in simulate(seed) {
            let Some((_, found)) = line.split_once(" damaged at ") else { continue };
            let numbers: Vec<u64> = found.split(' ').filter_map(|word| word.parse().ok()).collect();
            if let [some, more, blocks] = numbers[..] {
                healed += some;
                said += more;
                refused += blocks;
            }
        }
    }
    assert!(
        healed > 3 && said > 3 && refused > 3,
        "{healed} healed, {said} said, {refused} refused"
    );
}

/// Lives whose index is built while it is used come about: moments open meanwhile, others wait, sources go on.
#[test]
fn an_index_that_lacks_much_is_built_beside_everything_else() {
    let (mut opened, mut refused, mut resumed, mut cut) = (0, 0, 0, 0);
    for seed in 200..260 {
        for line in simulate(seed) {
            cut += u32::from(line.ends_with("segments were left to be indexed"));
            let Some((_, met)) = line.split_once(" segments meanwhile: ") else { continue };
            let numbers: Vec<u32> = met.split(' ').filter_map(|word| word.parse().ok()).collect();
            if let [some, more] = numbers[..] {
                opened += some;
                refused += more;
                resumed += u32::from(met.ends_with("true"));
            }
        }
    }
    assert!(
        opened > 3 && refused > 10 && resumed > 3 && cut > 1,
        "{opened} opened, {refused} refused, {resumed} resumed, {cut} cut off"
    );
}

/// Aborts come in time before their write is on its way, in time with a record, and too late; and the power goes beside some.
#[test]
fn aborts_come_in_time_and_too_late() {
    let (mut dropped, mut recorded, mut late, mut cut) = (0, 0, 0, 0);
    for seed in 300..370 {
        for line in simulate(seed) {
            cut += u32::from(line.starts_with("the power went beside"));
            let Some((_, found)) = line.split_once(" in time, ") else { continue };
            let (_, in_time) = line.split_once(": ").expect("of which branch");
            let number =
                |text: &str| text.split(' ').next().and_then(|word| word.parse::<u32>().ok());
            let records = found.split(", ").nth(1).and_then(number).expect("a number");
            let in_time = number(in_time).expect("a number");
            late += number(found).expect("a number");
            recorded += records;
            // Several of one record are aborted by one.
            dropped += u32::from(records == 0 && in_time > 0);
        }
    }
    assert!(
        dropped > 5 && recorded > 5 && late > 5 && cut > 3,
        "{dropped} dropped, {recorded} records, {late} too late, {cut} cut off"
    );
}
