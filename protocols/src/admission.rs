//! Who may connect to a listener: so many that are served, and so many that negotiate.
//!
//! ```text
//!   accepted ─▶ Place among those who negotiate ─▶ Served
//!                 └ the oldest of them goes when there is one more than may be
//! ```
//!
//! Nobody is known while it negotiates, so whoever has nothing to show could hold every place for as long as negotiation may
//! take. Those who mean it are through within milliseconds: it is the oldest that is in the way.
//!
//! **Invariant:** places of a listener are its own: a crowd at one of them keeps nobody from another.

use parking_lot::Mutex;
use std::collections::VecDeque;
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
    cut_off: oneshot::Receiver<()>,
}

/// That of a connection that is served.
pub(crate) struct Served {
    admission: Arc<Admission>,
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
        if places.negotiating.len() >= self.negotiating {
            places.negotiating.pop_front();
        }
        let (hold, cut_off) = oneshot::channel();
        let number = places.next;
        places.next += 1;
        places.negotiating.push_back((number, hold));
        Place { admission: Arc::clone(self), number, cut_off }
    }
}

impl Place {
    /// Returns when it is cut off.
    pub(crate) async fn cut_off(&mut self) {
        // Nothing is ever sent: the other end is let go.
        let _ = (&mut self.cut_off).await;
    }

    /// Negotiation led somewhere. Nothing, if it was cut off or others were quicker.
    pub(crate) fn serve(self) -> Option<Served> {
        let mut places = self.admission.places.lock();
        let here = places.negotiating.iter().any(|(number, _)| *number == self.number);
        if !here || places.served >= self.admission.served {
            return None;
        }
        places.served += 1;
        drop(places);
        Some(Served { admission: Arc::clone(&self.admission) })
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

    fn is_cut_off(place: &mut Place) -> bool {
        place.cut_off().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_of_those_who_negotiate_makes_way() {
        let admission = Admission::new(9, 2);
        let (mut first, mut second) = (admission.admit(), admission.admit());
        assert!(!is_cut_off(&mut first) && !is_cut_off(&mut second));
        let mut third = admission.admit();
        assert!(is_cut_off(&mut first) && !is_cut_off(&mut second) && !is_cut_off(&mut third));
        assert!(first.serve().is_none(), "it was cut off");
        let served = second.serve().expect("it is here");
        // Its place is free: nobody has to go for the next one.
        let _fourth = admission.admit();
        assert!(!is_cut_off(&mut third));
        drop(served);
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
