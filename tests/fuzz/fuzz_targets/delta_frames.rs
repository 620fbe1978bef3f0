//! Bodies of delta stream frames: every parser, against its own encoder.
//!
//! Oracle: what a parser accepts, its encoder writes again byte for byte; only feature bits a target does not know may be
//! dropped from a `Hello`.

#![no_main]

use landfall_protocols::delta::pack;
use landfall_protocols::delta::wire::{
    Ack, BatchFrame, Bye, FrameKind, FrameReader, HEADER_BYTES, HashRequest, Hashes, Hello, Mark,
    Marked, PassBegin, Ping, RawFrame, Refused, Welcome, encode_batch, set_position,
};
use libfuzzer_sys::fuzz_target;

/// The frame again, if its body has a meaning.
fn again(frame: &RawFrame) -> Option<Vec<u8>> {
    let (kind, body) = (frame.header.kind, &frame.body[..]);
    match kind {
        FrameKind::Hello => Hello::parse(body).map(|hello| hello.encode()).ok(),
        FrameKind::Welcome => Welcome::parse(body).map(|welcome| welcome.encode()).ok(),
        FrameKind::Refused => Refused::parse(body).map(|refused| refused.encode()).ok(),
        FrameKind::PassBegin => PassBegin::parse(body).map(|pass| pass.encode()).ok(),
        FrameKind::Batch => BatchFrame::parse(frame.body.clone()).map(|batch| rewrite(&batch)).ok(),
        FrameKind::Ack => Ack::parse(body).map(|ack| ack.encode()).ok(),
        FrameKind::Mark => Mark::parse(body).map(|mark| mark.encode()).ok(),
        FrameKind::Marked => Marked::parse(body).map(|marked| marked.encode()).ok(),
        FrameKind::HashRequest => HashRequest::parse(body).map(|request| request.encode()).ok(),
        FrameKind::Hashes => Hashes::parse(body).map(|hashes| hashes.encode()).ok(),
        FrameKind::Ping => Ping::parse(kind, body).map(|ping| ping.encode()).ok(),
        FrameKind::Pong => Ping::parse(kind, body).map(|ping| ping.encode_pong()).ok(),
        FrameKind::Bye => Bye::parse(body).map(Bye::encode).ok(),
    }
}

fn rewrite(batch: &BatchFrame) -> Vec<u8> {
    let content: Vec<u8> = batch.contents().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    let mut frame = encode_batch(batch.source_time, batch.disk, &batch.extents, &content);
    set_position(&mut frame, batch.position);
    // Content that is not what its table says has to be refused, not to panic.
    if let Ok(plain) = pack::unpack(batch) {
        assert_eq!(plain.extents.len(), batch.extents.len());
    }
    frame
}

fuzz_target!(|bytes: &[u8]| {
    let mut reader = FrameReader::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        let start = bytes.len() - rest.len();
        match reader.feed(&mut rest, 1 << 20) {
            Ok(Some(frame)) => {
                let end = bytes.len() - rest.len();
                let Some(mut written) = again(&frame) else { continue };
                if frame.header.kind == FrameKind::Hello {
                    let features = HEADER_BYTES + 4..HEADER_BYTES + 8;
                    written[features.clone()].copy_from_slice(&bytes[start..end][features]);
                }
                assert_eq!(written, bytes[start..end], "{:?}", frame.header.kind);
            }
            Ok(None) => assert!(rest.is_empty(), "bytes are left and no frame came"),
            Err(_) => return,
        }
    }
});
