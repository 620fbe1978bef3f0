//! What the TLS of every protocol here has in common: one provider, authorities to trust, and certificates demanded of
//! whoever connects.
//!
//! The provider is always given explicitly (`ring`), so that what else a program links cannot change it.

use crate::pki::Credentials;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;

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
    /// A cryptographic provider without the versions that are wanted.
    #[error("TLS is not available: {0}")]
    Version(rustls::Error),
}

/// The provider.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities that are trusted.
pub(crate) fn roots(credentials: &Credentials) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in &credentials.authorities {
        roots.add(authority.clone()).map_err(|error| TlsError::Authority(error.to_string()))?;
    }
    Ok(Arc::new(roots))
}

/// A server that shows its certificate and demands one of an authority it trusts. It resumes no sessions: a resumed one
/// would keep a certificate alive that is no longer trusted.
pub(crate) fn strict_server(
    credentials: Credentials,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ServerConfig, TlsError> {
    let verifier: Arc<dyn ClientCertVerifier> =
        rustls::server::WebPkiClientVerifier::builder_with_provider(
            roots(&credentials)?,
            provider(),
        )
        .build()
        .map_err(|error| TlsError::Authority(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(TlsError::Version)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain, credentials.key)
        .map_err(TlsError::Credentials)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}
