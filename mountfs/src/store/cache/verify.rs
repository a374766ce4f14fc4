//! Reading everything in the cache again, against bytes that went bad on the disk.
//!
//! What is damaged is dropped and will be fetched again. Whole contents are read without a lock, so that nobody waits for a
//! large one; what is dropped is what was read.

use super::{Cache, Core, is_intact};
use crate::store::disk;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use syncmount_common::{ContentHash, Manifest};

/// What [`Cache::verify_all`] has found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Contents that were there to be looked at.
    pub total: u64,
    /// Contents whose bytes are what their names say, as far as they are here.
    pub good: u64,
    /// Damaged ones. They were dropped and will be fetched again.
    pub damaged: Vec<ContentHash>,
    /// Contents whose manifest the caller does not know. They were dropped: what cannot be checked must not be trusted.
    pub unknown: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// Told after every chunk; false ends the work with an error of the kind `Interrupted`.
type Progress<'a> = dyn FnMut(&Verified) -> bool + 'a;

/// Tells the manifest of a content if it is known.
type ManifestOf<'a> = dyn FnMut(&ContentHash) -> Option<Arc<Manifest>> + 'a;

impl Cache {
    /// Reads every content, partial ones too, and drops those that are damaged. Takes as long as reading the disk.
    /// `manifest_of` is asked after the directory was listed.
    pub fn verify_all(&self, manifest_of: &mut ManifestOf<'_>, progress: &mut Progress<'_>) -> io::Result<Verified> {
        let mut whole = BTreeSet::new();
        self.core.layout.scan(|found| {
            whole.insert(found.hash);
            true
        })?;
        let partial = self.core.layout.partials()?;
        let mut sum = Verified { total: (whole.len() + partial.len()) as u64, ..Verified::default() };
        for hash in whole {
            let Some(manifest) = manifest_of(&hash) else {
                let _stripe = self.core.stripe(&hash);
                self.core.drop_files(&hash)?;
                sum.unknown += 1;
                continue;
            };
            let intact = self.core.verify(&hash, &manifest, &mut counting(&mut sum, progress))?;
            sum.note(hash, intact);
        }
        for hash in partial {
            let intact = self.core.verify_partial(&hash, &mut counting(&mut sum, progress))?;
            sum.note(hash, intact);
        }
        Ok(sum)
    }
}

impl Verified {
    /// `None`: it was evicted meanwhile.
    fn note(&mut self, hash: ContentHash, intact: Option<bool>) {
        match intact {
            Some(true) => self.good += 1,
            Some(false) => self.damaged.push(hash),
            None => {}
        }
    }
}

fn counting<'a>(sum: &'a mut Verified, progress: &'a mut Progress<'_>) -> impl FnMut(u64) -> io::Result<()> + 'a {
    move |len| {
        sum.bytes += len;
        if progress(sum) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
    }
}

impl Core {
    /// Whether a whole content has the bytes that its name says. It is dropped if not.
    fn verify(
        &self,
        hash: &ContentHash,
        manifest: &Manifest,
        each: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<Option<bool>> {
        let path = self.layout.object(hash);
        let Some(file) = disk::if_there(File::open(&path))? else {
            let _stripe = self.stripe(hash);
            let is_there = self.layout.unverified(hash).exists();
            let accepted = self.accept_unverified(hash, manifest)?;
            each(manifest.size())?;
            return Ok(is_there.then_some(accepted.is_some()));
        };
        let intact = readable(is_intact(&file, manifest, each), hash)?;
        let _stripe = self.stripe(hash);
        if intact {
            return Ok(Some(true));
        }
        if !disk::is_at(&file, &path)? {
            // What was read is not what is there now: it was evicted, or taken away to be changed.
            return Ok(None);
        }
        tracing::warn!(%hash, "a cached content is damaged and is dropped");
        self.drop_files(hash)?;
        Ok(Some(false))
    }

    /// The same for a content of which only a part is here.
    fn verify_partial(
        self: &Arc<Self>,
        hash: &ContentHash,
        each: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<Option<bool>> {
        let Some(entry) = self.find(hash, None)? else { return Ok(None) };
        let intact = readable(entry.is_intact(each), hash)?;
        if !intact {
            tracing::warn!(%hash, "a part of a cached content is damaged, and the content is dropped");
            let _stripe = self.stripe(hash);
            self.drop_files(hash)?;
        }
        Ok(Some(intact))
    }
}

/// Bytes that the disk does not give any more are damaged as well.
fn readable(read: io::Result<bool>, hash: &ContentHash) -> io::Result<bool> {
    match read {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => {
            tracing::warn!(%hash, %error, "a cached content cannot be read");
            Ok(false)
        }
        read => read,
    }
}
