//! Streams: what they are at is told everywhere, and any instant of a source that delivers in order can be chosen.

use crate::harness::{Target, control, metrics, noise};
use crate::sources::{BLOCK, MIB, as_sources, begin_order, beside, write};
use landfall_protocols::delta::wire::PassKind;
use landfall_protocols::delta::{Client, Pass};
use serde_json::Value;
use std::time::Duration;

/// Runs `work` as the source of `web`.
fn as_source(target: &Target, work: impl AsyncFnOnce(&Client)) {
    as_sources(target, &["web"], async |clients| work(&clients[0]).await);
}

/// Order begins, and five writes come, of the bytes 1 to 5. The sequence of the point.
async fn in_order(pass: &Pass) -> u64 {
    let point = begin_order(pass).await;
    for byte in 1..=5 {
        pass.send(write(byte)).await.expect("it is taken");
    }
    pass.settled().await.expect("it is durable");
    point
}

fn stream(target: &Target) -> Value {
    target.json(&["stream", "list"])["streams"][0].clone()
}

/// The stream, once the target has seen that the source is gone.
fn when_left(target: &Target) -> Value {
    for _ in 0..100 {
        let told = stream(target);
        if told["peer"].is_null() {
            return told;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the source left, and is still there: {}", stream(target));
}

fn time_of(target: &Target, name: &str) -> String {
    let answer = control(target, [("GET", &*format!("/v1/moment?name={name}"), Value::Null)]);
    let moment: Value = serde_json::from_str(&answer[0]).expect("JSON");
    moment["time"].as_str().expect("a time").to_owned()
}

fn first_byte(target: &Target, when: &str) -> u8 {
    let (bytes, writable) = target.read(&format!("web/os@{when}")).expect("it opens");
    assert!(!writable);
    assert!(bytes[..BLOCK].iter().all(|byte| *byte == bytes[0]), "{when} is torn");
    bytes[0]
}

#[test]
fn any_instant_of_a_source_in_order_opens_by_sequence_and_time() {
    let mut target = Target::start().with_machine(&noise(1, MIB));
    assert_eq!(stream(&target)["state"], "catchup");
    as_source(&target, async |client| {
        beside(|| assert_eq!(stream(&target)["state"], "resync"));
        let pass = client.begin_pass(PassKind::Compare, 0).await.expect("a pass");
        let point = in_order(&pass).await;
        beside(|| {
            let told = stream(&target);
            assert_eq!((&told["state"], &told["at_sequence"]), (&"ordered".into(), &point.into()));
            let instants = told["instants"].as_array().expect("a list");
            let [range] = &instants[..] else { panic!("{instants:?}") };
            assert_eq!(range["from_sequence"], point);
            assert_eq!(
                (&range["to_sequence"], &range["grows"]),
                (&(point + 5).into(), &true.into())
            );
            for byte in 1..=5u8 {
                let at = point + u64::from(byte);
                assert_eq!(first_byte(&target, &format!("seq:{at}")), byte);
                let time = time_of(&target, &format!("web@seq:{at}"));
                assert_eq!(first_byte(&target, &time), byte);
            }
            assert_eq!(first_byte(&target, "latest"), 5);
            let text = target.run(&["stream", "list"]);
            assert!(
                text.contains("any instant can be chosen")
                    && text.contains("web: any instant from")
            );
            let text = target.run(&["point", "list", "web"]);
            assert!(text.contains("web: any instant from"), "{text}");
            let metrics = metrics(&target);
            assert!(metrics.contains("landfall_stream_state{machine=\"web\",state=\"ordered\"} 1"));
            assert!(metrics.contains("landfall_newest_point_age_seconds{machine=\"web\"} 0\n"));
            // A branch starts at an instant, and is written to.
            let middle = format!("web@seq:{}", point + 2);
            target.run(&["branch", "add", &middle, "--name", "test"]);
            target.run(&["export", "add", "web~test", "--writable"]);
            target.write("web~test/os", 0, &[77; BLOCK]).expect("it is written");
            assert_eq!(first_byte(&target, &format!("seq:{}", point + 2)), 2);
        });
        // A pass begins: what comes now is no moment.
        let pass = client.begin_pass(PassKind::Compare, 0).await.expect("a pass");
        pass.send(write(9)).await.expect("it is taken");
        pass.settled().await.expect("it is durable");
        beside(|| {
            assert_eq!(stream(&target)["state"], "catchup");
            let refused = target.read(&format!("web/os@seq:{}", point + 6)).expect_err("no moment");
            assert!(refused.contains("is not a point"), "{refused}");
            assert_eq!(first_byte(&target, "latest"), 5);
        });
    });
    target.stop();
}

#[test]
fn order_ends_with_the_connection_and_with_the_target_and_instants_stay() {
    let mut target = Target::start().with_machine(&noise(2, MIB));
    let mut first = 0;
    as_source(&target, async |client| {
        let pass = client.begin_pass(PassKind::Compare, 0).await.expect("a pass");
        first = in_order(&pass).await;
    });
    let told = when_left(&target);
    assert_eq!(told["state"], "catchup");
    assert_eq!(told["instants"][0]["grows"], false);
    let (mut second, pid) = (0, target.pid());
    as_source(&target, async |client| {
        let pass = client.begin_pass(PassKind::Compare, 0).await.expect("a pass");
        second = in_order(&pass).await;
        // Nobody can say any more that order ends.
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let killed = rustix::process::kill_process(
            pid.expect("a process id"),
            rustix::process::Signal::KILL,
        );
        killed.expect("it runs");
    });
    target.kill();
    target.resume();
    assert_eq!(stream(&target)["state"], "catchup");
    for start in [first, second] {
        for byte in 1..=5u8 {
            assert_eq!(first_byte(&target, &format!("seq:{}", start + u64::from(byte))), byte);
        }
    }
    assert_eq!(first_byte(&target, "latest"), 5);
    target.stop();
}
