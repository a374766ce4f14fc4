//! Where the bytes of chunks rest: in packs, each one immutable object of an object store.
//!
//! Owns the format of a pack and the promise that an appended chunk is durable before its place is told. Knows nothing of
//! folders, nodes or SQL; which chunk lies where is the metadata store's knowledge.

mod chunks;
mod error;
mod faulty;
mod objects;
pub mod pack;

pub use chunks::{ChunkStore, Run, runs};
pub use error::BlobError;
pub use faulty::{Fault, FaultyPacks, Operation};
pub use objects::ObjectPacks;

use crate::meta::PackId;
use bytes::Bytes;
use futures::future::BoxFuture;
use std::ops::Range;

/// Keeps packs.
pub trait PackStore: Send + Sync + 'static {
    /// Stores a pack, given in pieces. Durable when it returns.
    fn put(&self, pack: PackId, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<(), BlobError>>;
    /// All packs and their lengths in bytes, by id.
    fn list(&self) -> BoxFuture<'_, Result<Vec<(PackId, u64)>, BlobError>>;
    /// Reads a part of a pack.
    fn read(&self, pack: PackId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>>;
    /// Removes a pack. That it is not there is no error.
    fn remove(&self, pack: PackId) -> BoxFuture<'_, Result<(), BlobError>>;
}
