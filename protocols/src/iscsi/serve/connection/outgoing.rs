//! What goes out: whatever the session has ready, in few sends, PDU after PDU.

use super::{Connection, Ended};
use landfall_disks::Buffer;
use landfall_disks::uring::net::Sender;
use std::rc::Rc;

/// Bytes that are sent at a time: whoever takes them slowly is there as long as it takes some.
const PIECE: usize = 4 << 20;

/// `parts` in pieces of at most [`PIECE`] bytes.
fn pieces(parts: Vec<Buffer>) -> Vec<Vec<Buffer>> {
    let (mut pieces, mut piece, mut length) = (Vec::new(), Vec::new(), 0);
    for part in parts {
        let mut next = Some(part);
        while let Some(mut part) = next.take() {
            let room = PIECE - length;
            next = (part.len() > room).then(|| part.split_off(room));
            length += part.len();
            piece.push(part);
            if length == PIECE {
                pieces.push(std::mem::take(&mut piece));
                length = 0;
            }
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

impl Connection {
    /// Sends what is ready, for as long as that works and the session has not ended.
    pub(super) async fn pump(self: &Rc<Self>, sender: &mut Sender) -> Ended {
        loop {
            let batch = self.session.borrow_mut().take_output();
            if batch.is_empty() {
                if self.closing.get() {
                    return Ended::Closed;
                }
                self.filled.notified().await;
                continue;
            }
            let held = batch.held();
            let mut pieces = pieces(batch.into_parts()).into_iter().peekable();
            while let Some(piece) = pieces.next() {
                if let Err(error) = sender.send(piece).await {
                    return Ended::Sending(error);
                }
                // What fits into the socket proves nothing.
                if pieces.peek().is_some() {
                    self.heard();
                }
            }
            self.session.borrow_mut().sent(held);
            self.act();
            self.room.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_cut_without_a_loss() {
        let lengths = [48, PIECE, 10, 3 * PIECE - 58, 48, PIECE - 48, 7];
        let parts: Vec<_> =
            (1..).zip(lengths).map(|(byte, length)| Buffer::copy_of(&vec![byte; length])).collect();
        let whole: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        let pieces = pieces(parts);
        let length = |piece: &Vec<Buffer>| piece.iter().map(|part| part.len()).sum::<usize>();
        let found: Vec<_> = pieces.iter().map(length).collect();
        assert_eq!(found, [PIECE, PIECE, PIECE, PIECE, PIECE, 7]);
        let sent: Vec<u8> = pieces.iter().flatten().flat_map(|part| part.to_vec()).collect();
        assert!(sent == whole);
        assert!(super::pieces(Vec::new()).is_empty());
    }
}
