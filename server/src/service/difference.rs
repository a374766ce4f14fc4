//! Contents that are told by how they differ from others: rebuilt, checked and described in full before anything else looks at
//! them. What small requests may make the server build is bounded.

use super::{Result, Service, ServiceError};
use crate::meta::ReadTx;
use syncmount_common::delta::{self, DeltaError, EXTENTS_SUM_MAX};
use syncmount_common::protocol::commit::{ChangedContent, CommitRequest, MissingDetails, NewContent, OPS_MAX};

/// Bytes that an extent takes while its content is rebuilt and entered: itself, that of the other content, its encoding.
const EXTENT_COST: u64 = 120;

impl Service {
    /// The same request with every content described in full.
    pub(super) async fn with_whole_contents(&self, mut request: CommitRequest) -> Result<CommitRequest> {
        let changed = std::mem::take(&mut request.changed);
        if changed.len() > OPS_MAX {
            return Err(ServiceError::TooLarge(format!(
                "{} changed contents in one batch, at most {OPS_MAX}",
                changed.len()
            )));
        }
        if !changed.is_empty() {
            let extents =
                changed.iter().map(|changed| delta::stands_for(&changed.delta.0)).fold(0, u64::saturating_add);
            let charge = self.1.charge_manifests_soon(EXTENT_COST * extents.min(EXTENTS_SUM_MAX as u64)).await?;
            self.1.keep(charge);
            request.contents.extend(self.read(move |tx| whole(tx, changed)).await?);
        }
        Ok(request)
    }
}

fn whole(tx: &dyn ReadTx, changed: Vec<ChangedContent>) -> Result<Vec<NewContent>> {
    let (mut read, mut built) = (EXTENTS_SUM_MAX, EXTENTS_SUM_MAX);
    let mut missing = MissingDetails::default();
    let mut contents = Vec::with_capacity(changed.len());
    for ChangedContent { content, base, delta, sha256 } in changed {
        let Some(base) = tx.manifest(&base)? else {
            missing.contents.push(content);
            continue;
        };
        let refused = |error| refusal(error, &content.to_string());
        read = read.checked_sub(base.extents().len()).ok_or_else(|| refused(DeltaError::TooLarge))?;
        let manifest = delta::apply(&base, &delta.0, &content, built).map_err(refused)?;
        built -= manifest.extents().len();
        contents.push(NewContent { manifest, sha256 });
    }
    if missing.contents.is_empty() { Ok(contents) } else { Err(ServiceError::Missing(missing)) }
}

fn refusal(error: DeltaError, content: &str) -> ServiceError {
    let text = format!("content {content}: {error}");
    match error {
        DeltaError::TooLarge => ServiceError::TooLarge(text),
        DeltaError::HashMismatch => ServiceError::HashMismatch(text),
        DeltaError::Malformed | DeltaError::OutOfRange | DeltaError::Manifest(_) => ServiceError::Invalid(text),
    }
}
