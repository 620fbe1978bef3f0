//! The command line's end of the control API: one request per connection over the Unix socket.
//!
//! It runs its own small runtime, so a verb is an ordinary function. Nothing here knows what a verb means.

use super::messages::Problem;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 256 << 20;
/// How long an answer may take. Removing a machine or opening a large index can take a while, a hang must not last for ever.
const PATIENCE: Duration = Duration::from_secs(300);

/// The control socket of a target.
pub(crate) struct Control {
    socket: PathBuf,
}

/// Why the target did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Nobody listens.
    #[error(
        "no target is running here: {socket}: {source}\n\
         start one with `landfall serve`, or name the right data folder with --data or LANDFALL_DATA"
    )]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Not ours to use.
    #[error(
        "{socket}: permission denied; only the owner of the target may use it, try again as that user"
    )]
    NotAllowed {
        /// The socket.
        socket: PathBuf,
    },
    /// The target said no.
    #[error("{0}")]
    Refused(String),
    /// No sensible answer.
    #[error("the target did not answer: {0}")]
    NoAnswer(String),
}

impl Control {
    /// The control socket at `socket`.
    pub(crate) fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks for something.
    pub(crate) fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ControlError> {
        self.ask(Method::GET, path, Bytes::new())
    }

    /// Sends something to be done.
    pub(crate) fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, ControlError> {
        let body = serde_json::to_vec(body).expect("messages are plain data");
        self.ask(Method::POST, path, body.into())
    }

    /// Removes something.
    pub(crate) fn delete<A: DeserializeOwned>(&self, path: &str) -> Result<A, ControlError> {
        self.ask(Method::DELETE, path, Bytes::new())
    }

    fn ask<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<A, ControlError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ControlError::NoAnswer(error.to_string()))?;
        let exchange = self.exchange(method, path, body);
        let answered = runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await });
        let (status, answer) = answered.map_err(|_| {
            ControlError::NoAnswer(format!("nothing within {} s", PATIENCE.as_secs()))
        })??;
        if status.is_success() {
            return serde_json::from_slice(&answer)
                .map_err(|error| ControlError::NoAnswer(format!("unreadable answer: {error}")));
        }
        match serde_json::from_slice::<Problem>(&answer) {
            Ok(problem) => Err(ControlError::Refused(problem.error)),
            Err(_) => Err(ControlError::NoAnswer(format!("status {status}"))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ControlError> {
        let no_answer = |error: hyper::Error| ControlError::NoAnswer(error.to_string());
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "landfall")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| ControlError::NoAnswer(error.to_string()))?;
        let exchange = async move {
            let response = sender.send_request(request).await.map_err(no_answer)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| ControlError::NoAnswer(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        // The connection has to be driven beside the exchange; its own error is that of the exchange.
        futures_util::future::join(exchange, connection).await.0
    }

    fn unreachable(&self, source: io::Error) -> ControlError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ControlError::NotAllowed { socket },
            _ => ControlError::NotRunning { socket, source },
        }
    }
}

/// `text` as a value in a query or a part of a path.
pub(crate) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_query() {
        assert_eq!(escaped("web/os@tag:a+b &ü"), "web%2Fos%40tag%3Aa%2Bb%20%26%C3%BC");
    }

    #[test]
    fn nobody_there_is_said_plainly() {
        let folder = tempfile::tempdir().unwrap();
        let control = Control::at(&folder.path().join("landfall.sock"));
        let error = control.get::<Problem>("/v1/status").expect_err("nobody listens");
        assert!(error.to_string().contains("landfall serve"), "{error}");
    }
}
