//! PDUs that are sent together, the data of reads among them uncopied.

use crate::gather::Gather;
use crate::iscsi::wire::HeaderBytes;
use crate::iscsi::wire::digest::Digest;
use crate::iscsi::wire::header::padding;
use landfall_disks::Buffer;

/// Which digests PDUs have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    /// Headers.
    pub header: bool,
    /// Data segments.
    pub data: bool,
}

/// PDUs waiting to be sent.
#[derive(Debug, Default)]
pub struct Batch {
    gather: Gather,
    /// PDUs.
    count: usize,
    /// Bytes that somebody held until they are sent.
    held: u64,
}

impl Batch {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// PDUs in it.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes that it takes beside the buffers of reads, which their commands are charged for.
    pub fn uncharged(&self) -> usize {
        self.gather.copied()
    }

    /// Bytes that are free again when it was sent.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// `bytes` are held until it was sent.
    pub fn hold(&mut self, bytes: u64) {
        self.held += bytes;
    }

    /// Appends a PDU with a short data segment.
    pub fn push(&mut self, digests: Digests, header: &HeaderBytes, data: &[u8]) {
        self.head(digests, header);
        if data.is_empty() {
            return;
        }
        let tail = Tail::of(digests, data);
        self.gather.put(data);
        self.gather.put(tail.bytes());
    }

    /// Appends a PDU whose data segment is `data`, which is not copied.
    pub fn push_buffer(&mut self, digests: Digests, header: &HeaderBytes, data: Buffer) {
        self.head(digests, header);
        if data.is_empty() {
            return;
        }
        let tail = Tail::of(digests, &data);
        self.gather.attach(data);
        self.gather.put(tail.bytes());
    }

    fn head(&mut self, digests: Digests, header: &HeaderBytes) {
        self.count += 1;
        self.gather.put(header);
        if digests.header {
            self.gather.put(&Digest::of(header).to_bytes());
        }
    }

    /// What to send, in order.
    pub fn into_parts(self) -> Vec<Buffer> {
        self.gather.into_parts()
    }
}

/// What comes behind a data segment: padding to four bytes, and the digest of both (RFC 7143,
/// section 11.7.5).
struct Tail {
    bytes: [u8; 7],
    length: usize,
}

impl Tail {
    fn of(digests: Digests, data: &[u8]) -> Self {
        let (mut bytes, padding) = ([0; 7], padding(data.len()));
        let mut length = padding;
        if digests.data {
            let digest = Digest::of(data).with(&bytes[..padding]).to_bytes();
            bytes[padding..padding + digest.len()].copy_from_slice(&digest);
            length += digest.len();
        }
        Self { bytes, length }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::wire::HEADER;

    #[test]
    fn data_is_sent_from_the_buffer_it_was_read_into() {
        let bytes = Buffer::copy_of(b"datum");
        let address = bytes.as_ptr();
        let mut batch = Batch::default();
        batch.push(Digests::default(), &[1; HEADER], b"");
        batch.push_buffer(Digests::default(), &[2; HEADER], bytes);
        batch.push(Digests::default(), &[3; HEADER], b"ab");
        assert_eq!((batch.count(), batch.is_empty()), (3, false));
        assert_eq!(batch.uncharged(), 3 * HEADER + 3 + 2 + 2);
        let parts = batch.into_parts();
        let lengths: Vec<_> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [2 * HEADER, 5, 3 + HEADER + 2 + 2]);
        assert_eq!(parts[1].as_ptr(), address);
    }

    #[test]
    fn digests_stand_where_they_belong() {
        let digests = Digests { header: true, data: true };
        let mut batch = Batch::default();
        batch.push(digests, &[1; HEADER], b"");
        batch.push(digests, &[2; HEADER], b"abcde");
        batch.push_buffer(digests, &[2; HEADER], Buffer::copy_of(b"abcde"));
        let sent: Vec<u8> = batch.into_parts().iter().flat_map(|part| part.to_vec()).collect();
        let mut expected = [1; HEADER].to_vec();
        expected.extend(Digest::of(&[1; HEADER]).to_bytes());
        for _ in 0..2 {
            expected.extend([2; HEADER]);
            expected.extend(Digest::of(&[2; HEADER]).to_bytes());
            expected.extend(b"abcde\0\0\0");
            expected.extend(Digest::of(b"abcde\0\0\0").to_bytes());
        }
        assert_eq!(sent, expected);
    }
}
