//! A decorator that fails on demand, for tests and the simulator.

use super::{BlobError, PackStore};
use crate::meta::PackId;
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::ops::Range;
use std::sync::Arc;

/// What is about to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A pack is to be stored.
    Put,
    /// A part of a pack is to be read.
    Read,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// There is no space.
    Full,
    /// The store does not answer; nothing is done.
    Unreachable,
    /// It is done, but the answer is an error.
    AnswerLost,
    /// The last byte is another one.
    Damage,
}

/// Asks before each operation whether it fails.
pub struct FaultyPacks {
    inner: Arc<dyn PackStore>,
    decide: Box<dyn Fn(Operation) -> Option<Fault> + Send + Sync>,
}

impl FaultyPacks {
    /// Decorates `inner`; `decide` is asked before each operation.
    pub fn new(inner: Arc<dyn PackStore>, decide: impl Fn(Operation) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Self { inner, decide: Box::new(decide) }
    }
}

fn unreachable() -> BlobError {
    BlobError::Store(Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)))
}

fn damage(bytes: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(&bytes[..]);
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes.freeze()
}

impl PackStore for FaultyPacks {
    fn put(&self, pack: PackId, mut pieces: Vec<Bytes>) -> BoxFuture<'_, Result<(), BlobError>> {
        async move {
            match (self.decide)(Operation::Put) {
                None => self.inner.put(pack, pieces).await,
                Some(Fault::Full) => Err(BlobError::Full),
                Some(Fault::Unreachable) => Err(unreachable()),
                Some(Fault::AnswerLost) => {
                    self.inner.put(pack, pieces).await?;
                    Err(unreachable())
                }
                Some(Fault::Damage) => {
                    if let Some(last) = pieces.last_mut() {
                        *last = damage(last);
                    }
                    self.inner.put(pack, pieces).await
                }
            }
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(PackId, u64)>, BlobError>> {
        self.inner.list()
    }

    fn remove(&self, pack: PackId) -> BoxFuture<'_, Result<(), BlobError>> {
        self.inner.remove(pack)
    }

    fn read(&self, pack: PackId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        async move {
            match (self.decide)(Operation::Read) {
                None => self.inner.read(pack, range).await,
                Some(Fault::Full) => Err(BlobError::Full),
                Some(Fault::Unreachable | Fault::AnswerLost) => Err(unreachable()),
                Some(Fault::Damage) => Ok(damage(&self.inner.read(pack, range).await?)),
            }
        }
        .boxed()
    }
}
