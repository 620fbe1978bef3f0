//! Who may connect to a listener: so many that are served, and so many that negotiate.
//!
//! ```text
//!   accepted ─▶ Place among those who negotiate ◀─▶ Served
//!                 └ the oldest of them goes when there is one more than may be
//! ```
//!
//! Nobody is known while it negotiates, so whoever has nothing to show could hold every place for as long as negotiation may
//! take. Those who mean it are through within milliseconds: it is the oldest that is in the way.
//!
//! **Invariants**
//! - Places of a listener are its own: a crowd at one of them keeps nobody from another.
//! - Whoever is served is not cut off: what it was promised is kept.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The places of a listener.
pub(crate) struct Admission {
    /// Served at a time.
    served: u64,
    /// Negotiating at a time.
    negotiating: usize,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    served: u64,
    /// The oldest first. Whoever is not there any more is cut off.
    negotiating: VecDeque<(u64, oneshot::Sender<()>)>,
    next: u64,
}

/// That of a connection that negotiates.
pub(crate) struct Place {
    admission: Arc<Admission>,
    number: u64,
    cut_off: Option<oneshot::Receiver<()>>,
}

/// That of a connection that is served.
pub(crate) struct Served {
    admission: Arc<Admission>,
    /// Its place among those who negotiate, which it has left, and may come back to.
    left: Option<(u64, oneshot::Sender<()>)>,
}

impl Admission {
    pub(crate) fn new(served: u64, negotiating: usize) -> Arc<Self> {
        let negotiating = negotiating.max(1);
        Arc::new(Self { served, negotiating, places: Mutex::default() })
    }

    /// Whether as many are served as may be.
    pub(crate) fn is_full(&self) -> bool {
        self.places.lock().served >= self.served
    }

    /// A place for one more that negotiates.
    pub(crate) fn admit(self: &Arc<Self>) -> Place {
        let mut places = self.places.lock();
        let (hold, cut_off) = oneshot::channel();
        let number = places.next;
        places.next += 1;
        self.join(&mut places, (number, hold));
        Place { admission: Arc::clone(self), number, cut_off: Some(cut_off) }
    }

    /// Joins those who negotiate, the oldest of whom goes if there is one too many.
    fn join(&self, places: &mut Places, joining: (u64, oneshot::Sender<()>)) {
        let at = places.negotiating.partition_point(|(number, _)| *number < joining.0);
        places.negotiating.insert(at, joining);
        if places.negotiating.len() > self.negotiating {
            places.negotiating.pop_front();
        }
    }
}

impl Place {
    /// Returns when it is cut off. There is one who waits for that.
    pub(crate) fn cut_off(&mut self) -> impl Future<Output = ()> + use<> {
        let cut_off = self.cut_off.take().expect("one waits for it");
        async move {
            // Nothing is ever sent: the other end is let go.
            let _ = cut_off.await;
        }
    }

    /// Negotiation led somewhere. Nothing, if it was cut off or as many are served as may be.
    pub(crate) fn serve(&self) -> Option<Served> {
        let mut places = self.admission.places.lock();
        if places.served >= self.admission.served {
            return None;
        }
        let at = places.negotiating.iter().position(|(number, _)| *number == self.number)?;
        let left = places.negotiating.remove(at);
        places.served += 1;
        Some(Served { admission: Arc::clone(&self.admission), left })
    }
}

impl Served {
    /// It came to nothing: negotiation goes on, at the place it had.
    pub(crate) fn step_back(mut self) {
        if let Some(left) = self.left.take() {
            self.admission.join(&mut self.admission.places.lock(), left);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.admission.places.lock();
        places.negotiating.retain(|(number, _)| *number != self.number);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.admission.places.lock().served -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn is_cut_off(place: &Place) -> bool {
        let places = place.admission.places.lock();
        !places.negotiating.iter().any(|(number, _)| *number == place.number)
    }

    #[test]
    fn the_oldest_of_those_who_negotiate_makes_way() {
        let admission = Admission::new(9, 2);
        let (mut first, mut second) = (admission.admit(), admission.admit());
        let (first_goes, second_goes) = (first.cut_off(), second.cut_off());
        let third = admission.admit();
        assert!(first_goes.now_or_never().is_some(), "it is told");
        assert!(is_cut_off(&first) && !is_cut_off(&second) && !is_cut_off(&third));
        assert!(first.serve().is_none(), "it was cut off");
        let served = second.serve().expect("it is here");
        // Its place is free: nobody has to go for the next one.
        let _fourth = admission.admit();
        assert!(!is_cut_off(&third));
        let _fifth = admission.admit();
        assert!(is_cut_off(&third));
        assert!(second_goes.now_or_never().is_none(), "whoever is served is not cut off");
        drop(served);
    }

    #[test]
    fn whoever_is_not_served_after_all_negotiates_on_as_old_as_it_is() {
        let admission = Admission::new(1, 2);
        let (mut old, young) = (admission.admit(), admission.admit());
        let goes = old.cut_off();
        old.serve().expect("nobody is served").step_back();
        assert!(!admission.is_full() && !is_cut_off(&old) && !is_cut_off(&young));
        old.serve().expect("it may be served again").step_back();
        let third = admission.admit();
        assert!(goes.now_or_never().is_some() && is_cut_off(&old), "it is the oldest all the same");
        assert!(!is_cut_off(&young) && !is_cut_off(&third));
    }

    #[test]
    fn no_more_are_served_than_may_be() {
        let admission = Admission::new(1, 8);
        let (one, other) = (admission.admit(), admission.admit());
        let served = one.serve().expect("nobody is served");
        assert!(admission.is_full());
        assert!(other.serve().is_none(), "another one was quicker");
        drop(served);
        assert!(!admission.is_full() && admission.admit().serve().is_some());
    }
}
