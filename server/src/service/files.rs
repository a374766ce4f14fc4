//! The plain file API's rules: what is at a path, its bytes, its versions.

use super::chunks::places;
use super::path::{existing, nothing_at, walk};
use super::{Path, Result, Service, ServiceError};
use crate::meta::ReadTx;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use std::ops::Range;
use syncmount_common::protocol::files::{FileInfo, Listing, Versions};
use syncmount_common::{
    ChunkHash, ContentHash, DeviceId, Extent, Manifest, Name, Node, NodeId, NodeKind, Placement, Seq,
};

/// The device that changes made through the plain file API are told as, and its name.
pub const WEB_DEVICE: (DeviceId, &str) = (DeviceId::from_bytes(*b"syncmount\0web\0\0\0"), "web");

/// Entries in one page of a listing.
const ENTRIES_MAX: usize = 10_000;

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
    pub manifest: Manifest,
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
        let (folder, path) = (folder.to_owned(), path.clone());
        self.read(move |tx| listing(tx, &folder, &path, after.as_ref(), limit)).await
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
        self.read(move |tx| match version {
            None => open(tx, &folder, &path),
            Some(rev) => open_version(tx, &folder, &path, rev),
        })
        .await
    }

    /// The bytes of a part of a content, which lies inside it.
    pub fn stream(&self, manifest: &Manifest, range: Range<u64>) -> Bytestream {
        let service = self.clone();
        let windows = windows(parts(manifest, &range));
        let bodies = futures::stream::iter(windows).then(move |window| {
            let service = service.clone();
            async move { service.window(window).await }
        });
        bodies.try_flatten().boxed()
    }

    async fn window(&self, window: Window) -> Result<Bytestream> {
        match window {
            Window::Zeros(len) => Ok(zeros(len)),
            Window::Chunks(parts) => {
                let hashes: Vec<ChunkHash> = parts.iter().map(|(hash, _)| *hash).collect();
                let places = self.read(move |tx| places(tx, hashes)).await?;
                let ranges = futures::stream::iter(parts.into_iter().map(|(_, range)| range));
                let bodies = self.bodies(places).zip(ranges);
                Ok(bodies.map(|(body, range)| Ok(body?.raw.slice(range))).boxed())
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
    let mut entries = tx.children(walk.folder.key, directory.id, after, limit + 1)?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let entries = entries.into_iter().map(|(name, node)| info(Some(name), node)).collect();
    Ok(Listing { directory: info(path.name().cloned(), directory), entries, more })
}

fn open(tx: &dyn ReadTx, folder: &str, path: &Path) -> Result<Opened> {
    let (_, node) = existing(tx, folder, path)?;
    let info = info(path.name().cloned(), node);
    let Some(content) = info.content else {
        return Err(ServiceError::MethodNotAllowed(format!(
            "`{path}` is no file and has no bytes; `?info` tells what it is"
        )));
    };
    opened(tx, info, content)
}

fn open_version(tx: &dyn ReadTx, folder: &str, path: &Path, rev: Seq) -> Result<Opened> {
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
    opened(tx, info, content)
}

fn opened(tx: &dyn ReadTx, info: FileInfo, content: ContentHash) -> Result<Opened> {
    let unknown = || ServiceError::NotFound(format!("the content {content} is not known"));
    let manifest = tx.manifest(&content)?.ok_or_else(unknown)?;
    Ok(Opened { info, content, manifest })
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
    Chunk(ChunkHash, Range<usize>),
}

enum Window {
    Zeros(u64),
    Chunks(Vec<(ChunkHash, Range<usize>)>),
}

fn parts(manifest: &Manifest, range: &Range<u64>) -> Vec<Part> {
    let cut = |(offset, extent): (u64, Extent)| {
        let start = range.start.max(offset) - offset;
        let end = range.end.min(offset + extent.len()).saturating_sub(offset);
        (start < end).then(|| match extent {
            Extent::Chunk { hash, .. } => Part::Chunk(hash, start as usize..end as usize),
            Extent::Hole { .. } => Part::Zeros(end - start),
        })
    };
    manifest.with_offsets().filter_map(cut).collect()
}

fn windows(parts: Vec<Part>) -> Vec<Window> {
    let mut windows = Vec::new();
    for part in parts {
        match (part, windows.last_mut()) {
            (Part::Zeros(len), _) => windows.push(Window::Zeros(len)),
            (Part::Chunk(hash, range), Some(Window::Chunks(chunks))) if chunks.len() < WINDOW => {
                chunks.push((hash, range));
            }
            (Part::Chunk(hash, range), _) => windows.push(Window::Chunks(vec![(hash, range)])),
        }
    }
    windows
}

fn zeros(len: u64) -> Bytestream {
    let pieces = futures::stream::unfold(len, |left| async move {
        let now = left.min(ZEROS.len() as u64);
        (now > 0).then(|| (Ok(Bytes::from_static(&ZEROS[..now as usize])), left - now))
    });
    pieces.boxed()
}
