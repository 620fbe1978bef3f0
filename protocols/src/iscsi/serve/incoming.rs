//! PDUs off the socket: lengths first, then what they say there is, then digests.

use crate::iscsi::session::terms::Terms;
use crate::iscsi::wire::digest::{DIGEST, Digest};
use crate::iscsi::wire::header::{Lengths, padding};
use crate::iscsi::wire::{HEADER, HeaderBytes};
use landfall_disks::Buffer;
use landfall_disks::uring::net::Receiver;
use std::io;

/// What comes from the initiator.
pub(super) struct Incoming {
    receiver: Receiver,
}

/// A PDU.
pub(super) struct Pdu {
    pub(super) header: HeaderBytes,
    /// Nothing if its digest is wrong.
    pub(super) data: Option<Buffer>,
}

/// What is known of a PDU before it is received.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    header_digest: bool,
    data_digest: bool,
    longest: u32,
}

impl Shape {
    /// In a login: no digests, and segments of at most `longest` bytes.
    pub(super) fn plain(longest: u32) -> Self {
        Self { header_digest: false, data_digest: false, longest }
    }

    pub(super) fn of(terms: &Terms) -> Self {
        Self {
            header_digest: terms.header_digest,
            data_digest: terms.data_digest,
            longest: terms.max_receive_segment,
        }
    }
}

/// Why nothing more can be received.
#[derive(Debug, thiserror::Error)]
pub(super) enum IncomingError {
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// Where the next PDU starts is not known any more (section 7.8: the connection must be
    /// dropped).
    #[error("the digest of a header is wrong")]
    HeaderDigest,
    /// Section 11.2.1.6: no segment is longer than was declared.
    #[error("a data segment of {found} bytes, of {longest} that were declared")]
    Length { found: u32, longest: u32 },
}

impl Incoming {
    pub(super) fn new(receiver: Receiver) -> Self {
        Self { receiver }
    }

    /// The next PDU. Dropped in between it may lose a part of one: it is dropped only when the
    /// connection ends.
    pub(super) async fn receive(&mut self, shape: Shape) -> Result<Pdu, IncomingError> {
        let bytes = self.receiver.read_exact(HEADER).await?;
        let header: HeaderBytes = (*bytes).try_into().expect("exactly as many were received");
        let Lengths { additional, data } = Lengths::of(&header);
        let behind = additional + if shape.header_digest { DIGEST } else { 0 };
        if behind > 0 {
            let rest = self.receiver.read_exact(behind).await?;
            let (more, digest) = rest.split_at(additional);
            if shape.header_digest && !Digest::of(&header).with(more).is(digest) {
                return Err(IncomingError::HeaderDigest);
            }
        }
        let found = data.bytes();
        if found > shape.longest {
            return Err(IncomingError::Length { found, longest: shape.longest });
        }
        if found == 0 {
            return Ok(Pdu { header, data: Some(Buffer::zeroed(0)) });
        }
        let length = usize::try_from(found).expect("24 bits fit a usize");
        let data = self.receiver.read_exact(length).await?;
        let padding = padding(length);
        let behind = padding + if shape.data_digest { DIGEST } else { 0 };
        if behind > 0 {
            let rest = self.receiver.read_exact(behind).await?;
            let (padding, digest) = rest.split_at(padding);
            if shape.data_digest && !Digest::of(&data).with(padding).is(digest) {
                return Ok(Pdu { header, data: None });
            }
        }
        Ok(Pdu { header, data: Some(data) })
    }
}
