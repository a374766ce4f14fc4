//! Files that the kernel shows by itself, kept in step with the open files whose bytes they are.

use super::prepare::holes_of;
use super::{Client, WriteError};
use crate::files::{Backing, Inner, OpenFile, Overlay, Shown, clear};
use crate::system::at;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::{Content, ContentHash, Extent};

/// Smaller files are read faster than the kernel is asked to show them …
const SHOWN_MIN: u64 = 256 * 1024;
/// … and of a larger one a copy for whoever changes it takes too long.
const SHOWN_MAX: u64 = 1024 * 1024 * 1024;

/// Bytes compared or written at a time.
const BLOCK_LEN: u64 = 1024 * 1024;

/// How long bytes of a new version are waited for, at a time.
const PATIENCE: Duration = Duration::from_secs(45);

/// How much of a new version is fetched ahead.
const AHEAD: u64 = 16 * 1024 * 1024;

/// What is done to the bytes of an open file.
pub(super) enum Change<'a> {
    /// These bytes are written at this offset.
    Bytes(u64, &'a [u8]),
    /// The file gets this size.
    Size(u64),
    /// These bytes become zeros, as far as the file goes.
    Zeros(Range<u64>),
    /// The bytes become those of a content.
    Shared,
    /// These bytes are taken over from a file that was changed through a mapping.
    Taken(&'a Arc<Shown>, Range<u64>),
}

/// The long holes of a content.
#[derive(Default)]
struct Holes {
    of: Option<ContentHash>,
    ranges: Vec<Range<u64>>,
}

impl Holes {
    /// Up to where a long hole of the file reaches that begins at `at`.
    fn long_at(&self, backing: &Backing, at: u64) -> io::Result<Option<u64>> {
        let is_known = self.of.is_some() && content_of(backing).map(|content| content.hash) == self.of;
        let ranges = if is_known { &self.ranges[..] } else { &[] };
        match backing {
            Backing::Clean(content) => Overlay::over(content.clone()).long_hole(at, ranges),
            Backing::Draft(overlay) => overlay.long_hole(at, ranges),
        }
    }
}

/// What a file is, or what lies beneath what was written.
const fn content_of(backing: &Backing) -> Option<&Arc<Content>> {
    match backing {
        Backing::Clean(content) => Some(content),
        Backing::Draft(overlay) => overlay.base.as_ref(),
    }
}

impl Client {
    /// The whole content of a file that is not being changed, to be shown; `None` if it is better read through here.
    pub fn to_show(&self, inner: &Inner) -> io::Result<Option<Shown>> {
        let Backing::Clean(content) = &inner.backing else { return Ok(None) };
        let is_fit = (SHOWN_MIN..=SHOWN_MAX).contains(&content.size);
        if !is_fit || inner.orphan.is_some() || inner.apart.is_some() {
            return Ok(None);
        }
        let claim = self.cache.claim(&content.hash)?;
        let claim = claim.filter(|claim| claim.file().metadata().is_ok_and(|data| data.len() == content.size));
        Ok(claim.map(Shown::new))
    }

    /// The file behind `shown` for whoever changes it. What is still needed of it stays in the cache.
    pub fn make_private(&self, shown: &Shown) -> io::Result<Arc<File>> {
        shown.make_private(|claim| {
            let copy = shown.is_in_step() || self.cache.is_kept(claim.hash());
            if copy {
                self.require_room(claim.size())?;
            }
            self.cache.take_away(claim, copy)
        })
    }

    /// Before the bytes of a file are changed: whatever shows it may be changed too.
    pub(super) fn make_shown_private(&self, inner: &mut Inner) -> io::Result<()> {
        if inner.shown.is_empty() {
            return Ok(());
        }
        inner.shown.retain(|shown| shown.is_mapped() || !shown.end_if_left());
        inner.shown.iter().try_for_each(|shown| self.make_private(shown).map(drop))
    }

    /// Does to what somebody may have mapped for writing what is about to be done to the bytes. It cannot be written anew
    /// without losing what was changed through the mapping; so if this fails, the change must not be made.
    pub(super) fn mirror_before(inner: &Inner, change: &Change<'_>) -> io::Result<()> {
        inner.shown.iter().filter(|shown| shown.is_mapped()).try_for_each(|shown| mirror(shown, change))
    }

    /// Does to whatever else shows the file what was done to its bytes.
    pub(super) fn mirror_after(inner: &Inner, change: &Change<'_>) {
        for shown in inner.shown.iter().filter(|shown| !shown.is_mapped()) {
            if let Err(error) = mirror(shown, change) {
                tracing::debug!(%error, "what the kernel shows of a file is written anew");
                shown.step_out(None);
            }
        }
    }

    /// Begins to write a file anew that is out of step with what it shows, unless somebody does so already.
    pub fn follow_later(self: &Arc<Self>, file: &Arc<OpenFile>, shown: &Arc<Shown>) {
        if !shown.begin_following() {
            return;
        }
        let (client, file, shown) = (self.clone(), file.clone(), shown.clone());
        self.runtime.spawn_blocking(move || {
            if let Err(error) = client.follow(&file, &shown) {
                tracing::debug!(%error, "what the kernel shows of a file stays behind for now");
            }
            shown.end_following();
        });
    }

    /// Writes a file anew that is out of step with what it shows. Blocks, also for the network.
    fn follow(self: &Arc<Self>, file: &OpenFile, shown: &Shown) -> Result<(), WriteError> {
        let (epoch, has) = shown.behind();
        let (target, backing) = {
            let inner = file.inner.write();
            (self.make_private(shown)?, inner.backing.clone())
        };
        let holes = self.holes_shown(&backing)?;
        for range in self.unlike(has.as_deref(), &backing)? {
            self.copy_to_shown(file, &target, range, &holes)?;
        }
        let inner = file.inner.write();
        target.set_len(inner.backing.size())?;
        shown.step_in(epoch);
        Ok(())
    }

    /// The parts in which the present bytes may differ from `has`.
    fn unlike(&self, has: Option<&Content>, backing: &Backing) -> Result<Vec<Range<u64>>, WriteError> {
        let all = || Vec::from_iter(std::iter::once(0..backing.size()));
        let (Some(has), Backing::Clean(content)) = (has, backing) else { return Ok(all()) };
        let Some(before) = self.manifest_here(has) else { return Ok(all()) };
        let before: HashSet<(u64, Extent)> = before.with_offsets().collect();
        let now = self.manifest(content, Instant::now() + PATIENCE)?;
        let new = now.with_offsets().filter(|extent| !before.contains(extent));
        Ok(new.map(|(start, extent)| start..start + extent.len()).collect())
    }

    /// The long holes of what a file is or is based on, as long as that is so.
    fn holes_shown(&self, backing: &Backing) -> Result<Holes, WriteError> {
        let Some(content) = content_of(backing) else { return Ok(Holes::default()) };
        let manifest = match self.manifest_here(content) {
            Some(manifest) => manifest,
            // Without knowing its holes, what is not large is read.
            None if content.size <= SHOWN_MAX => return Ok(Holes::default()),
            None => self.manifest(content, Instant::now() + PATIENCE)?,
        };
        Ok(Holes { of: Some(content.hash), ranges: holes_of(&manifest) })
    }

    fn copy_to_shown(
        self: &Arc<Self>,
        file: &OpenFile,
        target: &File,
        range: Range<u64>,
        holes: &Holes,
    ) -> Result<(), WriteError> {
        let mut buf = vec![0; BLOCK_LEN.min(range.end - range.start) as usize];
        let mut at = range.start;
        while at < range.end {
            let len = {
                // Nobody changes the bytes between the reading and the writing.
                let inner = file.inner.write();
                if let Some(end) = holes.long_at(&inner.backing, at)? {
                    let end = end.min(range.end);
                    clear(target, at..end)?;
                    at = end;
                    continue;
                }
                let len = inner.backing.size().saturating_sub(at).min(range.end - at).min(BLOCK_LEN) as usize;
                let here = self.read_here(&inner.backing, at, &mut buf[..len])?;
                if here {
                    at::write_all_at(target, &buf[..len], at)?;
                }
                if here { Ok(len) } else { Err((inner.backing.clone(), len)) }
            };
            match len {
                Ok(0) => break,
                Ok(len) => at += len as u64,
                Err((backing, len)) => {
                    self.fetch_for_shown(&backing, at, &mut buf[..len])?;
                }
            }
        }
        Ok(())
    }

    fn fetch_for_shown(self: &Arc<Self>, backing: &Backing, at: u64, buf: &mut [u8]) -> Result<(), WriteError> {
        let deadline = Instant::now() + PATIENCE;
        match backing {
            Backing::Clean(content) => self.read_content(content, at, buf, AHEAD, deadline)?,
            Backing::Draft(overlay) => self.read_draft(overlay, at, buf, deadline)?,
        };
        Ok(())
    }

    /// Fills `buf` if all of it is on this machine.
    fn read_here(&self, backing: &Backing, at: u64, buf: &mut [u8]) -> io::Result<bool> {
        let got = match backing {
            Backing::Clean(content) => self.read_local(content, at, buf)?,
            Backing::Draft(overlay) => self.read_draft_local(overlay, at, buf)?,
        };
        Ok(got == Some(buf.len()))
    }

    /// Takes over what was changed through mappings.
    pub fn take_mapped(&self, file: &Arc<OpenFile>) -> Result<(), WriteError> {
        let shown: Vec<Arc<Shown>> =
            file.inner.read().shown.iter().filter(|shown| shown.is_mapped()).cloned().collect();
        shown.iter().try_for_each(|shown| self.take_from(file, shown))
    }

    fn take_from(&self, file: &Arc<OpenFile>, shown: &Arc<Shown>) -> Result<(), WriteError> {
        let Some(private) = shown.private() else { return Ok(()) };
        let mut taken = shown.taken.lock();
        // What is written through a mapping from now on gives it another mtime.
        private.sync_data()?;
        let modified = private.metadata()?.modified()?;
        if taken.is_all(modified) || !shown.is_in_step() {
            return Ok(());
        }
        let (mut theirs, mut ours) = (vec![0; BLOCK_LEN as usize], vec![0; BLOCK_LEN as usize]);
        let mut at = 0;
        loop {
            let len = {
                let inner = file.inner.read();
                let len = inner.backing.size().saturating_sub(at).min(BLOCK_LEN) as usize;
                at::read_exact_at(&private, &mut theirs[..len], at)?;
                let same = self.read_here(&inner.backing, at, &mut ours[..len])? && theirs[..len] == ours[..len];
                if same { Ok(len as u64) } else { Err(len as u64) }
            };
            match len {
                Ok(0) => break,
                Ok(len) => at += len,
                Err(len) => {
                    self.take_block(file, shown, &private, at..at + len)?;
                    at += len;
                }
            }
        }
        taken.note(modified);
        Ok(())
    }

    fn take_block(
        &self,
        file: &Arc<OpenFile>,
        shown: &Arc<Shown>,
        private: &File,
        range: Range<u64>,
    ) -> Result<(), WriteError> {
        self.edit(file, &Change::Taken(shown, range.clone()), |inner| {
            let Backing::Draft(overlay) = &mut inner.backing else { return Ok(()) };
            let end = range.end.min(overlay.size);
            if range.start >= end || !shown.is_in_step() {
                return Ok(());
            }
            let mut bytes = vec![0; (end - range.start) as usize];
            at::read_exact_at(private, &mut bytes, range.start)?;
            let staging = overlay.staging.as_ref().ok_or_else(|| io::Error::other("a draft without a staging file"))?;
            at::write_all_at(&staging.file, &bytes, range.start)?;
            overlay.wrote(range.start..end);
            Ok(())
        })
    }
}

fn mirror(shown: &Arc<Shown>, change: &Change<'_>) -> io::Result<()> {
    let file = shown.private().ok_or(io::ErrorKind::Unsupported)?;
    match change {
        Change::Bytes(offset, data) => at::write_all_at(&file, data, *offset),
        Change::Size(size) => file.set_len(*size),
        Change::Zeros(range) => clear(&file, range.clone()),
        Change::Shared => {
            // Nothing but this content has been there before.
            shown.step_out(None);
            Ok(())
        }
        Change::Taken(source, _) if Arc::ptr_eq(source, shown) => Ok(()),
        Change::Taken(source, range) => {
            let source = source.private().ok_or(io::ErrorKind::Unsupported)?;
            let mut bytes = vec![0; (range.end - range.start) as usize];
            at::read_exact_at(&source, &mut bytes, range.start)?;
            at::write_all_at(&file, &bytes, range.start)
        }
    }
}
