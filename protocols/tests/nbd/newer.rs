//! The next generation of stock peers, which speak extended headers: QEMU 10, libnbd 1.22, nbdkit 1.42.

use crate::memory::Server;
use crate::peers::{MIB, attempt, newer, newer_root, noise, run, same_bytes, server, text};
use std::fs;
use std::sync::atomic::Ordering::SeqCst;

#[test]
fn nbdinfo_sees_extended_headers_and_the_whole_map() {
    let server = server();
    let told = run(&newer("nbdinfo"), &["--json", &server.uri("disk")]);
    for part in ["\"extended\": true", "\"can_multi_conn\": true", "\"base:allocation\""] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    let map = run(&newer("nbdinfo"), &["--map", &server.uri("frozen")]);
    let first: Vec<&str> = map.lines().next().expect("a line").split_whitespace().collect();
    assert_eq!(first, ["0", "5242880", "0", "data"]);
    server.stop();
}

#[test]
fn copies_go_both_ways() {
    let server = server();
    let copy = server.folder.path().join("copy");
    run(&newer("nbdcopy"), &[&server.uri("frozen"), text(&copy)]);
    assert!(same_bytes(&copy, &server.frozen.content()));
    let brought = [noise(MIB, 4), vec![0; 30 * MIB as usize], noise(33 * MIB, 5)].concat();
    let source = server.folder.path().join("source");
    fs::write(&source, &brought).expect("the source");
    run(&newer("nbdcopy"), &["--flush", text(&source), &server.uri("disk")]);
    assert!(server.disk.content() == brought);

    let image = server.folder.path().join("copy.qcow2");
    let (qemu_img, from) = (newer("qemu-img"), server.uri("frozen"));
    run(&qemu_img, &["convert", "-f", "raw", "-O", "qcow2", &from, text(&image)]);
    run(&qemu_img, &["compare", "-f", "qcow2", "-F", "raw", text(&image), &from]);
    let to = server.uri("disk");
    run(&qemu_img, &["convert", "-n", "-f", "qcow2", "-O", "raw", text(&image), &to]);
    assert!(server.disk.content() == server.frozen.content());
    server.stop();
}

#[test]
fn qemu_io_writes_zeroes_and_discards_beyond_32_bits() {
    let server = Server::start(12 << 30);
    server.disk.put(5 << 30, &noise(MIB, 3));
    let said = run(
        &newer("qemu-io"),
        &[
            "-f",
            "raw",
            "-d",
            "unmap",
            "-c",
            "write -P 0x5a 1000 5000",
            "-c",
            "read -P 0x5a 1000 5000",
            "-c",
            "write -z -u -n 0 12G",
            "-c",
            "read -P 0 5G 1M",
            "-c",
            "discard 0 1G",
            "-c",
            "write -f -P 0x77 8G 64k",
            "-c",
            "aio_read -P 0x77 8G 64k",
            "-c",
            "aio_flush",
            &server.uri("disk"),
        ],
    );
    assert!(!said.contains("verification failed"), "{said}");
    let counters = server.service.counters();
    let zeroes = counters.commands().into_iter().find(|one| one.command == "write_zeroes");
    let requests = zeroes.expect("a kind of request").requests;
    // Beyond what 32 bits hold, QEMU needs extended headers to ask in few requests.
    assert!(requests <= 3, "{requests} requests for 12 GiB of zeroes");
    let map = run(&newer("qemu-img"), &["map", "--output=json", "-f", "raw", &server.uri("disk")]);
    assert!(map.contains("\"start\": 8589934592, \"length\": 65536"), "{map}");
    server.stop();
}

#[test]
fn qemu_nbd_lists() {
    let server = server();
    let list = run(&newer("qemu-nbd"), &["--list", "-k", text(&server.socket())]);
    for part in
        ["exports available: 2", "export: 'disk'", "transaction size: 64-bit", "base:allocation"]
    {
        assert!(list.contains(part), "{part} is not in\n{list}");
    }
    server.stop();
}

#[test]
fn nbdkit_passes_an_export_on() {
    let server = server();
    let plugins = newer_root().join("usr/lib/x86_64-linux-gnu/nbdkit/plugins");
    let socket = format!("socket={}", server.socket().display());
    let copy = server.folder.path().join("copy");
    // The copy runs inside of nbdkit's own shell, with the socket it made.
    let work = format!("{} $uri {}", newer("nbdcopy"), text(&copy));
    let plugin = plugins.join("nbdkit-nbd-plugin.so");
    let mut arguments = vec!["-U", "-", text(&plugin), &socket];
    arguments.extend(["export=frozen", "shared=true", "--run", &work]);
    run(&newer("nbdkit"), &arguments);
    assert!(same_bytes(&copy, &server.frozen.content()));
    server.stop();
}

/// What extended headers add, through libnbd, with its own checks of the server's replies.
const SCRIPT: &str = r#"
import errno

def fails(number, work):
    try:
        work()
    except nbd.Error as error:
        assert error.errnum == number, error
        return
    raise AssertionError("it succeeded")

# Only what libnbd has to do by itself; what a client must not ask is asked.
h.set_strict_mode(nbd.STRICT_AUTO_FLAG)
h.add_meta_context("base:allocation")
h.connect_uri(uri)
size = h.get_size()
assert size > 1 << 33
assert h.get_extended_headers_negotiated()
assert h.can_block_status_payload()

extents = []
def status(name, offset, entries, error):
    extents.append((name, entries))

# More than 32 bits in one request and in one descriptor.
h.block_status_64(size, 0, status)
assert extents == [("base:allocation", [(5 << 30, 3), (1 << 20, 0), (size - (5 << 30) - (1 << 20), 3)])], extents
extents.clear()
h.block_status_64(size, 0, status, nbd.CMD_FLAG_REQ_ONE)
assert extents == [("base:allocation", [(5 << 30, 3)])], extents
extents.clear()
h.block_status_filter(size - 4096, 4096, ["base:allocation"], status)
assert extents[0][1][0] == ((5 << 30) - 4096, 3), extents
extents.clear()
fails(errno.EINVAL, lambda: h.block_status_filter(size + 1, 0, ["base:allocation"], status))
h.cache(size, 0)

# Reads and writes as ever, in pieces and unaligned.
data = h.pread(2 << 20, (5 << 30) - 77)
assert data[:77] == bytes(77) and data[77:78] != b"\0"
h.pwrite(b"x" * 5000, 123, nbd.CMD_FLAG_FUA)
assert h.pread(5002, 122)[1:-1] == b"x" * 5000

# Errors, and the connection goes on.
fails(errno.EINVAL, lambda: h.pread(512, size))
fails(errno.ENOSPC, lambda: h.pwrite(b"y" * 512, size))
fails(errno.ENOSPC, lambda: h.zero(size, 1))
fails(errno.EINVAL, lambda: h.trim(size, 1))
fails(errno.EOVERFLOW, lambda: h.pread((32 << 20) + 1, 0))
fails(errno.EINVAL, lambda: h.flush(nbd.CMD_FLAG_DF))
fails(errno.EINVAL, lambda: h.pwrite(b"z" * 512, 0, nbd.CMD_FLAG_REQ_ONE))

h.zero(size, 0, nbd.CMD_FLAG_FAST_ZERO)
h.block_status_64(size, 0, status)
assert extents == [("base:allocation", [(size, 3)])], extents
h.trim(size, 0, nbd.CMD_FLAG_FUA)
h.flush()

# Once negotiated there is no way back, but a fresh connection may do without.
compact = nbd.NBD()
compact.set_request_extended_headers(False)
compact.add_meta_context("base:allocation")
compact.connect_uri(uri)
assert not compact.get_extended_headers_negotiated()
assert compact.get_structured_replies_negotiated()
compact.pread(4096, 0)
compact.shutdown()
h.shutdown()
"#;

#[test]
fn nbdsh_walks_through_what_extended_headers_add() {
    let server = Server::start(12 << 30);
    server.disk.put(5 << 30, &noise(MIB, 3));
    let script = SCRIPT.replace("(uri)", &format!("({:?})", server.uri("disk")));
    run(&newer("python3"), &["-m", "nbd", "-c", &script]);
    assert!(server.disk.flushes.load(SeqCst) >= 3);
    server.stop();
}

#[test]
fn a_read_only_export_refuses_the_newer_ones_too() {
    let server = server();
    let uri = server.uri("frozen");
    let refused = attempt(&newer("qemu-io"), &["-f", "raw", "-c", "write 0 512", &uri]);
    assert!(!refused.status.success(), "a write to a read-only export");
    server.stop();
}
