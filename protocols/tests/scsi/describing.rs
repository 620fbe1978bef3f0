//! What a device says of itself, and what is answered where no unit is.

use crate::model::disk::{Blocks, MemoryDisk};
use crate::model::rules::BITS;
use landfall_disks::faults::{Seed, run};
use landfall_disks::{
    Buffer, ByteOffset, ByteRange, Disk, DiskError, Durability, Geometry, IoFuture, MappedRange,
};
use landfall_protocols::iscsi::scsi::{
    Additional, Completion, Decision, Device, Identity, InitiatorPort, Lun, LunNumber, Nexus,
    Sense, SenseFormat, SenseKey, Settings, Space, SpaceLeft, Status, Unit,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

struct HalfFull;

impl Space for HalfFull {
    fn left(&self) -> Option<SpaceLeft> {
        let (available_bytes, used_bytes) = (5 << 20, 7 << 20);
        Some(SpaceLeft { available_bytes, used_bytes, threshold_bytes: 3 << 20 })
    }
}

fn number(number: u16) -> LunNumber {
    LunNumber::new(number).expect("small")
}

fn nexus() -> Nexus {
    let device = Device::new("iqn.2026-11.internal.landfall:web");
    let disk = Arc::new(MemoryDisk::new(Blocks::new(64)));
    let mut unit = Unit::new(disk, Identity::new("web/os"));
    unit.space = Some(Arc::new(HalfFull));
    device.attach(number(3), unit).expect("it is free");
    let nexus =
        device.nexus(InitiatorPort { name: "iqn.2026-11.internal.test:one".into(), isid: [1; 6] });
    let sense = ask(&nexus, 3, &[0; 6]).sense.expect("it is new");
    assert_eq!(sense.additional, Additional::POWER_ON);
    nexus
}

fn ask(nexus: &Nexus, unit: u16, cdb: &[u8]) -> Completion {
    match nexus.decide(Lun::from(number(unit)), cdb, 0) {
        Decision::Answer(completion) => completion,
        Decision::Do(task) => panic!("{task:?} is not answered at once"),
    }
}

fn bytes(nexus: &Nexus, cdb: &[u8]) -> Vec<u8> {
    let completion = ask(nexus, 3, cdb);
    assert_eq!(completion.status, Status::Good, "{:?}", completion.sense);
    completion.data_in.as_slice().to_vec()
}

fn page(nexus: &Nexus, code: u8) -> Vec<u8> {
    let bytes = bytes(nexus, &[0x12, 1, code, 4, 0, 0]);
    assert_eq!(bytes[..2], [0, code]);
    assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len() - 4);
    bytes[4..].to_vec()
}

#[test]
fn standard_data_names_disk_and_standards() {
    let nexus = nexus();
    let all = bytes(&nexus, &[0x12, 0, 0, 0, 0xff, 0]);
    assert_eq!(all[..8], [0, 0, 6, 0x12, 91, 0x10, 0, 0x02]);
    assert_eq!(&all[8..36], b"LANDFALLDISK            1   ");
    assert_eq!(all[58..66], [0x00, 0xa0, 0x04, 0x60, 0x04, 0xc0, 0x09, 0x60]);
    assert_eq!(all.len(), 96);
    assert_eq!(bytes(&nexus, &[0x12, 0, 0, 0, 5, 0]), all[..5]);
}

#[test]
fn identification_designates_unit_port_and_target() {
    let nexus = nexus();
    let body = page(&nexus, 0x83);
    let mut rest = &body[..];
    let mut found = Vec::new();
    while let [code_set, kind, _, length, after @ ..] = rest {
        let (bytes, next) = after.split_at(usize::from(*length));
        found.push((*code_set, *kind, bytes.to_vec()));
        rest = next;
    }
    let kinds: Vec<_> = found.iter().map(|(set, kind, _)| (*set, *kind)).collect();
    assert_eq!(
        kinds,
        [(0x02, 0x01), (0x01, 0x03), (0x51, 0x94), (0x51, 0x95), (0x53, 0x98), (0x53, 0xa8)]
    );
    assert_eq!(found[0].2, b"LANDFALLDISK            web/os");
    assert_eq!((found[1].2.len(), found[1].2[0] >> 4), (8, 3));
    assert_eq!(found[4].2, b"iqn.2026-11.internal.landfall:web,t,0x0001\0\0");
    assert_eq!(found[5].2, b"iqn.2026-11.internal.landfall:web\0\0\0");
    assert_eq!(page(&nexus, 0x80), b"web/os");
}

#[test]
fn what_initiators_set_outlives_them() {
    let settings = Settings::default();
    let attached = || {
        let device = Device::new("iqn.2026-11.internal.landfall:kept");
        let disk = Arc::new(MemoryDisk::new(Blocks::new(8)));
        let mut unit = Unit::new(disk, Identity::new("kept"));
        unit.settings = settings.clone();
        unit.removable = true;
        device.attach(number(3), unit).expect("it is free");
        let nexus = device.nexus(InitiatorPort { name: "iqn.test".into(), isid: [1; 6] });
        assert!(ask(&nexus, 3, &[0; 6]).sense.is_some(), "it is new");
        nexus
    };
    let send = |nexus: &Nexus, cdb: &[u8], data: &[u8]| {
        let announced = u32::try_from(data.len()).expect("little");
        let Decision::Do(task) = nexus.decide(Lun::from(number(3)), cdb, announced) else {
            panic!("{cdb:02x?} has to be done");
        };
        let done = run(&mut Seed::new(0), |_| nexus.execute(&task, Buffer::copy_of(data)));
        assert_eq!(done.status, Status::Good, "{:?}", done.sense);
    };
    let protect = |swp: u8| {
        let page = [0x0a, 0x0a, 2, 0x10, swp, 0, 0, 0, 0, 0, 0, 0];
        [&[0, 0, 0, 0][..], &page].concat()
    };
    let select = [0x15, 0x10, 0, 0, 16, 0];
    let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let first = attached();
    send(&first, &select, &protect(0x08));
    drop(first);
    let second = attached();
    let protected = Sense::new(SenseKey::DataProtect, Additional::WRITE_PROTECTED);
    assert_eq!(ask(&second, 3, &write).sense, Some(protected));
    send(&second, &select, &protect(0));
    send(&second, &write, &[7; 512]);
    send(&second, &[0x1b, 0, 0, 0, 2, 0], &[]);
    drop(second);
    let third = attached();
    let gone = Sense::new(SenseKey::NotReady, Additional::NO_MEDIUM);
    assert_eq!(ask(&third, 3, &[0; 6]).sense, Some(gone));
}

#[test]
fn every_listed_page_is_there_and_no_other() {
    let nexus = nexus();
    let listed = page(&nexus, 0x00);
    assert_eq!(listed, [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    for code in 0..=0xff {
        let completion = ask(&nexus, 3, &[0x12, 1, code, 4, 0, 0]);
        let good = completion.status == Status::Good;
        assert_eq!(good, listed.contains(&code), "page {code:02x}");
    }
}

#[test]
fn tasks_and_caches_are_told_as_they_are() {
    let mut whole = vec![0; 60];
    // SIMPLE is all there is (SIMPSUP); what was answered may be in a cache (V_SUP).
    whole[1..3].copy_from_slice(&[0x01, 0x01]);
    assert_eq!(page(&nexus(), 0x86), whole);
    // Or is durable.
    let device = Device::new("iqn.2026-11.internal.landfall:durable");
    let mut unit = Unit::new(Arc::new(MemoryDisk::new(Blocks::new(8))), Identity::new("durable"));
    unit.volatile_cache = false;
    device.attach(number(3), unit).expect("it is free");
    let nexus = device.nexus(InitiatorPort { name: "iqn.test".into(), isid: [1; 6] });
    assert!(ask(&nexus, 3, &[0; 6]).sense.is_some(), "it is new");
    whole[2] = 0;
    assert_eq!(page(&nexus, 0x86), whole);
    // WCE of the caching page, as it is and as it is to begin with.
    for control in [0x08, 0x88] {
        let caching = bytes(&nexus, &[0x1a, 0x08, control, 0, 0xff, 0]);
        assert_eq!((caching[4], caching[6] & 0x04), (0x08, 0));
    }
}

#[test]
fn limits_and_provisioning_are_told() {
    let nexus = nexus();
    let limits = page(&nexus, 0xb0);
    let word = |at: usize| u32::from_be_bytes(*limits[at..].first_chunk().expect("four bytes"));
    assert_eq!((limits[0], limits[1], limits[2], limits[3]), (0, 255, 0, 8));
    // Transfers: most, best; UNMAP: blocks, descriptors, granularity and its alignment.
    assert_eq!((word(4), word(8)), (65_536, 2048));
    assert_eq!([16, 20, 24, 28].map(word), [u32::MAX, 256, 8, 0x8000_0000]);
    // WRITE SAME.
    assert_eq!([32, 36].map(word), [0, 1 << 19]);
    assert_eq!(page(&nexus, 0xb1)[..2], [0, 1]);
    assert_eq!(page(&nexus, 0xb2), [11, 0xe4, 2, 0]);
    // Available and used, in units of a megabyte.
    let log = bytes(&nexus, &[0x4d, 0, 0x4c, 0, 0, 0, 0, 4, 0, 0]);
    assert_eq!(
        log,
        [0x8c, 0, 0, 24, 0, 1, 3, 8, 0, 0, 0, 5, 2, 0, 0, 0, 0, 2, 3, 8, 0, 0, 0, 7, 2, 0, 0, 0]
    );
    let used = bytes(&nexus, &[0x4d, 0, 0x4c, 0, 0, 0, 2, 4, 0, 0]);
    assert_eq!(used[4..6], [0, 2]);
}

#[test]
fn physical_blocks_are_those_of_the_unit() {
    for (physical_block, exponent) in [(512, 0), (4096, 3)] {
        let device = Device::new("iqn.2026-11.internal.landfall:web");
        let disk = Arc::new(MemoryDisk::new(Blocks::new(64)));
        let mut unit = Unit::new(disk, Identity::new("web/os"));
        unit.physical_block = physical_block;
        device.attach(number(3), unit).expect("it is free");
        let port = InitiatorPort { name: "iqn.2026-11.internal.test:one".into(), isid: [1; 6] };
        let nexus = device.nexus(port);
        assert!(ask(&nexus, 3, &[0; 6]).sense.is_some(), "it is new");
        let capacity = bytes(&nexus, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
        assert_eq!(capacity[13], exponent);
        // Where writes and unmapping are best cut does not hang on it.
        assert_eq!((page(&nexus, 0xb0)[3], page(&nexus, 0xb0)[27]), (8, 8));
    }
}

/// Nobody has looked yet how much space there is.
struct NotYet;

impl Space for NotYet {
    fn left(&self) -> Option<SpaceLeft> {
        None
    }
}

#[test]
fn what_nobody_knows_yet_is_not_told() {
    let device = Device::new("iqn.2026-11.internal.landfall:new");
    let mut unit = Unit::new(Arc::new(MemoryDisk::new(Blocks::new(8))), Identity::new("new"));
    unit.space = Some(Arc::new(NotYet));
    device.attach(number(3), unit).expect("it is free");
    let nexus = device.nexus(InitiatorPort { name: "iqn.test".into(), isid: [1; 6] });
    assert!(ask(&nexus, 3, &[0; 6]).sense.is_some(), "it is new");
    let log = bytes(&nexus, &[0x4d, 0, 0x4c, 0, 0, 0, 0, 4, 0, 0]);
    assert_eq!(log, [0x8c, 0, 0, 0]);
    let threshold = bytes(&nexus, &[0x1a, 0x08, 0x1c, 2, 0xff, 0]);
    assert_eq!(threshold[20..], [0x02, 0x01, 0, 0, 0, 0, 0, 0]);
}

/// What is told of a command alone, of all commands, and what the standards say of its bits, agree.
#[test]
fn supported_operation_codes_are_those_there_are() {
    let nexus = nexus();
    let all = bytes(&nexus, &[0xa3, 0x0c, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    let (listed, rest) = all[4..].as_chunks::<8>();
    assert_eq!((rest.len(), listed.len()), (0, BITS.len()));
    for ([code, _, high, low, _, flags, _, length], (known, action, bits)) in
        listed.iter().zip(BITS)
    {
        assert_eq!((code, u8::from(action.is_some())), (known, *flags));
        assert_eq!([*high, *low], [0, action.unwrap_or(0)]);
        let option = if action.is_some() { 2 } else { 1 };
        let one = bytes(&nexus, &[0xa3, 0x0c, option, *code, *high, *low, 0, 0, 1, 0, 0, 0]);
        assert_eq!(one[..4], [0, 3, 0, *length]);
        assert_eq!(one.len(), 4 + usize::from(*length));
        let bits: Vec<u8> =
            bits.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
        assert_eq!(bits.len(), usize::from(*length));
        for (used, allowed) in one[4..].iter().zip(&bits) {
            assert_eq!(used & !allowed, 0, "{code:02x} uses a bit that must not be set");
        }
        let either = bytes(&nexus, &[0xa3, 0x0c, 3, *code, *high, *low, 0, 0, 1, 0, 0, 0]);
        assert_eq!(either, one);
        let timed =
            bytes(&nexus, &[0xa3, 0x0c, 0x80 | option, *code, *high, *low, 0, 0, 1, 0, 0, 0]);
        assert_eq!((timed[1], timed.len()), (0x83, one.len() + 12));
    }
    for absent in [0x5e, 0x5f, 0x83, 0x48, 0x9c] {
        let one = bytes(&nexus, &[0xa3, 0x0c, 1, absent, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(one, [0, 1, 0, 0], "{absent:02x} is of another time");
        let sense = ask(&nexus, 3, &[absent; 16]).sense.expect("refused");
        assert_eq!(sense, Sense::illegal(Additional::INVALID_OPERATION_CODE));
    }
    let timed = bytes(&nexus, &[0xa3, 0x0c, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(timed.len(), 4 + BITS.len() * 20);
    assert_eq!((timed[9], &timed[12..14]), (2, &[0, 10][..]));
}

#[test]
fn port_groups_and_task_management_are_told() {
    let nexus = nexus();
    let groups = bytes(&nexus, &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(groups, [0, 0, 0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
    let extended = bytes(&nexus, &[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(extended[..8], [0, 0, 0, 16, 0x10, 0, 0, 0]);
    assert_eq!(extended[8..], groups[4..]);
    assert_eq!(bytes(&nexus, &[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0]), [0xda, 0, 0, 0]);
    let long = bytes(&nexus, &[0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!((long.len(), long[3]), (16, 12));
}

#[test]
fn where_no_unit_is_little_is_answered() {
    let nexus = nexus();
    let inquiry = ask(&nexus, 0, &[0x12, 0, 0, 0, 36, 0]);
    assert_eq!(inquiry.data_in.as_slice()[0], 0x7f);
    let luns = ask(&nexus, 0, &[0xa0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(
        luns.data_in.as_slice(),
        [0, 0, 0, 16, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0xc1, 1, 0, 0, 0, 0, 0, 0]
    );
    let unsupported = Sense::illegal(Additional::NOT_SUPPORTED_LUN);
    let told = ask(&nexus, 1, &[0x03, 0, 0, 0, 18, 0]);
    assert_eq!(told.data_in.as_slice(), unsupported.encode(SenseFormat::Fixed));
    // That there is no unit counts more than that there is no such command.
    for cdb in [[0x00; 6], [0xa0; 6], [0x08, 0, 0, 0, 1, 0], [0xc0, 0, 0, 0, 0, 0]] {
        assert_eq!(ask(&nexus, 1, &cdb).sense, Some(unsupported));
    }
    let known = |cdb: &[u8]| match nexus.decide(Lun::REPORT_LUNS, cdb, 0) {
        Decision::Answer(completion) => completion,
        Decision::Do(task) => panic!("{task:?}"),
    };
    assert_eq!(known(&[0x12, 0, 0, 0, 36, 0]).data_in.as_slice()[0], 0x1e);
    assert_eq!(known(&[0; 6]).status, Status::Good);
    for cdb in [[0x28; 10], [0xc0; 10]] {
        let sense = Sense::illegal(Additional::INVALID_OPERATION_CODE);
        assert_eq!(known(&cdb).sense, Some(sense));
    }
    assert_eq!(known(&[0x12, 1, 0, 0, 255, 0]).data_in.as_slice(), [0x1e, 0, 0, 2, 0, 0x83]);
    let names = known(&[0x12, 1, 0x83, 0, 255, 0]);
    let names = names.data_in.as_slice();
    assert_eq!((names[0], names.len()), (0x1e, 4 + usize::from(names[3])));
    assert_eq!(names[4..12], [0x51, 0x94, 0, 4, 0, 0, 0, 1]);
    assert!(names.ends_with(b"iqn.2026-11.internal.landfall:web\0\0\0"));
    assert_eq!(known(&[0x12, 1, 0x80, 0, 255, 0]).sense, Some(Sense::invalid_field(2, 7)));
    assert_eq!(ask(&nexus, 1, &[0x12, 1, 0, 0, 255, 0]).sense, Some(Sense::invalid_field(1, 0)));
}

/// The disk of the model, with larger blocks.
struct Coarse(MemoryDisk);

impl Disk for Coarse {
    fn geometry(&self) -> Geometry {
        Geometry { logical_sector: 4096, ..self.0.geometry() }
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        self.0.read(range)
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        self.0.write(at, data, durability)
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        self.0.flush()
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        self.0.map(range)
    }
}

#[test]
fn blocks_may_have_4096_bytes() {
    let device = Device::new("iqn.2026-11.internal.landfall:coarse");
    let disk = Arc::new(Coarse(MemoryDisk::new(Blocks::new(64))));
    device.attach(number(3), Unit::new(disk, Identity::new("coarse"))).expect("it is free");
    let nexus = device.nexus(InitiatorPort { name: "iqn.test".into(), isid: [1; 6] });
    assert!(ask(&nexus, 3, &[0; 6]).sense.is_some(), "it is new");
    assert_eq!(bytes(&nexus, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]), [0, 0, 0, 7, 0, 0, 0x10, 0]);
    let send = |cdb: &[u8], data: &[u8]| {
        let announced = u32::try_from(data.len()).expect("little");
        let Decision::Do(task) = nexus.decide(Lun::from(number(3)), cdb, announced) else {
            panic!("{cdb:02x?} has to be done");
        };
        assert_eq!(task.data_out_wanted(), data.len());
        let done = run(&mut Seed::new(0), |_| nexus.execute(&task, Buffer::copy_of(data)));
        assert_eq!(done.status, Status::Good, "{:?}", done.sense);
        done.data_in.as_slice().to_vec()
    };
    send(&[0x2a, 0, 0, 0, 0, 7, 0, 0, 1, 0], &[7; 4096]);
    let swap = [[7; 4096], [8; 4096]].concat();
    send(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0], &swap);
    assert_eq!(send(&[0x28, 0, 0, 0, 0, 7, 0, 0, 1, 0], &[]), [8; 4096]);
    let status = send(&[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 40, 0, 0], &[]);
    assert_eq!(status[8..24], [0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1, 1, 0, 0, 0]);
    assert_eq!(status[24..40], [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0]);
    let behind = ask(&nexus, 3, &[0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0]).sense;
    assert_eq!(behind, Some(Sense::illegal(Additional::LBA_OUT_OF_RANGE)));
}

/// A disk whose branch is discarded when somebody says so.
struct Branch(MemoryDisk, AtomicBool);

impl Disk for Branch {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        if self.1.load(Ordering::Relaxed) {
            return Box::pin(async { Err(DiskError::Gone("discarded".into())) });
        }
        self.0.read(range)
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        self.0.flush()
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        self.0.map(range)
    }
}

#[test]
fn a_unit_goes_with_its_disk() {
    let device = Device::new("iqn.2026-11.internal.landfall:lost");
    let branch = Arc::new(Branch(MemoryDisk::new(Blocks::new(8)), AtomicBool::new(false)));
    let unit = Unit::new(Arc::clone(&branch) as Arc<dyn Disk>, Identity::new("branch"));
    device.attach(number(3), unit).expect("it is free");
    let other = Unit::new(Arc::new(MemoryDisk::new(Blocks::new(8))), Identity::new("other"));
    device.attach(number(4), other).expect("it is free");
    let [one, two] = [1, 2].map(|isid| {
        let nexus = device.nexus(InitiatorPort { name: "iqn.test".into(), isid: [isid; 6] });
        assert!(ask(&nexus, 3, &[0; 6]).sense.is_some(), "it is new");
        assert!(ask(&nexus, 4, &[0; 6]).sense.is_some(), "it is new");
        nexus
    });
    let read = || {
        let cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        let Decision::Do(task) = one.decide(Lun::from(number(3)), &cdb, 0) else {
            panic!("READ has to be done");
        };
        run(&mut Seed::new(0), |_| one.execute(&task, Buffer::zeroed(0))).sense
    };
    assert_eq!(read(), None);
    branch.1.store(true, Ordering::Relaxed);
    let lost = Sense::illegal(Additional::NOT_SUPPORTED_LUN);
    assert_eq!(read(), Some(lost));
    for nexus in [&one, &two] {
        assert_eq!(ask(nexus, 3, &[0; 6]).sense, Some(lost));
        let told = ask(nexus, 4, &[0; 6]).sense.expect("the list has changed");
        assert_eq!(told.additional, Additional::REPORTED_LUNS_CHANGED);
    }
}
