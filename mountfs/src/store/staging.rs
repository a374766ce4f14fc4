//! The files that hold bytes which exist nowhere else yet.
//!
//! Promises: an id is never given twice, nothing is removed unless the caller says so, and what cannot be used any more goes
//! to `lost+found` with the reason, where its owner finds it. Must not know whose bytes they are.

use super::disk;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The largest id of a staging file; larger numbers are free for other uses.
pub const STAGING_ID_MAX: u64 = u64::MAX >> 1;

const STAGING: &str = "staging";
const LOST: &str = "lost+found";
const INDEX: &str = "INDEX";

/// The staging files of one client.
#[derive(Debug)]
pub struct StagingDir {
    staging: PathBuf,
    lost: PathBuf,
}

/// A staging file found in the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Staged {
    /// Its id.
    pub id: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// A file that was set aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    /// Where it lies.
    pub path: PathBuf,
    /// What it was.
    pub label: String,
    /// Its length in bytes.
    pub len: u64,
    /// Why.
    pub reason: String,
}

impl StagingDir {
    /// Opens or makes `staging` and `lost+found` in `dir`.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let new = Self { staging: dir.join(STAGING), lost: dir.join(LOST) };
        disk::create_private_dir(&new.staging)?;
        disk::create_private_dir(&new.lost)?;
        Ok(new)
    }

    /// Makes an empty file under a new id. Its name is durable only after [`StagingDir::sync`].
    pub fn create(&self) -> io::Result<(u64, File)> {
        loop {
            let id = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))? & STAGING_ID_MAX;
            match OpenOptions::new().read(true).write(true).create_new(true).open(self.path(id)) {
                Ok(file) => {
                    disk::holes::allow(&file);
                    return Ok((id, file));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens an existing file for reading and writing.
    pub fn file(&self, id: u64) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path(id))
    }

    /// Where the file lies, to be renamed into the cache.
    pub fn path(&self, id: u64) -> PathBuf {
        self.staging.join(name_of(id))
    }

    /// Removes a file whose bytes are safe elsewhere. One that is gone already is no error.
    pub fn remove(&self, id: u64) -> io::Result<()> {
        disk::remove_if_there(&self.path(id)).map(|_| ())
    }

    /// All files, in the order of their ids.
    pub fn list(&self) -> io::Result<Vec<Staged>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.staging)? {
            let entry = entry?;
            if let Some(id) = entry.file_name().to_str().and_then(id_of) {
                found.push(Staged { id, len: entry.metadata()?.len() });
            }
        }
        found.sort_by_key(|staged| staged.id);
        Ok(found)
    }

    /// Makes the names of all files durable.
    pub fn sync(&self) -> io::Result<()> {
        disk::sync_dir(&self.staging)
    }

    /// Moves a file to `lost+found` and notes why. `label` says what it was, for people; it becomes part of the name.
    /// Durable when this returns. Tells where the file lies now.
    pub fn set_aside(&self, id: u64, label: &str, reason: &str) -> io::Result<PathBuf> {
        let name = format!("{}-{}", name_of(id), harmless(label));
        let (from, to) = (self.path(id), self.lost.join(&name));
        disk::sync_file(&from)?;
        // The note first: a note without a file is a riddle, a file without a note is a loss.
        self.note(&name, fs::metadata(&from)?.len(), reason, label)?;
        disk::rename(&from, &to)?;
        disk::sync_dir(&self.lost)?;
        disk::sync_dir(&self.staging)?;
        Ok(to)
    }

    /// What has been set aside at any time and still lies there, the oldest first.
    pub fn lost(&self) -> io::Result<Vec<Lost>> {
        let index = disk::if_there(fs::read_to_string(self.lost.join(INDEX)))?.unwrap_or_default();
        Ok(index.lines().filter_map(|line| self.lost_in(line)).collect())
    }

    fn lost_in(&self, line: &str) -> Option<Lost> {
        let mut parts = line.splitn(4, '\t');
        let (name, len, reason) = (parts.next()?, parts.next()?, parts.next()?);
        let len = len.split(' ').next()?.parse().ok()?;
        let path = self.lost.join(name);
        // Written by an earlier version, a line ends here.
        let label = parts.next().unwrap_or(name).to_owned();
        path.exists().then(|| Lost { path, label, len, reason: reason.to_owned() })
    }

    fn note(&self, name: &str, len: u64, reason: &str, label: &str) -> io::Result<()> {
        let mut index = OpenOptions::new().append(true).create(true).open(self.lost.join(INDEX))?;
        let line = format!("{name}\t{len} bytes\t{}\t{}\n", one_line(reason), one_line(label));
        index.write_all(line.as_bytes())?;
        index.sync_all()
    }

    /// The directory of what was set aside.
    pub fn lost_and_found(&self) -> &Path {
        &self.lost
    }

    /// Bytes that these files and those in `lost+found` take from the disk.
    pub fn stored_bytes(&self) -> io::Result<u64> {
        Ok(disk::stored_in(&self.staging)? + disk::stored_in(&self.lost)?)
    }

    /// Bytes that may still be written here.
    pub fn free_bytes(&self) -> io::Result<u64> {
        disk::free_bytes(&self.staging)
    }

    /// An error of the kind `StorageFull` unless `len` bytes can be written and `reserve` bytes are left then.
    pub fn ensure_free(&self, len: u64, reserve: u64) -> io::Result<()> {
        let free = self.free_bytes()?;
        if free >= len.saturating_add(reserve) { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }
}

fn name_of(id: u64) -> String {
    format!("{id:016x}")
}

fn id_of(name: &str) -> Option<u64> {
    let id = u64::from_str_radix(name, 16).ok()?;
    (name_of(id) == name).then_some(id)
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The end of a label as part of a file name: no separators, and short enough.
fn harmless(label: &str) -> String {
    let clean: Vec<char> =
        label.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    clean[clean.len().saturating_sub(48)..].iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_found_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let staging = StagingDir::open(dir.path()).unwrap();
        let (first, mut file) = staging.create().unwrap();
        file.write_all(b"hello").unwrap();
        let (second, _) = staging.create().unwrap();
        assert_ne!(first, second);
        fs::write(dir.path().join("staging/not-ours"), b"").unwrap();
        let again = StagingDir::open(dir.path()).unwrap();
        let mut expected = [Staged { id: first, len: 5 }, Staged { id: second, len: 0 }];
        expected.sort_by_key(|staged| staged.id);
        assert_eq!(again.list().unwrap(), expected);
        assert_eq!(again.file(first).unwrap().metadata().unwrap().len(), 5);
        again.remove(first).unwrap();
        again.remove(first).unwrap();
        assert!(again.file(first).is_err());
        again.sync().unwrap();
    }

    #[test]
    fn what_is_set_aside_is_kept_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let staging = StagingDir::open(dir.path()).unwrap();
        let (id, mut file) = staging.create().unwrap();
        file.write_all(b"precious").unwrap();
        let path = staging.set_aside(id, "../Docs/a\nletter.odt", "shorter than\nits record").unwrap();
        assert_eq!(path.parent(), Some(staging.lost_and_found()));
        assert!(path.to_str().unwrap().ends_with("-.._Docs_a_letter.odt"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let index = fs::read_to_string(staging.lost_and_found().join(INDEX)).unwrap();
        assert!(index.ends_with("8 bytes\tshorter than its record\t../Docs/a letter.odt\n"));
        assert_eq!(index.lines().count(), 1);
        let reason = "shorter than its record".to_owned();
        let lost = Lost { path: path.clone(), label: "../Docs/a letter.odt".to_owned(), len: 8, reason };
        let again = StagingDir::open(dir.path()).unwrap();
        assert_eq!(again.lost().unwrap(), [lost]);
        disk::remove_if_there(&path).unwrap();
        assert_eq!(again.lost().unwrap(), []);
        assert_eq!(staging.list().unwrap(), []);
        assert!(staging.set_aside(id, "", "").is_err());
    }

    #[test]
    fn long_labels_still_make_a_file_name() {
        assert!(harmless(&"ä/".repeat(500)).len() <= 200);
    }

    #[test]
    fn a_full_disk_is_noticed_before() {
        let dir = tempfile::tempdir().unwrap();
        let staging = StagingDir::open(dir.path()).unwrap();
        staging.ensure_free(0, 0).unwrap();
        assert_eq!(staging.ensure_free(u64::MAX, 1).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
