//! Contents told by how they differ from what the server has: a small change of a huge file costs no list of all its chunks.

use super::Client;
use std::sync::Arc;
use syncmount_common::delta::{self, Delta, EXTENTS_MIN, EXTENTS_SUM_MAX};
use syncmount_common::protocol::commit::{ChangedContent, CommitRequest, NewContent, Op};
use syncmount_common::{Content, ContentHash, NodeId};

/// So many files that get a content are asked what they had before, and so many that the same batch removes: editors save so.
const FORMER_MAX: usize = 4;

impl Client {
    /// The same batch with large contents told by their differences; `None` if the server does not take that or nothing is
    /// gained. What the server makes of it is checked there: if it cannot, the batch as it was is to be sent.
    pub(super) async fn told_by_differences(self: &Arc<Self>, request: &CommitRequest) -> Option<CommitRequest> {
        let large = |content: &NewContent| content.manifest.extents().len() >= EXTENTS_MIN;
        if !request.contents.iter().any(large) || !self.remote.takes_content_deltas() {
            return None;
        }
        let (client, mut request) = (self.clone(), request.clone());
        let work = move || {
            client.tell_differences(&mut request);
            (!request.changed.is_empty()).then_some(request)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a batch is sent as it is");
            None
        })
    }

    fn tell_differences(&self, request: &mut CommitRequest) {
        let mut room = EXTENTS_SUM_MAX;
        for content in std::mem::take(&mut request.contents) {
            let count = content.manifest.extents().len();
            let changed = if count <= room { self.difference(&content, &request.ops, &mut room) } else { None };
            match changed {
                Some(changed) => {
                    request.changed.push(changed);
                }
                None => request.contents.push(content),
            }
        }
    }

    /// The smallest difference to what the content's file had before, or to what the batch removes. Both the manifests that
    /// are built and those that are read take from `room`.
    fn difference(&self, content: &NewContent, ops: &[Op], room: &mut usize) -> Option<ChangedContent> {
        let count = content.manifest.extents().len();
        if count < EXTENTS_MIN {
            return None;
        }
        let name = content.manifest.content_hash();
        let (base, extents, told) = self
            .former(&name, ops)
            .into_iter()
            .filter(|base| base.hash != name)
            .filter_map(|base| {
                let manifest = self.manifest_here(&base).filter(|manifest| manifest.extents().len() <= *room)?;
                let told = delta::between(&manifest, &content.manifest)?;
                Some((base.hash, manifest.extents().len(), told))
            })
            .min_by_key(|(_, _, told)| told.len())?;
        *room -= count.max(extents);
        Some(ChangedContent { content: name, base, delta: Delta(told), sha256: content.sha256 })
    }

    /// What the server has in the places of a content.
    fn former(&self, name: &ContentHash, ops: &[Op]) -> Vec<Arc<Content>> {
        let named = |op: &&Op| match op {
            Op::Create { content, .. } | Op::Update { content, .. } => content.as_ref() == Some(name),
            Op::Remove { .. } => false,
        };
        let gone = |op: &&Op| matches!(op, Op::Remove { .. });
        let nodes =
            ops.iter().filter(named).take(FORMER_MAX).chain(ops.iter().filter(gone).take(FORMER_MAX)).map(Op::id);
        let nodes: Vec<NodeId> = nodes.collect();
        self.look(|engine| {
            nodes.iter().filter_map(|id| engine.entry(*id)?.synced_state()?.body.content().cloned()).collect()
        })
    }
}
