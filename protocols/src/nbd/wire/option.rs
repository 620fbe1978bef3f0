//! Options: what the client asks for during negotiation, with their data (section "Option types").
//!
//! Parsing accepts exactly the layout of the specification: no field past the end, no byte left over, strings that are
//! UTF-8 without NUL and at most [`MAX_STRING`] long, at most [`MAX_QUERIES`] queries.

use super::fields::{Fields, length_of, no_data, put_counted, text};
use super::handshake::{InfoKind, OptionHeader, OptionKind};
use super::{MAX_INFO_ITEMS, MAX_QUERIES, MAX_STRING, OPTION_MAGIC};
use zerocopy::IntoBytes;

/// An option with its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OptionRequest {
    /// Enter transmission for this export, or end the connection.
    ExportName(String),
    /// The client leaves. Data that comes with it is ignored, as the specification asks.
    Abort,
    /// Which exports there are.
    List,
    /// Encrypt from here on.
    StartTls,
    /// What is known of an export.
    Info(InfoRequest),
    /// The same, then enter transmission.
    Go(InfoRequest),
    /// Use structured replies.
    StructuredReply,
    /// Use extended headers.
    ExtendedHeaders,
    /// Which metadata contexts match.
    ListMetaContext(MetaRequest),
    /// Select metadata contexts.
    SetMetaContext(MetaRequest),
    /// An option this code has not heard of; its data is ignored.
    Unknown(u32),
}

/// Data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InfoRequest {
    /// Export name; empty for the default export.
    pub name: String,
    /// What the client wants to know beyond `NBD_INFO_EXPORT`.
    pub items: Vec<InfoKind>,
}

/// Data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaRequest {
    /// Export name; empty for the default export.
    pub name: String,
    /// Contexts or wildcards, each with a namespace and a colon.
    pub queries: Vec<String>,
}

/// Why the data of an option, or of a reply to one, was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionError {
    /// A field reaches past the end.
    #[error("{wanted} bytes are wanted at byte {at} of {length}")]
    Truncated {
        /// Where the field starts.
        at: usize,
        /// Its length.
        wanted: usize,
        /// Length of the whole data.
        length: usize,
    },
    /// Bytes are left over.
    #[error("{0} bytes follow the last field")]
    Trailing(usize),
    /// An option without data came with some.
    #[error("the option takes no data but {0} bytes came with it")]
    UnexpectedData(usize),
    /// A string is longer than the protocol allows.
    #[error("a string of {0} bytes is longer than {MAX_STRING}")]
    LongString(usize),
    /// A string is not UTF-8 or holds a NUL.
    #[error("a string is not UTF-8 without NUL")]
    NotText,
    /// More queries or items than are looked at.
    #[error("{0} entries are too many")]
    TooMany(u32),
    /// A query has no namespace.
    #[error("a query has no namespace before a colon")]
    NoNamespace,
}

impl OptionRequest {
    /// The meaning of `data`, which came with the option `kind`.
    pub fn parse(kind: OptionKind, data: &[u8]) -> Result<Self, OptionError> {
        match kind {
            OptionKind::ExportName => Ok(Self::ExportName(text(data)?)),
            OptionKind::Abort => Ok(Self::Abort),
            OptionKind::List => no_data(data, Self::List),
            OptionKind::StartTls => no_data(data, Self::StartTls),
            OptionKind::StructuredReply => no_data(data, Self::StructuredReply),
            OptionKind::ExtendedHeaders => no_data(data, Self::ExtendedHeaders),
            OptionKind::Info => Ok(Self::Info(InfoRequest::parse(data)?)),
            OptionKind::Go => Ok(Self::Go(InfoRequest::parse(data)?)),
            OptionKind::ListMetaContext => Ok(Self::ListMetaContext(MetaRequest::parse(data)?)),
            OptionKind::SetMetaContext => Ok(Self::SetMetaContext(MetaRequest::parse(data)?)),
            OptionKind::Unknown(number) => Ok(Self::Unknown(number)),
        }
    }

    /// Which option this is.
    pub fn kind(&self) -> OptionKind {
        match self {
            Self::ExportName(_) => OptionKind::ExportName,
            Self::Abort => OptionKind::Abort,
            Self::List => OptionKind::List,
            Self::StartTls => OptionKind::StartTls,
            Self::Info(_) => OptionKind::Info,
            Self::Go(_) => OptionKind::Go,
            Self::StructuredReply => OptionKind::StructuredReply,
            Self::ExtendedHeaders => OptionKind::ExtendedHeaders,
            Self::ListMetaContext(_) => OptionKind::ListMetaContext,
            Self::SetMetaContext(_) => OptionKind::SetMetaContext,
            Self::Unknown(number) => OptionKind::Unknown(*number),
        }
    }

    /// Appends header and data to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut data = Vec::new();
        match self {
            Self::ExportName(name) => data.extend(name.as_bytes()),
            Self::Info(request) | Self::Go(request) => request.encode(&mut data),
            Self::ListMetaContext(request) | Self::SetMetaContext(request) => {
                request.encode(&mut data);
            }
            Self::Abort
            | Self::List
            | Self::StartTls
            | Self::StructuredReply
            | Self::ExtendedHeaders
            | Self::Unknown(_) => {}
        }
        let header = OptionHeader {
            magic: OPTION_MAGIC.into(),
            option: self.kind().number().into(),
            length: length_of(data.len()).into(),
        };
        out.extend(header.as_bytes());
        out.extend(data);
    }
}

impl InfoRequest {
    fn parse(data: &[u8]) -> Result<Self, OptionError> {
        let mut fields = Fields::new(data);
        let name = fields.counted_text()?;
        let count = fields.u16()?;
        if count > MAX_INFO_ITEMS {
            return Err(OptionError::TooMany(u32::from(count)));
        }
        let mut items = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            items.push(InfoKind::from(fields.u16()?));
        }
        fields.end()?;
        Ok(Self { name, items })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_counted(out, &self.name);
        let count = u16::try_from(self.items.len()).expect("a handful of items");
        out.extend(count.to_be_bytes());
        for item in &self.items {
            out.extend(item.number().to_be_bytes());
        }
    }
}

impl MetaRequest {
    fn parse(data: &[u8]) -> Result<Self, OptionError> {
        let mut fields = Fields::new(data);
        let name = fields.counted_text()?;
        let count = fields.u32()?;
        if count > MAX_QUERIES {
            return Err(OptionError::TooMany(count));
        }
        let mut queries = Vec::new();
        for _ in 0..count {
            let query = fields.counted_text()?;
            match query.split_once(':') {
                Some((namespace, _)) if !namespace.is_empty() => queries.push(query),
                _ => return Err(OptionError::NoNamespace),
            }
        }
        fields.end()?;
        Ok(Self { name, queries })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_counted(out, &self.name);
        out.extend(length_of(self.queries.len()).to_be_bytes());
        for query in &self.queries {
            put_counted(out, query);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = String> + Clone {
        "[a-z0-9@~/é-]{0,40}"
    }

    fn request() -> impl Strategy<Value = OptionRequest> {
        let info = (name(), prop::collection::vec(any::<u16>().prop_map(InfoKind::from), 0..8))
            .prop_map(|(name, items)| InfoRequest { name, items });
        let meta = (name(), prop::collection::vec("[a-z]{1,8}:[a-z:]{0,20}", 0..8))
            .prop_map(|(name, queries)| MetaRequest { name, queries });
        prop_oneof![
            name().prop_map(OptionRequest::ExportName),
            Just(OptionRequest::Abort),
            Just(OptionRequest::List),
            Just(OptionRequest::StartTls),
            Just(OptionRequest::StructuredReply),
            Just(OptionRequest::ExtendedHeaders),
            info.clone().prop_map(OptionRequest::Info),
            info.prop_map(OptionRequest::Go),
            meta.clone().prop_map(OptionRequest::ListMetaContext),
            meta.prop_map(OptionRequest::SetMetaContext),
            (12u32..).prop_map(OptionRequest::Unknown),
        ]
    }

    fn parsed(encoded: &[u8]) -> Result<OptionRequest, OptionError> {
        use zerocopy::FromBytes;
        let (header, data) = OptionHeader::read_from_prefix(encoded).expect("a whole header");
        assert_eq!(header.magic.get(), OPTION_MAGIC);
        assert_eq!(header.length.get() as usize, data.len());
        OptionRequest::parse(OptionKind::from(header.option.get()), data)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(request in request()) {
            let mut encoded = Vec::new();
            request.encode(&mut encoded);
            prop_assert_eq!(parsed(&encoded), Ok(request));
        }

        #[test]
        fn any_bytes_are_refused_or_mean_something(
            kind in 0u32..12,
            data in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let kind = OptionKind::from(kind);
            if let Ok(request) = OptionRequest::parse(kind, &data) {
                prop_assert_eq!(request.kind(), kind);
            }
        }
    }

    #[test]
    fn each_rule_of_an_info_request_is_checked() {
        let mut good = Vec::new();
        InfoRequest { name: "web/os".into(), items: vec![InfoKind::BlockSize] }.encode(&mut good);
        assert!(InfoRequest::parse(&good).is_ok());
        for cut in 0..good.len() {
            let cut_short = InfoRequest::parse(&good[..cut]);
            assert!(matches!(cut_short, Err(OptionError::Truncated { .. })), "cut at {cut}");
        }
        let longer = [&good[..], &[0]].concat();
        assert_eq!(InfoRequest::parse(&longer), Err(OptionError::Trailing(1)));
        let huge_name = [&[0xff; 4][..], &good[4..]].concat();
        assert!(matches!(InfoRequest::parse(&huge_name), Err(OptionError::Truncated { .. })));
        let many_items = [&[0; 4][..], &[0xff; 2]].concat();
        assert_eq!(InfoRequest::parse(&many_items), Err(OptionError::TooMany(0xffff)));
    }

    #[test]
    fn strings_are_text_of_limited_length() {
        let parse = |data: &[u8]| OptionRequest::parse(OptionKind::ExportName, data);
        assert_eq!(parse(&[0xff]), Err(OptionError::NotText));
        assert_eq!(parse(b"a\0b"), Err(OptionError::NotText));
        assert_eq!(parse(&[b'a'; 4097]), Err(OptionError::LongString(4097)));
        assert!(parse(&[b'a'; 4096]).is_ok());
    }

    #[test]
    fn each_rule_of_a_meta_request_is_checked() {
        let encoded = |queries: &[&str]| {
            let mut data = Vec::new();
            let queries = queries.iter().map(|query| (*query).to_owned()).collect();
            MetaRequest { name: String::new(), queries }.encode(&mut data);
            data
        };
        assert!(MetaRequest::parse(&encoded(&["base:", "base:allocation"])).is_ok());
        assert_eq!(MetaRequest::parse(&encoded(&["base"])), Err(OptionError::NoNamespace));
        assert_eq!(MetaRequest::parse(&encoded(&[":x"])), Err(OptionError::NoNamespace));
        let many = vec!["a:"; 129];
        assert_eq!(MetaRequest::parse(&encoded(&many)), Err(OptionError::TooMany(129)));
    }

    #[test]
    fn options_without_data_refuse_it_and_abort_ignores_it() {
        for kind in [
            OptionKind::List,
            OptionKind::StartTls,
            OptionKind::StructuredReply,
            OptionKind::ExtendedHeaders,
        ] {
            assert_eq!(OptionRequest::parse(kind, b"x"), Err(OptionError::UnexpectedData(1)));
        }
        assert_eq!(OptionRequest::parse(OptionKind::Abort, b"x"), Ok(OptionRequest::Abort));
    }
}
