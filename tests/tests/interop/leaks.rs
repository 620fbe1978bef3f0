//! Clients that are killed in the middle of what they do leave nothing with the target: no descriptor, no memory, no lease.

use crate::machine::{Web, points};
use landfall_tests::harness::run;
use std::time::{Duration, Instant};

/// Clients that are killed, after as many as bring what is kept for the next ones near its most.
const KILLED: usize = 400;
const BEFORE: usize = 200;
/// What the process may grow by, in bytes. Seen: 43 MiB, and after a thousand more clients nothing; one reply that each of them
/// left behind would be 400 MiB.
const GROWTH: u64 = 128 << 20;

/// Opens a point with contexts, asks for 16 MiB, and is killed while it is answered. Twenty at a time.
const CLIENTS: &str = r#"
import os, signal, sys
uri, since, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for first in range(0, count, 20):
    children = []
    for number in range(first, min(first + 20, count)):
        child = os.fork()
        if child == 0:
            handle = nbd.NBD()
            for context in ("base:allocation", "landfall:age", "landfall:changed-since:" + since):
                handle.add_meta_context(context)
            handle.connect_uri(uri)
            asked = [handle.aio_pread(nbd.Buffer(1 << 20), at << 20) for at in range(16)]
            # As soon as an answer begins, which is never the end of them all.
            handle.poll(-1)
            os.kill(os.getpid(), signal.SIGKILL)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"#;

/// Waits until `done`, and gives up with what `state` says.
#[track_caller]
fn wait_until(mut done: impl FnMut() -> bool, state: impl Fn() -> String) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", state());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn descriptors(web: &Web) -> usize {
    let folder = format!("/proc/{}/fd", web.target.pid());
    std::fs::read_dir(folder).expect("it runs").count()
}

/// Memory that the target holds, in bytes.
fn resident(web: &Web) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", web.target.pid()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let number = line.trim().strip_suffix(" kB").expect("kilobytes");
    number.trim().parse::<u64>().expect("a number") * 1024
}

#[test]
fn clients_that_are_killed_leave_no_descriptor_memory_or_lease() {
    let web = Web::with_points(4);
    let held = web.kept[1].sequence;
    let uri = web.target.uri(&format!("web/os@seq:{held}"));
    let since = format!("seq:{}", web.kept[0].sequence);
    let script = format!("import nbd\n{CLIENTS}");
    let kill = |count: usize| {
        run("/usr/bin/python3", &["-c", &script, &uri, &since, &count.to_string()]);
        let open = || web.target.metrics().get("landfall_nbd_connections");
        wait_until(|| open() == 0.0, || format!("{} connections are open", open()));
    };
    kill(BEFORE);
    let (descriptors_before, resident_before) = (descriptors(&web), resident(&web));
    kill(KILLED);
    let served = web.target.metrics().sum("landfall_nbd_connections_total");
    assert!(served >= (BEFORE + KILLED) as f64, "{served} connections were served");
    let more = || format!("{} descriptors after {descriptors_before}", descriptors(&web));
    wait_until(|| descriptors(&web) <= descriptors_before, more);
    let grown = resident(&web).saturating_sub(resident_before);
    assert!(grown <= GROWTH, "{grown} bytes more than before");
    // Both the point that was open and the one it was compared with were held; now nobody holds them.
    let sequences = || -> Vec<u64> {
        let listed = points(&web.target, "web");
        listed.iter().map(|point| point["sequence"].as_u64().expect("a number")).collect()
    };
    let policy = ["policy", "set", "web", "keep all for 0s"];
    wait_until(
        || {
            web.target.landfall(&policy).ok();
            sequences() == [web.kept[3].sequence]
        },
        || format!("{:?} are kept", sequences()),
    );
}
