//! The plain file API's rules: what is at a path, its bytes, its versions.

use super::bodies::Wanted;
use super::path::{existing, nothing_at, walk};
use super::{Path, Result, Service, ServiceError};
use crate::meta::ReadTx;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use std::ops::Range;
use std::sync::Arc;
use syncmount_common::protocol::files::{FileInfo, Listing, Versions};
use syncmount_common::{ContentHash, DeviceId, Extent, Manifest, Name, Node, NodeId, NodeKind, Placement, Seq};

/// The device that changes made through the plain file API are told as, and its name.
pub const WEB_DEVICE: (DeviceId, &str) = (DeviceId::from_bytes(*b"syncmount\0web\0\0\0"), "web");

/// Entries in one page of a listing.
const ENTRIES_MAX: usize = 10_000;

/// Bytes that an entry takes in memory and in the reply.
const ENTRY_COST: u64 = 1024;

/// Entries that are read at once.
const ENTRIES_AT_ONCE: usize = 16;

const VERSIONS_MAX: usize = 1000;

/// Chunks of a download whose places are looked up at once: about 16 MiB of file.
const WINDOW: usize = 64;

/// A hole is sent as zeros in pieces of this many bytes.
const ZEROS: &[u8] = &[0; 64 * 1024];

/// The bytes of a file as they are read.
pub type Bytestream = BoxStream<'static, Result<Bytes>>;

/// A file that is to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// What is known about it.
    pub info: FileInfo,
    /// Names its bytes.
    pub content: ContentHash,
    /// What they consist of.
    pub manifest: Arc<Manifest>,
}

/// A list of entity tags as a request gives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tags {
    /// `*`: anything that exists.
    Any,
    /// One of these.
    Of(Vec<Tag>),
}

/// One entity tag. A weak one never matches where bytes are to be replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tag {
    /// What is between the quotes.
    pub value: String,
    /// Whether it was given with `W/`.
    pub weak: bool,
}

impl Tags {
    fn hold(&self, content: Option<ContentHash>) -> bool {
        match self {
            Self::Any => content.is_some(),
            Self::Of(tags) => {
                content.is_some_and(|hash| tags.iter().any(|tag| !tag.weak && tag.value == hash.to_string()))
            }
        }
    }
}

/// What must hold for a change to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Precondition {
    /// The present content must be one of these.
    pub if_match: Option<Tags>,
    /// The present content must be none of these.
    pub if_none_match: Option<Tags>,
}

impl Precondition {
    /// `there` is what is at the path: its content, or for what has none, that of the empty tag.
    pub(super) fn check(&self, there: Option<&Node>) -> Result<()> {
        let hash =
            there.map(|node| node.content.as_ref().map_or(ContentHash::from_bytes([0; 32]), |content| content.hash));
        if self.if_match.as_ref().is_some_and(|tags| !tags.hold(hash)) {
            let text = "`If-Match` does not hold: the file has changed or is gone, read it again";
            return Err(ServiceError::PreconditionFailed(text.to_owned()));
        }
        if self.if_none_match.as_ref().is_some_and(|tags| tags.hold(hash)) {
            let text = "`If-None-Match` does not hold: the file exists";
            return Err(ServiceError::PreconditionFailed(text.to_owned()));
        }
        Ok(())
    }
}

impl Service {
    /// What is known about what is at a path.
    pub async fn info(&self, folder: &str, path: &Path) -> Result<FileInfo> {
        let (folder, path) = (folder.to_owned(), path.clone());
        self.read(move |tx| {
            let (_, node) = existing(tx, &folder, &path)?;
            Ok(info(path.name().cloned(), node))
        })
        .await
    }

    /// The entries of a directory after the name `after`.
    pub async fn list(&self, folder: &str, path: &Path, after: Option<Name>, limit: usize) -> Result<Listing> {
        if !(1..=ENTRIES_MAX).contains(&limit) {
            return Err(ServiceError::Invalid(format!("`limit` is 1 to {ENTRIES_MAX}")));
        }
        let (name, path) = (folder.to_owned(), path.clone());
        let nodes = self.folder(folder).await?.nodes;
        let charge = self.1.charge(ENTRY_COST * nodes.min(limit as u64)).await?;
        self.1.keep(charge.clone());
        self.read(move |tx| {
            let _charge = charge;
            listing(tx, &name, &path, after.as_ref(), limit)
        })
        .await
    }

    /// The versions of what is or was at a path.
    pub async fn versions(&self, folder: &str, path: &Path) -> Result<Versions> {
        let (folder, path) = (folder.to_owned(), path.clone());
        self.read(move |tx| {
            let (key, node, place) = history(tx, &folder, &path)?;
            let versions = tx.versions(key, node.unwrap_or(NOBODY), &place, VERSIONS_MAX)?;
            if versions.is_empty() && node.is_none() { Err(nothing_at(&path)) } else { Ok(Versions { versions }) }
        })
        .await
    }

    /// Opens a file, or one of its versions.
    pub async fn open(&self, folder: &str, path: &Path, version: Option<Seq>) -> Result<Opened> {
        let (folder, path) = (folder.to_owned(), path.clone());
        let found = self.read(move |tx| match version {
            None => open(tx, &folder, &path),
            Some(rev) => open_version(tx, &folder, &path, rev),
        });
        let (info, content) = found.await?;
        let unknown = || ServiceError::NotFound(format!("the content {content} is not known"));
        let manifest = self.known_manifest(content).await?.ok_or_else(unknown)?;
        Ok(Opened { info, content, manifest: Arc::new(manifest) })
    }

    /// The bytes of a part of a content, which lies inside it.
    pub fn stream(&self, manifest: &Arc<Manifest>, range: Range<u64>) -> Bytestream {
        let service = self.clone();
        let windows = windows(parts(Arc::clone(manifest), range));
        let bodies = futures::stream::iter(windows).then(move |window| {
            let service = service.clone();
            async move { service.window(window).await }
        });
        self.while_admitted(bodies.try_flatten()).boxed()
    }

    async fn window(&self, window: Window) -> Result<Bytestream> {
        match window {
            Window::Zeros(len) => Ok(zeros(len)),
            Window::Chunks(parts) => {
                let (wanted, ranges): (Vec<Wanted>, Vec<_>) = parts.into_iter().unzip();
                let bodies = self.raw_bodies(wanted).zip(futures::stream::iter(ranges));
                Ok(bodies.map(|(body, range)| Ok(body?.1.slice(range))).boxed())
            }
        }
    }
}

/// No node has this id: the root's, which has no content.
const NOBODY: NodeId = NodeId::ROOT;

pub(super) fn info(name: Option<Name>, node: Node) -> FileInfo {
    let content = node.content;
    FileInfo {
        name,
        id: node.id,
        kind: node.kind,
        rev: node.rev,
        mode: node.attrs.mode,
        mtime: node.attrs.mtime,
        size: content.as_ref().map_or(0, |content| content.size),
        sha256: content.as_ref().and_then(|content| content.sha256),
        content: content.as_ref().map(|content| content.hash),
        target: node.target,
    }
}

fn listing(tx: &dyn ReadTx, folder: &str, path: &Path, after: Option<&Name>, limit: usize) -> Result<Listing> {
    let (walk, directory) = existing(tx, folder, path)?;
    if directory.kind != NodeKind::Dir {
        return Err(ServiceError::MethodNotAllowed(format!("`{path}` is no directory and has no entries")));
    }
    let mut entries: Vec<FileInfo> = Vec::new();
    let mut after = after.cloned();
    // A few at a time: of the extended attributes, which may be long, nothing is told.
    while entries.len() <= limit {
        let wanted = ENTRIES_AT_ONCE.min(limit + 1 - entries.len());
        let found = tx.children(walk.folder.key, directory.id, after.as_ref(), wanted)?;
        let whole = found.len() == wanted;
        entries.extend(found.into_iter().map(|(name, node)| info(Some(name), node)));
        if !whole {
            break;
        }
        after = entries.last().and_then(|entry| entry.name.clone());
    }
    let more = entries.len() > limit;
    entries.truncate(limit);
    Ok(Listing { directory: info(path.name().cloned(), directory), entries, more })
}

fn open(tx: &dyn ReadTx, folder: &str, path: &Path) -> Result<(FileInfo, ContentHash)> {
    let (_, node) = existing(tx, folder, path)?;
    let info = info(path.name().cloned(), node);
    let Some(content) = info.content else {
        return Err(ServiceError::MethodNotAllowed(format!(
            "`{path}` is no file and has no bytes; `?info` tells what it is"
        )));
    };
    Ok((info, content))
}

fn open_version(tx: &dyn ReadTx, folder: &str, path: &Path, rev: Seq) -> Result<(FileInfo, ContentHash)> {
    let (key, node, place) = history(tx, folder, path)?;
    let node_id = node.unwrap_or(NOBODY);
    let unknown = || ServiceError::NotFound(format!("`{path}` has no version {rev}; `?versions` lists what there is"));
    let content = tx.version(key, node_id, &place, rev)?.ok_or_else(unknown)?;
    let row = tx.content(&content)?.ok_or_else(unknown)?;
    let versions = tx.versions(key, node_id, &place, VERSIONS_MAX)?;
    let mtime = versions.iter().find(|version| version.rev == rev).map(|version| version.mtime).unwrap_or_default();
    let (name, kind, mode) = (path.name().cloned(), NodeKind::File, 0);
    let (size, sha256, content_hash, target) = (row.size, row.sha256, Some(content), None);
    let info = FileInfo { name, id: node_id, kind, rev, mode, mtime, size, sha256, content: content_hash, target };
    Ok((info, content))
}

/// What is at a path now, if anything is, and the path as a placement: what was there before may be gone.
fn history(tx: &dyn ReadTx, folder: &str, path: &Path) -> Result<(crate::meta::FolderKey, Option<NodeId>, Placement)> {
    let walk = walk(tx, folder, path)?;
    let place = walk.placement(path).ok_or_else(|| nothing_at(path))?;
    Ok((walk.folder.key, walk.node.map(|node| node.id), place))
}

/// A part of a content: zeros, or a part of a chunk.
enum Part {
    Zeros(u64),
    Chunk(Wanted, Range<usize>),
}

enum Window {
    Zeros(u64),
    Chunks(Vec<(Wanted, Range<usize>)>),
}

/// The parts of a content within `range`, cut one after another: a manifest may have a million extents.
fn parts(manifest: Arc<Manifest>, range: Range<u64>) -> impl Iterator<Item = Part> + Send + 'static {
    let (mut index, mut offset) = (0, 0);
    std::iter::from_fn(move || {
        while let Some(extent) = manifest.extents().get(index).filter(|_| offset < range.end) {
            let start = range.start.max(offset) - offset;
            let end = range.end.min(offset + extent.len()) - offset;
            index += 1;
            offset += extent.len();
            if start < end {
                return Some(match *extent {
                    Extent::Chunk { hash, len } => Part::Chunk((hash, len), start as usize..end as usize),
                    Extent::Hole { .. } => Part::Zeros(end - start),
                });
            }
        }
        None
    })
}

fn windows(parts: impl Iterator<Item = Part> + Send + 'static) -> impl Iterator<Item = Window> + Send + 'static {
    let mut parts = parts.peekable();
    std::iter::from_fn(move || {
        let mut chunks = Vec::new();
        while chunks.len() < WINDOW
            && let Some(part) = parts.next_if(|part| chunks.is_empty() || matches!(part, Part::Chunk(..)))
        {
            match part {
                Part::Zeros(len) => return Some(Window::Zeros(len)),
                Part::Chunk(wanted, range) => chunks.push((wanted, range)),
            }
        }
        (!chunks.is_empty()).then_some(Window::Chunks(chunks))
    })
}

fn zeros(len: u64) -> Bytestream {
    let pieces = futures::stream::unfold(len, |left| async move {
        let now = left.min(ZEROS.len() as u64);
        (now > 0).then(|| (Ok(Bytes::from_static(&ZEROS[..now as usize])), left - now))
    });
    pieces.boxed()
}
