//! TLS: with stock clients of both generations, and byte by byte where they would not do what is tried.

use crate::memory::{PATIENCE, Server};
use crate::peers::{MIB, SIZE, attempt, newer, noise, run, same_bytes, text};
use crate::raw::Raw;
use crate::serve::wait_until;
use landfall_protocols::nbd::serve::Settings;
use landfall_protocols::nbd::tls::{Security, server_config};
use landfall_protocols::pki::{Authority, Credentials, Validity};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// An authority and a server that trusts it.
struct Site {
    folder: tempfile::TempDir,
    server: Server,
}

impl Site {
    fn start(form: fn(Arc<rustls::ServerConfig>) -> Security) -> Self {
        Self::with_settings(form, Settings::default())
    }

    fn with_settings(form: fn(Arc<rustls::ServerConfig>) -> Security, settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = authority(&folder.path().join("pki"));
        let credentials = authority.ensure_server(&[]).expect("issued");
        let config = server_config(credentials).expect("usable");
        let server = Server::listening(SIZE, settings, form(config));
        Self { folder, server }
    }

    /// A folder with a certificate for `name`, as libnbd and QEMU want it.
    fn client(&self, name: &str) -> PathBuf {
        let authority = authority(&self.folder.path().join("pki"));
        client_of(&authority, &self.folder.path().join(name), name)
    }

    fn uri(&self, scheme: &str, export: &str, client: Option<&Path>) -> String {
        let certificates = client.map(|folder| format!("?tls-certificates={}", folder.display()));
        let certificates = certificates.unwrap_or_default();
        format!("{scheme}://{}/{export}{certificates}", self.server.address)
    }
}

fn authority(folder: &Path) -> Authority {
    Authority::open_or_create(folder, Validity::default()).expect("an authority")
}

fn client_of(authority: &Authority, folder: &Path, name: &str) -> PathBuf {
    authority.issue_client(name).expect("issued").write_client(folder).expect("written");
    for (ours, theirs) in [
        ("ca.pem", "ca-cert.pem"),
        ("client.pem", "client-cert.pem"),
        ("client.key", "client-key.pem"),
    ] {
        fs::copy(folder.join(ours), folder.join(theirs)).expect("copied");
    }
    folder.to_owned()
}

#[test]
fn stock_clients_of_both_generations_copy_over_tls() {
    let site = Site::start(Security::Required);
    site.server.frozen.put(0, &noise(5 * MIB, 1));
    site.server.frozen.put(40 * MIB + 77, &noise(9 * MIB, 2));
    let friend = site.client("friend");
    let expected = site.server.frozen.content();
    for (index, nbdcopy) in ["nbdcopy".to_owned(), newer("nbdcopy")].iter().enumerate() {
        let copy = site.folder.path().join(format!("copy-{index}"));
        run(nbdcopy, &[&site.uri("nbds", "frozen", Some(&friend)), text(&copy)]);
        assert!(same_bytes(&copy, &expected), "read by {nbdcopy}");
        site.server.disk.put(0, &noise(MIB, 9));
        run(nbdcopy, &["--flush", text(&copy), &site.uri("nbds", "disk", Some(&friend))]);
        assert!(site.server.disk.content() == expected, "written by {nbdcopy}");
    }
    for qemu_img in ["qemu-img".to_owned(), newer("qemu-img")] {
        let credentials = format!("tls-creds-x509,id=tls,dir={},endpoint=client", friend.display());
        let options = format!(
            "driver=raw,file.driver=nbd,file.host=127.0.0.1,file.port={},file.export=frozen,\
             file.tls-creds=tls",
            site.server.address.port()
        );
        let copy = format!("driver=raw,file.filename={}/copy-0", site.folder.path().display());
        run(&qemu_img, &["compare", "--object", &credentials, "--image-opts", &options, &copy]);
    }
    let told = run("nbdinfo", &["--json", &site.uri("nbds", "disk", Some(&friend))]);
    assert!(told.contains("\"TLS\": true"), "{told}");
    site.server.stop();
}

#[test]
fn where_tls_is_required_a_plain_client_learns_why_it_gets_nothing() {
    let site = Site::start(Security::Required);
    for nbdinfo in ["nbdinfo".to_owned(), newer("nbdinfo")] {
        let refused = attempt(&nbdinfo, &[&site.uri("nbd", "disk", None)]);
        assert!(!refused.status.success(), "{nbdinfo} got in");
    }
    let mut raw = Raw::connect(&site.server);
    raw.receive(18);
    raw.send(&3u32.to_be_bytes());
    for option in [3, 6, 7, 8, 11, 99] {
        raw.option(option, b"");
        assert_eq!(raw.option_reply(option).0, 0x8000_0005, "option {option}");
    }
    raw.option(1, b"disk");
    assert!(raw.is_closed());
    assert!(site.server.shelf.opened.lock().is_empty());
    site.server.stop();
}

#[test]
fn where_tls_is_offered_both_kinds_come() {
    let site = Site::start(Security::Offered);
    let friend = site.client("friend");
    let plain = run("nbdinfo", &["--json", &site.uri("nbd", "disk", None)]);
    assert!(plain.contains("\"TLS\": false"), "{plain}");
    let secured = run("nbdinfo", &["--json", &site.uri("nbds", "disk", Some(&friend))]);
    assert!(secured.contains("\"TLS\": true"), "{secured}");
    site.server.stop();
}

#[test]
fn a_certificate_has_to_be_trusted_and_to_be_allowed() {
    let site = Site::start(Security::Required);
    let stranger = site.client("stranger");
    let other = authority(&site.folder.path().join("other"));
    let foreign = client_of(&other, &site.folder.path().join("foreign"), "friend");
    // The client trusts our server, but shows a certificate of somebody else's authority.
    fs::copy(stranger.join("ca-cert.pem"), foreign.join("ca-cert.pem")).expect("copied");
    let counters = site.server.service.counters();

    let refused = attempt("nbdinfo", &[&site.uri("nbds", "disk", Some(&stranger))]);
    // It got through TLS, and was refused where it asked for the export, by the name its certificate gives it.
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("nbd_opt_go"), "{said}");
    assert!(site.server.shelf.opened.lock().is_empty());
    let before = counters.handshakes_failed.load(SeqCst);
    let refused = attempt("nbdinfo", &[&site.uri("nbds", "disk", Some(&foreign))]);
    assert!(!refused.status.success(), "a foreign certificate got in");
    wait_until(|| counters.handshakes_failed.load(SeqCst) > before);
    site.server.stop();
}

/// The client that `name` is, on a connection whose server waits for TLS.
fn upgraded(
    site: &Site,
    name: &str,
    version: &'static SupportedProtocolVersion,
    raw: Raw,
) -> StreamOwned<ClientConnection, UnixStream> {
    let credentials = Credentials::load_client(&site.client(name)).expect("complete");
    let mut roots = RootCertStore::empty();
    for authority in credentials.authorities {
        roots.add(authority).expect("an authority");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_client_auth_cert(credentials.chain, credentials.key)
        .expect("a certificate");
    let host = "localhost".try_into().expect("a name");
    let client = ClientConnection::new(Arc::new(config), host).expect("usable");
    StreamOwned::new(client, raw.into_stream())
}

/// A connection that has been greeted.
fn greeted(site: &Site) -> Raw {
    let mut raw = Raw::connect(&site.server);
    raw.receive(18);
    raw.send(&3u32.to_be_bytes());
    raw
}

#[test]
fn both_versions_of_tls_carry_requests_and_end_in_good_order() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let site = Site::start(Security::Required);
        site.server.disk.put(0, b"sealed");
        let mut raw = greeted(&site);
        raw.option(5, b"");
        assert_eq!(raw.option_reply(5).0, 1);
        let mut tls = upgraded(&site, "friend", version, raw);
        tls.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk").expect("sent");
        let mut entered = [0; 10];
        tls.read_exact(&mut entered).expect("entered");
        assert_eq!(tls.conn.protocol_version(), Some(version.version));
        let mut request = |command: u8, length: u8| {
            let mut header = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, command];
            header.extend([0; 19]);
            header.push(length);
            tls.write_all(&header).expect("sent");
        };
        request(0, 6);
        request(2, 0);
        let mut reply = [0; 22];
        tls.read_exact(&mut reply).expect("a reply");
        assert_eq!(&reply[16..], b"sealed");
        // The end of TLS, not only of the stream: that would be an error here.
        assert_eq!(tls.read(&mut [0]).expect("a close_notify"), 0);
        site.server.stop();
    }
}

/// A client that TLS has begun with.
fn secured(site: &Site) -> StreamOwned<ClientConnection, UnixStream> {
    let mut raw = greeted(site);
    raw.option(5, b"");
    assert_eq!(raw.option_reply(5).0, 1);
    let mut tls = upgraded(site, "friend", &rustls::version::TLS13, raw);
    tls.conn.complete_io(&mut tls.sock).expect("TLS");
    tls
}

/// Section "Protocol phases": a hard disconnect shuts TLS down before the connection. The end of the stream alone would be an
/// error to whoever reads.
#[test]
fn however_a_connection_ends_tls_ends_before_it() {
    const ENTER: &[u8] = b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk";
    let handshake_time = Duration::from_millis(500);
    for (what, sent, stops) in [
        ("an abort", &b"IHAVEOPT\0\0\0\x02\0\0\0\0"[..], false),
        ("nonsense for an option", &[0x55; 16], false),
        ("an option that never ends", &b"IHAVEOPT\0"[..], false),
        ("nonsense for a request", &[ENTER, &[0x55; 28]].concat(), false),
        ("a stop while it negotiates", &b"IHAVEOPT"[..], true),
        ("a stop while it is served", ENTER, true),
    ] {
        let time = if stops { PATIENCE } else { handshake_time };
        let settings = Settings { handshake_time: time, ..Settings::default() };
        let site = Site::with_settings(Security::Required, settings);
        let mut tls = secured(&site);
        tls.write_all(sent).expect("sent");
        if sent.starts_with(ENTER) {
            tls.read_exact(&mut [0; 10]).expect("entered");
        }
        if stops {
            site.server.service.stop();
        }
        let mut last = Vec::new();
        if let Err(error) = tls.read_to_end(&mut last) {
            panic!("{what}: {error}");
        }
        site.server.stop();
    }
}

/// Somebody on the way could have put it there: it is neither done now nor once TLS has begun.
#[test]
fn what_comes_in_the_clear_behind_starttls_is_not_listened_to() {
    let site = Site::start(Security::Offered);
    let mut raw = greeted(&site);
    let mut both = b"IHAVEOPT\0\0\0\x05\0\0\0\0".to_vec();
    both.extend(b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk");
    raw.send(&both);
    assert_eq!(raw.option_reply(5).0, 1);
    let begun = Instant::now();
    let mut tls = upgraded(&site, "friend", &rustls::version::TLS13, raw);
    let secured = tls.conn.complete_io(&mut tls.sock);
    assert!(secured.is_err(), "TLS began behind what was slipped in: {secured:?}");
    let counters = site.server.service.counters();
    wait_until(|| counters.handshakes_failed.load(SeqCst) == 1);
    assert!(begun.elapsed() < Settings::default().handshake_time, "it was waited for");
    assert!(site.server.shelf.opened.lock().is_empty());
    site.server.stop();
}

/// Nothing that was opened for whoever asked in the clear is there for the one that TLS has shown.
#[test]
fn a_name_is_opened_anew_for_whoever_tls_has_shown() {
    let site = Site::start(Security::Offered);
    let mut raw = greeted(&site);
    raw.option(6, b"\0\0\0\x04disk\0\0");
    while raw.option_reply(6).0 != 1 {}
    assert_eq!(site.server.shelf.opened.lock().len(), 1, "it may be asked for in the clear");
    raw.option(5, b"");
    assert_eq!(raw.option_reply(5).0, 1);
    let mut tls = upgraded(&site, "stranger", &rustls::version::TLS13, raw);
    tls.write_all(b"IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04disk\0\0").expect("sent");
    let mut reply = [0; 20];
    tls.read_exact(&mut reply).expect("a reply");
    assert_eq!(reply[12..16], 0x8000_0002u32.to_be_bytes(), "{reply:?}");
    let mut why = vec![0; usize::from(reply[19])];
    tls.read_exact(&mut why).expect("the text of the reply");
    // Asked for in a way that no error answers, the connection ends, and TLS before it.
    tls.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk").expect("sent");
    assert_eq!(tls.read(&mut [0]).expect("a close_notify"), 0);
    site.server.stop();
}

#[test]
fn whoever_goes_over_tls_without_a_word_leaves_nothing() {
    let site = Site::start(Security::Required);
    site.server.disk.put(0, &vec![1; MIB as usize]);
    let open = || fs::read_dir("/proc/self/fd").expect("a list of descriptors").count();
    let counters = site.server.service.counters();
    let all_gone = || counters.connections.open.load(SeqCst) == 0;
    let mut before = 0;
    for round in 0..200 {
        let mut raw = greeted(&site);
        raw.option(5, b"");
        assert_eq!(raw.option_reply(5).0, 1);
        let mut tls = upgraded(&site, "friend", &rustls::version::TLS13, raw);
        tls.conn.complete_io(&mut tls.sock).expect("TLS");
        if round % 3 > 0 {
            tls.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk").expect("sent");
            tls.read_exact(&mut [0; 10]).expect("entered");
            for cookie in 0..20 {
                // Reads of a MiB, of which nobody takes anything; or a write whose payload does not come.
                let mut header = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, round % 3 - 1];
                header.extend([0, 0, 0, 0, 0, 0, 0, cookie, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0]);
                tls.write_all(&header).expect("sent");
                if round % 3 == 2 {
                    break;
                }
            }
        }
        drop(tls);
        if round == 2 {
            // Whatever is made once is made.
            wait_until(all_gone);
            before = open();
        }
    }
    wait_until(all_gone);
    wait_until(|| open() <= before);
    wait_until(|| Arc::strong_count(&site.server.disk) == 2);
    site.server.stop();
}

#[test]
fn whoever_dawdles_over_tls_is_cut_off() {
    let handshake_time = Duration::from_millis(150);
    let settings = Settings { handshake_time, ..Settings::default() };
    let site = Site::with_settings(Security::Required, settings);
    let mut raw = Raw::connect(&site.server);
    raw.receive(18);
    raw.send(&3u32.to_be_bytes());
    raw.option(5, b"");
    assert_eq!(raw.option_reply(5).0, 1);
    // The start of a record that never ends.
    raw.send(b"\x16\x03\x01\x02\x00\x01\x00");
    assert!(raw.is_closed());
    site.server.stop();
}
