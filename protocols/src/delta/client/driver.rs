//! Keeps a stream connected: one connection after another, with pauses that grow while nothing succeeds.

use super::{ClientError, ClientEvent, End, Shared};
use crate::delta::refusal::Retry;
use crate::delta::tls;
use crate::delta::wire::FrameReader;
use rustls_pki_types::ServerName;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Time for name resolution, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(15);

const CLOSED: &str = "the target closed the connection";

/// Runs until the stream has left or failed for good.
pub(super) async fn drive(shared: Rc<Shared>) {
    let name = match server_name(&shared.settings.address) {
        Ok(name) => name,
        Err(error) => return shared.fail(error),
    };
    let mut pause = shared.settings.first_pause;
    loop {
        let mut progress = false;
        let end = connection(&shared, &name, &mut progress).await;
        shared.session.borrow_mut().disconnected();
        if shared.session.borrow().is_stopping() {
            return shared.fail(ClientError::Ended);
        }
        if progress {
            pause = shared.settings.first_pause;
        }
        let retry_in = jittered(pause);
        match end {
            End::Left => return shared.fail(ClientError::Ended),
            End::Untrusted(why) if shared.welcome.borrow().is_none() => {
                return shared.fail(ClientError::Untrusted(why));
            }
            End::Untrusted(why) | End::Lost(why) => {
                shared.tell(ClientEvent::Lost { why, retry_in })
            }
            End::Refused(refused) if refused.retry == Retry::Never => {
                let (code, message) = (refused.code, refused.message);
                return shared.fail(ClientError::Refused { code, message });
            }
            End::Refused(refused) => {
                let (code, message) = (refused.code, refused.message);
                shared.tell(ClientEvent::Refused { code, message, retry_in });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(retry_in) => {}
            () = stopping(&shared) => return shared.fail(ClientError::Ended),
        }
        pause = (pause * 2).min(shared.settings.longest_pause);
    }
}

/// One connection, from name resolution to its end.
async fn connection(shared: &Shared, name: &ServerName<'static>, progress: &mut bool) -> End {
    let connected = tokio::select! {
        connected = tokio::time::timeout(CONNECT, connect(shared, name)) => connected,
        () = stopping(shared) => return End::Lost("stopped".to_owned()),
    };
    let stream = match connected {
        Err(_) => return End::Lost(format!("no connection after {} s", CONNECT.as_secs())),
        Ok(Err(error)) => return broken(&error),
        Ok(Ok(stream)) => stream,
    };
    shared.session.borrow_mut().connected(Instant::now());
    shared.wake.notify_one();
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        end = read(shared, reader, progress) => end,
        end = write(shared, writer) => end,
        end = keep_time(shared) => end,
    }
}

/// Completes when the stream is to be left at once.
async fn stopping(shared: &Shared) {
    loop {
        let changed = shared.changed.notified();
        if shared.session.borrow().is_stopping() {
            return;
        }
        changed.await;
    }
}

async fn connect(shared: &Shared, name: &ServerName<'static>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(&shared.settings.address).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(shared.settings.tls.clone()).connect(name.clone(), tcp).await
}

/// Hands every frame that arrives to the session.
async fn read(shared: &Shared, mut reader: impl AsyncRead + Unpin, progress: &mut bool) -> End {
    let mut frames = FrameReader::default();
    loop {
        let count = match reader.read(frames.space()).await {
            Ok(0) => return End::Lost(CLOSED.to_owned()),
            Ok(count) => count,
            Err(error) => return broken(&error),
        };
        let mut session = shared.session.borrow_mut();
        let now = Instant::now();
        session.heard(now);
        let limit = session.body_limit();
        let taken = match frames.advance(count, limit) {
            Ok(None) => continue,
            Ok(Some(frame)) => session.handle_frame(&frame, now).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        drop(session);
        if let Some(end) = shared.take_events(progress) {
            return end;
        }
        if let Err(why) = taken {
            return End::Lost(why);
        }
        // A frame may have brought credit, or something to answer.
        shared.wake.notify_one();
    }
}

/// Sends whatever the session has to send.
async fn write(shared: &Shared, mut writer: impl AsyncWrite + Unpin) -> End {
    loop {
        loop {
            let next = shared.session.borrow_mut().poll_transmit();
            let Some(bytes) = next else { break };
            if let Err(error) = writer.write_all(&bytes).await {
                // What the target said before it closed is still to be read, and says more than the error does.
                return patience(&error).await;
            }
        }
        if let Err(error) = writer.flush().await {
            return patience(&error).await;
        }
        shared.wake.notified().await;
    }
}

/// Gives the reading side a moment to find the reason.
async fn patience(error: &io::Error) -> End {
    tokio::time::sleep(Duration::from_secs(1)).await;
    broken(error)
}

/// Pings, and gives up on a silent target.
async fn keep_time(shared: &Shared) -> End {
    loop {
        let due = shared.session.borrow().next_timeout();
        let far = Instant::now() + Duration::from_secs(1);
        // The deadline moves with every frame, so it is looked at again after a second at the latest.
        tokio::time::sleep_until(due.unwrap_or(far).min(far).into()).await;
        let kept = shared.session.borrow_mut().handle_timeout(Instant::now());
        match kept {
            Ok(()) => shared.wake.notify_one(),
            Err(error) => return End::Lost(error.to_string()),
        }
    }
}

fn broken(error: &io::Error) -> End {
    use rustls::{AlertDescription, Error};
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(_)) => End::Untrusted(error.to_string()),
        Some(Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        )) => End::Untrusted(format!("the target refuses our certificate: {error}")),
        // rustls explains at length that the end came without a farewell.
        _ if error.kind() == io::ErrorKind::UnexpectedEof => End::Lost(CLOSED.to_owned()),
        _ => End::Lost(error.to_string()),
    }
}

/// The name the target's certificate has to be good for.
fn server_name(address: &str) -> Result<ServerName<'static>, ClientError> {
    let wrong =
        |what: &str| ClientError::Address { address: address.to_owned(), what: what.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("HOST:PORT is wanted"))?;
    port.parse::<u16>().map_err(|_| wrong("the part after the last ':' is no port"))?;
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned()).map_err(|_| wrong("not a host name or address"))
}

/// Between three and five quarters of `pause`, so that many sources do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let [random] = tls::random::<1>();
    pause * (192 + u32::from(random) / 2) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_give_the_name_to_check() {
        let name = |address: &str| server_name(address).map(|name| name.to_str().into_owned());
        assert_eq!(name("target.example:9443").as_deref(), Ok("target.example"));
        assert_eq!(name("127.0.0.1:9443").as_deref(), Ok("127.0.0.1"));
        assert_eq!(name("[::1]:9443").as_deref(), Ok("::1"));
        for wrong in ["target", "target:", "target:99999", "a b:1", ":1"] {
            assert!(server_name(wrong).is_err(), "{wrong:?} passed");
        }
    }

    #[test]
    fn pauses_differ_but_stay_near() {
        let pause = Duration::from_secs(8);
        for _ in 0..100 {
            let seen = jittered(pause);
            assert!(seen >= Duration::from_secs(6) && seen < Duration::from_secs(10), "{seen:?}");
        }
    }
}
