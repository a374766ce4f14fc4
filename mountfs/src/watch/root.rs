//! Whether the root of a watched folder is what it was at the last look. The only place that may say so.
//!
//! What is missing in another directory, or beneath a disk that is not mounted, was removed by no user. So before anything
//! follows from what lies in the folder, its path must lead to the very directory that is open, with its marker in it. A
//! directory that is the same and lacks its marker gets that again. As long as the path leads elsewhere, nothing is done; the
//! folder is back when its path leads to a directory of the same identity that has its marker.

use super::beneath::Root;
use super::folder::Folder;
use super::host::Host;
use super::marker::{Marker, MarkerError};
use std::io;
use std::path::Path;

/// What is known of the root.
pub(crate) struct Standing {
    marker: Marker,
    /// What the disk calls it.
    file: u64,
    /// The directory that is open has been proved to be it. One that was opened since may be that of another disk, which may
    /// call its root the same.
    is_open_proved: bool,
    /// Why nothing may follow from it, as long as that is so.
    pub(crate) paused: Option<String>,
}

impl Standing {
    /// A root that is proved, with its marker.
    pub(crate) fn new(marker: Marker, file: u64) -> Self {
        Self { marker, file, is_open_proved: true, paused: None }
    }

    /// What the folder is called.
    pub(crate) fn id(&self) -> u64 {
        self.marker.id()
    }

    /// Looks at it.
    pub(crate) fn check(&mut self, root: &Root) {
        self.paused = match &self.paused {
            None => self.missing(root),
            Some(_) => self.still_missing(root),
        };
    }

    fn missing(&mut self, root: &Root) -> Option<String> {
        if root.is_reachable() {
            return None;
        }
        if !root.is_at_its_path() {
            return Some(elsewhere(root.path(), "another directory is there, or none"));
        }
        tracing::warn!("the marker of {} was taken away, and is made again", root.path().display());
        self.marker.give_again(root).err().map(|error| error.to_string())
    }

    fn still_missing(&mut self, root: &Root) -> Option<String> {
        if self.is_open_proved && root.is_at_its_path() {
            return self.missing(root);
        }
        let is_it = |root: &Root| Ok::<_, io::Error>(root.print(Path::new(""))?.is_some_and(|it| it.file == self.file));
        let found = Root::open(root.path()).and_then(|found| is_it(&found));
        match found {
            Ok(true) => {}
            Ok(false) => return Some(elsewhere(root.path(), "another directory is there")),
            Err(error) => return Some(elsewhere(root.path(), &error.to_string())),
        }
        // What was looked at may have been exchanged since: what is open from now on is asked.
        let followed = root.reopen().and_then(|()| is_it(root));
        self.is_open_proved = false;
        match followed {
            Ok(true) => match self.marker.follow(root) {
                Ok(()) => {
                    self.is_open_proved = true;
                    None
                }
                Err(error) => Some(returned(root.path(), &error)),
            },
            Ok(false) => Some(elsewhere(root.path(), "another directory is there")),
            Err(error) => Some(elsewhere(root.path(), &error.to_string())),
        }
    }

    /// Takes the directory that is at the path of the root for it, and gives what the disk calls that. An error is a sentence.
    pub(crate) fn accept<H: Host>(&mut self, folder: &Folder<H>) -> Result<u64, String> {
        let root = &folder.root;
        if self.paused.is_some() || !root.is_at_its_path() {
            root.reopen().map_err(|error| elsewhere(root.path(), &error.to_string()))?;
            self.is_open_proved = false;
            self.paused = Some(elsewhere(root.path(), "another directory is there"));
        }
        self.marker.give_again(root).map_err(|error| returned(root.path(), &error))?;
        self.file = folder.root_file().map_err(|error| error.to_string())?;
        self.is_open_proved = true;
        self.paused = None;
        Ok(self.file)
    }
}

fn elsewhere(path: &Path, what: &str) -> String {
    format!(
        "{path} is not what it was ({what}). Is its disk mounted? Nothing is sent, fetched or removed until it is back. If what is \
         there is to be the folder, run `syncmount accept {path}`: it is compared with what the server has, and nothing is removed",
        path = path.display()
    )
}

fn returned(path: &Path, error: &MarkerError) -> String {
    match error {
        // A confined process reaches only what was there when it started.
        MarkerError::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => format!(
            "{path} is there again, on a disk that this process may not reach, because it is confined to what was there when it \
             started: end it with `syncmount umount {path}`, and start again",
            path = path.display()
        ),
        error => error.to_string(),
    }
}
