//! What the specification says of negotiation, stated once more: nothing of the code under test is asked for it.

mod model;
mod option;

pub use model::Model;

use landfall_protocols::nbd::OpenError;
use landfall_protocols::nbd::session::{Access, ExportFacts};

pub const SIZE: u64 = 1 << 30;
pub const EXPORTS: [&str; 4] = ["disk", "disk@7", "locked", "nothing"];
/// What exports can tell, beside any `many:N`.
pub const CONTEXTS: [&str; 3] = ["base:allocation", "qemu:x", "qemu:x:y"];
/// More are not selected at a time.
const MAX_SELECTED: usize = 16;

pub fn facts(name: &str) -> Result<ExportFacts, OpenError> {
    match name {
        "disk" | "disk@7" => Ok(ExportFacts {
            name: "disk@7".into(),
            description: if name == "disk" { "seven".into() } else { String::new() },
            size_bytes: SIZE,
            access: if name == "disk" { Access::Writable } else { Access::ReadOnly },
            multi_conn: name == "disk@7",
            preferred_block: if name == "disk" { 4096 } else { 65_536 },
        }),
        "locked" => Err(OpenError::NotAllowed("not for you".into())),
        _ => Err(OpenError::Unknown("no such export".into())),
    }
}

pub fn is_there(name: &str) -> bool {
    CONTEXTS.contains(&name) || name.starts_with("many:")
}

/// By name, or by any start of it that ends with a colon.
pub fn is_listed(query: &str, name: &str) -> bool {
    let starts = name.match_indices(':').map(|(at, _)| &name[..=at]);
    query == name || starts.into_iter().any(|start| start == query)
}
