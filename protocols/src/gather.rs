//! What goes out in one send: heads, and between them the buffers that disks filled, uncopied.
//!
//! ```text
//!   heads   ├ reply 1 ┤├ reply 2 ┤├ head of 3 ┤          ├ reply 4 ┤       one allocation, cut without copying
//!   data                                        ├ data ┤                   the buffers the disk filled
//! ```

use landfall_disks::Buffer;

/// Bytes to send, gathered.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    heads: Vec<u8>,
    /// Buffers that go between the heads, each with the length of the heads before it.
    data: Vec<(usize, Buffer)>,
}

impl Gather {
    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.data.is_empty()
    }

    /// Bytes that were copied into it.
    pub(crate) fn copied(&self) -> usize {
        self.heads.len()
    }

    /// Appends `bytes`, copied.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.heads.extend_from_slice(bytes);
    }

    /// Appends `data`, which is not copied.
    pub(crate) fn attach(&mut self, data: Buffer) {
        self.data.push((self.heads.len(), data));
    }

    /// What to send, in order.
    pub(crate) fn into_parts(self) -> Vec<Buffer> {
        let mut parts = Vec::with_capacity(2 * self.data.len() + 1);
        let mut heads = Buffer::copy_of(&self.heads);
        let mut done = 0;
        for (before, data) in self.data {
            let rest = heads.split_off(before - done);
            if !heads.is_empty() {
                parts.push(heads);
            }
            parts.push(data);
            (heads, done) = (rest, before);
        }
        if !heads.is_empty() {
            parts.push(heads);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attached_data_is_sent_from_the_buffer_it_lies_in() {
        let (first, second) = (Buffer::copy_of(b"first"), Buffer::copy_of(b"second"));
        let addresses = [first.as_ptr(), second.as_ptr()];
        let mut gather = Gather::default();
        assert!(gather.is_empty());
        gather.attach(first);
        gather.put(b"a");
        gather.put(b"b");
        gather.attach(second);
        gather.put(b"c");
        assert!(!gather.is_empty());
        let parts = gather.into_parts();
        let bytes: Vec<_> = parts.iter().map(|part| part.to_vec()).collect();
        assert_eq!(bytes, [b"first".to_vec(), b"ab".to_vec(), b"second".to_vec(), b"c".to_vec()]);
        assert_eq!([parts[0].as_ptr(), parts[2].as_ptr()], addresses);
    }
}
