//! Encodings and text formats: what is decoded is encoded again to the same, and never larger than it may be.

use bytes::BytesMut;
use std::collections::HashSet;
use syncmount::control::Request;
use syncmount::ignore::Rules;
use syncmount_common::delta::{self, EXTENTS_SUM_MAX};
use syncmount_common::envelope;
use syncmount_common::frame::{Decoder, Frame, put_chunk, put_end, put_header};
use syncmount_common::manifest::CHUNK_LEN_MAX;
use syncmount_common::{ChunkHash, ContentHash, Extent, Manifest, Name};

/// A framed body, in one piece and byte by byte.
pub(super) fn frame(data: &[u8]) {
    let whole = frames(data, data.len().max(1));
    assert_eq!(whole, frames(data, 1), "the same frames, however the bytes arrive");
    if let (frames, true) = whole {
        let mut out = BytesMut::new();
        for frame in frames {
            match frame {
                Frame::Header(json) => put_header(&mut out, &json),
                Frame::Chunk(hash, envelope) => put_chunk(&mut out, &hash, &envelope),
                Frame::End => put_end(&mut out),
            }
        }
        assert_eq!(out, data);
    }
}

/// The frames of a body that comes in pieces, and whether it was a whole one.
fn frames(data: &[u8], piece: usize) -> (Vec<Frame>, bool) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for piece in data.chunks(piece) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, decoder.finish().is_ok())
}

/// An envelope, alone and as a difference to the bytes before it.
pub(super) fn envelope(data: &[u8]) {
    let hash = ChunkHash::of(data);
    if let Ok(raw) = envelope::open(&hash, data) {
        assert!(hash.matches(&raw));
    }
    if let Ok(len) = envelope::raw_len(data) {
        assert!((1..=CHUNK_LEN_MAX).contains(&len));
    }
    let (beneath, told) = data.split_at(data.len() / 2);
    if let Ok(raw) = envelope::open_against(&hash, told, beneath) {
        assert!(hash.matches(&raw));
    }
    let _ = envelope::base(data);
    if !data.is_empty() {
        let sealed = envelope::seal(data);
        assert_eq!(envelope::open(&hash, &sealed).as_deref(), Ok(data));
        assert_eq!(envelope::raw_len(&sealed).ok(), u32::try_from(data.len()).ok());
    }
    if let Some(sealed) = envelope::seal_against(&ChunkHash::of(beneath), beneath, told) {
        assert_eq!(envelope::open_against(&ChunkHash::of(told), &sealed, beneath).as_deref(), Ok(told));
    }
}

/// A manifest from its encoding.
pub(super) fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::decode(data) else { return };
    assert_eq!(manifest.encode(), data);
    assert_eq!(manifest.content_hash(), ContentHash::of(data));
    let sum: u128 = manifest.extents().iter().map(|extent| u128::from(extent.len())).sum();
    assert_eq!(u128::from(manifest.size()), sum);
    let end = manifest.with_offsets().last().map_or(0, |(at, extent)| at + extent.len());
    assert_eq!(end, manifest.size());
    let json = serde_json::to_vec(&manifest).expect("a manifest as JSON");
    assert_eq!(serde_json::from_slice::<Manifest>(&json).ok(), Some(manifest), "its own JSON");
}

/// A difference of manifests: to a made-up one, and to one that the input describes.
pub(super) fn delta(data: &[u8]) {
    let (first, told) = data.split_at(data.len().min(8));
    let extents = first.iter().map(|byte| match byte {
        0..64 => Extent::Hole { len: u64::from(*byte) + 1 },
        _ => Extent::Chunk { hash: ChunkHash::of(&[*byte]), len: u32::from(*byte) },
    });
    let Ok(base) = Manifest::new(extents.collect()) else { return };
    let _ = delta::apply(&base, told, &ContentHash::of(told), EXTENTS_SUM_MAX);
    if let Ok(target) = Manifest::decode(told)
        && let Some(told) = delta::between(&base, &target)
    {
        let applied = delta::apply(&base, &told, &target.content_hash(), EXTENTS_SUM_MAX);
        assert_eq!(applied.ok().as_ref(), Some(&target));
    }
}

/// The bytes of a `.syncignore`; each rule is asked about a few names.
pub(super) fn syncignore(data: &[u8]) {
    let mut rules = Rules::default();
    let bad = rules.set(&[], data);
    let lines: HashSet<usize> = bad.iter().map(|line| line.line).collect();
    let count = data.split(|byte| *byte == b'\n').count();
    assert!(lines.iter().all(|line| *line <= count));
    let names = data.split(|byte| matches!(byte, b'\n' | b'/')).filter_map(|part| Name::new(part).ok()).take(8);
    let names: Vec<Name> = names.collect();
    for (index, name) in names.iter().enumerate() {
        let path: Vec<&Name> = names[..index].iter().chain([name]).collect();
        let first = rules.is_ignored(&path, index % 2 == 0);
        assert_eq!(rules.is_ignored(&path, index % 2 == 0), first, "asked twice");
    }
    rules.remove(&[]);
}

/// A line that arrives at the control socket.
pub(super) fn control(data: &[u8]) {
    if let Ok(request) = Request::parse(data) {
        let line = serde_json::to_vec(&request).expect("a request as JSON");
        assert_eq!(Request::parse(&line), Ok(request));
    }
}

/// A message to the helper, and an answer of it.
#[cfg(target_os = "linux")]
pub(super) fn helper(data: &[u8]) {
    use syncmount_helper::wire::{Request, decode_answer, encode_answer};
    if let Some(request) = Request::decode(data) {
        assert_eq!(request.encode(), data);
    }
    if let Some(answer) = decode_answer(data) {
        assert_eq!(encode_answer(answer), data);
    }
}
