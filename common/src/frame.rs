//! Framed bodies: one JSON header and any number of chunks in one request or response.
//!
//! A frame is `kind u8 | length u32 LE | payload`. Kinds: 1 header (JSON), 2 chunk (32 bytes of hash, then the envelope),
//! 3 end (empty). A body without its end frame was cut short and counts for nothing.

use crate::envelope::ENVELOPE_LEN_MAX;
use crate::hash::{ChunkHash, HASH_LEN};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The media type of a framed body.
pub const CONTENT_TYPE: &str = "application/vnd.syncmount.frames";

/// The longest header, in bytes.
pub const HEADER_LEN_MAX: usize = 64 * 1024 * 1024;

/// Bytes that a chunk frame needs beside its envelope.
pub const CHUNK_OVERHEAD: usize = FRAME_HEAD_LEN + HASH_LEN;

const FRAME_HEAD_LEN: usize = 5;
const KIND_HEADER: u8 = 1;
const KIND_CHUNK: u8 = 2;
const KIND_END: u8 = 3;

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// JSON whose type depends on the endpoint.
    Header(Bytes),
    /// A chunk's name and its envelope, not verified yet.
    Chunk(ChunkHash, Bytes),
    /// Nothing follows.
    End,
}

/// The frame that a [`Decoder`] waits for; its payload has so many bytes, or says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Awaited {
    /// JSON.
    Header(usize),
    /// A chunk, or what is no frame at all.
    Chunk(usize),
}

/// Why a framed body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// An unknown kind, a length that does not fit the kind, or bytes after the end.
    #[error("the framed body is malformed")]
    Malformed,
    /// A frame is longer than its kind allows.
    #[error("a frame of the body is too long")]
    TooLong,
    /// The body ends before its end frame.
    #[error("the framed body was cut short")]
    Truncated,
}

/// Appends a header frame.
///
/// # Panics
/// If the JSON is longer than [`HEADER_LEN_MAX`].
pub fn put_header(out: &mut BytesMut, json: &[u8]) {
    assert!(json.len() <= HEADER_LEN_MAX, "a header of {} bytes", json.len());
    put_head(out, KIND_HEADER, json.len());
    out.put_slice(json);
}

/// Appends a chunk frame.
pub fn put_chunk(out: &mut BytesMut, hash: &ChunkHash, envelope: &[u8]) {
    put_chunk_head(out, hash, envelope.len());
    out.put_slice(envelope);
}

/// Appends the begin of a chunk frame; the envelope, of `len` bytes, follows.
pub fn put_chunk_head(out: &mut BytesMut, hash: &ChunkHash, len: usize) {
    put_head(out, KIND_CHUNK, HASH_LEN + len);
    out.put_slice(hash.as_bytes());
}

/// Appends the end frame.
pub fn put_end(out: &mut BytesMut) {
    put_head(out, KIND_END, 0);
}

fn put_head(out: &mut BytesMut, kind: u8, len: usize) {
    out.put_u8(kind);
    out.put_u32_le(len as u32);
}

/// Takes a framed body apart as it arrives. Holds at most one frame.
#[derive(Default)]
pub struct Decoder {
    pending: BytesMut,
    ended: bool,
}

impl Decoder {
    /// Adds the next bytes of the body.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole frame, `None` if more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.ended {
            return if self.pending.is_empty() { Ok(None) } else { Err(FrameError::Malformed) };
        }
        let Some(head) = self.pending.first_chunk::<FRAME_HEAD_LEN>() else { return Ok(None) };
        let [kind, len @ ..] = *head;
        let len = u32::from_le_bytes(len) as usize;
        check_len(kind, len)?;
        if self.pending.len() < FRAME_HEAD_LEN + len {
            return Ok(None);
        }
        self.pending.advance(FRAME_HEAD_LEN);
        let mut payload = self.pending.split_to(len).freeze();
        Ok(Some(match kind {
            KIND_HEADER => Frame::Header(payload),
            KIND_CHUNK => {
                let hash = payload.split_to(HASH_LEN);
                let hash = hash.first_chunk().ok_or(FrameError::Malformed)?;
                Frame::Chunk(ChunkHash::from_bytes(*hash), payload)
            }
            _ => {
                self.ended = true;
                Frame::End
            }
        }))
    }

    /// What the next frame is and how many bytes its payload has, once its head is there: for a frame that has not arrived
    /// whole.
    pub fn awaited(&self) -> Option<Awaited> {
        let [kind, len @ ..] = *self.pending.first_chunk::<FRAME_HEAD_LEN>().filter(|_| !self.ended)?;
        let len = u32::from_le_bytes(len) as usize;
        Some(if kind == KIND_HEADER { Awaited::Header(len) } else { Awaited::Chunk(len) })
    }

    /// To be called when the body is over: whether all of it was there.
    pub fn finish(self) -> Result<(), FrameError> {
        match (self.ended, self.pending.is_empty()) {
            (true, true) => Ok(()),
            (true, false) => Err(FrameError::Malformed),
            (false, _) => Err(FrameError::Truncated),
        }
    }
}

fn check_len(kind: u8, len: usize) -> Result<(), FrameError> {
    let allowed = match kind {
        KIND_HEADER => 0..=HEADER_LEN_MAX,
        KIND_CHUNK => HASH_LEN..=HASH_LEN + ENVELOPE_LEN_MAX,
        KIND_END => 0..=0,
        _ => return Err(FrameError::Malformed),
    };
    if allowed.contains(&len) {
        Ok(())
    } else if len > *allowed.end() {
        Err(FrameError::TooLong)
    } else {
        Err(FrameError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body() -> (BytesMut, Vec<Frame>) {
        let mut out = BytesMut::new();
        put_header(&mut out, b"{}");
        put_chunk(&mut out, &ChunkHash::of(b"x"), b"envelope");
        put_end(&mut out);
        let frames = vec![
            Frame::Header(Bytes::from_static(b"{}")),
            Frame::Chunk(ChunkHash::of(b"x"), Bytes::from_static(b"envelope")),
            Frame::End,
        ];
        (out, frames)
    }

    #[test]
    fn arrives_whole_in_any_pieces() {
        let (bytes, frames) = body();
        for piece in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(piece) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames);
            decoder.finish().unwrap();
        }
    }

    #[test]
    fn what_comes_is_known_from_its_head() {
        let (bytes, _) = body();
        let mut decoder = Decoder::default();
        decoder.push(&bytes[..4]);
        assert_eq!((decoder.next_frame(), decoder.awaited()), (Ok(None), None));
        decoder.push(&bytes[4..5]);
        assert_eq!((decoder.next_frame(), decoder.awaited()), (Ok(None), Some(Awaited::Header(2))));
        decoder.push(&bytes[5..12]);
        assert!(matches!(decoder.next_frame(), Ok(Some(Frame::Header(_)))));
        assert_eq!((decoder.next_frame(), decoder.awaited()), (Ok(None), Some(Awaited::Chunk(HASH_LEN + 8))));
        decoder.push(&bytes[12..]);
        while decoder.next_frame().unwrap().is_some() {}
        assert_eq!(decoder.awaited(), None);
    }

    #[test]
    fn cut_short_or_too_long_is_noticed() {
        let (bytes, _) = body();
        for len in 0..bytes.len() {
            let mut decoder = Decoder::default();
            decoder.push(&bytes[..len]);
            while decoder.next_frame().unwrap().is_some() {}
            assert_eq!(decoder.finish(), Err(FrameError::Truncated));
        }
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        decoder.push(b"x");
        while matches!(decoder.next_frame(), Ok(Some(_))) {}
        assert_eq!(decoder.next_frame(), Err(FrameError::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }
}
