//! What the data of an option means, read by the letter of the specification.

use landfall_protocols::nbd::wire::reply::Refusal;

/// Most bytes of a string.
const STRING: usize = 4096;

/// An option that is in order.
#[derive(Debug)]
pub enum Asked {
    ExportName(String),
    Abort,
    List,
    StartTls,
    StructuredReply,
    ExtendedHeaders,
    /// Name, and the numbers of what is to be told.
    Info(String, Vec<u16>),
    Go(String, Vec<u16>),
    /// Name, and the queries.
    ListContexts(String, Vec<String>),
    SetContexts(String, Vec<String>),
    Unknown,
}

/// The meaning of `data` that comes with option number `option`, or the error it gets.
pub fn read(option: u32, data: &[u8]) -> Result<Asked, Refusal> {
    let nothing = |asked| if data.is_empty() { Ok(asked) } else { Err(Refusal::Invalid) };
    match option {
        1 => text(data).map(Asked::ExportName),
        2 => Ok(Asked::Abort),
        3 => nothing(Asked::List),
        5 => nothing(Asked::StartTls),
        6 => items(data).map(|(name, items)| Asked::Info(name, items)),
        7 => items(data).map(|(name, items)| Asked::Go(name, items)),
        8 => nothing(Asked::StructuredReply),
        9 => queries(data).map(|(name, queries)| Asked::ListContexts(name, queries)),
        10 => queries(data).map(|(name, queries)| Asked::SetContexts(name, queries)),
        11 => nothing(Asked::ExtendedHeaders),
        _ => Ok(Asked::Unknown),
    }
}

fn text(bytes: &[u8]) -> Result<String, Refusal> {
    let text = String::from_utf8(bytes.to_vec()).map_err(|_| Refusal::Invalid)?;
    if text.len() > STRING || text.contains('\0') { Err(Refusal::Invalid) } else { Ok(text) }
}

/// Takes `count` bytes off the front.
fn take<'a>(data: &mut &'a [u8], count: usize) -> Result<&'a [u8], Refusal> {
    let (taken, rest) = data.split_at_checked(count).ok_or(Refusal::Invalid)?;
    *data = rest;
    Ok(taken)
}

fn number(data: &mut &[u8], bytes: usize) -> Result<usize, Refusal> {
    Ok(take(data, bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

fn counted(data: &mut &[u8]) -> Result<String, Refusal> {
    let length = number(data, 4)?;
    text(take(data, length)?)
}

fn items(mut data: &[u8]) -> Result<(String, Vec<u16>), Refusal> {
    let name = counted(&mut data)?;
    let count = number(&mut data, 2)?;
    if count > 64 {
        return Err(Refusal::TooBig);
    }
    let item =
        |data: &mut &[u8]| number(data, 2).map(|item| u16::try_from(item).expect("two bytes"));
    let items = (0..count).map(|_| item(&mut data)).collect::<Result<_, _>>()?;
    if data.is_empty() { Ok((name, items)) } else { Err(Refusal::Invalid) }
}

fn queries(mut data: &[u8]) -> Result<(String, Vec<String>), Refusal> {
    let name = counted(&mut data)?;
    let count = number(&mut data, 4)?;
    if count > 128 {
        return Err(Refusal::TooBig);
    }
    let queries = (0..count).map(|_| counted(&mut data)).collect::<Result<Vec<_>, _>>()?;
    let named = queries.iter().all(|query| query.find(':').is_some_and(|at| at > 0));
    if data.is_empty() && named { Ok((name, queries)) } else { Err(Refusal::Invalid) }
}
