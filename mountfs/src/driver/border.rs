//! Renames, and what they do to bytes where a file leaves the folder for a name that stays on this machine.
//!
//! What leaves has its bytes in a staging file of its own first, synced: the server's version is removed, and the cache may
//! drop what it has. Whoever has the file open goes on with it.

use super::{Client, WriteError};
use crate::files::{Backing, Inner, OpenFile, Overlay, Segment, StagingFile};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use syncmount_common::{Attrs, Name, NodeId, NodeKind};
use syncmount_engine::{Refusal, RenameMode, Renamed};

/// The largest file whose bytes are copied while its rename is waited for. A larger one is refused with EXDEV, upon which
/// programs copy it themselves.
const COPY_MAX: u64 = 64 * 1024 * 1024;

const COPY_LEN: usize = 1024 * 1024;

impl Client {
    /// Renames or moves. Returns with it the last attributes of what was replaced.
    pub fn rename(
        &self,
        from: (NodeId, &[u8]),
        to: (NodeId, Name),
        mode: RenameMode,
    ) -> Result<(Renamed, Option<Attrs>), WriteError> {
        let leaving = self.look(|engine| engine.leaving(from, (to.0, &to.1), mode));
        let mut files = Vec::new();
        let held = leaving.into_iter().try_for_each(|node| {
            if self.look(|engine| engine.local(node).is_some_and(|state| state.kind() == NodeKind::File)) {
                files.push(self.open(node, false)?);
                self.own_bytes(files.last().ok_or(Refusal::NotFound)?)?;
            }
            Ok(())
        });
        let renamed = held.and_then(|()| self.rename_held(from, to, mode, &files));
        for file in files {
            self.files.close(&file, false);
        }
        renamed
    }

    /// The locks keep writers away until they know as which node their file goes on.
    fn rename_held(
        &self,
        from: (NodeId, &[u8]),
        to: (NodeId, Name),
        mode: RenameMode,
        files: &[Arc<OpenFile>],
    ) -> Result<(Renamed, Option<Attrs>), WriteError> {
        // Of two that are exchanged at most one leaves, so that nobody holds two.
        let mut inners: Vec<_> = files.iter().map(|file| file.inner.write()).collect();
        let (renamed, attrs) = self.change(|engine, now| {
            let other = engine.child(to.0, to.1.as_bytes());
            let attrs = other.and_then(|node| engine.local(node)).map(|state| state.attrs);
            engine.rename(from, to, mode, now).map(|renamed| (renamed, attrs))
        })??;
        for (old, new) in &renamed.became {
            for (file, inner) in files.iter().zip(&mut inners).filter(|(_, inner)| inner.node == *old) {
                inner.node = *new;
                self.files.detach(*old, file);
                self.files.attach(*new, file);
            }
        }
        Ok((renamed, attrs))
    }

    /// Gives a file a staging file with all of its bytes, synced. Refused if that would take long or wait for the network.
    fn own_bytes(&self, file: &Arc<OpenFile>) -> Result<(), WriteError> {
        let mut inner = file.inner.write();
        let (overlay, ready) = match &inner.backing {
            Backing::Clean(content) => (Overlay::over(content.clone()), true),
            Backing::Draft(overlay) => (overlay.clone(), inner.told_ready),
        };
        if !overlay.is_self_contained() {
            if overlay.size > COPY_MAX {
                return Err(Refusal::OtherScope.into());
            }
            self.own(&mut inner, &overlay, ready)?;
        }
        drop(inner);
        self.sync_bytes(file)?;
        self.state.sync()?;
        Ok(())
    }

    fn own(&self, inner: &mut Inner, overlay: &Overlay, ready: bool) -> Result<(), WriteError> {
        let (id, staging) = self.staging.create()?;
        self.unsynced_names.store(true, Ordering::Release);
        let generation = self.next_generation();
        let told = self.copied_whole(overlay, StagingFile { id, file: Arc::new(staging) }).and_then(|whole| {
            self.tell_as(inner, &whole, generation, ready)?;
            Ok(whole)
        });
        match told {
            Ok(whole) => {
                inner.backing = Backing::Draft(whole);
                (inner.generation, inner.told, inner.told_ready) = (generation, generation, ready);
                Ok(())
            }
            // After an error of the journal the tree refers to it, and says so with the next record.
            Err(error @ WriteError::Io(_)) => Err(error),
            Err(error) => {
                self.staging.remove(id)?;
                Err(match error {
                    WriteError::Refused(Refusal::Stale) => Refusal::OtherScope.into(),
                    error => error,
                })
            }
        }
    }

    fn copied_whole(&self, overlay: &Overlay, staging: StagingFile) -> Result<Overlay, WriteError> {
        let mut whole = Overlay { staging: Some(staging.clone()), size: overlay.size, ..Overlay::empty() };
        let mut buf = vec![0; COPY_LEN];
        for segment in overlay.segments(0..overlay.size) {
            let range = segment.range();
            if matches!(segment, Segment::Zero(_)) {
                continue;
            }
            let mut at = range.start;
            while at < range.end {
                let part = &mut buf[..(range.end - at).min(COPY_LEN as u64) as usize];
                match self.read_draft_local(overlay, at, part)? {
                    Some(got) if got > 0 => {
                        staging.file.write_all_at(&part[..got], at)?;
                        at += got as u64;
                    }
                    Some(_) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    None => return Err(Refusal::OtherScope.into()),
                }
            }
            whole.wrote(range);
        }
        Ok(whole)
    }
}
