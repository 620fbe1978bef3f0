//! TLS of the NBD server: what a listener asks of its clients.
//!
//! TLS 1.2 and 1.3: the specification has servers support 1.2, and clients are linked to libraries older than this one.
//! Whoever comes over TLS shows a certificate; its name, not the address, says who it is. Pre-shared keys are not offered,
//! since rustls has none.

use crate::pki::Credentials;
use crate::tls::{TlsError, strict_server};
use rustls::ServerConfig;
use std::sync::Arc;

/// What a listener asks of its clients (section "Server-side requirements").
#[derive(Clone, Debug)]
pub enum Security {
    /// No TLS (`NOTLS`).
    Plain,
    /// TLS for those who want it (`SELECTIVETLS`, no export being for TLS only).
    Offered(Arc<ServerConfig>),
    /// TLS before anything else (`FORCEDTLS`).
    Required(Arc<ServerConfig>),
}

/// The TLS of a server that shows `credentials` and trusts the certificates of their authorities.
pub fn server_config(credentials: Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    strict_server(credentials, &versions).map(Arc::new)
}
