//! Sockets on the ring.

use super::{engine, first};
use crate::Buffer;
use crate::uring::descriptor::Descriptor;
use crate::uring::net::{Listener, Peer, Receiver, Sender, Stream};
use crate::uring::op::Op;
use crate::uring::{sleep, spawn, timeout};
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(10);

/// Runs `test` on a core with one end of a connection; the test has the other.
fn connected<T: Send + 'static, Fut: Future<Output = T> + 'static>(
    test: impl FnOnce(Receiver, Sender, UnixStream) -> Fut + Send + 'static,
) -> T {
    let engine = engine();
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let stream = Stream::try_from(ours).expect("a socket");
    first(&engine)
        .block_on(move || {
            let (receiver, sender) = stream.split();
            test(receiver, sender, theirs)
        })
        .expect("running")
}

/// A reply that waits for the acknowledgement of the one before it is late by a whole delay of the peer's.
#[test]
fn what_is_accepted_over_tcp_is_sent_at_once() {
    let engine = engine();
    let delays = first(&engine).block_on(|| async {
        let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let Peer::Tcp(address) = listener.local() else { panic!("not TCP") };
        let _peer = TcpStream::connect(address).expect("connected");
        let (stream, _) = listener.accept().await.expect("accepted");
        let (_receiver, sender) = stream.split();
        rustix::net::sockopt::tcp_nodelay(&sender.socket).expect("asked").then_some("at once")
    });
    assert_eq!(delays.expect("running"), Some("at once"));
}

#[test]
fn bytes_go_both_ways() {
    connected(|mut receiver, mut sender, mut peer| async move {
        peer.write_all(b"question").expect("sent");
        assert_eq!(&*receiver.read_exact(8).await.expect("received"), b"question");
        let parts = vec![Buffer::copy_of(b"ans"), Buffer::zeroed(0), Buffer::copy_of(b"wer")];
        sender.send(parts).await.expect("sent");
        let mut answer = [0; 6];
        peer.read_exact(&mut answer).expect("received");
        assert_eq!(&answer, b"answer");
    });
}

#[test]
fn the_end_is_zero_bytes_and_an_error_in_the_middle() {
    connected(|mut receiver, _sender, mut peer| async move {
        peer.write_all(b"abc").expect("sent");
        drop(peer);
        let error = receiver.read_exact(4).await.expect_err("three bytes only");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let (buffer, count) = receiver.recv(Buffer::zeroed(10)).await.expect("what there was");
        assert_eq!(&buffer[..count], b"abc");
        let (_, count) = receiver.recv(Buffer::zeroed(10)).await.expect("the end");
        assert_eq!(count, 0);
    });
}

#[test]
fn a_dropped_receive_loses_no_bytes() {
    connected(|mut receiver, _sender, mut peer| async move {
        for round in 0..50u8 {
            let dropped = timeout(Duration::ZERO, receiver.recv(Buffer::zeroed(100))).await;
            assert!(dropped.is_err(), "nothing was sent yet");
            peer.write_all(&[round, 1, 2, 3]).expect("sent");
            // Smaller than what the dropped receive takes in.
            let (buffer, count) = receiver.recv(Buffer::zeroed(1)).await.expect("received");
            assert_eq!((buffer[0], count), (round, 1));
            assert_eq!(&*receiver.read_exact(3).await.expect("received"), [1, 2, 3]);
        }
    });
}

#[test]
fn a_dropped_exact_read_loses_no_bytes() {
    // Short ones go through the read-ahead buffer, long ones straight into their own.
    for length in [1000usize, 200_000] {
        connected(move |mut receiver, _sender, mut peer| async move {
            let first: Vec<u8> = (0..length / 2).map(|n| n.to_le_bytes()[0]).collect();
            peer.write_all(&first).expect("sent");
            let dropped = timeout(SHORT, receiver.read_exact(length)).await;
            assert!(dropped.is_err(), "half of it is missing");
            let dropped = timeout(SHORT, receiver.read_exact(length)).await;
            assert!(dropped.is_err(), "half of it is still missing");
            peer.write_all(&vec![7; length - first.len()]).expect("sent");
            let whole = receiver.read_exact(length).await.expect("received");
            assert!(whole[..first.len()] == *first);
            assert!(whole[first.len()..].iter().all(|byte| *byte == 7));
        });
    }
}

#[test]
fn much_is_sent_whole_to_a_slow_peer() {
    connected(|_receiver, mut sender, mut peer| async move {
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut piece = [0; 50_000];
            loop {
                std::thread::sleep(Duration::from_micros(100));
                match peer.read(&mut piece).expect("received") {
                    0 => return all,
                    count => all.extend_from_slice(&piece[..count]),
                }
            }
        });
        // More parts than one message carries.
        let parts: Vec<Buffer> = (0..600usize)
            .map(|number| Buffer::copy_of(&vec![number.to_le_bytes()[0]; 5000]))
            .collect();
        sender.send(parts).await.expect("sent");
        let mut one = Buffer::zeroed(3_000_000);
        one.fill(42);
        sender.send(vec![one]).await.expect("sent");
        sender.shutdown();
        let all = reading.join().expect("no panic");
        assert_eq!(all.len(), 6_000_000);
        let first = all[..3_000_000].chunks(5000).enumerate();
        assert!(first.into_iter().all(|(n, part)| part.iter().all(|b| *b == n.to_le_bytes()[0])));
        assert!(all[3_000_000..].iter().all(|byte| *byte == 42));
    });
}

#[test]
fn a_dropped_send_breaks_the_sender() {
    connected(|_receiver, mut sender, peer| async move {
        let _silent = peer;
        let dropped = timeout(SHORT, sender.send(vec![Buffer::zeroed(10 << 20)])).await;
        assert!(dropped.is_err(), "nobody reads");
        let error = sender.send(vec![Buffer::zeroed(1)]).await.expect_err("half a message is out");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_gone_peer_is_an_error_and_no_signal() {
    connected(|_receiver, mut sender, peer| async move {
        drop(peer);
        let error = sender.send(vec![Buffer::zeroed(1)]).await.expect_err("nobody there");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn dropping_a_connection_closes_it_though_a_receive_was_in_flight() {
    let (engine, (ours, mut theirs)) = (engine(), UnixStream::pair().expect("a pair"));
    let stream = Stream::try_from(ours).expect("a socket");
    first(&engine)
        .block_on(move || async move {
            let (mut receiver, _sender) = stream.split();
            let waiting = timeout(SHORT, receiver.recv(Buffer::zeroed(1))).await;
            assert!(waiting.is_err());
        })
        .expect("running");
    assert_eq!(theirs.read(&mut [0]).expect("the end"), 0);
}

#[test]
fn stopping_with_operations_in_flight_closes_connections() {
    let (engine, (ours, mut theirs)) = (engine(), UnixStream::pair().expect("a pair"));
    let stream = Stream::try_from(ours).expect("a socket");
    let (started, is_started) = std::sync::mpsc::channel();
    first(&engine).spawn(move || async move {
        let (mut receiver, mut sender) = stream.split();
        spawn(async move {
            let _ = sender.send(vec![Buffer::zeroed(10 << 20)]).await;
        });
        started.send(()).expect("the test waits");
        let _ = receiver.recv(Buffer::zeroed(1)).await;
    });
    is_started.recv().expect("started");
    engine.stop();
    let mut rest = Vec::new();
    theirs.read_to_end(&mut rest).expect("what was sent, then the end");
    assert!(rest.len() < 10 << 20);
}

#[test]
fn tcp_connections_are_accepted_and_named() {
    let engine = engine();
    let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let Peer::Tcp(address) = listener.local() else { panic!("it is TCP") };
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.write_all(b"hello").expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("received");
        (stream.local_addr().expect("connected"), answer)
    });
    let peer = first(&engine)
        .block_on(move || async move {
            // A dropped accept takes no connection with it.
            for _ in 0..3 {
                let _ = timeout(Duration::ZERO, std::future::pending::<()>()).await;
            }
            let (stream, peer) = listener.accept().await.expect("accepted");
            let (mut receiver, mut sender) = stream.split();
            let hello = receiver.read_exact(5).await.expect("received");
            sender.send(vec![hello]).await.expect("sent");
            peer
        })
        .expect("running");
    let (name, answer) = client.join().expect("no panic");
    assert_eq!(answer, b"hello");
    assert_eq!(peer, Peer::Tcp(name));
}

#[test]
fn a_dropped_accept_loses_no_connection() {
    let engine = engine();
    let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let Peer::Tcp(address) = listener.local() else { panic!("it is TCP") };
    first(&engine)
        .block_on(move || async move {
            for _ in 0..20 {
                assert!(timeout(Duration::from_millis(1), listener.accept()).await.is_err());
                let client = TcpStream::connect(address).expect("connected");
                let (_, peer) = listener.accept().await.expect("accepted");
                assert_eq!(peer, Peer::Tcp(client.local_addr().expect("connected")));
            }
        })
        .expect("running");
}

#[test]
fn a_unix_socket_has_its_mode_and_goes_with_its_listener() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let listener = Listener::unix(&path, 0o600).expect("bound");
    let mode = path.metadata().expect("it exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let engine = engine();
    let client = UnixStream::connect(&path).expect("connected");
    let peer = first(&engine).block_on(move || async move { listener.accept().await.map(|a| a.1) });
    let Ok(Ok(Peer::Unix(Some(found)))) = peer else { panic!("{peer:?}") };
    assert_eq!(u32::try_from(found.pid).expect("positive"), std::process::id());
    drop(client);
    assert!(!path.exists(), "the listener was dropped");
}

#[test]
fn a_stale_unix_socket_is_replaced_and_a_live_one_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists(), "the standard library leaves it");
    let live = Listener::unix(&path, 0o600).expect("nobody listens there");
    let refused = Listener::unix(&path, 0o600).map(drop).expect_err("somebody does");
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    drop(live);
    std::fs::write(&path, b"a file").expect("written");
    let refused = Listener::unix(&path, 0o600).map(drop).expect_err("not a socket");
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read(&path).expect("read"), b"a file");
}

#[test]
fn a_stream_may_be_handed_to_another_core() {
    let engine = engine();
    let [one, two] = engine.cores() else { panic!("two cores") };
    let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let Peer::Tcp(address) = listener.local() else { panic!("it is TCP") };
    let mut client = TcpStream::connect(address).expect("connected");
    let accepted = one.block_on(move || async move { listener.accept().await.map(|a| a.0) });
    let stream = accepted.expect("running").expect("accepted");
    client.write_all(b"x").expect("sent");
    let got = two.block_on(move || async move {
        sleep(Duration::from_millis(1)).await;
        stream.split().0.read_exact(1).await.map(|buffer| buffer[0])
    });
    assert_eq!(got.expect("running").expect("received"), b'x');
}

#[test]
fn an_abandoned_operation_keeps_its_buffer_and_descriptor() {
    let engine = engine();
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    first(&engine)
        .block_on(move || async move {
            let socket = Descriptor::new(ours.into());
            let mut buffers = Vec::new();
            for _ in 0..100 {
                let mut op = Op::receive(&socket, Buffer::zeroed(4096), 0..4096);
                assert!(futures_util::poll!(&mut op).is_pending());
                drop(op);
                // Would be given the memory of the dropped one, had it been freed.
                buffers.push(Buffer::zeroed(4096));
                theirs.write_all(b"not for you").expect("sent");
            }
            drop(socket);
            sleep(SHORT).await;
            assert!(buffers.iter().all(|buffer| buffer.iter().all(|byte| *byte == 0)));
            let error = theirs.write_all(&[0]).expect_err("the last operation let go of it");
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        })
        .expect("running");
}
