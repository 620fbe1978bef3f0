//! Data over iSCSI as it is negotiated: digests both ways, bursts of 16 MiB, several R2Ts at a time. libiscsi asks for none of it.

use crate::iscsi::export;
use crate::machine::Web;
use landfall_protocols::iscsi::initiator::{Initiator, Opening};
use landfall_protocols::iscsi::wire::data::DataIn;
use landfall_protocols::iscsi::wire::login::LoginStatus;
use landfall_protocols::iscsi::wire::pdu::Response;
use serde_json::Value;
use std::time::Duration;

/// Longest burst there is (RFC 7143, 13.13 allows 24 bits), in whole blocks.
const LONGEST_BURST: usize = 16_776_192;
/// After that nothing more is under way.
const QUIET: Duration = Duration::from_millis(200);

/// A session for which these keys were negotiated, and what the target said to them.
fn open(export: &Value, keys: &[&str]) -> (Initiator, String) {
    let target = &export["iscsi"];
    let (portal, name) = (target["portal"].as_str(), target["name"].as_str());
    let mut initiator = Initiator::connect(portal.expect("open").parse().expect("an address"));
    let name = name.expect("a name").to_owned();
    let keys = keys.iter().map(|key| format!("{key}\0")).collect();
    let opening = Opening { keys, ..Opening::new("iqn.2026-11.example:host".into(), name) };
    let (response, said) = initiator.login(&opening);
    assert_eq!(response.status, LoginStatus::Success);
    let ready = initiator.make(&[0; 6], 0, 0);
    initiator.start(&ready, &[]);
    assert_eq!(write_data(&mut initiator, &[]).0, 2, "the attention that greets it");
    (initiator, said)
}

/// Gives the data of the command under way as it is asked for: its status, the most R2Ts at a time, and the longest.
fn write_data(initiator: &mut Initiator, data: &[u8]) -> (u8, usize, u32) {
    let (mut asked, mut most, mut longest) = (Vec::new(), 0, 0);
    loop {
        match initiator.receive() {
            (Response::Ready(ready), _) => {
                longest = longest.max(ready.length);
                asked.push(ready);
            }
            (Response::Command(response), _) => return (response.status, most, longest),
            other => panic!("{other:?}"),
        }
        if initiator.hears_nothing(QUIET) {
            most = most.max(asked.len());
            asked.drain(..).for_each(|ready| initiator.give(&ready, data));
        }
    }
}

fn write(initiator: &mut Initiator, lba: u32, data: &[u8]) -> (u8, usize, u32) {
    let blocks = u16::try_from(data.len() / 512).expect("what WRITE(10) takes");
    let command = initiator.write_command(lba, blocks);
    initiator.start(&command, &[]);
    write_data(initiator, data)
}

/// What is read, in Data-In PDUs, the longest of which is told.
fn read(initiator: &mut Initiator, lba: u32, bytes: usize) -> (Vec<u8>, usize) {
    let command = initiator.read_command(lba, u16::try_from(bytes / 512).expect("READ(10)"));
    initiator.start(&command, &[]);
    let (mut found, mut longest) = (Vec::new(), 0);
    loop {
        let (Response::Data(DataIn { end, .. }), data) = initiator.receive() else {
            panic!("no data")
        };
        longest = longest.max(data.len());
        found.extend(data);
        if let Some(end) = end {
            assert_eq!(end.status, 0);
            return (found, longest);
        }
    }
}

/// Bytes that differ from block to block.
fn content(bytes: usize, salt: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at / 512 * 31 + at + salt) % 251).to_le_bytes()[0]).collect()
}

#[test]
fn the_longest_burst_goes_through_with_digests() {
    let web = Web::with_points(1);
    let branch = export(&web.target, &["web@latest", "--writable", "--branch", "b"]);
    let keys = [
        "HeaderDigest=CRC32C",
        "DataDigest=CRC32C",
        "MaxBurstLength=16776192",
        "MaxRecvDataSegmentLength=1048576",
    ];
    let (mut one, said) = open(&branch, &keys);
    for key in &keys[..3] {
        assert!(said.split('\0').any(|answer| answer == *key), "{key}: {said:?}");
    }
    let data = content(LONGEST_BURST, 1);
    let (status, _, longest) = write(&mut one, 8, &data);
    assert_eq!((status, longest as usize), (0, LONGEST_BURST), "all of it in one R2T");
    // Digests of what comes are checked as it comes.
    let (found, segment) = read(&mut one, 8, LONGEST_BURST);
    assert!(found == data);
    assert_eq!(segment, 1 << 20, "segments as long as the initiator takes");
    one.ask_to_log_out();
    assert!(matches!(one.receive(), (Response::Logout(_), _)));
}

#[test]
fn several_bursts_are_asked_for_at_a_time() {
    let web = Web::with_points(1);
    let branch = export(&web.target, &["web@latest", "--writable", "--branch", "b"]);
    let keys = ["MaxBurstLength=65536", "MaxOutstandingR2T=8"];
    let (mut one, said) = open(&branch, &keys);
    assert!(said.contains("MaxOutstandingR2T=4\0"), "as many as the target takes: {said:?}");
    let data = content(1 << 20, 2);
    assert_eq!(write(&mut one, 0, &data), (0, 4, 65_536));
    assert!(read(&mut one, 0, data.len()).0 == data);
}
