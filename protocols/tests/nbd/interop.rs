//! Stock peers against the server, as this system's packages have them.

use crate::peers::{MIB, SIZE, attempt, noise, run, same_bytes, server, text};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::SeqCst;

#[test]
fn nbdinfo_tells_size_contexts_and_map() {
    let server = server();
    let told = run("nbdinfo", &["--json", &server.uri("disk")]);
    for part in [
        "\"protocol\": \"newstyle-fixed\"",
        "\"structured\": true",
        "\"export-size\": 67108864",
        "\"base:allocation\"",
        "\"is_read_only\": false",
        "\"can_multi_conn\": true",
        "\"can_fast_zero\": true",
        "\"can_df\": true",
        "\"block_size_preferred\": 4096",
        "\"description\": \"the disk disk\"",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    let map = run("nbdinfo", &["--map", &server.uri("frozen")]);
    let lines: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["0", "5242880", "0", "data"]);
    assert_eq!(lines[1][2..], ["3", "hole,zero"]);
    let list = run("nbdinfo", &["--list", &server.uri("")]);
    // The absolute names: what the server says of an export is true of exactly that moment.
    for name in ["export=\"disk@", "export=\"frozen@"] {
        assert!(list.contains(name), "{name} is not in\n{list}");
    }
    server.stop();
}

#[test]
fn nbdcopy_takes_a_copy_and_brings_one() {
    let server = server();
    let copy = server.folder.path().join("copy");
    run("nbdcopy", &[&server.uri("frozen"), text(&copy)]);
    assert!(same_bytes(&copy, &server.frozen.content()));

    let brought = [noise(MIB, 4), vec![0; 30 * MIB as usize], noise(33 * MIB, 5)].concat();
    let source = server.folder.path().join("source");
    fs::write(&source, &brought).expect("the source");
    run("nbdcopy", &["--flush", text(&source), &server.uri("disk")]);
    assert!(server.disk.content() == brought);
    assert!(server.disk.flushes.load(SeqCst) > 0);

    let refused = attempt("nbdcopy", &[text(&source), &server.uri("frozen")]);
    assert!(!refused.status.success(), "a copy onto a read-only export");
    server.stop();
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    let server = server();
    let copy = server.folder.path().join("copy.qcow2");
    run("qemu-img", &["convert", "-O", "qcow2", &server.uri("frozen"), text(&copy)]);
    run("qemu-img", &["compare", text(&copy), &server.uri("frozen")]);
    run("qemu-img", &["compare", "-s", &server.uri("disk"), &server.uri("frozen")]);
    let map = run("qemu-img", &["map", "--output=json", &server.uri("frozen")]);
    assert!(map.contains("\"start\": 0, \"length\": 5242880"), "{map}");

    server.disk.put(0, &noise(9 * MIB, 7));
    let differs = attempt("qemu-img", &["compare", text(&copy), &server.uri("disk")]);
    assert_eq!(differs.status.code(), Some(1), "the images differ now");
    // Writes, zeroes and flushes through the block layer of QEMU bring it back.
    run("qemu-img", &["convert", "-n", "-O", "raw", text(&copy), &server.uri("disk")]);
    assert!(server.disk.content() == server.frozen.content());
    server.stop();
}

#[test]
fn qemu_nbd_lists_and_qemu_io_writes() {
    let server = server();
    let socket = server.socket();
    let list = run("qemu-nbd", &["--list", "-k", text(&socket)]);
    for part in ["exports available: 2", "export: 'disk'", "export: 'frozen'", "base:allocation"] {
        assert!(list.contains(part), "{part} is not in\n{list}");
    }
    let said = run(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            "write -P 0x5a 1000 5000",
            "-c",
            "read -P 0x5a 1000 5000",
            "-c",
            "write -z -u 5M 1M",
            "-c",
            "read -P 0 5M 1M",
            "-c",
            "discard 0 1M",
            "-c",
            "write -f -P 0x77 8M 64k",
            "-c",
            "flush",
            "-c",
            "aio_read -P 0x77 8M 64k",
            "-c",
            "aio_flush",
            &server.uri("disk"),
        ],
    );
    assert!(!said.contains("verification failed"), "{said}");
    assert!(server.disk.content()[8 * MIB as usize..][..65_536] == [0x77; 65_536]);
    let refused = attempt("qemu-io", &["-f", "raw", "-c", "write 0 512", &server.uri("frozen")]);
    assert!(!refused.status.success(), "a write to a read-only export");
    server.stop();
}

#[test]
fn fio_verifies_what_it_wrote() {
    let server = server();
    let uri = format!("--uri={}", server.uri("disk"));
    let folder = text(server.folder.path()).to_owned();
    for mix in [
        ["--name=random", "--rw=randwrite", "--bs=4k", "--iodepth=32"],
        ["--name=mixed", "--rw=randrw", "--bssplit=512/30:8k/40:64k/20:1m/10", "--iodepth=16"],
    ] {
        let mut arguments = mix.to_vec();
        arguments.extend([
            "--ioengine=nbd",
            &uri,
            "--size=48m",
            "--fsync=100",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--randseed=7",
        ]);
        let state = format!("--aux-path={folder}");
        arguments.push(&state);
        let said = run("fio", &arguments);
        assert!(said.contains("err= 0"), "{said}");
    }
    server.stop();
}

#[test]
fn a_legacy_client_without_options_reads_and_writes() {
    let server = server();
    let mut stream = UnixStream::connect(server.socket()).expect("connected");
    let export = nbd::client::handshake(&mut stream, b"disk").expect("negotiated");
    assert_eq!((export.size, export.readonly), (SIZE, false));
    let mut client = nbd::client::NbdClient::new(&mut stream, &export);
    client.seek(SeekFrom::Start(8 * MIB)).expect("a position");
    client.write_all(&noise(MIB, 11)).expect("written");
    client.seek(SeekFrom::Start(8 * MIB - 512)).expect("a position");
    let mut read = vec![0; 1024];
    client.read_exact(&mut read).expect("read");
    assert_eq!(read[..512], [0; 512]);
    assert_eq!(read[512..], noise(MIB, 11)[..512]);
    drop(stream);
    server.stop();
}

/// Every feature of the protocol through libnbd, with its own checks of the server's replies.
const SCRIPT: &str = r#"
import errno

def fails(number, work):
    try:
        work()
    except nbd.Error as error:
        assert error.errnum == number, error
        return str(error)
    raise AssertionError("it succeeded")

h.set_strict_mode(0)
h.set_full_info(True)
h.add_meta_context("base:allocation")
h.connect_uri(uri)
size = h.get_size()
assert h.get_protocol() == "newstyle-fixed"
assert h.get_structured_replies_negotiated()
assert h.get_canonical_export_name().startswith("disk@"), h.get_canonical_export_name()
assert h.can_meta_context("base:allocation")

# Reads: pieces, unfragmented, unaligned.
pieces = []
def piece(data, offset, status, error):
    pieces.append((offset, len(data), status))
data = h.pread_structured(16 << 20, 0, piece)
assert any(status == nbd.READ_HOLE for _, _, status in pieces), pieces
assert any(status == nbd.READ_DATA for _, _, status in pieces), pieces
pieces.clear()
assert h.pread_structured(16 << 20, 0, piece, nbd.CMD_FLAG_DF) == data
assert [status for _, _, status in pieces] == [nbd.READ_DATA], pieces
assert h.pread(1001, 77) == data[77:1078]

# Writes and their flags.
h.pwrite(b"x" * 5000, 123, nbd.CMD_FLAG_FUA)
assert h.pread(5002, 122)[1:-1] == b"x" * 5000
h.zero(1 << 20, 1 << 20)
assert h.pread(1 << 20, 1 << 20) == bytes(1 << 20)
h.zero(1 << 20, 4 << 20, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
fails(errno.ENOTSUP, lambda: h.zero(1000, 1, nbd.CMD_FLAG_FAST_ZERO))
h.trim(1 << 20, 0, nbd.CMD_FLAG_FUA)
h.cache(1 << 20, 0)
h.flush()

# Status: many, and one.
extents = []
def status(name, offset, entries, error):
    assert name == "base:allocation"
    extents.append(entries)
h.block_status(size, 0, status)
assert sum(extents[0][0::2]) <= size and len(extents[0]) > 2, extents
extents.clear()
h.block_status(4096, 4 << 20, status, nbd.CMD_FLAG_REQ_ONE)
assert extents == [[4096, 0]], extents

# Errors, each with its number.
fails(errno.EINVAL, lambda: h.pread(512, size))
fails(errno.ENOSPC, lambda: h.pwrite(b"y" * 512, size))
fails(errno.EINVAL, lambda: h.trim(512, size - 1))
fails(errno.EINVAL, lambda: h.block_status(512, size, status))
fails(errno.EINVAL, lambda: h.flush(nbd.CMD_FLAG_DF))
fails(errno.EINVAL, lambda: h.pwrite(b"z" * 512, 0, nbd.CMD_FLAG_REQ_ONE))
fails(errno.EOVERFLOW, lambda: h.pread((32 << 20) + 1, 0))
fails(errno.EINVAL, lambda: h.pwrite(bytes((32 << 20) + 1), 0))

# And after all that the connection is as good as new, with many requests in flight.
whole = h.pread(4 << 20, 5 << 20)
buffers = [nbd.Buffer(65536) for _ in range(64)]
cookies = [h.aio_pread(one, (5 << 20) + index * 65536) for index, one in enumerate(buffers)]
for cookie in cookies:
    while not h.aio_command_completed(cookie):
        h.poll(-1)
assert b"".join(one.to_bytearray() for one in buffers) == whole
h.shutdown()
"#;

#[test]
fn nbdsh_walks_through_every_feature() {
    let server = server();
    let script =
        SCRIPT.replace("connect_uri(uri)", &format!("connect_uri({:?})", server.uri("disk")));
    // What `nbdsh` is, with the interpreter the bindings are installed for, whatever else `PATH` may hold.
    run("/usr/bin/python3", &["-m", "nbd", "-c", &script]);
    server.stop();
}
