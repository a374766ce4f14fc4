//! A commit request on its own: everything about it that can be judged without the folder's state.
//!
//! This runs before the transaction, on a blocking thread, so that the one writer only does what needs the state.

use super::ingest::file_hash_of;
use super::record::Beside;
use super::{Result, ServiceError};
use std::collections::{HashMap, HashSet};
use syncmount_common::manifest::FILE_SIZE_MAX;
use syncmount_common::node::{MODE_MASK, NAMES_MAX, NodeOwner};
use syncmount_common::protocol::changes::{Cursor, Device};
use syncmount_common::protocol::commit::{CommitRequest, NewContent, OPS_MAX, Op, TOUCHED_MAX};
use syncmount_common::protocol::session::Session;
use syncmount_common::{
    Attrs, ContentHash, Epoch, Extent, FileHash, Manifest, Name, NodeId, NodeKind, OpId, Owner, Placement,
    SymlinkTarget, Timestamp,
};

/// The longest name of a device, in characters.
const DEVICE_NAME_LEN_MAX: usize = 64;

/// A request that is sound in itself.
pub(super) struct Batch {
    pub(super) op_id: OpId,
    pub(super) epoch: Epoch,
    pub(super) device: Device,
    pub(super) session: Option<Session>,
    pub(super) known: Option<Cursor>,
    pub(super) contents: HashMap<ContentHash, Described>,
    /// What goes was found missing in a plain folder.
    pub(super) concluded: bool,
    /// When each operation was done; empty if that is not known.
    pub(super) times: Vec<Timestamp>,
    pub(super) beside: Beside,
    /// Owners of nodes that the operations make or change.
    pub(super) owners: HashMap<NodeId, Owner>,
    pub(super) ops: Vec<Op>,
}

/// A content that the request describes.
pub(super) struct Described {
    pub(super) manifest: Manifest,
    /// SHA-256 of the file where the manifest alone tells it. What the client tells beyond that is not kept.
    pub(super) sha256: Option<FileHash>,
}

impl Batch {
    pub(super) fn check(request: CommitRequest) -> Result<Self> {
        let CommitRequest {
            op_id,
            epoch,
            device,
            session,
            known,
            contents,
            changed: _,
            concluded,
            times,
            touched,
            versions,
            owners,
            ops,
        } = request;
        if ops.len() > OPS_MAX {
            return Err(ServiceError::TooLarge(format!("{} operations in one batch, at most {OPS_MAX}", ops.len())));
        }
        if !times.is_empty() && times.len() != ops.len() {
            return Err(ServiceError::Invalid(format!(
                "`times` has {} entries for {} operations",
                times.len(),
                ops.len()
            )));
        }
        if touched.len() > TOUCHED_MAX {
            return Err(ServiceError::TooLarge(format!(
                "{} touched directories, at most {TOUCHED_MAX}",
                touched.len()
            )));
        }
        let touched = touched.into_iter().map(|touched| (touched.dir, touched.mtime)).collect();
        let set = ops.iter().filter(|op| sets_attrs(op)).map(Op::id).collect();
        let removed: HashSet<NodeId> = ops.iter().filter(|op| is_removal(op)).map(Op::id).collect();
        if let Some(version) = versions.iter().find(|version| !removed.contains(&version.id)) {
            return Err(ServiceError::Invalid(format!(
                "`versions` names node {}, which the batch does not remove",
                version.id
            )));
        }
        let named = versions.len();
        let versions: HashMap<NodeId, Name> = versions.into_iter().map(|version| (version.id, version.of)).collect();
        if versions.len() < named {
            return Err(ServiceError::Invalid("`versions` names a node twice".to_owned()));
        }
        let beside = Beside { touched, set, versions };
        let owners = checked_owners(owners, &ops)?;
        check_device(&device)?;
        let mut seen = HashSet::new();
        for (index, op) in ops.iter().enumerate() {
            let fault = if seen.insert(op.id()) { op_fault(op) } else { Some("the node appears twice in the batch") };
            if let Some(fault) = fault {
                return Err(ServiceError::Invalid(format!("operation {index} on node {}: {fault}", op.id())));
            }
        }
        let contents = contents.into_iter().map(described).collect::<Result<_>>()?;
        Ok(Self { op_id, epoch, device, session, known, contents, concluded, times, beside, owners, ops })
    }
}

fn checked_owners(told: Vec<NodeOwner>, ops: &[Op]) -> Result<HashMap<NodeId, Owner>> {
    let named = told.len();
    if let Some(NodeOwner { id, .. }) = told.iter().find(|told| !told.owner.is_valid()) {
        return Err(ServiceError::Invalid(format!("`owners` gives node {id} an owner that cannot be")));
    }
    let owners: HashMap<NodeId, Owner> = told.into_iter().map(|told| (told.id, told.owner)).collect();
    if owners.len() < named {
        return Err(ServiceError::Invalid("`owners` names a node twice".to_owned()));
    }
    let changed: HashSet<NodeId> = ops.iter().filter(|op| !is_removal(op)).map(Op::id).collect();
    match owners.keys().find(|id| !changed.contains(id)) {
        Some(id) => Err(ServiceError::Invalid(format!("`owners` names node {id}, which the batch does not change"))),
        None => Ok(owners),
    }
}

fn is_removal(op: &Op) -> bool {
    matches!(op, Op::Remove { .. })
}

fn sets_attrs(op: &Op) -> bool {
    matches!(op, Op::Create { .. } | Op::Update { attrs: Some(_), .. })
}

fn check_device(device: &Device) -> Result<()> {
    let count = device.name.chars().count();
    let plain = !device.name.chars().any(char::is_control);
    if (1..=DEVICE_NAME_LEN_MAX).contains(&count) && plain {
        return Ok(());
    }
    Err(ServiceError::Invalid(format!(
        "a device's name has 1 to {DEVICE_NAME_LEN_MAX} characters and no control characters"
    )))
}

fn described(content: NewContent) -> Result<(ContentHash, Described)> {
    let NewContent { manifest, sha256 } = content;
    if manifest.size() > FILE_SIZE_MAX {
        let text = format!("a file of {} bytes: the largest has {FILE_SIZE_MAX}", manifest.size());
        return Err(ServiceError::Invalid(text));
    }
    let implied = implied_file_hash(&manifest);
    if let (Some(told), Some(implied)) = (sha256, implied)
        && told != implied
    {
        return Err(ServiceError::HashMismatch(format!(
            "the file's SHA-256 cannot be {told}: its bytes have {implied}"
        )));
    }
    Ok((manifest.content_hash(), Described { manifest, sha256: implied }))
}

/// The file's SHA-256 where the manifest alone tells it: a file of one chunk, or of nothing.
fn implied_file_hash(manifest: &Manifest) -> Option<FileHash> {
    match manifest.extents() {
        [] => Some(FileHash::of(b"")),
        [Extent::Chunk { hash, .. }] => Some(file_hash_of(hash)),
        _ => None,
    }
}

fn op_fault(op: &Op) -> Option<&'static str> {
    match op {
        Op::Create { id: NodeId::ROOT, .. } => Some("the root exists from the start"),
        Op::Remove { id: NodeId::ROOT, .. } => Some("the root cannot be removed"),
        Op::Update { id: NodeId::ROOT, names, content, .. } if names.is_some() || content.is_some() => {
            Some("the root can change its attributes only")
        }
        Op::Create { kind, names, attrs, content, target, .. } => names_fault(names, *kind)
            .or_else(|| attrs_fault(attrs))
            .or_else(|| parts_fault(*kind, content.as_ref(), target.as_ref())),
        Op::Update { names, attrs, .. } => {
            // What a node is, is known in the transaction only; a file may have the most names.
            let names = names.as_deref().and_then(|names| names_fault(names, NodeKind::File));
            names.or_else(|| attrs.as_ref().and_then(attrs_fault))
        }
        Op::Remove { .. } => None,
    }
}

/// What is wrong with the names of a node of this kind.
pub(super) fn names_fault(names: &[Placement], kind: NodeKind) -> Option<&'static str> {
    let mut seen = HashSet::new();
    match names {
        [] => Some("a node needs a name"),
        [_] => None,
        _ if kind == NodeKind::Dir => Some("a directory has one name"),
        many if many.len() > NAMES_MAX => Some("a node has at most 10,000 names"),
        many => (!many.iter().all(|place| seen.insert(place))).then_some("the same name is given twice"),
    }
}

fn attrs_fault(attrs: &Attrs) -> Option<&'static str> {
    (attrs.mode & !MODE_MASK != 0).then_some("the mode has bits beyond 0o7777")
}

fn parts_fault(kind: NodeKind, content: Option<&ContentHash>, target: Option<&SymlinkTarget>) -> Option<&'static str> {
    match (kind, content, target) {
        (NodeKind::File, Some(_), None) | (NodeKind::Symlink, None, Some(_)) | (NodeKind::Dir, None, None) => None,
        (NodeKind::File, _, _) => Some("a file has a content and no target"),
        (NodeKind::Symlink, _, _) => Some("a symlink has a target and no content"),
        (NodeKind::Dir, _, _) => Some("a directory has neither content nor target"),
    }
}
