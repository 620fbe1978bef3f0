//! The end of a session: asked for, come about, and said (an asynchronous message, section 11.9).
//!
//! ```text
//!   server stops, target removed ─▶ logout requested ─▶ time over ─▶ drained ─┐
//!   logged out, breach, silence, replaced, reset ─────────────────────────────┴▶ end
//!                                                     tasks aborted, nexus lost, last words
//! ```

use super::{Connection, Ended};
use crate::iscsi::counters::{Counters, count};
use crate::iscsi::session::full::{Closing, Scope};
use futures_util::future::{Either, select};
use landfall_disks::uring::{sleep, timeout};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A session that is gone, with commands that still run: each of them keeps its [`Connection`].
pub(super) struct Remains(Arc<Counters>);

impl Remains {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.sessions_lingering.fetch_add(1, Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        self.0.sessions_lingering.fetch_sub(1, Relaxed);
    }
}

impl Connection {
    /// Once the server stops, or the target is no more: asks the initiator to leave, and waits for
    /// it, and for what is under way. At a target that is no more it has no units to do anything
    /// with, but it may log out and knows why it should.
    pub(super) async fn request_logout(&self) -> Ended {
        let (stopped, dismissed) =
            (pin!(self.service.stopping.begun()), pin!(self.dismissed.notified()));
        let why = match select(stopped, dismissed).await {
            Either::Left(_) => Ended::Stopped,
            Either::Right(_) => Ended::Removed,
        };
        let settings = &self.service.settings;
        if self.target.is_some() {
            let seconds = settings.parting_time.as_secs_f64().ceil();
            let within =
                if seconds < f64::from(u16::MAX) { settings.parting_time.as_secs() } else { 0 };
            let within = u16::try_from(within.max(1)).unwrap_or(u16::MAX);
            self.session.borrow_mut().request_logout(within);
            self.filled.notify_one();
            sleep(settings.parting_time).await;
            let drained = async {
                while self.session.borrow().under_way() > 0 {
                    self.idle.notified().await;
                }
            };
            if timeout(settings.drain_time, drained).await.is_err() {
                let visitor = &self.visitor;
                tracing::debug!(%visitor, "iSCSI session dropped before all was answered");
            }
        }
        why
    }

    /// Returns when the session itself is over.
    pub(super) async fn finished(&self) -> Ended {
        loop {
            if let Some(ended) = self.ending.borrow_mut().take() {
                return ended;
            }
            self.over.notified().await;
        }
    }

    pub(super) fn finish(&self, ended: Ended) {
        self.ending.borrow_mut().get_or_insert(ended);
        self.over.notify_one();
    }

    /// SCSI knows that the initiator is gone; commands that run on are nobody's.
    pub(super) fn lose_nexus(&self) {
        if let Some(nexus) = &self.units.0 {
            nexus.end();
        }
    }

    /// The session is over; its last words are ready to be sent. Commands that run on are not
    /// waited for.
    pub(super) fn end(self: &Rc<Self>, ended: &Ended) {
        self.ended.set(true);
        self.session.borrow_mut().abort(Scope::All);
        self.act();
        self.running.over();
        self.followed.notify_waiters();
        self.lose_nexus();
        self.asked.take();
        if self.session.borrow().under_way() > 0 {
            self.remains.replace(Some(Remains::new(&self.service.counters)));
        }
        match ended {
            Ended::Closing(Closing::LoggedOut) | Ended::Closed | Ended::Discovered => {}
            Ended::Stopped | Ended::Removed | Ended::Replaced | Ended::Reset => {
                if self.target.is_some() {
                    self.session.borrow_mut().say_dropped();
                }
            }
            Ended::Closing(Closing::Login)
            | Ended::Silent
            | Ended::Incoming(_)
            | Ended::Sending(_) => count(&self.service.counters.sessions_broken),
        }
        self.closing.set(true);
        self.filled.notify_one();
    }
}
