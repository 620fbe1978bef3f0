//! Names of moments as people and NBD clients write them.
//!
//! Oracle: what is understood, printed and read again means the same; names and labels print as they were written.

#![no_main]

use landfall_retention::name::{Label, MAX_LABEL_BYTES, MAX_NAME_BYTES, MomentName, Name, When};
use landfall_retention::time::Timestamp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(name) = MomentName::parse(text) {
        let printed = name.to_string();
        assert_eq!(MomentName::parse(&printed).as_ref(), Ok(&name), "{text:?} prints {printed:?}");
        match text.split_once('@') {
            None => assert_eq!(name.when, When::Latest, "{text:?}"),
            Some((_, when)) => assert!(!when.is_empty(), "nothing after @ is a default"),
        }
    }
    if let Ok(name) = Name::parse(text) {
        assert_eq!(name.as_str(), text);
        assert!((1..=MAX_NAME_BYTES).contains(&text.len()));
    }
    if let Ok(label) = Label::parse(text) {
        assert_eq!(label.as_str(), text);
        assert!((1..=MAX_LABEL_BYTES).contains(&text.len()));
    }
    if let Ok(time) = Timestamp::parse(text) {
        assert_eq!(Timestamp::parse(&time.to_string()), Ok(time), "{text:?}");
    }
});
