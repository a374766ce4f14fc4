//! Packs over the `object_store` crate: a local directory, memory, later any S3-compatible store.

use super::{BlobError, PackStore};
use crate::meta::PackId;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as Location;
use object_store::{ObjectStore, ObjectStoreExt as _};
use std::ops::Range;
use std::path::Path;

/// Packs as objects.
pub struct ObjectPacks(Box<dyn ObjectStore>);

impl ObjectPacks {
    /// Packs as files under `directory`, which exists. Each is synced, and so is its directory, before a put returns.
    pub fn local(directory: &Path) -> Result<Self, BlobError> {
        let store = LocalFileSystem::new_with_prefix(directory)?.with_fsync(true);
        Ok(Self(Box::new(store)))
    }

    /// Packs that live as long as the value.
    pub fn in_memory() -> Self {
        Self(Box::new(InMemory::new()))
    }
}

/// `7c/0192…7c`: the last byte of the id is random, so that no directory grows large.
fn location(pack: PackId) -> Location {
    let id = pack.0.iter().fold(String::with_capacity(32), |text, byte| text + &format!("{byte:02x}"));
    Location::from_iter([&id[30..], &format!("{id}.pack")])
}

/// The pack that lies there; none for anything else.
fn pack_id(location: &Location) -> Option<PackId> {
    let digits = location.filename()?.strip_suffix(".pack")?;
    let id = u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(PackId(id.to_be_bytes()))
}

impl PackStore for ObjectPacks {
    fn put(&self, pack: PackId, pieces: Vec<Bytes>) -> BoxFuture<'_, Result<(), BlobError>> {
        async move { Ok(self.0.put(&location(pack), pieces.into_iter().collect()).await.map(drop)?) }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(PackId, u64)>, BlobError>> {
        async move {
            let objects: Vec<_> = self.0.list(None).try_collect().await?;
            let packs = objects.iter().filter_map(|object| Some((pack_id(&object.location)?, object.size)));
            let mut packs: Vec<_> = packs.collect();
            packs.sort_unstable();
            Ok(packs)
        }
        .boxed()
    }

    fn read(&self, pack: PackId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        async move {
            let len = range.end - range.start;
            let bytes = self.0.get_range(&location(pack), range).await?;
            if bytes.len() as u64 == len { Ok(bytes) } else { Err(BlobError::Lost(location(pack).to_string())) }
        }
        .boxed()
    }

    fn remove(&self, pack: PackId) -> BoxFuture<'_, Result<(), BlobError>> {
        async move {
            match self.0.delete(&location(pack)).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                removed => Ok(removed?),
            }
        }
        .boxed()
    }
}
