//! What a round found of standby files, as the control API says it.

use super::messages::StandbyFileLooked;
use crate::service::StandbyScrubbed;
use landfall_retention::standby::{StandbyChecked, StandbyFound};

/// One for each file; one for all of them where none could be looked at.
pub(super) fn files(scrubbed: &StandbyScrubbed) -> Vec<StandbyFileLooked> {
    let machine = scrubbed.machine.to_string();
    let files = match &scrubbed.files {
        Ok(files) => files,
        Err(error) => {
            return vec![StandbyFileLooked {
                machine,
                disk: None,
                path: None,
                found: "not-checked".to_owned(),
                what: error.clone(),
                bytes: 0,
                written_anew: false,
                error: None,
            }];
        }
    };
    let file = |file: &StandbyChecked| {
        let (found, what, bytes) = match &file.found {
            StandbyFound::Same(held) => ("same", held.to_string(), 0),
            StandbyFound::Differs { held, bytes, .. } => ("differs", held.to_string(), *bytes),
            StandbyFound::NotChecked(why) => ("not-checked", why.to_string(), 0),
            _ => ("not-checked", String::new(), 0),
        };
        let anew = scrubbed.written_anew.as_ref().filter(|_| bytes > 0);
        StandbyFileLooked {
            machine: machine.clone(),
            disk: Some(file.disk.to_string()),
            path: Some(file.path.display().to_string()),
            found: found.to_owned(),
            what,
            bytes,
            written_anew: anew.is_some_and(Result::is_ok),
            error: anew.and_then(|anew| anew.as_ref().err().cloned()),
        }
    };
    files.iter().map(file).collect()
}
