//! Whether the initiator is there: pings (NOP-In, section 11.19) when it says nothing.
//!
//! A sign of life is a PDU that came, or room that it made for more to be sent. Others may ask in
//! between, and are answered by the next one.

use super::{Connection, Ended};
use futures_util::future::{Either, select};
use landfall_disks::uring::sleep;
use std::pin::pin;

impl Connection {
    /// The initiator has shown that it is there.
    pub(super) fn heard(&self) {
        self.life.set(self.life.get() + 1);
        for waiting in self.asked.take() {
            // Whoever asked may have lost patience.
            let _ = waiting.send(());
        }
    }

    /// Asks an initiator that says nothing and takes nothing whether it is there. Discovery is not
    /// asked, and soon over.
    pub(super) async fn keep_alive(&self) -> Ended {
        if self.target.is_none() {
            sleep(self.service.settings.discovery_time).await;
            return Ended::Discovered;
        }
        loop {
            let before = self.life.get();
            let idle = pin!(sleep(self.service.settings.idle_time));
            if let Either::Right(_) = select(idle, pin!(self.pinged.notified())).await {
                // It has its time to answer from now on.
                continue;
            }
            if self.life.get() != before {
                // Also where a ping waits behind what it takes, or is one that it does not know.
                self.session.borrow_mut().is_there();
                continue;
            }
            if !self.session.borrow_mut().ping() {
                return Ended::Silent;
            }
            self.filled.notify_one();
        }
    }
}
