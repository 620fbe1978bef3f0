//! The server over sockets, against an initiator by hand.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]

mod beside;
mod disk;
mod initiator;
mod limits;
mod management;
mod sessions;

use self::disk::MemoryDisk;
use self::initiator::{OTHER, TARGET};
use super::*;
use crate::iscsi::name::Name;
use crate::iscsi::scsi::{Device, Identity, InitiatorPort, LunNumber, Nexus, Unit};
use crate::iscsi::session::chap::{Chap, Credential, Secret};
use crate::iscsi::session::login::{Demand, Want};
use crate::iscsi::targets::{OpenError, Visitor};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use landfall_disks::uring::net::Peer;
use landfall_disks::uring::{Engine, EngineSettings};
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Task management is answered within this time, whatever the disks do.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Who may have what: one target with one unit, for all but those that are turned away; and another
/// one, not beside the first.
struct Offered {
    name: Name,
    device: Arc<Device>,
    other: (Name, Arc<Device>),
    chap: bool,
    /// The target is no more.
    removed: AtomicBool,
    /// It is removed as soon as somebody has opened it.
    vanishes: AtomicBool,
}

impl Targets for Offered {
    fn list<'a>(&'a self, visitor: &'a Visitor) -> LocalBoxFuture<'a, Vec<Name>> {
        let known = !visitor.initiator.as_str().ends_with("stranger");
        async move { if known { vec![self.name.clone()] } else { Vec::new() } }.boxed_local()
    }

    fn demand<'a>(
        &'a self,
        want: &'a Want,
        visitor: &'a Visitor,
    ) -> LocalBoxFuture<'a, Result<Demand, OpenError>> {
        async move {
            match want {
                Want::Target(name) if *name == self.other.0 => Ok(Demand::Nothing),
                Want::Target(name) if *name != self.name => Err(OpenError::Unknown),
                Want::Target(_) if self.removed.load(Relaxed) => Err(OpenError::Unknown),
                Want::Target(_) if visitor.initiator.as_str().ends_with("stranger") => {
                    Err(OpenError::NotAllowed)
                }
                Want::Target(_) if self.chap => {
                    let user = "host".to_owned();
                    let secret = Secret::new(b"a secret".to_vec());
                    let chap = Chap::new(Credential { user, secret }, None);
                    Ok(Demand::Chap(chap.expect("one secret")))
                }
                Want::Target(_) | Want::Discovery => Ok(Demand::Nothing),
            }
        }
        .boxed_local()
    }

    fn open<'a>(
        &'a self,
        target: &'a Name,
        visitor: &'a Visitor,
        port: InitiatorPort,
    ) -> LocalBoxFuture<'a, Result<Nexus, OpenError>> {
        self.removed.store(self.vanishes.load(Relaxed), Relaxed);
        async move {
            if *target == self.name {
                return Ok(self.device.nexus(port));
            }
            if self.device.has_initiator(visitor.initiator.as_str()) {
                return Err(OpenError::Beside(self.name.clone()));
            }
            Ok(self.other.1.nexus(port))
        }
        .boxed_local()
    }
}

/// A server on loopback.
struct Server {
    disk: Arc<MemoryDisk>,
    offered: Arc<Offered>,
    service: Arc<Service>,
    address: SocketAddr,
    ended: std::sync::mpsc::Receiver<()>,
    engine: Option<Engine>,
}

impl Server {
    fn start(settings: Settings) -> Self {
        Self::with(settings, false)
    }

    fn with(settings: Settings, chap: bool) -> Self {
        let sizes = EngineSettings { cores: 2, ring_entries: 64, blocking_threads: 1 };
        let engine = Engine::start(sizes).expect("an engine");
        let disk = Arc::new(MemoryDisk::new(1 << 20));
        let device = Device::new(TARGET);
        let unit = Unit::new(Arc::<MemoryDisk>::clone(&disk), Identity::new("one"));
        device.attach(LunNumber::default(), unit).expect("it is the first");
        let name = Name::parse(TARGET).expect("a name");
        let (removed, vanishes) = (AtomicBool::new(false), AtomicBool::new(false));
        let other = (Name::parse(OTHER).expect("a name"), Device::new(OTHER));
        let offered = Arc::new(Offered { name, device, other, chap, removed, vanishes });
        let service = Service::new(Arc::<Offered>::clone(&offered), settings);
        let service = Arc::new(service);
        let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let Peer::Tcp(address) = listener.local() else { panic!("TCP") };
        let (tell, ended) = std::sync::mpsc::channel();
        let (serving, cores) = (Arc::clone(&service), engine.cores().to_vec());
        engine.cores()[0].spawn(move || async move {
            serve(listener, serving, &cores).await;
            tell.send(()).expect("the test waits");
        });
        Self { disk, offered, service, address, ended, engine: Some(engine) }
    }

    /// Stops it, and sees that it ends in time.
    fn stop(mut self) {
        self.service.stop();
        self.ended.recv_timeout(PATIENCE).expect("it ends");
        assert_eq!(self.service.counters.connections.open.load(Relaxed), 0);
        assert_eq!(self.service.counters.sessions_open.load(Relaxed), 0);
        self.engine.take().expect("it is there until now").stop();
    }

    /// Waits until `what` holds.
    fn until(&self, what: impl Fn(&Counters) -> bool) {
        let began = Instant::now();
        while !what(&self.service.counters) {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.service.counters);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Soon over.
fn brisk() -> Settings {
    Settings { parting_time: Duration::from_millis(50), ..Settings::default() }
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(seed | 1) >> 3) as u8 | 1).collect()
}
