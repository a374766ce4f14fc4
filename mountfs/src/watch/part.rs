//! The file in which a content is put together before it takes its place.

use super::beneath::Spot;
use super::folder::Job;
use super::index::Known;
use super::modes::without_setid;
use super::platform::{self, Print};
use std::fs::File;
use std::io;

/// What a file that was put together looks like.
#[derive(Clone, Copy, Debug)]
pub struct Part(pub(super) Print);

impl Part {
    /// Of what was put together for `job`: its mode and mtime are set, and it is synced.
    pub fn finish(job: &Job, file: &File) -> io::Result<Self> {
        let given = job.owner.map_or(Ok(()), |owner| platform::set_file_owner(file, owner));
        let mode = match given {
            Ok(()) => job.mode,
            // A disk that has no owners is no reason to lack the file, but it must not be executed as another one's.
            Err(error) => {
                tracing::debug!(part = ?job.part, %error, "it cannot be given to {:?}", job.owner);
                without_setid(job.mode)
            }
        };
        platform::set_file_mode(file, mode)?;
        platform::set_file_mtime(file, job.attrs.mtime)?;
        file.sync_all()?;
        Print::of_file(file).map(Self)
    }

    /// Makes the empty file for `job`.
    pub fn begin(job: &Job) -> io::Result<File> {
        job.part.create_private()
    }

    /// Removes the file for `job`, which has failed.
    pub fn clear(job: &Job) {
        if let Err(error) = job.part.remove_file() {
            tracing::warn!(part = ?job.part, %error, "cannot be removed");
        }
    }
}

/// Removes what was made to take a place and has not taken it.
pub(super) fn clear_part(part: &Spot, known: &Known) {
    let cleared = if *known == Known::Dir { part.remove_dir() } else { part.remove_file() };
    if let Err(error) = cleared
        && !platform::is_absent(&error)
    {
        tracing::warn!(?part, %error, "cannot be removed");
    }
}
