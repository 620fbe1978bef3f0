//! Opens an image for writing and does what it is told, line by line, until its input ends.
//!
//! ```text
//!   write|zero|discard START COUNT TAG    in sectors; written are stamps with the tag
//!   flush
//!   churn SESSION                         rounds without end, a flush behind each while the next is under way
//! ```
//!
//! It says `open` once the image is, then `done` for every line; `churn` says `flushed N` for every round instead. To be
//! stopped, killed and locked out by tests.

use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use landfall_disks::mapped::Layer;
use landfall_disks::uring::buffer::Buffer;
use landfall_disks::uring::{Engine, EngineSettings};
use landfall_disks::{ByteOffset, ByteRange, DiskError, Durability, ZeroMode};
use landfall_tests::churn::{Deed, Operation, SECTOR_BYTES, round, stamped, tag};
use landfall_tests::writable;
use std::io::{BufRead, Write};
use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let path = PathBuf::from(std::env::args_os().nth(1).context("usage: image-writer FILE")?);
    let settings = EngineSettings { cores: 1, ..EngineSettings::default() };
    let engine = Engine::start(settings)?;
    let done = engine.cores()[0].block_on(move || serve(path)).context("the core ended")?;
    engine.stop();
    done
}

async fn serve(path: PathBuf) -> anyhow::Result<()> {
    let disk = writable::open(&path).await?;
    say("open")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let deed = match words.first() {
            Some(&"write") => Deed::Write,
            Some(&"zero") => Deed::Zero,
            Some(&"discard") => Deed::Discard,
            Some(&"flush") => {
                disk.flush().await?;
                say("done")?;
                continue;
            }
            Some(&"churn") => return churn(&*disk, number(&words, 1)?.try_into()?).await,
            _ => bail!("{line:?} is no command"),
        };
        let (start, count) = (number(&words, 1)?, number(&words, 2)?);
        perform(&*disk, Operation { start, count, deed }, number(&words, 3)?).await?;
        say("done")?;
    }
    disk.flush().await?;
    Ok(())
}

/// Rounds until the process is killed.
async fn churn(disk: &dyn Layer, session: u32) -> anyhow::Result<()> {
    let sectors = disk.geometry().size_bytes / SECTOR_BYTES as u64;
    let whole = |number| {
        let operations = round(session, number, sectors);
        try_join_all(
            operations.into_iter().map(move |one| perform(disk, one, tag(session, number))),
        )
    };
    whole(0).await?;
    for number in 0.. {
        let flushed = async {
            disk.flush().await?;
            say(&format!("flushed {number}"))?;
            anyhow::Ok(())
        };
        let next = async { anyhow::Ok(whole(number + 1).await?) };
        futures_util::future::try_join(flushed, next).await?;
    }
    Ok(())
}

async fn perform(disk: &dyn Layer, operation: Operation, tag: u64) -> Result<(), DiskError> {
    let Operation { start, count, deed } = operation;
    let at = ByteOffset::new(start * SECTOR_BYTES as u64);
    let range = ByteRange::at(at, count * SECTOR_BYTES as u64).expect("within the disk");
    match deed {
        Deed::Write => {
            let data = Buffer::copy_of(&stamped(start, count, tag));
            disk.write(at, data, Durability::Cached).await
        }
        Deed::Zero => disk.write_zeroes(range, ZeroMode::Unmap, Durability::Cached).await,
        Deed::Discard => disk.discard(range).await,
    }
}

fn number(words: &[&str], index: usize) -> anyhow::Result<u64> {
    words.get(index).context("a number is missing")?.parse().context("a number")
}

fn say(word: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}")?;
    Ok(out.flush()?)
}
