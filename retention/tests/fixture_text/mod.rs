//! Bytes of a format as text that a commit shows: their number, then `offset times hex` for rows of 32 bytes that are not zero.

use std::fmt::Write;

const ROW: usize = 32;

/// Bytes as text.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    let mut text = format!("{}\n", bytes.len());
    let rows: Vec<&[u8]> = bytes.chunks(ROW).collect();
    let mut row = 0;
    while row < rows.len() {
        let times = rows[row..].iter().take_while(|other| **other == rows[row]).count();
        if rows[row].iter().any(|byte| *byte != 0) {
            write!(text, "{} {times} ", row * ROW).expect("a string takes it");
            rows[row].iter().for_each(|byte| write!(text, "{byte:02x}").expect("as above"));
            text.push('\n');
        }
        row += times;
    }
    text
}

/// The bytes that [`text_of`] wrote down.
pub(crate) fn bytes_of(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let length = lines.next().and_then(|line| line.parse().ok()).expect("a length");
    let mut bytes = vec![0; length];
    for line in lines {
        let mut words = line.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<usize>().ok());
        let (at, times) = (number().expect("an offset"), number().expect("a count"));
        let hex = words.next().expect("bytes");
        let row: Vec<u8> = (0..hex.len() / 2)
            .map(|byte| u8::from_str_radix(&hex[2 * byte..2 * byte + 2], 16).expect("hex"))
            .collect();
        let row = row.repeat(times);
        bytes[at..at + row.len()].copy_from_slice(&row);
    }
    bytes
}
