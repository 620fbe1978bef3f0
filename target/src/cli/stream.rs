//! `landfall stream`: what the streams of machines are at.

use super::table::Table;
use super::{Format, Place};
use crate::http::messages::{StreamAt, Streams};

/// Show what the streams of machines are at, and what that means for their points
#[derive(clap::Subcommand)]
pub(super) enum StreamVerb {
    /// List all streams
    #[command(after_help = "\
States, and the moments that come to be in each:
  seed      none: the first copy of a disk is under way
  resync    none until what differs has been compared and sent; older ones stay
  catchup   the ends of passes: crash or app points, fuzzy ones where the source moved
  ordered   every instant: the source delivers its writes in order")]
    List {
        #[command(flatten)]
        format: Format,
    },
}

impl StreamVerb {
    pub(super) fn run(self, place: &Place) -> anyhow::Result<()> {
        match self {
            Self::List { format } => {
                let streams: Streams = place.control()?.get("/v1/streams")?;
                format.print(&streams, |streams| list(&streams.streams));
            }
        }
        Ok(())
    }
}

fn list(streams: &[StreamAt]) -> String {
    if streams.is_empty() {
        return "no machines yet; add one: landfall machine add NAME --disk name=os,size=40GiB"
            .to_owned();
    }
    let mut table = Table::new(&["MACHINE", "STATE", "SINCE", "FED BY", "WHAT IT MEANS"]);
    let mut ranges = String::new();
    for stream in streams {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        table.row(vec![
            stream.machine.clone(),
            stream.state.clone().unwrap_or_else(|| "never opened".to_owned()),
            text(&stream.since),
            text(&stream.peer),
            text(&stream.meaning),
        ]);
        for one in &stream.instants {
            let words = instants_in_words(&stream.machine, one);
            ranges.push_str(&format!("\n{words}"));
        }
    }
    format!("{}{ranges}", table.text())
}

/// `web: any instant from A to B (web@seq:2 to web@seq:9)`.
pub(super) fn instants_in_words(
    machine: &str,
    instants: &crate::http::messages::Instants,
) -> String {
    let crate::http::messages::Instants { from, to, from_sequence, to_sequence, grows } = instants;
    let more = if *grows { ", and growing" } else { "" };
    format!(
        "{machine}: any instant from {from} to {to} \
         ({machine}@seq:{from_sequence} to {machine}@seq:{to_sequence}{more})"
    )
}
