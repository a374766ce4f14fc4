//! Storing a file through the plain file API: streamed through the chunker, hashed in the same pass, then one commit.

use super::files::info;
use super::path::{Walk, walk};
use super::{BATCH_LEN, Fresh, Ingest, Path, Precondition, Result, Service, ServiceError, WEB_DEVICE};
use bytes::{Bytes, BytesMut};
use std::convert::Infallible;
use syncmount_common::chunker::{ChunkSizes, Chunker};
use syncmount_common::hash::FileHasher;
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::commit::{CommitRequest, NewContent, Op};
use syncmount_common::protocol::files::FileInfo;
use syncmount_common::{
    Attrs, ChunkHash, Extent, FileHash, Manifest, Name, NodeId, NodeKind, Placement, Timestamp, Xattrs, envelope,
};

/// Bytes gathered before they are hashed and cut on another thread.
const PIECE_LEN: usize = 512 * 1024;

/// How often a commit is planned again because somebody else changed the tree meanwhile.
pub(super) const ATTEMPTS_MAX: usize = 16;

const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;

/// A file on its way in.
pub struct Upload {
    service: Service,
    target: Target,
    gathered: BytesMut,
    cutter: Option<Cutter>,
    extents: Vec<Extent>,
    ingest: Ingest,
}

/// Where an upload goes and under which conditions.
#[derive(Clone)]
struct Target {
    folder: String,
    path: Path,
    precondition: Precondition,
    mtime: Option<Timestamp>,
}

/// The chunker and the hasher travel to the blocking thread and back.
struct Cutter {
    chunker: Chunker,
    hasher: FileHasher,
}

struct Sealed {
    hash: ChunkHash,
    len: u32,
    envelope: Bytes,
}

impl Cutter {
    fn cut(&mut self, bytes: &[u8]) -> Vec<Sealed> {
        self.hasher.update(bytes);
        let mut out = Vec::new();
        let Ok(()) = self.chunker.push(bytes, |chunk| seal(chunk, &mut out));
        out
    }

    fn finish(mut self) -> (Vec<Sealed>, FileHash) {
        let mut out = Vec::new();
        let Ok(()) = self.chunker.finish(|chunk| seal(chunk, &mut out));
        (out, self.hasher.finish())
    }
}

fn seal(chunk: &[u8], out: &mut Vec<Sealed>) -> std::result::Result<(), Infallible> {
    let (hash, len) = (ChunkHash::of(chunk), chunk.len() as u32);
    out.push(Sealed { hash, len, envelope: envelope::seal(chunk).into() });
    Ok(())
}

impl Service {
    /// Begins to store a file. What can be refused already, is, before any byte is taken. `size` is the size that the
    /// sender announces, if it does.
    pub async fn upload(
        &self,
        folder: &str,
        path: &Path,
        precondition: Precondition,
        mtime: Option<Timestamp>,
        size: Option<u64>,
    ) -> Result<Upload> {
        let target = Target { folder: folder.to_owned(), path: path.clone(), precondition, mtime };
        let early = target.clone();
        self.read(move |tx| early.check(&walk(tx, &early.folder, &early.path)?)).await?;
        let chunker = Chunker::new(ChunkSizes::for_content(size.unwrap_or(0)));
        let cutter = Some(Cutter { chunker, hasher: FileHasher::default() });
        let (gathered, extents, ingest) = (BytesMut::new(), Vec::new(), self.ingest());
        Ok(Upload { service: self.clone(), target, gathered, cutter, extents, ingest })
    }

    /// Makes a directory and those above it that are missing; `false` if it is there already.
    pub async fn make_directory(&self, folder: &str, path: &Path) -> Result<(FileInfo, bool)> {
        for _ in 0..ATTEMPTS_MAX {
            let (name, way) = (folder.to_owned(), path.clone());
            let walk = self.read(move |tx| walk(tx, &name, &way)).await?;
            if let Some(node) = &walk.node {
                return if node.kind == NodeKind::Dir {
                    Ok((info(path.name().cloned(), node.clone()), false))
                } else {
                    Err(ServiceError::PathConflict(format!("`{path}` exists and is no directory")))
                };
            }
            let (ops, _) = self.make_ways(&walk, path.names());
            match self.commit_fresh(folder, self.web_request(&walk, Vec::new(), ops), Fresh::default()).await {
                Ok(_) => return Ok((self.info(folder, path).await?, true)),
                Err(ServiceError::Conflict(_)) => (),
                Err(error) => return Err(error),
            }
        }
        Err(too_busy(path))
    }

    /// Operations that make the directories `names` from the walk's end on; and the last one's id.
    fn make_ways(&self, walk: &Walk, names: &[Name]) -> (Vec<Op>, NodeId) {
        let mut parent = walk.parent;
        let mut ops = Vec::new();
        for name in names.get(walk.depth..).unwrap_or_default() {
            let id = self.0.environment.node_id();
            let names = vec![Placement { parent, name: name.clone() }];
            let attrs = Attrs { mode: DIR_MODE, mtime: self.0.environment.now() };
            ops.push(Op::Create {
                id,
                base: 0,
                kind: NodeKind::Dir,
                names,
                attrs,
                xattrs: Xattrs::default(),
                content: None,
                target: None,
            });
            parent = id;
        }
        (ops, parent)
    }

    /// A commit of the plain file API.
    pub(super) fn web_request(&self, walk: &Walk, contents: Vec<NewContent>, ops: Vec<Op>) -> CommitRequest {
        CommitRequest {
            op_id: self.0.environment.op_id(),
            epoch: walk.folder.epoch,
            device: web_device(),
            session: None,
            known: None,
            contents,
            changed: Vec::new(),
            concluded: false,
            times: Vec::new(),
            touched: Vec::new(),
            owners: Vec::new(),
            versions: Vec::new(),
            ops,
        }
    }
}

/// What the plain file API does is told as this device's.
pub(super) fn web_device() -> Device {
    Device { id: WEB_DEVICE.0, name: WEB_DEVICE.1.to_owned() }
}

pub(super) fn too_busy(path: &Path) -> ServiceError {
    ServiceError::Busy(format!("others keep changing `{path}`: try again"))
}

impl Target {
    fn check(&self, walk: &Walk) -> Result<()> {
        if self.path.name().is_none() {
            return Err(ServiceError::MethodNotAllowed("the root is a directory and cannot be a file".to_owned()));
        }
        if let Some(node) = walk.node.as_ref().filter(|node| node.kind != NodeKind::File) {
            let kind = if node.kind == NodeKind::Dir { "a directory" } else { "a symlink" };
            return Err(ServiceError::MethodNotAllowed(format!("`{}` is {kind} and cannot take bytes", self.path)));
        }
        self.precondition.check(walk.node.as_ref())
    }
}

impl Upload {
    /// Memory that taking in a file of this size needs, in bytes: what is gathered, cut, sealed and stored at a time.
    pub fn cost(size: Option<u64>) -> u64 {
        let longest = ChunkSizes::for_content(size.unwrap_or(0)).max as u64;
        let all = 2 * longest + (PIECE_LEN + BATCH_LEN) as u64;
        size.map_or(all, |size| all.min(3 * size))
    }

    /// Takes the next bytes.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE_LEN { self.cut().await } else { Ok(()) }
    }

    /// All bytes are there: stores the file. Tells whether the path is new.
    pub async fn finish(mut self) -> Result<(FileInfo, bool)> {
        self.cut().await?;
        let cutter = self.cutter.take().ok_or(ServiceError::Panicked)?;
        let (sealed, sha256) = self.service.0.offload.run(move || cutter.finish()).await?;
        self.take(sealed).await?;
        let manifest = Manifest::new(std::mem::take(&mut self.extents))
            .map_err(|error| ServiceError::TooLarge(error.to_string()))?;
        let hashed = Some((manifest.content_hash(), sha256));
        let content = NewContent { manifest, sha256: None };
        let fresh = Fresh { hashed, ..self.ingest.finish().await? };
        store(&self.service, &self.target, &content, &fresh).await
    }

    async fn cut(&mut self) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let bytes = self.gathered.split().freeze();
        let mut cutter = self.cutter.take().ok_or(ServiceError::Panicked)?;
        let job = move || {
            let sealed = cutter.cut(&bytes);
            (cutter, sealed)
        };
        let (cutter, sealed) = self.service.0.offload.run(job).await?;
        self.cutter = Some(cutter);
        self.take(sealed).await
    }

    async fn take(&mut self, sealed: Vec<Sealed>) -> Result<()> {
        for Sealed { hash, len, envelope } in sealed {
            self.extents.push(Extent::Chunk { hash, len });
            self.ingest.add_sealed(hash, envelope).await?;
        }
        Ok(())
    }
}

/// Commits the file; plans again if somebody else was faster, as long as the precondition holds.
async fn store(service: &Service, target: &Target, content: &NewContent, fresh: &Fresh) -> Result<(FileInfo, bool)> {
    for _ in 0..ATTEMPTS_MAX {
        let way = target.clone();
        let walk = service.read(move |tx| walk(tx, &way.folder, &way.path)).await?;
        target.check(&walk)?;
        let ops = file_ops(service, target, &walk, content);
        let request = service.web_request(&walk, vec![content.clone()], ops);
        match service.commit_fresh(&target.folder, request, fresh.clone()).await {
            Ok(_) => return Ok((service.info(&target.folder, &target.path).await?, walk.node.is_none())),
            Err(ServiceError::Conflict(_)) => (),
            Err(error) => return Err(error),
        }
    }
    Err(too_busy(&target.path))
}

fn file_ops(service: &Service, target: &Target, walk: &Walk, content: &NewContent) -> Vec<Op> {
    let mtime = target.mtime.unwrap_or_else(|| service.0.environment.now());
    let content = Some(content.manifest.content_hash());
    if let Some(node) = &walk.node {
        let attrs = Some(Attrs { mode: node.attrs.mode, mtime });
        return vec![Op::Update { id: node.id, base: node.rev, names: None, attrs, xattrs: None, content }];
    }
    let names = target.path.names();
    let Some((name, directories)) = names.split_last() else { return Vec::new() };
    let (mut ops, parent) = service.make_ways(walk, directories);
    let names = vec![Placement { parent, name: name.clone() }];
    let (id, attrs) = (service.0.environment.node_id(), Attrs { mode: FILE_MODE, mtime });
    ops.push(Op::Create {
        id,
        base: 0,
        kind: NodeKind::File,
        names,
        attrs,
        xattrs: Xattrs::default(),
        content,
        target: None,
    });
    ops
}
