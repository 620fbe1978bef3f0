//! A pass over an image that did not change: its time beside the least a comparison can cost, and its bytes on the wire.

use super::{MACHINE, Stage};
use crate::figure::{Figure, Peer, Series, Unit};
use crate::plain;
use crate::relay::Relay;
use anyhow::ensure;
use std::time::Instant;

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<[Figure; 2]> {
    let mut hash = None;
    let (landfall, theirs) = stage.in_turns(
        "unchanged pass",
        |_| Ok(stage.target.replicate(MACHINE, &stage.image)?.as_secs_f64()),
        |_| {
            let begun = Instant::now();
            let now = plain::hash_file(stage.image.path(), stage.image.size_bytes())?;
            let took = begun.elapsed();
            ensure!(*hash.get_or_insert(now) == now, "the image changed while it was measured");
            Ok(took.as_secs_f64())
        },
    )?;
    let relay = Relay::to(stage.target.delta_address()?)?;
    stage.target.replicate_to(&relay.address(), MACHINE, &stage.image)?;
    let mut wire = Series::default();
    // Counted below TLS. Far from 2^53, so exact.
    wire.push(relay.bytes()? as f64);
    let time = Figure {
        name: "unchanged-pass".into(),
        what: format!(
            "{} MiB that did not change, from the page cache, compared by hash",
            stage.size_mib()
        ),
        unit: Unit::Seconds,
        landfall,
        peers: vec![Peer { name: "reading and BLAKE3 of the file".into(), series: theirs }],
    };
    let bytes = Figure {
        name: "unchanged-wire".into(),
        what: "bytes of such a pass on the wire, both directions, encryption included".into(),
        unit: Unit::Bytes,
        landfall: wire,
        peers: Vec::new(),
    };
    Ok([time, bytes])
}
