//! The one writer of a connection: replies gather here while a send is under way and leave together in the next.
//!
//! Every reply carries the permits of its request, given back when it was sent, or when it never can be. So a client that
//! does not read its replies runs out of permits, and out of nothing else.

use super::link::Outgoing;
use crate::nbd::session::{Answer, Batch, Replies};
use crate::nbd::wire::transmission::Request;
use std::cell::RefCell;
use std::io;
use tokio::sync::{Notify, OwnedSemaphorePermit};

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
        Self { replies, queue: RefCell::default(), filled: Notify::new(), broken: Notify::new() }
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

    /// Sends what is queued, for as long as that works.
    pub(super) async fn pump(&self, outgoing: &mut Outgoing) -> io::Error {
        loop {
            let (batch, permits) = {
                let mut queue = self.queue.borrow_mut();
                (std::mem::take(&mut queue.batch), std::mem::take(&mut queue.permits))
            };
            if batch.is_empty() {
                self.filled.notified().await;
            } else if let Err(error) = outgoing.send(batch.into_parts()).await {
                *self.queue.borrow_mut() = Queue { broken: true, ..Queue::default() };
                self.broken.notify_one();
                return error;
            }
            drop(permits);
        }
    }
}
