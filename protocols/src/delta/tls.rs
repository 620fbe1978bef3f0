//! TLS 1.3 with certificates on both sides, and nothing else: no older version, no anonymous source.

use crate::pki::Credentials;
use crate::tls::{TlsError, provider, roots, strict_server};
use rustls::{ClientConfig, ServerConfig};
use std::sync::Arc;

/// Application protocol of the stream, negotiated so that a client of something else fails early.
pub const ALPN: &[u8] = b"landfall-delta";

/// The target's side: shows its certificate, demands one of an authority it trusts.
pub fn server_config(credentials: Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = strict_server(credentials, &[&rustls::version::TLS13])?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// The source's side: shows its certificate, demands the target's name in the other one.
pub fn client_config(credentials: Credentials) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Version)?
        .with_root_certificates(roots(&credentials)?)
        .with_client_auth_cert(credentials.chain, credentials.key)
        .map_err(TlsError::Credentials)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Random bytes of the provider in use.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The kernel's generator does not fail once it is seeded, which it is long before a program like this runs.
    provider().secure_random.fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}
