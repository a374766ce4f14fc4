//! The data directory: who may use it, what lies in it, and what is there from the start.
//!
//! `meta.sqlite`, `packs/`, `admin.token` (the first token, mode 0600) and `server.lock`, which keeps two servers apart.

use crate::FIRST_FOLDER;
use crate::blob::{BlobError, ObjectPacks};
use crate::meta::MetaError;
use crate::meta::sqlite::SqliteStore;
use crate::service::{Environment, Offload, Service, ServiceError};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DATABASE: &str = "meta.sqlite";
const PACKS: &str = "packs";
const LOCK: &str = "server.lock";
const ADMIN_TOKEN: &str = "admin.token";
const ADMIN: &str = "admin";

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
    /// Another server has it.
    #[error("another syncmount-server is running on {}: stop it first or use another directory", .0.display())]
    InUse(PathBuf),
    /// There is nothing there yet.
    #[error("{} holds no server's data: start `syncmount-server --data {}` first", .0.display(), .0.display())]
    Missing(PathBuf),
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
        let lock = lock(directory)?;
        make_private(&directory.join(PACKS))?;
        let service = open(directory)?;
        service.add_folder(FIRST_FOLDER).await?;
        let admin_token = directory.join(ADMIN_TOKEN);
        if service.tokens().await?.is_empty() {
            first_token(&service, &admin_token).await?;
        }
        service.measure_small_chunks().await?;
        Ok(Self { service, admin_token, _lock: lock })
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

/// Keeps servers away from a data directory as long as it lives.
pub struct Lock {
    _file: File,
}

fn must_exist(directory: &Path) -> Result<(), DataError> {
    if directory.join(DATABASE).is_file() { Ok(()) } else { Err(DataError::Missing(directory.to_owned())) }
}

fn open(directory: &Path) -> Result<Service, DataError> {
    let path = directory.join(DATABASE);
    let meta = SqliteStore::open(&path).map_err(|source| DataError::Meta { path, source })?;
    let packs = ObjectPacks::local(&directory.join(PACKS))?;
    let (meta, packs) = (Arc::new(meta), Arc::new(packs));
    Ok(Service::new(meta, packs, Environment::system(), Offload::Blocking, Some(directory.to_owned())))
}

/// The file is durable before the token is valid: a crash in between leaves a file that the next start replaces.
async fn first_token(service: &Service, path: &Path) -> Result<(), DataError> {
    let token = service.new_token();
    write_private(path, token.reveal()).map_err(io_error(path, "writing the first token"))?;
    service.enter_token(ADMIN, &token).await?;
    Ok(())
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> DataError {
    let path = path.to_owned();
    move |source| DataError::Io { path, what, source }
}

fn lock(directory: &Path) -> Result<File, DataError> {
    let path = directory.join(LOCK);
    let file = private_file(&path, false).map_err(io_error(&path, "opening the lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataError::InUse(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_error(&path, "locking")(source)),
    }
}

fn make_private(directory: &Path) -> Result<(), DataError> {
    make_durably(directory).map_err(io_error(directory, "making it"))
}

/// Makes a directory and what is missing above it. All of it survives a power cut when this returns.
fn make_durably(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(directory) {
        Ok(()) => {}
        Err(_) if directory.is_dir() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_durably(directory.parent().ok_or(error)?)?;
            builder.create(directory)?;
        }
        Err(error) => return Err(error),
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new(".")))
}

fn private_file(path: &Path, truncate: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(truncate);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn write_private(path: &Path, secret: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = private_file(&fresh, true)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Directories cannot be synced here; the rename is as durable as the platform makes it.
#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}
