//! iSCSI beyond loopback: nothing is offered to everybody. In a network namespace, so that nobody else ever hears of it.

use crate::iscsi::export;
use crate::machine::Web;
use landfall_tests::harness::{Said, attempt, binary};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a target may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
const FRIEND: &str = "iqn.2026-11.example:friend";

/// A target that listens to all there is of a network of its own.
struct Exposed {
    child: Child,
    config: String,
}

impl Exposed {
    /// Starts it on what a target on loopback has left.
    fn start(web: &Web) -> Self {
        let (config, socket) = (web.target.config(), web.target.socket());
        let text = fs::read_to_string(&config).expect("it was written");
        let exposed = text.replace("iscsi = \"127.0.0.1:0\"", "iscsi = \"0.0.0.0:3260\"");
        assert_ne!(exposed, text);
        fs::write(&config, exposed).expect("written");
        let config = crate::machine::text(&config).to_owned();
        let child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""])
            .arg(binary())
            .args(["--config", &config, "serve"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut exposed = Self { child, config };
        let begun = Instant::now();
        while !socket.exists() || exposed.landfall(&["status"]).code != Some(0) {
            assert!(begun.elapsed() < PATIENCE, "it does not start");
            assert!(exposed.child.try_wait().expect("ours").is_none(), "it has ended");
            std::thread::sleep(Duration::from_millis(50));
        }
        exposed
    }

    fn landfall(&self, arguments: &[&str]) -> Said {
        let binary = binary();
        let program = crate::machine::text(&binary);
        attempt(program, &[&["--config", &self.config], arguments].concat())
    }

    /// What an initiator in its network hears of.
    fn told(&self, initiator: &str) -> String {
        let network = format!("--net=/proc/{}/ns/net", self.child.id());
        let ask = ["iscsi-ls", "-i", initiator, "iscsi://127.0.0.1:3260"];
        attempt("nsenter", &[&[network.as_str()], &ask[..]].concat()).ok()
    }
}

impl Drop for Exposed {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has seen then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn beyond_loopback_nothing_is_offered_to_everybody() {
    let mut web = Web::with_points(1);
    let open = export(&web.target, &["web@latest"]);
    let open = open["iscsi"]["name"].as_str().expect("a name").to_owned();
    web.target.stop();
    let target = Exposed::start(&web);
    assert!(!target.told(FRIEND).contains(&open), "it was made when nobody else could come");
    let add = ["export", "add", "web@latest", "--iscsi"];
    target.landfall(&add).refused(&["iSCSI listens beyond loopback", "--chap", "--initiator"]);
    let named = target.landfall(&[&add[..], &["--initiator", FRIEND, "--json"]].concat()).json();
    let named = named["iscsi"]["name"].as_str().expect("a name");
    let told = target.told(FRIEND);
    assert!(told.contains(named) && !told.contains(&open), "{told}");
    assert!(!target.told("iqn.2026-11.example:other").contains("iqn."), "for its friend alone");
    let secret = web.target.folder().join("secret");
    fs::write(&secret, "secret-of-the-host\n").expect("written");
    let chap = ["--chap", "host", "--chap-secret-file", crate::machine::text(&secret)];
    target.landfall(&[&add[..], &chap].concat()).ok();
}
