//! Writable branches: what is written stays in the branch, is durable, and has moments of its own.

use crate::machine::{Web, points, same, text};
use landfall_tests::harness::{MIB, legacy, run};

#[test]
fn writes_to_a_branch_leave_trunk_and_other_branches_alone() {
    let mut web = Web::with_points(2);
    let begin = format!("web@{}", web.kept[0].time);
    for branch in ["one", "two"] {
        web.target.landfall(&["export", "add", &begin, "--writable", "--branch", branch]).ok();
    }
    let writes = ["-f", "raw", "-c", "write -P 0x5a 1000 5000", "-c", "write -z -u 2M 1M"];
    let more = ["-c", "write -P 0x77 20M 256k", "-c", "discard 5M 64k", "-c", "flush"];
    let uri = web.target.uri("web~one/os");
    run("qemu-io", &[&writes[..], &more[..], &[&uri]].concat());

    let mut expected = std::fs::read(&web.kept[0].copy).expect("the copy");
    let mib = usize::try_from(MIB).expect("small");
    expected[1000..6000].fill(0x5a);
    expected[2 * mib..3 * mib].fill(0);
    expected[20 * mib..][..256 << 10].fill(0x77);
    expected[5 * mib..][..64 << 10].fill(0);
    let head = web.target.folder().join("expected.raw");
    std::fs::write(&head, &expected).expect("written");
    let check = |web: &Web| {
        same(&head, &web.target.uri("web~one/os"));
        same(&web.kept[0].copy, &web.target.uri("web~two/os"));
        for (index, kept) in web.kept.iter().enumerate() {
            same(&kept.copy, &web.target.uri(&web.by_time(index)));
        }
    };
    check(&web);
    // The trunk goes on meanwhile, and a restart changes nothing.
    web.source.change(10);
    web.point();
    check(&web);
    web.target.kill();
    web.target.start_again();
    check(&web);
    assert_eq!(points(&web.target, "web").len(), 3);
}

#[test]
fn a_branch_has_points_of_its_own() {
    let web = Web::with_points(1);
    web.target.landfall(&["export", "add", "web", "--writable", "--branch", "b"]).ok();
    let socket = web.target.socket();
    let mut branch = legacy::Legacy::open(&socket, "web~b/os").expect("opened");
    branch.write(0, &[1; 4096]).expect("written");
    web.target.landfall(&["point", "mark", "web~b", "--label", "first"]).ok();
    branch.write(0, &[2; 8192]).expect("written");
    drop(branch);
    let mut first = web.source.content().to_vec();
    first[..4096].fill(1);
    let read = |name: &str| legacy::read_all(&socket, name).expect("read");
    assert!(read("web~b/os@tag:first") == first, "the marked moment differs");
    first[..8192].fill(2);
    assert!(read("web~b/os") == first, "the head differs");
    assert!(read("web/os") == web.source.content(), "the trunk differs");
    // Without a writable export it can be read, not written.
    let exports = web.target.json(&["export", "list", "--json"]);
    let id = exports["exports"][0]["id"].to_string();
    web.target.landfall(&["export", "remove", &id]).ok();
    let mut closed = legacy::Legacy::open(&socket, "web~b/os").expect("opened");
    assert!(closed.readonly && closed.write(0, &[3; 512]).is_err());
    drop(closed);
    web.target.landfall(&["branch", "discard", "web~b"]).ok();
    assert!(legacy::Legacy::open(&socket, "web~b/os").is_err(), "a discarded branch opens");
}

#[test]
fn a_copy_into_a_branch_and_out_of_it_is_the_same() {
    let web = Web::with_points(1);
    web.target.landfall(&["export", "add", "web", "--writable", "--branch", "in"]).ok();
    let brought = web.target.folder().join("brought.raw");
    let mut other = web.source.content().to_vec();
    other.reverse();
    std::fs::write(&brought, &other).expect("written");
    run("nbdcopy", &["--flush", text(&brought), &web.target.uri("web~in/os")]);
    same(&brought, &web.target.tcp_uri("web~in/os"));
    same(&web.kept[0].copy, &web.target.uri("web/os"));
}
