//! Request bodies: JSON, or frames that are streamed without being copied together.
//!
//! A body is handed to the connection in small pieces, so that the watchdog sees a slow line move and a dead one not.

use super::http::Counters;
use super::stall::{ANSWER, Deadline, STALL};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use syncmount_common::ChunkHash;
use syncmount_common::frame;

/// Pieces of at most this size: at 10 kB/s one takes 6 s, well within the time that a body may stand still.
const PIECE_LEN_MAX: usize = 64 * 1024;

/// A request body. Holds the envelopes as they came, and at most one of them encoded as a frame.
#[derive(Default)]
pub(super) struct Outgoing {
    parts: VecDeque<Part>,
    piece: Bytes,
    len: u64,
}

enum Part {
    Bytes(Bytes),
    Chunk(ChunkHash, Bytes),
}

impl Part {
    fn encode(self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Chunk(hash, envelope) => {
                let mut out = BytesMut::with_capacity(frame::CHUNK_OVERHEAD + envelope.len());
                frame::put_chunk(&mut out, &hash, &envelope);
                out.freeze()
            }
        }
    }
}

impl Outgoing {
    /// A body of exactly these bytes.
    pub(super) fn plain(bytes: Vec<u8>) -> Self {
        let mut body = Self::default();
        body.add(bytes.into());
        body
    }

    /// A framed body: a header if there is one, chunks, the end.
    pub(super) fn framed(header: Option<&[u8]>, chunks: &[(ChunkHash, Bytes)]) -> Self {
        let mut body = Self::default();
        if let Some(json) = header {
            body.add(encoded(|out| frame::put_header(out, json)));
        }
        for (hash, envelope) in chunks {
            body.len += (frame::CHUNK_OVERHEAD + envelope.len()) as u64;
            body.parts.push_back(Part::Chunk(*hash, envelope.clone()));
        }
        body.add(encoded(frame::put_end));
        body
    }

    fn add(&mut self, bytes: Bytes) {
        self.len += bytes.len() as u64;
        self.parts.push_back(Part::Bytes(bytes));
    }

    /// Number of bytes of the whole body.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        while self.piece.is_empty() {
            self.piece = self.parts.pop_front()?.encode();
        }
        Some(self.piece.split_to(self.piece.len().min(PIECE_LEN_MAX)))
    }

    /// The body for the connection. Each piece it takes extends `deadline`.
    pub(super) fn into_body(self, deadline: Deadline, counters: Arc<Counters>) -> reqwest::Body {
        reqwest::Body::wrap_stream(futures::stream::unfold(self, move |mut rest| {
            let piece = rest.next_piece();
            deadline.extend(if piece.is_some() { STALL } else { ANSWER });
            counters.add_sent(piece.as_ref().map_or(0, Bytes::len));
            async move { piece.map(|piece| (Ok::<_, Infallible>(piece), rest)) }
        }))
    }
}

fn encoded(put: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    put(&mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncmount_common::frame::{Decoder, Frame};

    #[test]
    fn a_framed_body_is_what_the_decoder_reads() {
        let chunks: Vec<_> = [1usize, 1000, 200_000]
            .iter()
            .map(|len| (ChunkHash::of(&len.to_le_bytes()), Bytes::from(vec![7; *len])))
            .collect();
        let mut body = Outgoing::framed(Some(b"{}"), &chunks);
        let (mut decoder, mut sum, total) = (Decoder::default(), 0, body.len());
        while let Some(piece) = body.next_piece() {
            assert!(piece.len() <= PIECE_LEN_MAX);
            sum += piece.len() as u64;
            decoder.push(&piece);
        }
        assert_eq!(sum, total);
        assert_eq!(decoder.next_frame().unwrap(), Some(Frame::Header(Bytes::from_static(b"{}"))));
        for (hash, envelope) in chunks {
            assert_eq!(decoder.next_frame().unwrap(), Some(Frame::Chunk(hash, envelope)));
        }
        assert_eq!(decoder.next_frame().unwrap(), Some(Frame::End));
        decoder.finish().unwrap();
    }
}
