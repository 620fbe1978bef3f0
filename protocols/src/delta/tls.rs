//! TLS 1.3 with certificates on both sides, and nothing else: no older version, no anonymous source.
//!
//! The provider is always given explicitly (`ring`), so that what else a program links cannot change it.

use crate::pki::Credentials;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// Application protocol of the stream, negotiated so that a client of something else fails early.
pub const ALPN: &[u8] = b"landfall-delta";

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("certificate or key not usable: {0}")]
    Credentials(rustls::Error),
    /// The certificate of an authority is not usable.
    #[error("authority not usable: {0}")]
    Authority(String),
    /// A cryptographic provider without TLS 1.3.
    #[error("TLS 1.3 is not available: {0}")]
    Version(rustls::Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(credentials: &Credentials) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in &credentials.authorities {
        roots.add(authority.clone()).map_err(|error| TlsError::Authority(error.to_string()))?;
    }
    Ok(Arc::new(roots))
}

/// The target's side: shows its certificate, demands one of an authority it trusts.
pub fn server_config(credentials: Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier: Arc<dyn ClientCertVerifier> =
        rustls::server::WebPkiClientVerifier::builder_with_provider(
            roots(&credentials)?,
            provider(),
        )
        .build()
        .map_err(|error| TlsError::Authority(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Version)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain, credentials.key)
        .map_err(TlsError::Credentials)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Streams live for days; a resumed session would keep a certificate alive that is no longer trusted.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
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
