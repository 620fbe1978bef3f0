//! The bytes of NBD: constants, structures, and the way from bytes to meaning and back.
//!
//! ```text
//!   handshake      greeting, headers, flags, numbers    ┐
//!   option         what the client asks for             │ negotiation
//!   reply          what the server answers              ┘
//!   transmission   requests, simple replies, chunks      ┐ after it
//!   extended       the same with 64-bit lengths          ┘
//! ```
//!
//! Everything is big-endian. Parsers take a slice, never read past it, never panic, and check every length against a
//! limit named here before anything is allocated.

pub mod extended;
mod fields;
pub mod handshake;
pub mod option;
pub mod reply;
pub mod transmission;

/// Longest string of the protocol in bytes (section "Conventions").
pub const MAX_STRING: usize = 4096;

/// Longest option data that is looked at, in bytes. The largest legal option is a list of metadata queries.
pub const MAX_OPTION: u32 = 64 << 10;

/// Longest option data that is skipped and answered with `NBD_REP_ERR_TOO_BIG`; beyond it the peer is cut off.
pub const MAX_SKIPPED_OPTION: u32 = 1 << 20;

/// Most metadata queries in one option.
pub const MAX_QUERIES: u32 = 128;

/// Most metadata contexts that are selected at a time: each is looked up by itself in every block status.
pub const MAX_SELECTED: usize = 16;

/// Most information items asked for in one option; there are four, and each may be asked for once.
pub const MAX_INFO_ITEMS: u16 = 64;

/// Largest payload of a read or write in bytes: what the specification expects everybody to accept.
pub const MAX_REQUEST: u32 = 32 << 20;

/// Largest write payload that is read, thrown away and answered with an error; beyond it the peer is cut off.
pub const MAX_SKIPPED_PAYLOAD: u32 = 64 << 20;

/// Most descriptors sent in the reply to one block status, over all contexts; the specification asks for at most 2^20 each.
pub const MAX_DESCRIPTORS: usize = 1 << 16;

/// `NBDMAGIC`, the first bytes of every server.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: newstyle negotiation, and the start of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Start of a request with extended headers.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Start of a reply chunk with extended headers.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Cuts `text` to what a string of the protocol may hold, at a character boundary.
pub fn clip(text: &str) -> &str {
    if text.len() <= MAX_STRING {
        return text;
    }
    let mut end = MAX_STRING;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_keeps_whole_characters() {
        let long = "é".repeat(MAX_STRING);
        assert_eq!(clip(&long).len(), MAX_STRING);
        let odd = format!("a{long}");
        assert_eq!(clip(&odd).len(), MAX_STRING - 1);
        assert_eq!(clip("short"), "short");
    }
}
