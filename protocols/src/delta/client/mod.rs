//! The source's end of the delta stream on tokio: connects, reconnects, and hides breaks that lose nothing.
//!
//! ```text
//!   Client, Pass ──push──▶ session ◀──▶ driver ──▶ TLS, TCP
//!        ▲                                │
//!        └──── waits for room, answers ───┘   events: lost, resumed, refused …
//! ```
//!
//! Everything runs on one thread and nothing is `Send`, so that it fits tokio-uring's runtime. The future that
//! [`Client::new`] returns is the driver; it has to be spawned or polled beside the work.
//!
//! **Invariant:** a [`Pass`] never sends into a stream whose positions were lost after it began; its calls fail with
//! [`ClientError::PositionLost`], and the pass has to be begun again by comparing.

mod driver;

use super::identity::{ContentId, DiskSlot, Name, Position, StreamId, Timestamp};
use super::pack::PackedBatch;
use super::refusal::RefusalCode;
use super::session::{ClientSession, Profile, SessionEvent};
use super::tls;
use super::wire::{
    BlockHash, Bye, DiskEntry, Features, HashRequest, Mark, MarkKind, Marked, PassBegin, PassKind,
    Refused, Welcome, WriteOrder,
};
use rustls::ClientConfig;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Where and how a source connects.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// `HOST:PORT` of the target.
    pub address: String,
    /// Credentials, see [`tls::client_config`].
    pub tls: Arc<ClientConfig>,
    /// The machine.
    pub machine: Name,
    /// Its disks; the order gives the slots.
    pub disks: Vec<DiskEntry>,
    /// First pause before connecting again; doubles with each failure.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
}

impl ClientSettings {
    /// Settings with pauses from half a second to half a minute.
    pub fn new(
        address: String,
        tls: Arc<ClientConfig>,
        machine: Name,
        disks: Vec<DiskEntry>,
    ) -> Self {
        let (first_pause, longest_pause) = (Duration::from_millis(500), Duration::from_secs(30));
        Self { address, tls, machine, disks, first_pause, longest_pause }
    }
}

/// What a person may want to know of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientEvent {
    /// The target admitted the stream.
    Connected,
    /// The connection could not be made, or broke.
    Lost {
        /// Why.
        why: String,
        /// When the next attempt is made.
        retry_in: Duration,
    },
    /// The stream goes on where it was.
    Resumed {
        /// Everything up to here is durable.
        position: Position,
        /// Batches and marks that are sent again.
        resent: usize,
    },
    /// The target no longer vouches for the position; the pass begins again.
    PositionLost,
    /// The target refused; it is asked again.
    Refused {
        /// Which rule.
        code: RefusalCode,
        /// Its words.
        message: String,
        /// When it is asked again.
        retry_in: Duration,
    },
}

/// Why a stream cannot do what was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Begin the pass again, by comparing.
    #[error("the target no longer vouches for the position of the stream")]
    PositionLost,
    /// The target said no, for good.
    #[error("the target refused: {message}")]
    Refused {
        /// Which rule.
        code: RefusalCode,
        /// Its words.
        message: String,
    },
    /// The two do not trust each other's certificates.
    #[error("no trust between source and target: {0}")]
    Untrusted(String),
    /// The target takes passes alone.
    #[error("the target takes no writes in order; it is older than this source")]
    NoOrder,
    /// The address cannot be used.
    #[error("{address}: {what}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        what: String,
    },
    /// The stream has ended.
    #[error("the stream has ended")]
    Ended,
}

/// Told of events as they happen.
pub type Observer = Box<dyn FnMut(ClientEvent)>;

/// A stream to a target.
#[derive(Clone)]
pub struct Client {
    shared: Rc<Shared>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.shared.settings.address).finish()
    }
}

/// What handles, passes and driver have in common.
struct Shared {
    settings: ClientSettings,
    session: RefCell<ClientSession>,
    observer: RefCell<Observer>,
    welcome: RefCell<Option<Welcome>>,
    answers: RefCell<HashMap<(DiskSlot, u64), Vec<BlockHash>>>,
    marked: Cell<Option<Option<Marked>>>,
    /// Raised whenever positions are lost.
    epoch: Cell<u64>,
    passes: Cell<u64>,
    failure: RefCell<Option<ClientError>>,
    left: Cell<bool>,
    /// Something has changed for those who wait.
    changed: Notify,
    /// There may be something to send.
    wake: Notify,
}

impl Client {
    /// A stream, and the future that drives it until it has left or failed for good.
    pub fn new(
        settings: ClientSettings,
        observer: Observer,
    ) -> (Self, impl Future<Output = ()> + 'static) {
        let profile = Profile {
            stream: StreamId::from_bytes(tls::random()),
            machine: settings.machine.clone(),
            disks: settings.disks.clone(),
            features: Features::ALL,
        };
        let shared = Rc::new(Shared {
            settings,
            session: RefCell::new(ClientSession::new(profile, Instant::now())),
            observer: RefCell::new(observer),
            welcome: RefCell::new(None),
            answers: RefCell::new(HashMap::new()),
            marked: Cell::new(None),
            epoch: Cell::new(0),
            passes: Cell::new(0),
            failure: RefCell::new(None),
            left: Cell::new(false),
            changed: Notify::new(),
            wake: Notify::new(),
        });
        let driver = driver::drive(Rc::clone(&shared));
        (Self { shared }, driver)
    }

    /// Waits until the target has admitted the stream; what it said then.
    pub async fn ready(&self) -> Result<Welcome, ClientError> {
        self.shared.wait(None, |shared| shared.session.borrow().is_ready()).await?;
        Ok(self.shared.welcome.borrow().clone().expect("a ready stream was welcomed"))
    }

    /// Begins a pass over `bytes_total` bytes.
    pub async fn begin_pass(&self, kind: PassKind, bytes_total: u64) -> Result<Pass, ClientError> {
        self.ready().await?;
        let number = self.shared.passes.get() + 1;
        self.shared.passes.set(number);
        let pass = PassBegin { pass: number, bytes_total, kind };
        self.shared.session.borrow_mut().begin_pass(pass);
        self.shared.wake.notify_one();
        Ok(Pass { shared: Rc::clone(&self.shared), epoch: self.shared.epoch.get() })
    }

    /// Leaves: with [`Bye::Done`] when everything sent is durable, with [`Bye::Stopping`] at once. Returns when the target
    /// has answered, or with the error that came between; [`ClientError::Ended`] when there is no connection to end.
    pub async fn leave(&self, how: Bye) -> Result<(), ClientError> {
        self.shared.session.borrow_mut().leave(how);
        self.shared.wake.notify_one();
        // A driver that pauses between two attempts ends at once.
        self.shared.changed.notify_waiters();
        self.shared.wait(None, |shared| shared.left.get()).await
    }
}

/// A pass in the making.
pub struct Pass {
    shared: Rc<Shared>,
    epoch: u64,
}

impl Pass {
    /// Waits for room, then puts a batch at the end of the stream. It is durable when a later mark is.
    pub async fn send(&self, batch: PackedBatch) -> Result<Position, ClientError> {
        self.wait(|shared| shared.session.borrow().has_room()).await?;
        let position = self.shared.session.borrow_mut().push_batch(batch);
        self.shared.wake.notify_one();
        Ok(position)
    }

    /// What the target holds of `count` blocks from `first`. Several may be asked at once, for different blocks.
    pub async fn hashes(
        &self,
        disk: DiskSlot,
        first: u64,
        count: u32,
    ) -> Result<Vec<BlockHash>, ClientError> {
        self.wait(|shared| shared.session.borrow().can_request()).await?;
        let request = HashRequest { disk, first, count };
        self.shared.session.borrow_mut().request_hashes(request);
        self.shared.wake.notify_one();
        let key = (disk, first);
        self.wait(|shared| shared.answers.borrow().contains_key(&key)).await?;
        Ok(self.shared.answers.borrow_mut().remove(&key).expect("waited for"))
    }

    /// Completes the pass: waits until everything sent and the point itself are durable.
    ///
    /// Nothing comes back when the answer was lost in a break and the target no longer knows it; the point is durable
    /// all the same. `contents` are what the source calls what its disks hold: one per disk, or none at all.
    pub async fn mark(
        self,
        kind: MarkKind,
        label: &str,
        source_time: Timestamp,
        contents: Vec<Option<ContentId>>,
    ) -> Result<Option<Marked>, ClientError> {
        assert!(Mark::is_label(label), "label {label:?} was not checked");
        self.wait(|shared| shared.session.borrow().can_mark()).await?;
        self.shared.marked.set(None);
        self.shared.session.borrow_mut().push_mark(kind, label, source_time, contents);
        self.shared.wake.notify_one();
        self.wait(|shared| shared.marked.get().is_some()).await?;
        Ok(self.shared.marked.take().expect("waited for"))
    }

    /// Makes a point of what was sent, and begins order: every batch that follows holds the writes of one instant, and can be
    /// chosen. Waits until the point is durable. Order ends with the next pass, and with the connection: after
    /// [`ClientEvent::Resumed`] it begins with another mark.
    pub async fn mark_in_order(
        &self,
        kind: MarkKind,
        label: &str,
        source_time: Timestamp,
        order: WriteOrder,
    ) -> Result<Option<Marked>, ClientError> {
        assert!(Mark::is_label(label), "label {label:?} was not checked");
        self.wait(|shared| shared.session.borrow().can_mark()).await?;
        if !self.shared.session.borrow().takes_order(order) {
            return Err(ClientError::NoOrder);
        }
        self.shared.marked.set(None);
        self.shared.session.borrow_mut().push_mark_in_order(kind, label, source_time, order);
        self.shared.wake.notify_one();
        self.wait(|shared| shared.marked.get().is_some()).await?;
        Ok(self.shared.marked.take().expect("waited for"))
    }

    /// Waits until everything that was sent is durable.
    pub async fn settled(&self) -> Result<(), ClientError> {
        self.wait(|shared| shared.session.borrow().is_settled()).await
    }

    async fn wait(&self, ready: impl Fn(&Shared) -> bool) -> Result<(), ClientError> {
        self.shared.wait(Some(self.epoch), ready).await
    }
}

impl Shared {
    /// Waits until `ready`, or until the stream has failed or lost its positions since `epoch`.
    async fn wait(
        &self,
        epoch: Option<u64>,
        ready: impl Fn(&Self) -> bool,
    ) -> Result<(), ClientError> {
        loop {
            let changed = self.changed.notified();
            if epoch.is_some_and(|epoch| epoch != self.epoch.get()) {
                return Err(ClientError::PositionLost);
            }
            if ready(self) {
                return Ok(());
            }
            if let Some(failure) = &*self.failure.borrow() {
                return Err(failure.clone());
            }
            changed.await;
        }
    }

    /// Ends the stream for good.
    fn fail(&self, error: ClientError) {
        self.failure.borrow_mut().get_or_insert(error);
        self.changed.notify_waiters();
    }

    fn tell(&self, event: ClientEvent) {
        (self.observer.borrow_mut())(event);
    }

    /// Takes what the session has to tell; a refusal or a farewell ends the connection.
    fn take_events(&self, progress: &mut bool) -> Option<End> {
        let mut end = None;
        loop {
            let Some(event) = self.session.borrow_mut().poll_event() else { break };
            match event {
                SessionEvent::Welcomed(welcome) => {
                    self.welcome.replace(Some(welcome));
                    self.tell(ClientEvent::Connected);
                }
                SessionEvent::Resumed { position, resent } => {
                    self.tell(ClientEvent::Resumed { position, resent });
                }
                SessionEvent::Acked(_) => *progress = true,
                SessionEvent::Marked(answer) => self.marked.set(Some(answer)),
                SessionEvent::Hashes(hashes) => {
                    *progress = true;
                    let key = (hashes.request.disk, hashes.request.first);
                    self.answers.borrow_mut().insert(key, hashes.blocks);
                }
                SessionEvent::PositionLost(welcome) => {
                    self.epoch.set(self.epoch.get() + 1);
                    self.answers.borrow_mut().clear();
                    self.marked.set(None);
                    self.welcome.replace(welcome);
                    self.tell(ClientEvent::PositionLost);
                }
                SessionEvent::Refused(refused) => end = Some(End::Refused(refused)),
                SessionEvent::Left => {
                    self.left.set(true);
                    end = Some(End::Left);
                }
                SessionEvent::PeerLeaves => {
                    end = Some(End::Lost("the target is being stopped".to_owned()));
                }
            }
        }
        self.changed.notify_waiters();
        end
    }
}

/// How a connection ended.
enum End {
    /// In good order; the stream is over.
    Left,
    Refused(Refused),
    Lost(String),
    /// Certificates that are not trusted, by either side.
    Untrusted(String),
}
