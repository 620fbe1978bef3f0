//! MODE SELECT (SPC-4 6.11, 6.12).

use super::Modes;
use super::pages::{Contents, Page, SUBPAGE_FORMAT, Values};
use super::sense::{long_descriptor, short_descriptor};
use crate::iscsi::scsi::attention::Attention;
use crate::iscsi::scsi::decide::{Request, Step};
use crate::iscsi::scsi::device::Audience;
use crate::iscsi::scsi::execute::Run;
use crate::iscsi::scsi::failure::Failure;
use crate::iscsi::scsi::operation::Operation;
use crate::iscsi::scsi::sense::{Additional, Sense};
use landfall_disks::Geometry;

/// Which of the two parameter headers comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::iscsi::scsi) enum SelectForm {
    /// Four bytes.
    Six,
    /// Eight bytes.
    Ten,
}

/// PS and SPF stand before it; the first means nothing on the way here.
const PAGE_CODE: u8 = 0x3f;
/// Number of blocks that leaves it as it is.
const UNCHANGED: [u8; 4] = [0xff; 4];

pub(in crate::iscsi::scsi) fn select6(request: &Request<'_>) -> Step {
    select(SelectForm::Six, request.cdb.length(4, 1))
}

pub(in crate::iscsi::scsi) fn select10(request: &Request<'_>) -> Step {
    select(SelectForm::Ten, request.cdb.length(7, 2))
}

fn select(form: SelectForm, list_bytes: usize) -> Step {
    match list_bytes {
        0 => Step::GOOD,
        _ => Step::Do(Operation::ModeSelect { form, list_bytes }),
    }
}

pub(in crate::iscsi::scsi) async fn perform(
    run: &Run<'_>,
    list: &[u8],
    form: SelectForm,
    announced: usize,
) -> Result<(), Failure> {
    if list.len() < announced {
        return Err(Sense::illegal(Additional::PARAMETER_LIST_LENGTH).into());
    }
    let geometry = run.unit.geometry();
    let before = run.unit.contents();
    if before.modes.needs_flush(&parse(list, form, &geometry, before)?) {
        run.flush().await?;
        run.proceed()?;
    }
    let mut state = run.unit.state();
    // Somebody else may have changed others meanwhile.
    let contents = Contents { modes: state.modes(), ..before };
    let modes = parse(list, form, &geometry, contents)?;
    if modes != state.modes() {
        state.set_modes(modes);
        state.tell(Attention::ModeParametersChanged, Audience::AllBut(run.nexus));
    }
    Ok(())
}

/// What the modes of `contents` become by `list`.
fn parse(
    list: &[u8],
    form: SelectForm,
    geometry: &Geometry,
    mut contents: Contents,
) -> Result<Modes, Sense> {
    let mut at = header(list, form, geometry)?;
    while at < list.len() {
        let page = page(list, at, &contents)?;
        let length = contents.encode(page, Values::Changeable).len();
        page.apply(&list[at..at + length], &mut contents.modes);
        at += length;
    }
    Ok(contents.modes)
}

const SHORT: Sense = Sense::illegal(Additional::PARAMETER_LIST_LENGTH);

fn wrong(byte: usize) -> Sense {
    Sense::invalid_parameter(u16::try_from(byte).expect("a list is short"))
}

/// Checks header and block descriptor, and says where the pages begin.
fn header(list: &[u8], form: SelectForm, geometry: &Geometry) -> Result<usize, Sense> {
    let header_bytes = match form {
        SelectForm::Six => 4,
        SelectForm::Ten => 8,
    };
    let header = list.get(..header_bytes).ok_or(SHORT)?;
    // The mode data length is reserved here, and the device-specific parameter says nothing that
    // could be set.
    let (medium_type, long) = match form {
        SelectForm::Six => (1, false),
        SelectForm::Ten => (2, header[4] & 1 != 0),
    };
    let (length, descriptors) = match form {
        SelectForm::Six => (3, usize::from(header[3])),
        SelectForm::Ten => (6, usize::from(u16::from_be_bytes([header[6], header[7]]))),
    };
    if header[medium_type] != 0 {
        return Err(wrong(medium_type));
    }
    let expected = if long { long_descriptor(geometry) } else { short_descriptor(geometry) };
    if descriptors != 0 && descriptors != expected.len() {
        return Err(wrong(length));
    }
    let end = header_bytes + descriptors;
    let given = list.get(header_bytes..end).ok_or(SHORT)?;
    // Neither size nor block length can be changed this way.
    let blocks = expected.len() / 2;
    let same_count = |given: &[u8]| {
        given == &expected[..blocks]
            || given.iter().all(|byte| *byte == 0)
            || given.starts_with(&UNCHANGED) && given.iter().all(|byte| *byte == 0xff)
    };
    if descriptors == 0 {
        return Ok(end);
    }
    let (count, rest) = given.split_at(blocks);
    if !same_count(count) {
        return Err(wrong(header_bytes));
    }
    // Something reserved, and the length of a block: three bytes of four, or four of eight.
    let reserved = if long { 4 } else { 1 };
    let fields = [(0, reserved), (reserved, rest.len())];
    let differs = |(from, to): &(usize, usize)| rest[*from..*to] != expected[blocks..][*from..*to];
    match fields.iter().find(|field| differs(field)) {
        Some((from, _)) => Err(wrong(header_bytes + blocks + from)),
        None => Ok(end),
    }
}

/// The page at `at`, if it changes nothing that cannot be.
fn page(list: &[u8], at: usize, contents: &Contents) -> Result<Page, Sense> {
    let code = list[at] & PAGE_CODE;
    let has_subpage = list[at] & SUBPAGE_FORMAT != 0;
    let mut of_code = contents
        .pages()
        .filter(|page| page.code() == code && (page.subpage() != 0) == has_subpage)
        .peekable();
    of_code.peek().ok_or(wrong(at))?;
    let subpage = if has_subpage { *list.get(at + 1).ok_or(SHORT)? } else { 0 };
    let page = of_code.find(|page| page.subpage() == subpage).ok_or(wrong(at + 1))?;
    let current = contents.encode(page, Values::Current);
    let changeable = contents.encode(page, Values::Changeable);
    let header = page.header_bytes();
    // The length has half of the header, behind the codes.
    let length = list.get(at + header / 2..at + header).ok_or(SHORT)?;
    if length != &current[header / 2..header] {
        return Err(wrong(at + header / 2));
    }
    let given = list.get(at..at + current.len()).ok_or(SHORT)?;
    let bytes = given.iter().zip(&current).zip(&changeable).enumerate().skip(header);
    for (place, ((given, current), changeable)) in bytes {
        if (given ^ current) & !changeable != 0 {
            return Err(wrong(at + place));
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::scsi::mode::Threshold;

    const GEOMETRY: Geometry = Geometry {
        size_bytes: 100 * 512,
        logical_sector: 512,
        physical_sector: 4096,
        read_only: false,
    };

    fn contents() -> Contents {
        Contents { modes: Modes::new(true), threshold: Threshold::At(5) }
    }

    fn of(page: Page, byte: usize, value: u8) -> Vec<u8> {
        let mut bytes = contents().encode(page, Values::Current);
        bytes[byte] = value;
        bytes
    }

    fn six(block: &[u8], pages: &[Vec<u8>]) -> Vec<u8> {
        let length = u8::try_from(block.len()).expect("short");
        let mut list = vec![0, 0, 0, length];
        list.extend(block);
        list.extend(pages.concat());
        list
    }

    fn parsed(list: &[u8]) -> Result<Modes, Sense> {
        parse(list, SelectForm::Six, &GEOMETRY, contents())
    }

    #[test]
    fn pages_are_taken_one_after_the_other() {
        let list = six(
            &short_descriptor(&GEOMETRY),
            &[of(Page::Caching, 2, 0), of(Page::Control, 4, 0x08)],
        );
        let modes = Modes { cached: false, protected: true, ..Modes::new(true) };
        assert_eq!(parsed(&list), Ok(modes));
        assert_eq!(parsed(&six(&[], &[])), Ok(Modes::new(true)));
        let mut ten = vec![0; 8];
        ten[4] = 1;
        ten[7] = 16;
        ten.extend(long_descriptor(&GEOMETRY));
        ten.extend(of(Page::Control, 2, 0x06));
        let modes = Modes { descriptors: true, ..Modes::new(true) };
        assert_eq!(parse(&ten, SelectForm::Ten, &GEOMETRY, contents()), Ok(modes));
    }

    #[test]
    fn what_cannot_be_changed_is_pointed_at() {
        assert_eq!(parsed(&six(&[], &[of(Page::Control, 3, 0)])), Err(wrong(7)));
        assert_eq!(parsed(&six(&[], &[of(Page::Control, 1, 8)])), Err(wrong(5)));
        assert_eq!(parsed(&six(&[], &[of(Page::Control, 0, 0x4a)])), Err(wrong(4)));
        assert_eq!(parsed(&six(&[], &[of(Page::Control, 0, 0x0b)])), Err(wrong(4)));
        assert_eq!(parsed(&six(&[], &[of(Page::ErrorRecovery, 7, 0)])), Err(wrong(11)));
        // Of a subpage: its code, its length, a threshold.
        for (byte, field) in [(1, 5), (2, 6), (3, 6), (16, 20), (23, 27)] {
            let other = of(Page::Provisioning, byte, 1);
            assert_eq!(parsed(&six(&[], &[other])), Err(wrong(field)), "byte {byte}");
        }
        let same = six(&[], &[of(Page::Provisioning, 0, 0x5c)]);
        assert_eq!(parsed(&same), Ok(Modes::new(true)));
        assert_eq!(parsed(&same[..6]), Err(SHORT));
        assert_eq!(parsed(&[0, 1, 0, 0]), Err(wrong(1)));
        assert_eq!(parsed(&[0, 0, 0, 4, 0, 0, 0, 0]), Err(wrong(3)));
        // Of the descriptor: the number of blocks, what is reserved, the length of a block.
        for (byte, field) in [(3, 4), (4, 8), (6, 9)] {
            let mut other = short_descriptor(&GEOMETRY);
            other[byte] += 1;
            assert_eq!(parsed(&six(&other, &[])), Err(wrong(field)));
        }
        let ten = |descriptor: &[u8], length: u8| {
            let list = [&[0, 0, 0, 0, 1, 0, 0, length][..], descriptor].concat();
            parse(&list, SelectForm::Ten, &GEOMETRY, contents())
        };
        assert_eq!(ten(&[0; 8], 8), Err(wrong(6)));
        for (byte, field) in [(7, 8), (11, 16), (14, 20)] {
            let mut other = long_descriptor(&GEOMETRY);
            other[byte] += 1;
            assert_eq!(ten(&other, 16), Err(wrong(field)));
        }
    }

    #[test]
    fn what_ends_too_early_is_told() {
        let list = six(&short_descriptor(&GEOMETRY), &[of(Page::Caching, 2, 0)]);
        for length in 0..list.len() {
            let outcome = parsed(&list[..length]);
            let whole = length == 12;
            assert_eq!(outcome, if whole { Ok(Modes::new(true)) } else { Err(SHORT) }, "{length}");
        }
    }
}
