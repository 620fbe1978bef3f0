use super::file;
use super::*;
use landfall_protocols::iscsi::scsi::{Naming, Oui};
use std::path::Path;

fn load(text: &str, data: Option<&str>) -> Result<Config, ConfigError> {
    let given = Given { config: None, data: data.map(PathBuf::from) };
    let file = file::parse(Path::new("landfall.toml"), text)?;
    complete(file, &given, &ListenGiven::default(), Path::new("/here"))
}

fn refused(text: &str) -> String {
    load(text, Some("/d")).expect_err(text).to_string()
}

#[test]
fn a_data_folder_is_all_it_takes() {
    let config = load("", Some("./state")).expect("complete");
    assert_eq!(config.data, Path::new("/here/state"));
    assert_eq!(config.journal, Path::new("/here/state/journal"));
    assert_eq!(config.listen.control, Path::new("/here/state/landfall.sock"));
    assert_eq!(config.listen.nbd, Some("127.0.0.1:10809".parse().unwrap()));
    assert!(matches!(load("", None), Err(ConfigError::NoData)));
}

#[test]
fn the_example_holds_the_defaults() {
    let written = load(EXAMPLE, None).expect("the example is valid");
    assert_eq!(written, load("", Some("/var/lib/landfall")).unwrap());
}

#[test]
fn what_is_given_wins_over_what_is_written() {
    assert_eq!(load("data = '/b'", Some("/a")).unwrap().data, Path::new("/a"));
    let given = Given { config: None, data: Some("/d".into()) };
    let listen = ListenGiven { nbd: Some(Address::Off), ..ListenGiven::default() };
    let file = file::parse(Path::new("x"), "[listen]\nnbd = '127.0.0.1:1'").unwrap();
    assert_eq!(complete(file, &given, &listen, Path::new("/")).unwrap().listen.nbd, None);
}

#[test]
fn unknown_keys_are_named() {
    assert!(refused("dta = '/x'").contains("dta"));
    assert!(refused("[listen]\nndb = 'off'").contains("ndb"));
}

#[test]
fn plain_listeners_stay_on_loopback() {
    let open = "[listen]\nnbd = '0.0.0.0:10809'";
    assert!(refused(open).contains("insecure = true"));
    assert!(refused("[listen]\nhttp = '192.0.2.1:1'").contains("listen.http"));
    assert!(load(&format!("insecure = true\n{open}"), Some("/d")).is_ok());
    assert!(load("[listen]\ndelta = '0.0.0.0:9443'", Some("/d")).is_ok());
}

#[test]
fn names_of_targets_begin_as_configured() {
    let prefix = |text: &str| load(text, Some("/d")).map(|config| config.iscsi.prefix);
    assert_eq!(prefix("").expect("complete"), "iqn.2026-11.internal.landfall:");
    let own = "iqn.2020-01.com.example.backup:";
    assert_eq!(prefix(&format!("[iscsi]\nprefix = '{own}'")).expect("complete"), own);
    assert!(refused("[iscsi]\nprefix = 'web'").contains("iqn."));
    assert!(refused("[iscsi]\nprefix = 'iqn.2020-01.com.Example:'").contains("small letters"));
}

#[test]
fn a_company_may_name_disks() {
    let naming = |text: &str| load(text, Some("/d")).map(|config| config.iscsi.naming);
    assert_eq!(naming("").expect("complete"), Naming::Local);
    let oui = Oui::new([0xa0, 0xb1, 0xc4]);
    let configured = naming("[iscsi]\noui = 'a0-b1-c4'").expect("complete");
    assert_eq!(configured, Naming::Registered(oui));
    assert!(refused("[iscsi]\noui = 'landfall'").contains("six hexadecimal digits"));
    assert!(refused("[iscsi]\noui = 'a2b1c4'").contains("iscsi.oui"));
}

#[test]
fn what_initiators_may_use_is_limited() {
    let text = "[iscsi]\nsessions = 7\ndiscoveries = 2\nlogging_in = 3\ncommands = 32\n\
                bytes_in_flight = '64MiB'\nlogin = '3s'\ndiscovery = '4s'\nidle = '50s'";
    let settings = load(text, Some("/d")).expect("complete").iscsi.settings;
    assert_eq!((settings.sessions, settings.discoveries, settings.logging_in), (7, 2, 3));
    assert_eq!((settings.offer.window, settings.bytes_in_flight), (32, 64 << 20));
    let times = [settings.login_time, settings.discovery_time, settings.idle_time];
    assert_eq!(times, [3, 4, 50].map(Duration::from_secs));
    assert_eq!(load("", Some("/d")).expect("complete").iscsi.settings, Default::default());
    for key in ["sessions", "discoveries", "logging_in", "commands"] {
        let why = refused(&format!("[iscsi]\n{key} = 0"));
        assert!(why.contains("1 and 4096") && why.contains(key), "{why}");
    }
    assert!(refused("[iscsi]\nbytes_in_flight = '1MiB'").contains("32 MiB and 1 GiB"));
    for key in ["login", "discovery", "idle"] {
        assert!(refused(&format!("[iscsi]\n{key} = '1h'")).contains("600 s"));
    }
}

#[test]
fn what_nbd_clients_may_use_is_limited() {
    let text = "[nbd]\nconnections = 7\nin_flight = 9\nbytes_in_flight = '64MiB'\nhandshake = '3s'\n\
                [nbd.limit]\nweb = { iops = 500, bandwidth = '20MiB' }\n'*' = { bandwidth = '1GiB' }";
    let nbd = load(text, Some("/d")).expect("complete").nbd;
    let settings = nbd.settings;
    assert_eq!((settings.connections, settings.requests_in_flight), (7, 9));
    assert_eq!(settings.bytes_in_flight, 64 << 20);
    assert_eq!(settings.handshake_time, Duration::from_secs(3));
    let of = |machine: &str| {
        let limits = nbd.limits_of(machine);
        (limits.requests_per_second.map(u64::from), limits.bytes_per_second.map(u64::from))
    };
    assert_eq!(of("web"), (Some(500), Some(20 << 20)));
    assert_eq!(of("db"), (None, Some(1 << 30)));
    assert!(load("", Some("/d")).expect("complete").nbd.limits_of("web").is_unlimited());

    assert!(refused("[nbd]\nconnections = 0").contains("1 and 65536"));
    assert!(refused("[nbd]\nbytes_in_flight = '1MiB'").contains("32 MiB and 1 GiB"));
    assert!(refused("[nbd]\nhandshake = '1h'").contains("600 s"));
    assert!(refused("[nbd.limit]\nWeb = { iops = 5 }").contains("name of a machine"));
    assert!(refused("[nbd.limit]\nweb = { bandwidth = 0 }").contains("nothing could be read"));
    assert!(refused("[nbd.limit]\nweb = { iops = 0 }").contains("iops"));
}

#[test]
fn nbd_goes_beyond_loopback_where_tls_is_required() {
    let open = "[listen]\nnbd = '0.0.0.0:10809'\n[nbd]\ntls = ";
    assert!(refused(&format!("{open}'offered'")).contains("insecure = true"));
    let config = load(&format!("{open}'required'"), Some("/d")).expect("secured");
    assert_eq!((config.nbd.tls, config.nbd.allow.len()), (NbdTls::Required, 0));
    assert!(refused("[nbd]\ntls = 'maybe'").contains("maybe"));
}

#[test]
fn a_certificate_opens_what_it_is_granted() {
    let with = |grants: &str| format!("[nbd]\ntls = 'required'\n[nbd.allow]\n{grants}");
    let text = with("backup = ['web', 'db']\nadmin = ['*']\nnobody = []");
    let allow = load(&text, Some("/d")).expect("complete").nbd.allow;
    let opens = |owner: &str, machine: &str| allow[owner].covers(machine);
    assert!(opens("backup", "web") && opens("backup", "db") && !opens("backup", "mail"));
    assert!(!opens("backup", "web2"), "a name is not a prefix");
    assert!(opens("admin", "mail") && !opens("nobody", "web"));
    assert!(refused(&with("x = ['a/b']")).contains("nbd.allow"));
    assert!(refused(&with("'back up' = ['web']")).contains("\"back up\""), "no certificate is");
    for tls in ["off", "offered"] {
        for section in ["allow", "feed"] {
            let open = format!("[nbd]\ntls = '{tls}'\n[nbd.{section}]\nbackup = ['web']");
            assert!(refused(&open).contains("keep nobody out"), "{tls}");
        }
    }
    let nbd = load(&with("a = ['*']\n[nbd.feed]\nb = ['web']"), Some("/d")).expect("complete").nbd;
    assert_eq!((nbd.allow.get("b"), nbd.feed.get("a")), (None, None));
    assert!(nbd.feed["b"].covers("web") && !nbd.feed["b"].covers("db"));
    assert!(refused(&with("a = ['*']\n[nbd.feed]\nx = ['a/b']")).contains("nbd.feed"));
}

#[test]
fn listeners_can_be_closed() {
    let text = "[listen]\nnbd = 'off'\nnbd_socket = 'off'\nhttp = 'off'\ndelta = 'off'";
    let listen = load(text, Some("/d")).unwrap().listen;
    assert_eq!((listen.nbd, listen.http, listen.delta), (None, None, None));
    assert_eq!(listen.nbd_socket, None);
}

#[test]
fn values_outside_their_limits_are_refused() {
    assert!(refused("[journal]\nsegment = '1KiB'").contains("journal.segment"));
    assert!(refused("[journal]\nsegment = '4 parsecs'").contains("not a size"));
    assert!(refused("[engine]\ncores = 0").contains("engine.cores"));
    assert!(refused("[policy]\nkeep = 'hourly'").contains("policy.keep"));
    let quota = load("[policy]\nkeep = 'keep all, quota 1GiB hold'", Some("/d"));
    assert!(quota.unwrap().policy.keep.space().is_some());
    assert!(refused("[policy]\nrpo = 'soon'").contains("policy.rpo"));
    assert!(refused("[listen]\nnbd = 'localhost'").contains("not an address"));
    assert!(refused("[volumes]\nallow = ['tmpfs']").contains("any-file-system"));
    assert!(refused("[fold]\nslower_percent = 0").contains("fold.slower_percent"));
    assert!(refused("[fold]\nrate = '1KiB'").contains("fold.rate"));
    assert!(refused("[fold]\nevery = 'never'").contains("fold.every"));
    assert!(refused("[encryption]\nkey = { file = 'kek' }").contains("absolute"));
    assert!(refused("[encryption]\nkey = { file = '/d/kek' }").contains("inside"));
    assert!(refused("[encryption]\nkey = { command = [] }").contains("a program"));
    assert!(refused("[encryption]\nkey = { tpm = 'x' }").contains("tpm"));
    let keys = "[encryption]\nkey = { command = ['a', 'b'] }\nearlier = [{ file = '/k' }]";
    assert_eq!(load(keys, Some("/d")).unwrap().encryption.earlier.len(), 1);
}
