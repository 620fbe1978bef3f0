//! A relay for one TCP connection that counts what goes through it: the bytes on the wire, encryption included.

use anyhow::{Context, anyhow};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

/// Listens, and will pass one connection on.
pub(crate) struct Relay {
    address: SocketAddr,
    passing: JoinHandle<std::io::Result<u64>>,
}

impl Relay {
    /// Passes on to `target`.
    pub(crate) fn to(target: String) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("the relay")?;
        let address = listener.local_addr().context("the relay")?;
        let passing = std::thread::spawn(move || {
            let (near, _) = listener.accept()?;
            let far = TcpStream::connect(target)?;
            let (back_from, back_to) = (far.try_clone()?, near.try_clone()?);
            let back = std::thread::spawn(move || pass(back_from, back_to));
            let sent = pass(near, far)?;
            let received =
                back.join().map_err(|_| std::io::Error::other("the relay panicked"))??;
            Ok(sent + received)
        });
        Ok(Self { address, passing })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Bytes in both directions, once both sides have closed.
    pub(crate) fn bytes(self) -> anyhow::Result<u64> {
        let passed = self.passing.join().map_err(|_| anyhow!("the relay panicked"))?;
        passed.context("the relay")
    }
}

/// Passes bytes on until `from` ends, and says so to `to`.
fn pass(mut from: TcpStream, mut to: TcpStream) -> std::io::Result<u64> {
    let mut memory = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        let count = from.read(&mut memory)?;
        if count == 0 {
            break;
        }
        to.write_all(&memory[..count])?;
        total += count as u64;
    }
    // The other side may have closed first.
    let _ = to.shutdown(Shutdown::Write);
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_counted() {
        let server = TcpListener::bind(("127.0.0.1", 0)).expect("bound");
        let relay = Relay::to(server.local_addr().expect("bound").to_string()).expect("relay");
        let mut client = TcpStream::connect(relay.address()).expect("connected");
        let (mut accepted, _) = server.accept().expect("accepted");
        client.write_all(&[1; 1000]).expect("sent");
        client.shutdown(Shutdown::Write).expect("shut");
        let mut got = Vec::new();
        accepted.read_to_end(&mut got).expect("received");
        accepted.write_all(&[2; 234]).expect("sent");
        drop(accepted);
        assert_eq!(client.read_to_end(&mut Vec::new()).expect("received"), 234);
        assert_eq!((got.len(), relay.bytes().expect("counted")), (1000, 1234));
    }
}
