//! The one writer of a connection: replies gather here while a send is under way and leave together in the next.
//!
//! Every reply carries the permits of its request, given back when it was sent, or when it never can be. So a client that
//! does not read its replies runs out of permits, and out of nothing else.
//!
//! Much at once leaves in stretches, so that it shows whether a client takes any of it.

use super::link::Outgoing;
use crate::nbd::session::{Answer, Batch, Replies};
use crate::nbd::wire::transmission::Request;
use landfall_disks::Buffer;
use std::cell::{Cell, RefCell};
use std::io;
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// Bytes that are sent in one go.
const STRETCH: usize = 4 << 20;

/// The share of its connection's budget that a request holds until its reply is sent.
pub(super) struct Permits {
    /// One request.
    pub(super) _request: OwnedSemaphorePermit,
    /// Its payload.
    pub(super) _bytes: OwnedSemaphorePermit,
}

/// Replies waiting to be sent.
pub(super) struct Outbox {
    replies: Replies,
    queue: RefCell<Queue>,
    /// There is something to send.
    filled: Notify,
    /// Sending has failed.
    broken: Notify,
    /// Whether the client is to take something now, and how many stretches it has taken.
    sending: Cell<bool>,
    taken: Cell<u64>,
}

#[derive(Default)]
struct Queue {
    batch: Batch,
    permits: Vec<Permits>,
    /// Nothing can be sent any more.
    broken: bool,
}

impl Outbox {
    pub(super) fn new(replies: Replies) -> Self {
        Self {
            replies,
            queue: RefCell::default(),
            filled: Notify::new(),
            broken: Notify::new(),
            sending: Cell::new(false),
            taken: Cell::new(0),
        }
    }

    /// Queues the reply to `request`.
    pub(super) fn push(&self, request: &Request, answer: Answer, permits: Permits) {
        let mut queue = self.queue.borrow_mut();
        if queue.broken {
            return;
        }
        queue.batch.push(self.replies, request, answer);
        queue.permits.push(permits);
        self.filled.notify_one();
    }

    /// Returns once sending has failed.
    pub(super) async fn broken(&self) {
        self.broken.notified().await;
    }

    /// How far the client is with what it is sent; the same again only while it takes nothing of what waits for it. Nothing, if
    /// nothing does.
    pub(super) fn waits_at(&self) -> Option<u64> {
        self.sending.get().then(|| self.taken.get())
    }

    async fn send(&self, outgoing: &mut Outgoing, batch: Batch) -> io::Result<()> {
        self.sending.set(true);
        for stretch in stretches(batch.into_parts(), STRETCH) {
            outgoing.send(stretch).await?;
            self.taken.set(self.taken.get() + 1);
        }
        self.sending.set(false);
        Ok(())
    }

    /// Sends what is queued, for as long as that works.
    pub(super) async fn pump(&self, outgoing: &mut Outgoing) -> io::Error {
        loop {
            let (batch, permits) = {
                let mut queue = self.queue.borrow_mut();
                (std::mem::take(&mut queue.batch), std::mem::take(&mut queue.permits))
            };
            if batch.is_empty() {
                self.filled.notified().await;
            } else if let Err(error) = self.send(outgoing, batch).await {
                *self.queue.borrow_mut() = Queue { broken: true, ..Queue::default() };
                self.broken.notify_one();
                return error;
            }
            drop(permits);
        }
    }
}

/// Cuts `parts` into stretches of `longest` bytes; the last one may be shorter.
fn stretches(parts: Vec<Buffer>, longest: usize) -> Vec<Vec<Buffer>> {
    let (mut cut, mut stretch, mut length) = (Vec::new(), Vec::new(), 0);
    for mut part in parts {
        while length + part.len() > longest {
            let rest = part.split_off(longest - length);
            stretch.push(part);
            cut.push(std::mem::take(&mut stretch));
            (part, length) = (rest, 0);
        }
        length += part.len();
        stretch.push(part);
    }
    cut.push(stretch);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stretches_are_all_of_it_in_order(
            lengths in prop::collection::vec(0usize..40, 0..12),
            longest in 1usize..30,
        ) {
            let mut bytes = (0u8..251).cycle();
            let parts: Vec<Vec<u8>> =
                lengths.iter().map(|length| bytes.by_ref().take(*length).collect()).collect();
            let cut = stretches(parts.iter().map(|part| Buffer::copy_of(part)).collect(), longest);
            let length = |stretch: &Vec<Buffer>| stretch.iter().map(|part| part.len()).sum::<usize>();
            let (last, whole) = cut.split_last().expect("at least one");
            prop_assert!(whole.iter().all(|stretch| length(stretch) == longest));
            prop_assert!(length(last) <= longest);
            let sent: Vec<u8> = cut.iter().flatten().flat_map(|part| part.to_vec()).collect();
            prop_assert_eq!(sent, parts.concat());
        }
    }
}
