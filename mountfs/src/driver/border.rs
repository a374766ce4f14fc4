//! Renames, and what they do to bytes where a file leaves the folder for a name that stays on this machine.
//!
//! What leaves has its bytes in a staging file of its own first, synced: the server's version is removed, and the cache may
//! drop what it has. Whoever has the file open goes on with it.

use super::{Client, WriteError};
use crate::files::{Backing, Inner, OpenFile, Overlay, Segment, StagingFile};
use crate::system::at;
use std::io;
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
        let leaving = self.look(|engine| {
            let is_file = |id: &NodeId| engine.local(*id).is_some_and(|state| state.kind() == NodeKind::File);
            engine.leaving(from, (to.0, &to.1), mode).into_iter().find(is_file)
        });
        let Some(node) = leaving else { return self.rename_with(from, to, mode, None) };
        let file = self.open(node, false)?;
        let renamed = self.rename_out(from, to, mode, &file);
        self.close_file(&file);
        renamed
    }

    /// The lock keeps writers away until they know as which node their file goes on, and keeps the bytes where they are.
    /// (Of two files that are exchanged at most one leaves.)
    fn rename_out(
        &self,
        from: (NodeId, &[u8]),
        to: (NodeId, Name),
        mode: RenameMode,
        file: &Arc<OpenFile>,
    ) -> Result<(Renamed, Option<Attrs>), WriteError> {
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
        self.sync_held(&inner)?;
        self.state.sync()?;
        self.rename_with(from, to, mode, Some((file, &mut inner)))
    }

    fn rename_with(
        &self,
        from: (NodeId, &[u8]),
        to: (NodeId, Name),
        mode: RenameMode,
        held: Option<(&Arc<OpenFile>, &mut Inner)>,
    ) -> Result<(Renamed, Option<Attrs>), WriteError> {
        let (renamed, attrs) = self.change(|engine, now| {
            let other = engine.child(to.0, to.1.as_bytes());
            let attrs = other.and_then(|node| engine.local(node)).map(|state| state.attrs);
            engine.rename(from, to, mode, now).map(|renamed| (renamed, attrs))
        })??;
        if let Some((file, inner)) = held
            && let Some((old, new)) = renamed.became.iter().find(|(old, _)| *old == inner.node)
        {
            inner.node = *new;
            self.files.detach(*old, file);
            self.files.attach(*new, file);
        }
        Ok((renamed, attrs))
    }

    /// Gives a file a staging file with all of its bytes. Refused if that would wait for the network.
    fn own(&self, inner: &mut Inner, overlay: &Overlay, ready: bool) -> Result<(), WriteError> {
        let (id, staging) = self.staging.create()?;
        self.unsynced_names.store(true, Ordering::Release);
        let generation = self.next_generation();
        let told = self.copied_whole(overlay, &StagingFile { id, file: Arc::new(staging) }).and_then(|whole| {
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

    fn copied_whole(&self, overlay: &Overlay, staging: &StagingFile) -> Result<Overlay, WriteError> {
        let mut whole = Overlay { staging: Some(staging.clone()), size: overlay.size, ..Overlay::empty() };
        let mut buf = vec![0; COPY_LEN];
        for segment in overlay.segments(0..overlay.size) {
            let range = segment.range();
            if matches!(segment, Segment::Zero(_)) {
                continue;
            }
            let mut offset = range.start;
            while offset < range.end {
                let part = &mut buf[..(range.end - offset).min(COPY_LEN as u64) as usize];
                match self.read_draft_local(overlay, offset, part)? {
                    Some(got) if got > 0 => {
                        at::write_all_at(&staging.file, &part[..got], offset)?;
                        offset += got as u64;
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
