//! Files of whole contents that are shown to others as they are, and may be taken away to be changed.
//!
//! A file is claimed by one at a time. While it is, nobody writes to it, and it is not evicted. Whoever wants to change it
//! takes it away first: another file takes its name, and from then on nothing here reads it.

use super::{Cache, Entry};
use crate::store::disk;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use syncmount_common::ContentHash;

/// How long those are waited for who are just reading a file that is taken away, in milliseconds.
const READERS_WAIT_MS: u32 = 10_000;

/// The right to take a content's file away. It ends when it is dropped.
#[derive(Debug)]
pub struct Claim(Arc<Entry>);

impl Claim {
    /// The file.
    pub fn file(&self) -> &File {
        self.0.file()
    }

    /// Names the content.
    pub fn hash(&self) -> &ContentHash {
        self.0.hash()
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.0.size()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.claimed.store(false, Ordering::Release);
    }
}

impl Cache {
    /// Whether it can be found out where this cache lies that somebody looks at a file.
    pub fn tells_who_looks(&self) -> bool {
        self.core.layout.tells_who_looks()
    }

    /// Claims a content; `None` if it is not whole, or somebody else has claimed it or uses it in another way just now.
    pub fn claim(&self, hash: &ContentHash) -> io::Result<Option<Claim>> {
        let Some(mut entry) = self.get(hash).filter(|entry| entry.is_whole()) else { return Ok(None) };
        if !entry.is_only_read() {
            // It was put together in this session, and its file is open for writing still.
            drop(entry);
            let _stripe = self.core.stripe(hash);
            if self.core.index.take_idle(hash).is_none() {
                return Ok(None);
            }
            let Some(file) = disk::if_there(File::open(self.core.layout.object(hash)))? else { return Ok(None) };
            entry = self.core.open_whole(hash, file)?;
        }
        let is_first = !entry.is_detached() && !entry.claimed.swap(true, Ordering::AcqRel);
        Ok(is_first.then_some(Claim(entry)))
    }

    /// Takes the file of a claimed content away: from now on it has no name and may be changed. With `copy` the content stays
    /// in the cache, in another file. After an error the content is where it was, or it is gone.
    pub fn take_away(&self, claim: &Claim, copy: bool) -> io::Result<File> {
        let Claim(entry) = claim;
        let (core, hash) = (&self.core, entry.hash());
        let path = core.layout.object(hash);
        let copied =
            if copy && disk::is_at(entry.file(), &path)? { Some(core.layout.copy_object(hash)?) } else { None };
        let stripe = core.stripe(hash);
        match copied {
            Some(copied) if disk::is_at(entry.file(), &path)? => {
                let file = File::open(&copied)?;
                core.layout.make_object(&copied, hash)?;
                core.index.detach(hash);
                core.open_whole(hash, file)?;
            }
            Some(copied) => drop(disk::remove_if_there(&copied)?),
            None if disk::is_at(entry.file(), &path)? => core.drop_files(hash)?,
            None => {}
        }
        drop(stripe);
        // Who has begun to read it as this content must not see what becomes of it.
        for _ in 0..READERS_WAIT_MS {
            if Arc::strong_count(entry) == 1 {
                return disk::open_nameless(entry.file());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}
