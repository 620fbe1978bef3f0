//! Encryption at rest: what is on the medium, what a missing key takes away and gives back, what a destroyed one takes for good.

use futures_util::future::LocalBoxFuture;
use landfall_disks::faults::{Seed, run};
use landfall_disks::file::{Caching, FileError, Folder as _, OpenMode};
use landfall_disks::{Buffer, ByteOffset, ByteRange, DiskError, Durability};
use landfall_retention::ids::{Generation, KeyId, Position, StreamId};
use landfall_retention::index::IndexStore as _;
use landfall_retention::point::PointKind;
use landfall_retention::sealing::{Encryption, KeyEncryptionKey, SealError};
use landfall_retention::time::Timestamp;
use landfall_retention::{
    AppendError, ChangeError, ImageSpec, KeyError, KeyState, NewDisk, NewMachine, OpenReport,
    Opened, ResolveError, Retention, Settings, Stream, StreamContent, StreamError, StreamExtent,
    StreamRequest,
};
use landfall_tests::world::{World, moment, name};
use std::path::PathBuf;
use std::sync::Arc;

const SIZE: u64 = 512 << 10;
/// What nobody who has the medium may find.
const SECRET: &[u8] = b"the quick brown fox jumps over";

fn kek(number: u8) -> KeyEncryptionKey {
    let mut bytes = [number; 32];
    bytes[0] = !number;
    KeyEncryptionKey::new(bytes.into())
}

fn by(newest: u8, earlier: &[u8]) -> Encryption {
    let earlier = earlier.iter().copied().map(kek).collect();
    Encryption { wrap_with: Some(kek(newest)), earlier }
}

/// Opens the store and hands it to `test`.
fn with_store<T>(
    world: &World,
    encryption: Encryption,
    test: impl FnOnce(Arc<Retention>, OpenReport) -> LocalBoxFuture<'static, T>,
) -> T {
    run(&mut Seed::new(7), |spawner| async move {
        let settings = Settings { encryption, ..World::settings() };
        let opened = Retention::open(world.surroundings(), settings).await;
        let Opened { retention, lanes, report } = opened.expect("the store opens");
        lanes.into_iter().for_each(|lane| spawner.spawn(lane.run()));
        let given = test(Arc::clone(&retention), report).await;
        retention.close().await.expect("nothing failed");
        given
    })
}

async fn add(store: &Retention, machine: &str) {
    let path = format!("{machine}.raw");
    let image = ImageSpec { format: "raw".into(), path, size_bytes: SIZE };
    let disks = vec![NewDisk { name: name("os"), image, adopt: false }];
    let machine = NewMachine { name: name(machine), display_name: String::new(), disks };
    store.add_machine(machine).await.expect("a new machine");
}

async fn open(store: &Retention, machine: &str, generation: u64) -> Result<Stream, StreamError> {
    let request = StreamRequest {
        machine: name(machine),
        stream: StreamId::new([1; 16]),
        generation: Generation::new(generation),
        disks: vec![(name("os"), SIZE)],
        peer: "source".into(),
    };
    store.open_stream(request).await
}

async fn put(stream: &Stream, at: u64, data: &[u8]) {
    let range = ByteRange::at(ByteOffset::new(4096), data.len() as u64).expect("a range");
    let hash = *blake3::hash(data).as_bytes();
    let content = StreamContent::Data { bytes: Buffer::copy_of(data), hash };
    let extents = vec![StreamExtent { range, content }];
    let (disk, time) = (stream.disks()[0].id, Timestamp::default());
    stream.apply(Position::new(at), disk, time, extents).await.expect("it is taken");
    stream.mark(Position::new(at + 1), PointKind::Crash, None, time).await.expect("a point");
}

/// A first copy of zeroes, and then this content in the journal, as points 2 and on.
async fn feed(store: &Retention, machine: &str, contents: &[Vec<u8>]) {
    add(store, machine).await;
    let stream = open(store, machine, 0).await.expect("nobody streams");
    put(&stream, 1, &[0; 4096]).await;
    for (at, content) in (0..).zip(contents) {
        put(&stream, 3 + 2 * at, content).await;
    }
}

/// A secret of so many blocks, which differ.
fn secret(blocks: u8, of: u8) -> Vec<u8> {
    let block = |at: u8| {
        let mut block = SECRET.repeat(4096 / SECRET.len() + 1);
        block.truncate(4096);
        block[4090] = at;
        block[4091] = of;
        block
    };
    (0..blocks).flat_map(block).collect()
}

async fn read(store: &Retention, at: &str, bytes: u64) -> Result<Vec<u8>, DiskError> {
    let moment = store.resolve(&moment(at)).await.expect(at);
    let view = store.view(&moment, &name("os")).expect(at);
    let range = ByteRange::at(ByteOffset::new(4096), bytes).expect("a range");
    view.read(range).await.map(|bytes| bytes.to_vec())
}

/// Everything in the files of manifest and journal.
fn medium(world: &World) -> Vec<u8> {
    run(&mut Seed::new(1), |_| async move {
        let mut paths = vec![PathBuf::from("MANIFEST"), PathBuf::from("MANIFEST.new")];
        for lane in 0..2 {
            let folder = PathBuf::from(format!("{lane}"));
            let names = world.folder.list(&folder).await.unwrap_or_default();
            paths.extend(names.iter().map(|name| folder.join(name)));
        }
        let mut all = Vec::new();
        for path in paths {
            let opened = world.folder.open(&path, OpenMode::ReadWrite, Caching::Buffered).await;
            let file = match opened {
                Err(FileError::NotFound { .. }) => continue,
                file => file.expect("it opens"),
            };
            let length = usize::try_from(file.length().await.expect("a length")).expect("small");
            all.extend(file.read_at(0, Buffer::zeroed(length)).await.expect("it reads").iter());
        }
        all
    })
}

fn has(medium: &[u8], what: &[u8]) -> bool {
    medium.windows(what.len()).any(|some| some == what)
}

/// Everything in the index, keys and values.
fn index(world: &World) -> Vec<u8> {
    let mut all = Vec::new();
    let mut cursor = world.index.cursor();
    cursor.seek(&[]).expect("in memory");
    while let Some((key, value)) = cursor.entry() {
        all.extend([key, value].concat());
        cursor.advance().expect("in memory");
    }
    all
}

#[test]
fn neither_journal_nor_index_say_what_was_written() {
    let contents = [secret(1, 1), secret(40, 2)];
    for sealed in [false, true] {
        let world = World::new(&mut Seed::new(3));
        let encryption = if sealed { by(1, &[]) } else { Encryption::default() };
        let contents = contents.clone();
        with_store(&world, encryption, |store, _| {
            Box::pin(async move {
                feed(&store, "web", &contents).await;
                assert_eq!(read(&store, "web@seq:3", 4096).await.expect("a point"), contents[0]);
                assert_eq!(read(&store, "web", 40 << 12).await.expect("a point"), contents[1]);
            })
        });
        let block = &contents_block();
        for (what, said) in [
            (has(&medium(&world), SECRET), "its content"),
            (has(&medium(&world), blake3::hash(block).as_bytes()), "its hash"),
            (has(&index(&world), &crc32c::crc32c(block).to_be_bytes()), "its checksum"),
        ] {
            assert_eq!(what, !sealed, "{said}, sealed: {sealed}");
        }
    }
}

fn contents_block() -> Vec<u8> {
    secret(1, 1)
}

#[test]
fn without_its_key_a_history_is_kept_and_not_shown_and_with_it_all_is_there() {
    let world = World::new(&mut Seed::new(3));
    let content = secret(20, 1);
    let fed = content.clone();
    with_store(&world, by(1, &[]), |store, _| {
        Box::pin(async move {
            feed(&store, "web", &[fed]).await;
            let at = store.resolve(&moment("web")).await.expect("a point");
            store.add_branch(&at, name("test")).await.expect("a branch");
        })
    });
    // The index is gone too: it is built again without any key, and nothing passes for a torn tail.
    let world = world.without_index();
    for encryption in [Encryption::default(), by(2, &[])] {
        with_store(&world, encryption, |store, report| {
            Box::pin(async move {
                assert_eq!(report.damage, Vec::<String>::new());
                let refused = read(&store, "web", 20 << 12).await.expect_err("no key");
                let DiskError::Sealed { range, what } = &refused else { panic!("{refused}") };
                assert_eq!(range.start().bytes(), 4096);
                assert!(what.contains("data key 1") && what.contains(&kek(1).id().to_string()));
                let key = KeyId::new(1);
                let locked = SealError::Locked { key, kek: kek(1).id() };
                let refused = open(&store, "web", 0).await.err();
                assert!(
                    matches!(&refused, Some(StreamError::Append(AppendError::Sealed(why))) if *why == locked),
                    "{refused:?}"
                );
                let branch = store.branch_disk(&name("web"), &name("test"), &name("os"));
                let branch = branch.expect("it is there");
                let (at, data) = (ByteOffset::new(0), Buffer::copy_of(&[7; 4096]));
                let write = branch.write(at, data, Durability::Durable);
                assert!(write.await.is_err(), "what cannot be sealed is not written");
                let listed = store.list_keys(None).expect("all")[0].state;
                assert_eq!(listed, KeyState::Locked(kek(1).id()));
                assert!(store.wanted_starts().await.is_ok());
            })
        });
    }
    with_store(&world, by(1, &[]), |store, report| {
        Box::pin(async move {
            assert_eq!(report.damage, Vec::<String>::new());
            assert_eq!(read(&store, "web", 20 << 12).await.expect("with the key"), content);
            assert_eq!(read(&store, "web~test", 20 << 12).await.expect("a branch"), content);
        })
    });
}

#[test]
fn a_destroyed_key_takes_one_history_and_no_other() {
    let world = World::new(&mut Seed::new(3));
    let (one, two) = (secret(3, 1), secret(3, 2));
    let contents = (one.clone(), two.clone());
    with_store(&world, by(1, &[]), |store, _| {
        Box::pin(async move {
            feed(&store, "web", &[contents.0]).await;
            feed(&store, "db", &[contents.1]).await;
            let at = store.resolve(&moment("web")).await.expect("a point");
            let view = store.view(&at, &name("os")).expect("a view");
            store.add_branch(&at, name("test")).await.expect("a new branch");
            let gone = store.destroy_keys(&name("web")).await.expect("nobody holds it");
            let [gone] = gone.as_slice() else { panic!("{gone:?}") };
            assert!(matches!(gone.state, KeyState::Destroyed(_)));
            // Who has it open reads nothing from here on.
            let range = ByteRange::at(ByteOffset::new(4096), 4096).expect("a block");
            let refused = view.read(range).await;
            assert!(matches!(refused, Err(DiskError::Sealed { .. })), "{refused:?}");
            let promoted = store.promote_branch(&name("web"), &name("test"), &name("old")).await;
            let destroyed = |error: &ChangeError| {
                matches!(error, ChangeError::Resolve(ResolveError::Destroyed { .. }))
            };
            assert!(promoted.as_ref().is_err_and(destroyed), "{promoted:?}");
            let again = store.destroy_keys(&name("web")).await;
            assert!(matches!(again, Err(KeyError::Sealed(SealError::Destroyed { .. }))));
            let rotated = store.rotate_key(&name("web")).await;
            assert!(matches!(rotated, Err(KeyError::Sealed(SealError::Destroyed { .. }))));
        })
    });
    // A start later, with the right key.
    with_store(&world.without_index(), by(1, &[]), |store, report| {
        Box::pin(async move {
            assert_eq!(report.damage, Vec::<String>::new());
            let refused = store.resolve(&moment("web")).await;
            assert!(matches!(refused, Err(ResolveError::Destroyed { .. })), "{refused:?}");
            assert!(open(&store, "web", 0).await.is_err());
            assert_eq!(read(&store, "db", 3 << 12).await.expect("another key"), two);
            store.remove_machine(&name("web")).await.expect("it can go");
            assert_eq!(store.list_keys(None).expect("all").len(), 1);
            assert_eq!(read(&store, "db", 3 << 12).await.expect("another key"), two);
            feed(&store, "new", std::slice::from_ref(&one)).await;
            assert_eq!(read(&store, "new", 3 << 12).await.expect("a new key"), one);
            let keys = store.list_keys(Some(&name("new"))).expect("it is there");
            assert_eq!(keys[0].key, KeyId::new(3), "no id comes twice");
        })
    });
}

#[test]
fn what_is_locked_until_a_date_cannot_be_destroyed_before() {
    let world = World::new(&mut Seed::new(3));
    with_store(&world, by(1, &[]), |store, _| {
        Box::pin(async move {
            feed(&store, "web", &[secret(1, 1)]).await;
            let until = Timestamp::from_nanoseconds(4_000_000_000_000_000_000);
            store.lock(&moment("web"), until).await.expect("a point");
            let refused = store.destroy_keys(&name("web")).await;
            assert!(
                matches!(refused, Err(KeyError::Change(ChangeError::Locked { .. }))),
                "{refused:?}"
            );
            assert!(read(&store, "web", 4096).await.is_ok());
        })
    });
}

#[test]
fn keys_rotate_and_the_key_that_wraps_them_too() {
    let world = World::new(&mut Seed::new(3));
    let (before, plain) = (secret(2, 1), secret(2, 2));
    let fed = plain.clone();
    with_store(&world, Encryption::default(), |store, _| {
        Box::pin(async move {
            feed(&store, "web", &[fed]).await;
            let refused = store.rotate_key(&name("web")).await;
            assert!(matches!(refused, Err(KeyError::NotConfigured)), "{refused:?}");
            let refused = store.destroy_keys(&name("web")).await;
            assert!(matches!(refused, Err(KeyError::NotEncrypted(_))), "{refused:?}");
        })
    });
    let sealed = before.clone();
    with_store(&world, by(1, &[]), |store, _| {
        Box::pin(async move {
            for key in 1..=2 {
                let rotated = store.rotate_key(&name("web")).await.expect("there is a key");
                let state = KeyState::Writing(kek(1).id());
                assert_eq!((rotated.key, rotated.state), (KeyId::new(key), state));
                let stream = open(&store, "web", 0).await.expect("nobody streams");
                put(&stream, 1, &sealed).await;
            }
            let states: Vec<_> =
                store.list_keys(None).expect("all").into_iter().map(|key| key.state).collect();
            let id = kek(1).id();
            assert_eq!(states, [KeyState::Reading(id), KeyState::Writing(id)]);
        })
    });
    // Another key wraps both: from then on the first is needed no more, and opens nothing any more.
    with_store(&world, by(2, &[1]), |_, _| Box::pin(async {}));
    assert_eq!(medium(&world).windows(8).filter(|id| *id == kek(1).id().bytes()).count(), 0);
    with_store(&world.without_index(), by(2, &[]), |store, _| {
        Box::pin(async move {
            for (at, content) in [("web@seq:3", &plain), ("web@seq:5", &before), ("web", &before)] {
                assert_eq!(read(&store, at, 2 << 12).await.expect(at), *content, "{at}");
            }
        })
    });
}
