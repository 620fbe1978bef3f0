//! Which connection feeds which machine.
//!
//! **Invariant:** a machine has at most one [`Claim`], and it lives until its connection has closed its sink.

use crate::delta::identity::{Name, StreamId};
use crate::delta::refusal::Refusal;
use crate::delta::replicas::{PeerIdentity, StreamHello};
use landfall_disks::uring;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Time an older connection has to finish what it is applying.
const TAKEOVER: Duration = Duration::from_secs(30);

/// The live streams of a server.
#[derive(Default)]
pub(super) struct Registry {
    live: Arc<Mutex<HashMap<Name, Live>>>,
}

struct Live {
    stream: StreamId,
    peer: PeerIdentity,
    give_way: Arc<Notify>,
    /// Closed when the claim is dropped.
    held: watch::Receiver<()>,
}

/// The right to feed a machine.
pub(super) struct Claim {
    live: Arc<Mutex<HashMap<Name, Live>>>,
    machine: Name,
    give_way: Arc<Notify>,
    taken_over: bool,
    _held: watch::Sender<()>,
}

impl Registry {
    /// Claims the machine of `hello`. An older connection of the same stream and certificate is ended first; another
    /// stream is in the way.
    pub(super) async fn claim(
        &self,
        hello: &StreamHello,
        peer: &PeerIdentity,
    ) -> Result<Claim, Refusal> {
        let busy = |peer: &PeerIdentity| Refusal::StreamBusy {
            machine: hello.machine.to_string(),
            peer: peer.to_string(),
        };
        let mut taken_over = false;
        loop {
            let (mut older, older_peer) = {
                let mut live = self.live.lock();
                match live.get(&hello.machine) {
                    None => return Ok(self.insert(&mut live, hello, peer, taken_over)),
                    Some(other)
                        if other.stream == hello.stream
                            && other.peer.fingerprint == peer.fingerprint =>
                    {
                        other.give_way.notify_one();
                        (other.held.clone(), other.peer.clone())
                    }
                    Some(other) => return Err(busy(&other.peer)),
                }
            };
            taken_over = true;
            // An error of `changed` means that the claim is gone, which is what we wait for.
            if uring::timeout(TAKEOVER, older.changed()).await.is_err() {
                return Err(busy(&older_peer));
            }
        }
    }

    fn insert(
        &self,
        live: &mut HashMap<Name, Live>,
        hello: &StreamHello,
        peer: &PeerIdentity,
        taken_over: bool,
    ) -> Claim {
        let (holding, held) = watch::channel(());
        let give_way = Arc::new(Notify::new());
        live.insert(
            hello.machine.clone(),
            Live {
                stream: hello.stream,
                peer: peer.clone(),
                give_way: Arc::clone(&give_way),
                held,
            },
        );
        Claim {
            live: Arc::clone(&self.live),
            machine: hello.machine.clone(),
            give_way,
            taken_over,
            _held: holding,
        }
    }
}

impl Claim {
    /// Completes when a newer connection of the same stream wants the machine.
    pub(super) async fn wanted(&self) {
        self.give_way.notified().await;
    }

    /// Whether an older connection had to end for it.
    pub(super) fn has_taken_over(&self) -> bool {
        self.taken_over
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.live.lock().remove(&self.machine);
    }
}
