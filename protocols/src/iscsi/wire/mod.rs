//! The bytes of iSCSI (RFC 7143, section 11): headers of PDUs, text, digests.
//!
//! ```text
//!   header     what every PDU begins with: lengths of what follows
//!   pdu        which PDU it is, in both directions
//!   command    SCSI commands and responses          ┐
//!   data       Data-Out, Data-In, R2T               │ one structure of 48 bytes
//!   task       task management                      │ each, and its meaning
//!   login      login                                │
//!   control    NOP, text, logout, SNACK             │
//!   notice     asynchronous messages, rejects       ┘
//!   keys       key=value text of login and text PDUs
//!   digest     CRC32C
//!   number     tags and sequence numbers
//! ```
//!
//! Everything is big-endian. What the standard calls reserved is written as zero and ignored when
//! it comes (section 11: "Any compliant receiver MUST ignore any bit not defined and all reserved
//! fields"). Parsers take a header of 48 bytes, never panic, and allocate nothing.

pub mod command;
pub mod control;
pub mod data;
pub mod digest;
pub mod header;
pub mod keys;
pub mod login;
pub mod notice;
pub mod number;
pub mod pdu;
pub mod task;

/// Length of a basic header segment in bytes (section 11.2).
pub const HEADER: usize = 48;

/// A basic header segment.
pub type HeaderBytes = [u8; HEADER];

/// What data segments and additional headers are filled up to, in bytes (sections 11.2.2 and
/// 11.2.4).
pub const PADDING: usize = 4;

/// Data segments in bytes until somebody has declared more: the default of
/// `MaxRecvDataSegmentLength` (section 13.12), and the most there is in a login (section 6.1).
pub const DEFAULT_SEGMENT: u32 = 8192;

/// Longest data segment that can be declared, in bytes: the length field has 24 bits.
pub const LONGEST_SEGMENT: u32 = (1 << 24) - 1;

/// Longest CDB in a basic header, in bytes.
pub const CDB: usize = 16;

/// Longest sense data that is sent, in bytes (SPC-4, 4.5.1).
pub const MAX_SENSE: usize = 252;

/// A structure of 48 bytes, as it is on the wire.
macro_rules! layout {
    ($(#[$doc:meta])* struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable,
            zerocopy::Unaligned, Clone, Copy, Debug,
        )]
        #[repr(C)]
        struct $name { $($(#[$field_doc])* $field: $kind,)* }
        const _: () = assert!(size_of::<$name>() == crate::iscsi::wire::HEADER);
        impl $name {
            fn of(bytes: &crate::iscsi::wire::HeaderBytes) -> Self {
                <Self as zerocopy::FromBytes>::read_from_bytes(bytes)
                    .expect("the array has this very length")
            }

            fn to_bytes(self) -> crate::iscsi::wire::HeaderBytes {
                let mut bytes = [0; crate::iscsi::wire::HEADER];
                bytes.copy_from_slice(zerocopy::IntoBytes::as_bytes(&self));
                bytes
            }
        }
    };
}
pub(crate) use layout;
