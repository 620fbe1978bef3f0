//! Certificates of both ends of a connection: a small authority of one's own, and what both ends load from disk.
//!
//! ```text
//!   <folder>/ca.pem  ca.key             the authority: made once, signs everything else
//!   <folder>/server.pem  server.key     the target's certificate: localhost, 127.0.0.1, ::1 and names that were given
//!   <folder>/clients/NAME/              one folder per source, complete: copy it to where the source runs
//!              ca.pem  client.pem  client.key
//! ```
//!
//! Keys are ECDSA P-256, readable by their owner only. Files appear whole or not at all: they are written beside their
//! place, flushed and renamed.
//!
//! **Invariants**
//! - An existing authority is never replaced.
//! - A key that others may read is refused, not used.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Prefix of the URI that holds the name of a source in its certificate.
pub const CLIENT_URI: &str = "landfall:client/";

/// Names every certificate of a target is good for.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Longest name of the owner of a certificate, in bytes.
const MAX_NAME: usize = 128;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long certificates are good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// The authority's own.
    pub authority: Duration,
    /// Those of targets and sources.
    pub leaf: Duration,
    /// A target's certificate with less than this left is replaced.
    pub renew_before: Duration,
}

impl Default for Validity {
    fn default() -> Self {
        Self {
            authority: DAY.saturating_mul(20 * 365),
            leaf: DAY.saturating_mul(5 * 365),
            renew_before: DAY.saturating_mul(60),
        }
    }
}

/// A certificate authority in a folder.
pub struct Authority {
    folder: PathBuf,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    validity: Validity,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new authority. Fails if the folder holds one.
    pub fn create(folder: &Path, validity: Validity) -> Result<Self, PkiError> {
        let certificate_path = folder.join("ca.pem");
        if certificate_path.exists() {
            return Err(PkiError::Exists { path: certificate_path });
        }
        make_folder(folder)?;
        let key = generate_key()?;
        let mut params = CertificateParams::default();
        // Two authorities must not share a name: a peer would take one's certificates for badly signed ones of the other.
        let tag = &blake3::hash(key.public_key_raw()).to_hex()[..8];
        params.distinguished_name = distinguished_name(&format!("landfall authority {tag}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, validity.authority);
        let certificate = params.self_signed(&key).map_err(PkiError::Generate)?;
        // Key first: an authority counts as made when its certificate is there.
        write_whole(&folder.join("ca.key"), key.serialize_pem().as_bytes(), 0o600)?;
        write_whole(&certificate_path, certificate.pem().as_bytes(), 0o644)?;
        Self::open(folder, validity)
    }

    /// Opens the authority of a folder.
    pub fn open(folder: &Path, validity: Validity) -> Result<Self, PkiError> {
        let path = folder.join("ca.pem");
        let certificate_pem = read(&path)?;
        let key_path = folder.join("ca.key");
        let key_pem = read_key(&key_path)?;
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|source| PkiError::Malformed { path: key_path, what: source.to_string() })?;
        let certificate = parse_certificate(&path, &certificate_pem)?;
        if subject_public_key(&path, &certificate)? != key.public_key_raw() {
            return Err(PkiError::Strangers { path });
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|source| PkiError::Malformed { path, what: source.to_string() })?;
        Ok(Self { folder: folder.to_owned(), certificate_pem, issuer, validity })
    }

    /// Opens the authority of a folder, or makes one if there is none.
    pub fn open_or_create(folder: &Path, validity: Validity) -> Result<Self, PkiError> {
        if folder.join("ca.pem").exists() {
            Self::open(folder, validity)
        } else {
            Self::create(folder, validity)
        }
    }

    /// A certificate for a target, good for `localhost` and `names` (host names or addresses).
    pub fn issue_server(&self, names: &[String]) -> Result<Issued, PkiError> {
        let mut all: Vec<String> = LOCAL_NAMES.iter().map(ToString::to_string).collect();
        all.extend(names.iter().filter(|name| !LOCAL_NAMES.contains(&name.as_str())).cloned());
        let mut params = CertificateParams::new(all).map_err(PkiError::Generate)?;
        params.distinguished_name = distinguished_name("landfall target");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// A certificate for the source `name`: letters, digits, `.`, `-` and `_`, at most 63.
    pub fn issue_client(&self, name: &str) -> Result<Issued, PkiError> {
        check_client_name(name)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(name);
        let uri = format!("{CLIENT_URI}{name}").try_into().map_err(PkiError::Generate)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// The target's credentials, made or renewed if they are missing, expire soon, or are not good for all of `names`.
    pub fn ensure_server(&self, names: &[String]) -> Result<Credentials, PkiError> {
        let (path, key_path) = (self.folder.join("server.pem"), self.folder.join("server.key"));
        if !self.is_good_for(&path, names)? || !key_path.exists() {
            let issued = self.issue_server(names)?;
            // The certificate goes first and comes last: beside a key of another one it must not be found.
            remove_if_there(&path)?;
            write_whole(&key_path, issued.key_pem.as_bytes(), 0o600)?;
            write_whole(&path, issued.certificate_pem.as_bytes(), 0o644)?;
        }
        Credentials::load_files(&self.folder.join("ca.pem"), &path, &key_path)
    }

    /// The folder with the credentials of the source `name`; made if it is not there.
    pub fn ensure_client(&self, name: &str) -> Result<PathBuf, PkiError> {
        check_client_name(name)?;
        let folder = client_folder(&self.folder, name);
        if !self.is_good_for(&folder.join("client.pem"), &[])? {
            self.issue_client(name)?.write_client(&folder)?;
        }
        Ok(folder)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Issued, PkiError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, self.validity.leaf);
        let key = generate_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::Generate)?;
        Ok(Issued {
            authority_pem: self.certificate_pem.clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Whether the certificate at `path` exists, will last, comes from this authority and covers `names`.
    fn is_good_for(&self, path: &Path, names: &[String]) -> Result<bool, PkiError> {
        if !path.exists() {
            return Ok(false);
        }
        let certificate = parse_certificate(path, &read(path)?)?;
        let authority = parse_certificate(&self.folder.join("ca.pem"), &self.certificate_pem)?;
        let (Ok(parsed), Ok(authority)) = (parse_x509(&certificate), parse_x509(&authority)) else {
            return Err(malformed(path, "not an X.509 certificate"));
        };
        let left = parsed.validity().time_to_expiration();
        let lasts = left.is_some_and(|left| left.as_seconds_f64() > self.renew_before_seconds());
        let ours = parsed.issuer() == authority.subject();
        let covered = names_of(&parsed);
        Ok(lasts && ours && names.iter().all(|name| covered.contains(name)))
    }

    fn renew_before_seconds(&self) -> f64 {
        self.validity.renew_before.as_secs_f64()
    }
}

/// A certificate and its key, not yet on disk.
#[derive(Clone)]
pub struct Issued {
    /// Certificate of the authority.
    pub authority_pem: String,
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key.
    pub key_pem: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued(certificate and key)")
    }
}

impl Issued {
    /// Writes `ca.pem`, `client.pem` and `client.key` into `folder`, replacing earlier ones.
    pub fn write_client(&self, folder: &Path) -> Result<(), PkiError> {
        make_folder(folder)?;
        let certificate_path = folder.join("client.pem");
        remove_if_there(&certificate_path)?;
        write_whole(&folder.join("ca.pem"), self.authority_pem.as_bytes(), 0o644)?;
        write_whole(&folder.join("client.key"), self.key_pem.as_bytes(), 0o600)?;
        write_whole(&certificate_path, self.certificate_pem.as_bytes(), 0o644)
    }
}

/// Where [`Authority::ensure_client`] keeps the credentials of the source `name`, under the authority's folder.
pub fn client_folder(authority: &Path, name: &str) -> PathBuf {
    authority.join("clients").join(name)
}

/// What one end shows and trusts.
#[derive(Debug)]
pub struct Credentials {
    /// Certificates of the authorities that are trusted.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The own certificate, and what leads from it to an authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The own key.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            authorities: self.authorities.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl Credentials {
    /// Loads `ca.pem`, `client.pem` and `client.key` of a source's folder.
    pub fn load_client(folder: &Path) -> Result<Self, PkiError> {
        let file = |name| folder.join(name);
        Self::load_files(&file("ca.pem"), &file("client.pem"), &file("client.key"))
    }

    /// Loads credentials from three PEM files.
    pub fn load_files(authority: &Path, chain: &Path, key: &Path) -> Result<Self, PkiError> {
        let key_pem = read_key(key)?;
        Ok(Self {
            authorities: certificates(authority)?,
            chain: certificates(chain)?,
            key: PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
                .map_err(|source| malformed(key, &source.to_string()))?,
        })
    }
}

/// Whom a certificate names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Name of the source or client: from the URI of its certificate, else its common name.
    pub name: String,
    /// BLAKE3 of the certificate.
    pub fingerprint: [u8; 32],
}

impl Subject {
    /// Reads a certificate that TLS has verified.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, PkiError> {
        let path = Path::new("certificate of the peer");
        let parsed = parse_x509(certificate).map_err(|what| malformed(path, &what))?;
        let uri = names_of(&parsed)
            .into_iter()
            .find_map(|name| name.strip_prefix(CLIENT_URI).map(str::to_owned));
        let common =
            || parsed.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned);
        let name = uri.or_else(common).ok_or_else(|| malformed(path, "names nobody"))?;
        // It decides what may be opened, and goes into log lines: two that differ must not look the same.
        if name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(malformed(path, "its name is too long, or has control characters"));
        }
        Ok(Self { name, fingerprint: *blake3::hash(certificate).as_bytes() })
    }
}

/// Why certificates could not be made or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// There is an authority already; it is not replaced.
    #[error("{path} exists: the folder holds an authority already")]
    Exists {
        /// Its certificate.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{path}: {operation} failed: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried, as a verb.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A key others may read.
    #[error("{path} can be read by others (mode {mode:03o}); run: chmod 600 {path}")]
    Exposed {
        /// The key.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file that is not what its name says.
    #[error("{path}: {what}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Certificate and key of the authority do not belong together.
    #[error("{path} and the key beside it do not belong together")]
    Strangers {
        /// The certificate.
        path: PathBuf,
    },
    /// Not a name for a source.
    #[error(
        "{name:?} is not a name for a source: 1 to 63 letters, digits, '.', '-' or '_', the first a letter or digit"
    )]
    ClientName {
        /// What was given.
        name: String,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Generate(rcgen::Error),
}

fn generate_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(PkiError::Generate)
}

fn distinguished_name(common_name: &str) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// From a day ago, so that clocks that differ a little do not matter.
fn set_validity(params: &mut CertificateParams, length: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + length).into();
}

/// Whether a certificate can be issued for that name. It becomes the name of a folder, so it must not be able to leave it.
pub fn check_client_name(name: &str) -> Result<(), PkiError> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest =
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if first && rest && name.len() <= 63 {
        Ok(())
    } else {
        Err(PkiError::ClientName { name: name.chars().take(80).collect() })
    }
}

fn parse_x509<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    X509Certificate::from_der(certificate).map(|(_, parsed)| parsed).map_err(|e| e.to_string())
}

/// Host names, addresses and URIs a certificate is good for.
fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|ip| std::net::IpAddr::from(ip).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|ip| std::net::IpAddr::from(ip).to_string()),
        },
        _ => None,
    };
    extension.value.general_names.iter().filter_map(text).collect()
}

fn subject_public_key(path: &Path, certificate: &CertificateDer<'_>) -> Result<Vec<u8>, PkiError> {
    let parsed = parse_x509(certificate).map_err(|what| malformed(path, &what))?;
    Ok(parsed.public_key().subject_public_key.data.to_vec())
}

fn parse_certificate(path: &Path, pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|source| malformed(path, &source.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|source| malformed(path, &source.to_string()))?;
    if found.is_empty() { Err(malformed(path, "holds no certificate")) } else { Ok(found) }
}

fn malformed(path: &Path, what: &str) -> PkiError {
    PkiError::Malformed { path: path.to_owned(), what: what.to_owned() }
}

fn failed<'a>(path: &'a Path, operation: &'static str) -> impl FnOnce(io::Error) -> PkiError + 'a {
    move |source| PkiError::File { path: path.to_owned(), operation, source }
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(failed(path, "read"))
}

fn read_key(path: &Path) -> Result<String, PkiError> {
    let mode = fs::metadata(path).map_err(failed(path, "stat"))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PkiError::Exposed { path: path.to_owned(), mode });
    }
    read(path)
}

fn make_folder(path: &Path) -> Result<(), PkiError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(failed(path, "create"))
}

fn remove_if_there(path: &Path) -> Result<(), PkiError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, "remove")(error)),
        _ => Ok(()),
    }
}

/// Writes beside the place, flushes, renames, and makes the name durable.
fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let beside = path.with_extension("new");
    remove_if_there(&beside)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .map_err(failed(&beside, "create"))?;
    file.write_all(content).map_err(failed(&beside, "write"))?;
    file.sync_all().map_err(failed(&beside, "flush"))?;
    fs::rename(&beside, path).map_err(failed(path, "rename"))?;
    let folder = path.parent().expect("a file in a folder");
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder, "flush"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> (tempfile::TempDir, Authority) {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::create(&folder.path().join("pki"), Validity::default());
        (folder, authority.expect("made"))
    }

    #[test]
    fn an_authority_is_made_once_and_opens_again() {
        let (folder, authority) = authority();
        let path = folder.path().join("pki");
        let again = Authority::create(&path, Validity::default());
        assert!(matches!(again, Err(PkiError::Exists { .. })));
        let opened = Authority::open_or_create(&path, Validity::default()).expect("opened");
        assert_eq!(opened.certificate_pem, authority.certificate_pem);
        let mode = fs::metadata(path.join("ca.key")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_exposed_key_is_refused() {
        let (folder, _) = authority();
        let key = folder.path().join("pki/ca.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("changed");
        let opened = Authority::open(&folder.path().join("pki"), Validity::default());
        assert!(matches!(opened, Err(PkiError::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn a_strange_key_is_noticed() {
        let (folder, _) = authority();
        let (other, _) = self::authority();
        fs::copy(other.path().join("pki/ca.key"), folder.path().join("pki/ca.key")).expect("copy");
        let opened = Authority::open(&folder.path().join("pki"), Validity::default());
        assert!(matches!(opened, Err(PkiError::Strangers { .. })));
    }

    #[test]
    fn a_clients_certificate_names_it() {
        let (_folder, authority) = authority();
        let folder = authority.ensure_client("backup-1").expect("issued");
        let credentials = Credentials::load_client(&folder).expect("complete");
        let subject = Subject::of(&credentials.chain[0]).expect("ours");
        assert_eq!(subject.name, "backup-1");
        let before = fs::read(folder.join("client.pem")).expect("there");
        authority.ensure_client("backup-1").expect("there already");
        assert_eq!(fs::read(folder.join("client.pem")).expect("there"), before);
    }

    #[test]
    fn names_that_leave_their_folder_are_refused() {
        let (_folder, authority) = authority();
        for name in ["", "..", "a/b", ".hidden", "a b", &"x".repeat(64)] {
            let refused = authority.ensure_client(name);
            assert!(matches!(refused, Err(PkiError::ClientName { .. })), "{name:?} passed");
        }
    }

    #[test]
    fn a_servers_certificate_is_renewed_when_it_has_to_be() {
        let (folder, authority) = authority();
        let path = folder.path().join("pki/server.pem");
        authority.ensure_server(&[]).expect("made");
        let first = fs::read(&path).expect("there");
        authority.ensure_server(&["127.0.0.1".to_owned()]).expect("kept");
        assert_eq!(fs::read(&path).expect("there"), first);
        let names = ["target.example".to_owned(), "10.1.2.3".to_owned()];
        authority.ensure_server(&names).expect("renewed for new names");
        let second = fs::read(&path).expect("there");
        assert_ne!(second, first);
        authority.ensure_server(&names).expect("kept");
        assert_eq!(fs::read(&path).expect("there"), second);
        let short = Validity { renew_before: DAY * 10_000, ..Validity::default() };
        let strict = Authority::open(&folder.path().join("pki"), short).expect("opened");
        strict.ensure_server(&names).expect("renewed because it ends too soon");
        assert_ne!(fs::read(&path).expect("there"), second);
    }
}
