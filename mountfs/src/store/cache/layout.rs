//! Where the cache's files lie, and what is written beside a partial one.
//!
//! `objects/ab/HASH` is a whole content and is never written to again. `unverified/ab/HASH` was whole before the machine
//! went down and has to be read once before it counts. `partial/HASH` is sparse; `partial/HASH.map` says which extents of it
//! are there. The names are the index: there is no other.

use crate::store::disk;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use syncmount_common::{ContentHash, Manifest};

const OBJECTS: &str = "objects";
const UNVERIFIED: &str = "unverified";
const PARTIAL: &str = "partial";
const MAP: &str = "map";
/// Blocks of this size are what files take from nearly every disk.
const BLOCK_LEN: u64 = 4096;

pub(super) struct Layout {
    dir: PathBuf,
}

/// A whole content found in the directory.
pub(super) struct Found {
    pub(super) hash: ContentHash,
    pub(super) charge: u64,
    pub(super) accessed: SystemTime,
}

/// What the map of a partial content says.
#[derive(Serialize, Deserialize)]
pub(super) struct Map {
    manifest: Vec<u8>,
    /// One bit an extent.
    pub(super) present: Vec<u64>,
}

/// What bytes cost that were counted exactly.
pub(super) const fn charge_of_len(len: u64) -> u64 {
    len.next_multiple_of(BLOCK_LEN)
}

/// What the file at `path` takes from the disk.
pub(super) fn charge_of_file(path: &Path, metadata: &fs::Metadata) -> u64 {
    charge_of_len(disk::stored_bytes(path, metadata))
}

impl Layout {
    pub(super) fn open(dir: &Path, suspect: bool) -> io::Result<Self> {
        let layout = Self { dir: dir.to_owned() };
        disk::create_private_dir(dir)?;
        for part in [OBJECTS, UNVERIFIED, PARTIAL] {
            disk::create_private_dir(&dir.join(part))?;
        }
        if suspect {
            layout.distrust_all()?;
        }
        Ok(layout)
    }

    /// Whether the system tells who has a file here open.
    pub(super) fn tells_who_looks(&self) -> bool {
        disk::is_told_in(&self.dir.join(PARTIAL)).unwrap_or(false)
    }

    pub(super) fn object(&self, hash: &ContentHash) -> PathBuf {
        self.sharded(OBJECTS, hash)
    }

    pub(super) fn unverified(&self, hash: &ContentHash) -> PathBuf {
        self.sharded(UNVERIFIED, hash)
    }

    pub(super) fn partial(&self, hash: &ContentHash) -> PathBuf {
        self.dir.join(PARTIAL).join(hash.to_string())
    }

    fn map(&self, hash: &ContentHash) -> PathBuf {
        self.partial(hash).with_extension(MAP)
    }

    fn sharded(&self, part: &str, hash: &ContentHash) -> PathBuf {
        let name = hash.to_string();
        self.dir.join(part).join(&name[..2]).join(name)
    }

    /// Makes `from` the whole content `hash`.
    pub(super) fn make_object(&self, from: &Path, hash: &ContentHash) -> io::Result<()> {
        let to = self.object(hash);
        match disk::rename(from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(to.parent().unwrap_or(&self.dir))?;
                disk::rename(from, &to)
            }
            done => done,
        }
    }

    /// A copy of the whole content `hash`, in a file that the next start removes unless it gets a name of its own until then.
    pub(super) fn copy_object(&self, hash: &ContentHash) -> io::Result<PathBuf> {
        let path = self.partial(hash).with_extension("copy");
        let copied = File::open(self.object(hash)).and_then(|from| {
            let to = File::create(&path)?;
            disk::holes::allow(&to);
            let (len, mut buf) = (from.metadata()?.len(), Vec::new());
            to.set_len(len)?;
            for part in disk::holes::parts(&from, 0..len) {
                let (part, is_hole) = part?;
                if !is_hole {
                    buf.resize((part.end - part.start) as usize, 0);
                    disk::read_exact_at(&from, &mut buf, part.start)?;
                    disk::write_all_at(&to, &buf, part.start)?;
                }
            }
            disk::make_read_only(&to)
        });
        if let Err(error) = copied {
            disk::remove_if_there(&path)?;
            return Err(error);
        }
        Ok(path)
    }

    /// What there is of a content that may be read, whole or in parts.
    pub(super) fn stored(&self, hash: &ContentHash) -> Option<u64> {
        let stored = |path: PathBuf| Some(disk::stored_bytes(&path, &fs::metadata(&path).ok()?));
        stored(self.object(hash)).or_else(|| stored(self.partial(hash)))
    }

    /// A sparse file of `size` bytes with nothing in it yet.
    pub(super) fn create_partial(&self, hash: &ContentHash, size: u64) -> io::Result<File> {
        self.remove_map(hash)?;
        let path = self.partial(hash);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        disk::holes::allow(&file);
        file.set_len(size)?;
        Ok(file)
    }

    /// Removes whatever there is of a content. The order matters: a map never outlives its file, and a file that becomes
    /// whole at this moment is found under its new name.
    pub(super) fn remove(&self, hash: &ContentHash) -> io::Result<()> {
        self.remove_map(hash)?;
        for path in [self.partial(hash), self.object(hash), self.unverified(hash)] {
            disk::remove_if_there(&path)?;
        }
        Ok(())
    }

    pub(super) fn remove_partial(&self, hash: &ContentHash) -> io::Result<()> {
        self.remove_map(hash)?;
        disk::remove_if_there(&self.partial(hash)).map(|_| ())
    }

    pub(super) fn remove_map(&self, hash: &ContentHash) -> io::Result<()> {
        disk::remove_if_there(&self.map(hash)).map(|_| ())
    }

    /// Returns what the map takes from the disk.
    pub(super) fn save_map(&self, hash: &ContentHash, manifest: &Manifest, present: &[u64]) -> io::Result<u64> {
        let map = Map { manifest: manifest.encode(), present: present.to_vec() };
        let mut bytes = postcard::to_allocvec(&map).map_err(io::Error::other)?;
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        disk::replace(&self.map(hash), &bytes, false)?;
        Ok(charge_of_len(bytes.len() as u64))
    }

    /// The map of a partial content and the manifest in it; `None` if there is none that makes sense.
    pub(super) fn load_map(&self, hash: &ContentHash) -> io::Result<Option<(Manifest, Map)>> {
        let Some(bytes) = disk::if_there(fs::read(self.map(hash)))? else { return Ok(None) };
        let Some((body, crc)) = bytes.split_last_chunk() else { return Ok(None) };
        let intact = crc32fast::hash(body) == u32::from_le_bytes(*crc);
        let map: Option<Map> = if intact { postcard::from_bytes(body).ok() } else { None };
        let Some(map) = map.filter(|map| hash.matches(&map.manifest)) else { return Ok(None) };
        let manifest = Manifest::decode(&map.manifest).ok();
        let fits = |manifest: &Manifest| map.present.len() == manifest.extents().len().div_ceil(64);
        Ok(manifest.filter(fits).map(|manifest| (manifest, map)))
    }

    /// The machine went down: whole contents must be read before they count, partial ones are not worth it.
    fn distrust_all(&self) -> io::Result<()> {
        for shard in sub_dirs(&self.dir.join(OBJECTS))? {
            let target = self.dir.join(UNVERIFIED).join(shard.file_name().unwrap_or_default());
            fs::create_dir_all(&target)?;
            for entry in fs::read_dir(&shard)? {
                let entry = entry?;
                disk::rename(&entry.path(), &target.join(entry.file_name()))?;
            }
        }
        for entry in fs::read_dir(self.dir.join(PARTIAL))? {
            disk::remove_if_there(&entry?.path())?;
        }
        Ok(())
    }

    /// Removes partial contents without a map, and tells what the others take from the disk, and what their maps do.
    pub(super) fn settle_partials(&self) -> io::Result<Vec<(ContentHash, u64, u64)>> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(self.dir.join(PARTIAL))? {
            let entry = entry?;
            let path = entry.path();
            match hash_of(&path) {
                Some(hash) => match disk::if_there(fs::metadata(self.map(&hash)))? {
                    Some(map) => {
                        kept.push((hash, charge_of_file(&path, &entry.metadata()?), charge_of_len(map.len())));
                    }
                    None => drop(disk::remove_if_there(&path)?),
                },
                None if path.extension().is_some_and(|it| it == MAP) && path.with_extension("").exists() => {}
                _ => drop(disk::remove_if_there(&path)?),
            }
        }
        Ok(kept)
    }

    /// All partial contents.
    pub(super) fn partials(&self) -> io::Result<Vec<ContentHash>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.join(PARTIAL))? {
            found.extend(hash_of(&entry?.path()));
        }
        found.sort();
        Ok(found)
    }

    /// Calls `each` with every whole content until it says false.
    pub(super) fn scan(&self, mut each: impl FnMut(Found) -> bool) -> io::Result<()> {
        for part in [OBJECTS, UNVERIFIED] {
            for shard in sub_dirs(&self.dir.join(part))? {
                for entry in fs::read_dir(shard)? {
                    let entry = entry?;
                    let Some(hash) = hash_of(&entry.path()) else { continue };
                    let Some(metadata) = disk::if_there(entry.metadata())? else { continue };
                    let accessed = metadata.accessed().unwrap_or(SystemTime::UNIX_EPOCH);
                    if !each(Found { hash, charge: charge_of_file(&entry.path(), &metadata), accessed }) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

fn hash_of(path: &Path) -> Option<ContentHash> {
    path.file_name()?.to_str()?.parse().ok()
}

fn sub_dirs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}
