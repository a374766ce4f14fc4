//! Undo: a folder as it was at an earlier sequence number, by new changes.
//!
//! Planned on a consistent view, then done as one commit ([`super::whole`]).

use super::commit::{Step, reference};
use super::record::counts;
use super::tokens::is_operator;
use super::upload::ATTEMPTS_MAX;
use super::whole::{Author, check_count};
use super::{Result, Service, ServiceError, folder};
use crate::meta::{Counts, MetaError, ReadTx};
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::undo::UndoReply;
use syncmount_common::{Attrs, ContentHash, DeviceId, Node, NodeKind, Seq, Xattrs};

/// The device that an undo's changes are told as, and its name.
pub const UNDO_DEVICE: (DeviceId, &str) = (DeviceId::from_bytes(*b"syncmount\0undo\0\0"), "undo");

impl Service {
    /// Brings a folder back to its state at `to`; or only counts what that would change. Asked for by an ordinary token, it
    /// is held back where a commit that removes as much would be.
    pub async fn undo(&self, folder: &str, to: Seq, dry_run: bool) -> Result<UndoReply> {
        let is_counted = !is_operator(self.2.as_ref());
        for _ in 0..ATTEMPTS_MAX {
            let name = folder.to_owned();
            let plan = self.read(move |tx| plan(tx, &name, to)).await?;
            if dry_run {
                return Ok(told(counts(&plan)));
            }
            // What an operator brings back is not counted as the deed of its token.
            match self.change_whole(folder, Author { device: device(), is_counted }, plan).await {
                Err(ServiceError::Conflict(_)) => (),
                end => return end.map(told),
            }
        }
        Err(ServiceError::Busy(format!("others keep changing the folder `{folder}`: undo it again")))
    }
}

/// What undoes, as a device.
pub(super) fn device() -> Device {
    Device { id: UNDO_DEVICE.0, name: UNDO_DEVICE.1.to_owned() }
}

pub(super) const fn told(counts: Counts) -> UndoReply {
    UndoReply { created: counts.created, changed: counts.changed, removed: counts.removed }
}

fn plan(tx: &dyn ReadTx, name: &str, to: Seq) -> Result<Vec<Step>> {
    let folder = folder(tx, name)?;
    let known = tx.history_from(folder.key)?..=folder.seq;
    if !known.contains(&to) {
        let (first, last) = known.into_inner();
        return Err(ServiceError::Invalid(format!(
            "the history of the folder `{name}` goes from {first} to {last}; it cannot go back to {to}"
        )));
    }
    let states = tx.states_at(folder.key, to)?;
    check_count(states.len())?;
    let mut steps = Vec::new();
    for (id, then) in states {
        let now = tx.node(folder.key, id)?.ok_or(MetaError::Damaged("a node with a past has no row"))?;
        steps.extend(step(now, then.filter(|node| !node.deleted)));
    }
    Ok(steps)
}

/// From the present state to the wanted one; none if they are the same.
pub(super) fn step(now: Node, wanted: Option<Node>) -> Option<Step> {
    let Some(Node { names, attrs, xattrs, content, target, .. }) = wanted else {
        let (names, xattrs, content, target, deleted) = (Vec::new(), Xattrs::default(), None, None, true);
        let after = Node { names, xattrs, content, target, deleted, ..now };
        return (!now.deleted).then_some(Step { before: Some(now), after, renamed: true });
    };
    let renamed = now.deleted || now.names != names;
    // A directory is as new as the newest change of its entries, which may be this one.
    let is_dir_here = now.kind == NodeKind::Dir && !now.deleted;
    let attrs = if is_dir_here { Attrs { mtime: now.attrs.mtime, ..attrs } } else { attrs };
    let content = content.map(|content| reference(content.hash));
    let same = !renamed
        && now.attrs == attrs
        && now.xattrs == xattrs
        && now.target == target
        && hash(&now) == content.as_ref().map(|it| it.hash);
    let after = Node { names, attrs, xattrs, content, target, deleted: false, ..now };
    (!same).then_some(Step { before: Some(now), after, renamed })
}

pub(super) fn hash(node: &Node) -> Option<ContentHash> {
    node.content.as_ref().map(|content| content.hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FIRST_FOLDER as F;
    use crate::service::Environment;
    use futures::FutureExt as _;
    use std::collections::{BTreeMap, HashSet};
    use std::sync::atomic::{AtomicU64, Ordering};
    use syncmount_common::protocol::commit::{CommitRequest, NewContent, Op};
    use syncmount_common::{Manifest, Name, NodeId, Placement, SymlinkTarget, Timestamp};

    /// The numbers of one seed.
    struct Rng(u64);

    impl Rng {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) as usize) % bound
        }

        fn place(&mut self, nodes: &[Node]) -> Placement {
            let directories: Vec<_> = nodes.iter().filter(|node| node.kind == NodeKind::Dir).collect();
            let parent = self.below(directories.len() + 1).checked_sub(1).map_or(NodeId::ROOT, |at| directories[at].id);
            Placement { parent, name: Name::try_from(["a", "b", "c", "d"][self.below(4)]).unwrap() }
        }

        fn attrs(&mut self) -> Attrs {
            Attrs { mode: 0o600 + self.below(8) as u32, mtime: Timestamp(self.below(3) as i64) }
        }

        fn create(&mut self, id: NodeId, base: u64, kind: NodeKind, place: Placement) -> Op {
            let target = SymlinkTarget::new(vec![b'x'; 1 + self.below(3)]).ok().filter(|_| kind == NodeKind::Symlink);
            let content = (kind == NodeKind::File).then(|| Manifest::default().content_hash());
            Op::Create {
                id,
                base,
                kind,
                names: vec![place],
                attrs: self.attrs(),
                xattrs: Xattrs::default(),
                content,
                target,
            }
        }

        /// Operations on what is there; many are refused, which changes nothing.
        fn ops(&mut self, nodes: &[Node]) -> Vec<Op> {
            let count = 1 + self.below(4);
            let mut touched = HashSet::new();
            let ops = (0..count).map(|_| self.op(nodes));
            ops.filter(|op| touched.insert(op.id())).collect()
        }

        fn op(&mut self, nodes: &[Node]) -> Op {
            let place = self.place(nodes);
            let known = self.below(nodes.len().max(1));
            match (self.below(8), nodes.get(known)) {
                (0..=2, Some(node)) if node.deleted => self.create(node.id, node.rev, node.kind, place),
                (0..=2, Some(node)) => {
                    // Half of the renames take a name that somebody has.
                    let others = nodes[self.below(nodes.len())].names.first().cloned();
                    let names = Some(vec![others.filter(|_| known.is_multiple_of(2)).unwrap_or(place)]);
                    Op::Update { id: node.id, base: node.rev, names, attrs: None, xattrs: None, content: None }
                }
                (3, Some(node)) => Op::Update {
                    id: node.id,
                    base: node.rev,
                    names: None,
                    attrs: Some(self.attrs()),
                    xattrs: None,
                    content: None,
                },
                (4 | 5, Some(node)) => Op::Remove { id: node.id, base: node.rev },
                (_, _) => {
                    let kind = [NodeKind::Dir, NodeKind::Dir, NodeKind::File, NodeKind::Symlink][self.below(4)];
                    let id = NodeId::from_bytes([0; 16].map(|_: u8| self.below(256) as u8));
                    self.create(id, 0, kind, place)
                }
            }
        }
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("a service in memory answers at once")
    }

    fn service() -> Service {
        let state = AtomicU64::new(1);
        let random = move |bytes: &mut [u8]| {
            let next = |_: &u8| (state.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
            bytes.iter_mut().for_each(|byte| *byte = next(byte));
        };
        now(Service::in_memory(Environment::new(|| Timestamp(1), random))).unwrap()
    }

    fn nodes(service: &Service) -> Vec<Node> {
        now(service.changes(F, None, 10_000, 0)).unwrap().page.nodes
    }

    type State = (Vec<Placement>, Attrs, Option<SymlinkTarget>);

    fn tree(service: &Service) -> BTreeMap<NodeId, State> {
        let live = nodes(service).into_iter().filter(|node| !node.deleted);
        // A directory is as new as the newest change of its entries, and that is the undo.
        let mtime = |node: &Node| if node.kind == NodeKind::Dir { Timestamp(0) } else { node.attrs.mtime };
        let attrs = |node: &Node| Attrs { mtime: mtime(node), ..node.attrs };
        live.map(|node| (node.id, (node.names.clone(), attrs(&node), node.target))).collect()
    }

    fn commit(service: &Service, ops: Vec<Op>) -> Result<()> {
        let epoch = now(service.folder(F))?.cursor.epoch;
        let device = Device { id: DeviceId::from_bytes([7; 16]), name: "laptop".to_owned() };
        let contents = vec![NewContent { manifest: Manifest::default(), sha256: None }];
        let request = CommitRequest {
            op_id: service.0.environment.op_id(),
            epoch,
            device,
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
        };
        now(service.commit(F, request, Vec::new())).map(drop)
    }

    #[test]
    fn any_state_comes_back_in_one_commit() {
        let (mut done, mut changed) = (0, 0);
        for seed in 0..100 {
            let (service, mut rng) = (service(), Rng(seed));
            let mut states = BTreeMap::from([(0, tree(&service))]);
            for _ in 0..60 {
                let ops = rng.ops(&nodes(&service));
                done += usize::from(commit(&service, ops).is_ok());
                states.insert(now(service.folder(F)).unwrap().cursor.seq, tree(&service));
            }
            for _ in 0..6 {
                let (seq, then) = states.iter().nth(rng.below(states.len())).unwrap();
                let before = now(service.history(F, usize::MAX)).unwrap().len();
                let reply = now(service.undo(F, *seq, false)).unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
                let nodes = reply.created + reply.changed + reply.removed;
                let commits = now(service.history(F, usize::MAX)).unwrap().len() - before;
                assert_eq!(commits, usize::from(nodes > 0), "seed {seed}: {reply:?}");
                changed += nodes;
                let same = tree(&service).into_iter().filter(|(id, _)| *id != NodeId::ROOT).eq(then.clone());
                assert!(same, "seed {seed}: the state at {seq} has not come back");
            }
        }
        assert!(done > 1500 && changed > 1500, "{done}, {changed}: the worlds are too tame");
    }
}
