//! The data directory: who may use it, what lies in it, and what is there from the start.
//!
//! `meta.sqlite`, `packs/`, `admin.token` (the first token, mode 0600), `cursor.key` (what the tags of cursors are made with;
//! not in the database, so that a database that is set back does not take it along), `ballast` (room for the day on which the disk
//! is full) and `server.lock`, which keeps two servers apart.

use crate::FIRST_FOLDER;
use crate::blob::{BlobError, ObjectPacks};
use crate::meta::MetaError;
use crate::meta::sqlite::SqliteStore;
use crate::private;
use crate::service::{self, CursorKey, Environment, Offload, Service, ServiceError};
use std::fs::{File, TryLockError};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use syncmount_common::{FolderId, Timestamp};

const DATABASE: &str = "meta.sqlite";
const PACKS: &str = "packs";
const LOCK: &str = "server.lock";
const ADMIN_TOKEN: &str = "admin.token";
const CURSOR_KEY: &str = "cursor.key";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refuses.
    #[error("cannot use the data directory {}: {what} failed: {source}; check that it is writable", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Others may write it, so they may replace what is in it, or lead what is made there elsewhere.
    #[error(
        "others may write the directory {}: take that right from them with `chmod go-w` (and give it to the server's user if \
         it is another's), or choose another directory",
        .0.display()
    )]
    Exposed(PathBuf),
    /// Another server has it.
    #[error("another syncmount-server is running on {}: stop it first or use another directory", .0.display())]
    InUse(PathBuf),
    /// This user may not look into it.
    #[error("you may not look into {}: {source}; run this as the user of the server, or as root", .directory.display())]
    NotAllowed {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing there yet.
    #[error("{} holds no server's data: start `syncmount-server --data {}` first", .0.display(), .0.display())]
    Missing(PathBuf),
    /// Something else has the name.
    #[error("{} is no directory: name another one with --data", .0.display())]
    NotADirectory(PathBuf),
    /// The key of cursors cannot be read.
    #[error("{} is damaged: put it back from a backup, or remove it and a new one is made at the next start", .0.display())]
    CursorKey(PathBuf),
    /// The metadata store does not open.
    #[error("cannot open the metadata in {}: {source}", .path.display())]
    Meta {
        /// The database.
        path: PathBuf,
        /// Why.
        source: MetaError,
    },
    /// The chunk store does not open.
    #[error("cannot open the chunks: {0}")]
    Blob(#[from] BlobError),
    /// The first folder or token cannot be made.
    #[error("cannot set up the server: {0}")]
    Service(#[from] ServiceError),
}

/// Notes in the database about a server that was there before the rules for new ones.
mod setting {
    /// The database was made by an earlier version, and no server of this one has run on it yet.
    pub(super) const UPGRADED: &str = "upgraded";
    /// Others might write the directory when the server was upgraded.
    pub(super) const EXPOSED_BEFORE: &str = "others-might-write";
    /// The address that other machines could reach when the server was upgraded.
    pub(super) const LISTENED_BEFORE: &str = "listened-on";
}

/// A data directory that this process serves.
pub struct Data {
    /// The service over it.
    pub service: Service,
    /// Where the first token is.
    pub admin_token: PathBuf,
    /// Held as long as the value lives.
    _lock: File,
}

impl Data {
    /// Takes a directory for a server; makes it if need be.
    pub async fn take(directory: &Path) -> Result<Self, DataError> {
        make_private(directory)?;
        let exposed = exposed(directory)?;
        let is_in_use = is_in_use(directory);
        if let Some(path) = exposed.clone().filter(|_| !is_in_use) {
            return Err(DataError::Exposed(path));
        }
        let lock = lock(directory)?;
        make_private(&directory.join(PACKS))?;
        if cursor_key(directory)?.is_none() {
            new_cursor_key(directory)?;
        }
        let service = open(directory)?;
        if let Some(path) = exposed {
            may_stay_exposed(&service, path).await?;
        }
        service.add_folder(FIRST_FOLDER).await?;
        warn_of_shadows(&service).await?;
        let admin_token = directory.join(ADMIN_TOKEN);
        if service.tokens().await?.is_empty() {
            first_token(&service, &admin_token).await?;
        }
        service.measure_small_chunks().await?;
        Ok(Self { service, admin_token, _lock: lock })
    }

    /// Whether the server may go on to listen at an address that other machines can reach, over plain HTTP: because it did
    /// so when it was upgraded from a version that did not ask.
    pub async fn may_listen_in_the_open(&self, address: IpAddr) -> Result<bool, DataError> {
        let address = address.to_string();
        if self.service.setting(setting::UPGRADED).await?.is_some() {
            self.service.set(setting::LISTENED_BEFORE, Some(address)).await?;
            return Ok(true);
        }
        Ok(self.service.setting(setting::LISTENED_BEFORE).await? == Some(address))
    }

    /// The server has begun: what was so when it was upgraded is noted, and from now on the rules for new servers hold.
    pub async fn end_upgrade(&self) -> Result<(), DataError> {
        Ok(self.service.set(setting::UPGRADED, None).await?)
    }

    /// Opens a directory that a server may be using, for one command.
    pub fn visit(directory: &Path) -> Result<Service, DataError> {
        must_exist(directory)?;
        open(directory)
    }

    /// Opens a directory that no server may be using, for one command; and keeps servers away as long as the lock lives.
    pub fn visit_alone(directory: &Path) -> Result<(Service, Lock), DataError> {
        must_exist(directory)?;
        let lock = lock(directory)?;
        Ok((open(directory)?, Lock { _file: lock }))
    }
}

/// Makes the data directory if it is missing, for this user only.
///
/// # Errors
/// It cannot be made or is not a directory.
pub fn make_directory(directory: &Path) -> Result<(), DataError> {
    make_private(directory)
}

/// Keeps servers away from a data directory as long as it lives.
pub struct Lock {
    _file: File,
}

fn must_exist(directory: &Path) -> Result<(), DataError> {
    let path = directory.join(DATABASE);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() => Ok(()),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(DataError::NotAllowed { directory: directory.to_owned(), source })
        }
        Ok(_) | Err(_) => Err(DataError::Missing(directory.to_owned())),
    }
}

/// Whether a server has used the directory: its database is there, and not planted by another user.
pub(crate) fn is_in_use(directory: &Path) -> bool {
    private::is_own_file(&directory.join(DATABASE)).unwrap_or(false)
}

/// A directory that others may write goes on if that was so when the server was upgraded from a version that did not ask.
async fn may_stay_exposed(service: &Service, path: PathBuf) -> Result<(), DataError> {
    if service.setting(setting::UPGRADED).await?.is_some() {
        service.set(setting::EXPOSED_BEFORE, Some(String::new())).await?;
    } else if service.setting(setting::EXPOSED_BEFORE).await?.is_none() {
        return Err(DataError::Exposed(path));
    }
    tracing::warn!(directory = %path.display(), "others may write this directory: take that right from them (`chmod go-w`)");
    Ok(())
}

/// Tells of folders that an earlier version let have the id of another one as their name.
async fn warn_of_shadows(service: &Service) -> Result<(), DataError> {
    let folders = service.folders().await?.folders;
    for (folder, id) in folders.iter().filter_map(|folder| Some((folder, folder.name.parse::<FolderId>().ok()?))) {
        if let Some(shadowed) = folders.iter().find(|other| other.id == id && other.id != folder.id) {
            let (name, own, shadowed) = (&folder.name, folder.id, &shadowed.name);
            tracing::warn!(name, id = %own, shadowed, "a folder has another one's id as its name; `urn:uuid:ID` means the other one");
        }
    }
    Ok(())
}

fn open(directory: &Path) -> Result<Service, DataError> {
    let path = directory.join(DATABASE);
    make_database(&path)?;
    let meta = SqliteStore::open(&path).map_err(|source| DataError::Meta { path, source })?;
    let packs = ObjectPacks::local(&directory.join(PACKS))?;
    let (meta, packs) = (Arc::new(meta), Arc::new(packs));
    // Without a server nothing is told to clients, so that a key of this process does.
    let environment = match cursor_key(directory)? {
        Some(key) => Environment::system().with_cursor_key(key),
        None => Environment::system(),
    };
    Ok(Service::new(meta, packs, environment, Offload::Blocking, Some(directory.to_owned())))
}

/// The key of cursors, if there is one yet.
fn cursor_key(directory: &Path) -> Result<Option<CursorKey>, DataError> {
    let path = directory.join(CURSOR_KEY);
    match std::fs::read_to_string(&path) {
        Ok(text) => CursorKey::from_text(&text).map(Some).ok_or(DataError::CursorKey(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(DataError::CursorKey(path)),
        Err(error) => Err(io_error(&path, "reading the key of cursors")(error)),
    }
}

/// Makes a key of cursors. It is durable before any cursor is told that is made with it.
fn new_cursor_key(directory: &Path) -> Result<(), DataError> {
    let (path, environment) = (directory.join(CURSOR_KEY), Environment::system());
    // With a new database there are no cursors of an earlier version that could be believed.
    let made = if directory.join(DATABASE).exists() { environment.now() } else { Timestamp(0) };
    let key = CursorKey::new(environment.random(), made);
    private::replace_file(&path, &key.to_text()).map_err(io_error(&path, "writing the key of cursors"))
}

/// The file is durable before the token is valid: a crash in between leaves a file that the next start replaces.
async fn first_token(service: &Service, path: &Path) -> Result<(), DataError> {
    let token = service.new_token();
    private::replace_file(path, token.reveal()).map_err(io_error(path, "writing the first token"))?;
    service.enter_token(service::ADMIN_TOKEN, &token).await?;
    Ok(())
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> DataError {
    let path = path.to_owned();
    move |source| DataError::Io { path, what, source }
}

fn lock(directory: &Path) -> Result<File, DataError> {
    let path = directory.join(LOCK);
    let file = private::open_or_make_file(&path).map_err(io_error(&path, "opening the lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataError::InUse(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_error(&path, "locking")(source)),
    }
}

fn make_private(directory: &Path) -> Result<(), DataError> {
    if std::fs::metadata(directory).is_ok_and(|found| !found.is_dir()) {
        return Err(DataError::NotADirectory(directory.to_owned()));
    }
    private::make_directory(directory).map_err(io_error(directory, "making it"))
}

/// The database's file, so that it is not made through a symlink that leads nowhere.
fn make_database(path: &Path) -> Result<(), DataError> {
    if path.exists() {
        return Ok(());
    }
    private::make_file(path).map(drop).map_err(io_error(path, "making the database"))
}

/// The first of the directories that others may write.
fn exposed(directory: &Path) -> Result<Option<PathBuf>, DataError> {
    for path in [directory.to_owned(), directory.join(PACKS)] {
        if path.exists() && private::others_may_write(&path).map_err(io_error(&path, "looking at it"))? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
