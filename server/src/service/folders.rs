//! Folders: what there is, and how a new one begins.

use super::history::end;
use super::{CursorKey, Result, Service, ServiceError, folder};
use crate::meta::{FolderRow, ReadTx};
use syncmount_common::protocol::folders::{FolderInfo, FolderList};
use syncmount_common::{Attrs, DeviceId, FolderId, Node, NodeId, NodeKind, Xattrs};

/// The longest name of a folder, in bytes.
pub const FOLDER_NAME_LEN_MAX: usize = 64;

const ROOT_MODE: u32 = 0o755;

impl Service {
    /// All folders.
    pub async fn folders(&self) -> Result<FolderList> {
        let (free, key) = (self.free_bytes(), self.0.environment.cursor_key());
        let list = move |tx: &dyn ReadTx| tx.folders()?.into_iter().map(|row| info(tx, row, free, &key)).collect();
        Ok(FolderList { folders: self.read(list).await? })
    }

    /// One folder.
    pub async fn folder(&self, name: &str) -> Result<FolderInfo> {
        let name = name.to_owned();
        let (free, key) = (self.free_bytes(), self.0.environment.cursor_key());
        self.read(move |tx| info(tx, folder(tx, &name)?, free, &key)).await
    }

    /// Makes a folder; `false` if there is one of that name.
    pub async fn add_folder(&self, name: &str) -> Result<bool> {
        check_name(name)?;
        let (id, epoch, now) = (self.0.environment.folder_id(), self.0.environment.epoch(), self.0.environment.now());
        let root = root(Attrs { mode: ROOT_MODE, mtime: now });
        let name = name.to_owned();
        self.write(move |tx| Ok(tx.add_folder(id, &name, epoch, &root)?)).await
    }

    fn free_bytes(&self) -> Option<u64> {
        self.0.room.free_bytes()
    }
}

fn info(tx: &dyn ReadTx, row: FolderRow, free_bytes: Option<u64>, key: &CursorKey) -> Result<FolderInfo> {
    let cursor = end(tx, &row, key)?;
    let stopped = tx.holds(row.key)?.into_iter().filter(|(.., hold)| hold.stops());
    let held = stopped.map(|(_, device, hold)| hold.told(device)).collect();
    let FolderRow { id, name, nodes, bytes, .. } = row;
    Ok(FolderInfo { id, name, cursor, nodes, bytes, free_bytes, held })
}

/// The root exists from the start. Its rev is 0 until somebody changes its attributes: the feed does not tell of it.
fn root(attrs: Attrs) -> Node {
    let nobody = DeviceId::from_bytes([0; 16]);
    Node {
        id: NodeId::ROOT,
        rev: 0,
        kind: NodeKind::Dir,
        deleted: false,
        names: Vec::new(),
        attrs,
        xattrs: Xattrs::default(),
        content: None,
        target: None,
        author: nobody,
        content_rev: 0,
        content_author: nobody,
        changed: None,
    }
}

/// A folder's name is part of URLs and of what people type. It is no id: the id of a folder would mean another one then.
fn check_name(name: &str) -> Result<()> {
    if name.parse::<FolderId>().is_ok() {
        return Err(ServiceError::Invalid(format!("`{name}` has the form of a folder's id and cannot be a name")));
    }
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let dots = matches!(name, "." | "..");
    if (1..=FOLDER_NAME_LEN_MAX).contains(&name.len()) && plain && !dots {
        return Ok(());
    }
    Err(ServiceError::Invalid(format!(
        "a folder's name has 1 to {FOLDER_NAME_LEN_MAX} letters, digits, `-`, `_` or `.`"
    )))
}
