//! The first copy: an image into an empty target, beside the same image into a raw file by NBD. Both end durable.

use super::Stage;
use crate::figure::{Figure, Peer, Unit};
use crate::peer::{QemuNbd, Writes, nbdcopy};
use anyhow::Context;
use std::fs::File;

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Figure> {
    let mut name = String::new();
    let (landfall, theirs) = stage.in_turns(
        "first copy",
        |round| {
            let machine = format!("copy-{round}");
            stage.target.add_machine(&machine, stage.settings.size_bytes)?;
            Ok(stage.target.replicate(&machine, &stage.image)?.as_secs_f64())
        },
        |round| {
            let raw = stage.scratch.join(format!("copy-{round}.raw"));
            let made = File::create_new(&raw).and_then(|f| f.set_len(stage.settings.size_bytes));
            made.with_context(|| raw.display().to_string())?;
            let socket = raw.with_extension("sock");
            let server = QemuNbd::start(&raw, &socket, Writes::Cached)?;
            name = format!("nbdcopy --flush into {}", server.name("none"));
            Ok(nbdcopy(stage.image.path(), &server.uri())?.as_secs_f64())
        },
    )?;
    Ok(Figure {
        name: "first-copy".into(),
        what: format!(
            "{} MiB of random bytes, from the page cache, into an empty disk, until durable",
            stage.size_mib()
        ),
        unit: Unit::Seconds,
        landfall,
        peers: vec![Peer { name, series: theirs }],
    })
}
