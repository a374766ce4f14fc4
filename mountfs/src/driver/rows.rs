//! Engine records as the store keeps them: rows by node id, the feed position and staging files on their way out as named
//! values. The only place that knows both forms.

use super::durable::Mark;
use crate::store::{Loaded, Record as Kept, RowChange};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use syncmount_common::hash::FileHash;
use syncmount_common::{Content, NodeId, Placement, Xattrs};
use syncmount_engine::{Body, FileBody, Names, OwnerHere, Position, Record, Restored, Row, RowSynced, Scope, State};

const CURSOR: &str = "cursor";
const AHEAD: &str = "ahead";
const UNANSWERED: &str = "unanswered";
const RETIRED: &str = "retired/";
const DURABLE: &str = "durable/";

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

/// What a row has beside the form that the first version wrote, behind it. Variants are only ever added at the end.
#[derive(Serialize, Deserialize)]
enum Extra {
    /// That the node is not part of the folder.
    Scope(Scope),
    /// Extended attributes of both views.
    Xattrs { local: Xattrs, synced: Xattrs },
    /// The names with which it was sent.
    SentNames(Vec<Placement>),
    /// What this machine alone keeps of its owner.
    OwnerHere(OwnerHere),
}

fn synced_state(row: &mut Row) -> Option<&mut State> {
    match &mut row.synced {
        RowSynced::Differs { state, .. } => state.as_mut().map(Arc::make_mut),
        RowSynced::Never | RowSynced::SameAsLocal { .. } => None,
    }
}

fn encode_row(row: &Row) -> io::Result<Vec<u8>> {
    let mut data = postcard::to_stdvec(row).map_err(other)?;
    if row.scope != Scope::Shared {
        data = postcard::to_extend(&Extra::Scope(row.scope), data).map_err(other)?;
    }
    let local = row.local.as_ref().map(|state| state.xattrs.clone()).unwrap_or_default();
    let synced = match &row.synced {
        RowSynced::Differs { state: Some(state), .. } => state.xattrs.clone(),
        RowSynced::Differs { state: None, .. } | RowSynced::Never | RowSynced::SameAsLocal { .. } => Xattrs::default(),
    };
    if !local.is_empty() || !synced.is_empty() {
        data = postcard::to_extend(&Extra::Xattrs { local, synced }, data).map_err(other)?;
    }
    if let Some(names) = &row.sent_names {
        data = postcard::to_extend(&Extra::SentNames(names.to_vec()), data).map_err(other)?;
    }
    if !row.owner_here.is_empty() {
        data = postcard::to_extend(&Extra::OwnerHere(row.owner_here), data).map_err(other)?;
    }
    Ok(data)
}

/// Leaves out what earlier versions have kept of a file's SHA-256 because a server had told it.
fn keep_proved(row: &mut Row) {
    let states = match &mut row.synced {
        RowSynced::Differs { state, .. } => [row.local.as_mut(), state.as_mut()],
        RowSynced::Never | RowSynced::SameAsLocal { .. } => [row.local.as_mut(), None],
    };
    for state in states.into_iter().flatten() {
        let Body::File(file) = &state.body else { continue };
        let contents = match file {
            FileBody::Clean(content) => [Some(content), None],
            FileBody::Draft(draft) => [draft.prepared.as_ref(), draft.base.as_ref()],
        };
        let is_told = |content: &&Arc<Content>| content.sha256.is_some() && content.size > 0;
        if !contents.into_iter().flatten().any(|content| is_told(&content)) {
            continue;
        }
        let proved = |content: &mut Arc<Content>| Arc::make_mut(content).keep_proved();
        match &mut Arc::make_mut(state).body {
            Body::File(FileBody::Clean(content)) => proved(content),
            Body::File(FileBody::Draft(draft)) => draft.prepared.iter_mut().chain(&mut draft.base).for_each(proved),
            Body::Dir | Body::Symlink(_) => {}
        }
    }
}

fn decode_row(data: &[u8]) -> io::Result<Row> {
    let (mut row, mut rest): (Row, _) = postcard::take_from_bytes(data).map_err(other)?;
    while !rest.is_empty() {
        let (extra, behind) = postcard::take_from_bytes(rest).map_err(other)?;
        rest = behind;
        match extra {
            Extra::Scope(scope) => row.scope = scope,
            Extra::OwnerHere(owner) => row.owner_here = owner,
            Extra::SentNames(names) => row.sent_names = Some(Names::from_vec(names)),
            Extra::Xattrs { local, synced } => {
                row.local.iter_mut().for_each(|state| Arc::make_mut(state).xattrs = local.clone());
                synced_state(&mut row).into_iter().for_each(|state| state.xattrs = synced.clone());
            }
        }
    }
    keep_proved(&mut row);
    Ok(row)
}

/// Ids that begin with this are no node's: those begin with the time.
const ITEM: [u8; 8] = [0xFF; 8];

fn item_key(id: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&ITEM);
    key[8..].copy_from_slice(&id.to_be_bytes());
    key
}

fn item_of_key(key: &[u8; 16]) -> Option<u64> {
    let id = key.strip_prefix(&ITEM)?;
    Some(u64::from_be_bytes(id.try_into().ok()?))
}

/// The store's form of an item of a folder.
pub(super) fn item((id, data): (u64, Option<Vec<u8>>)) -> ([u8; 16], Option<Vec<u8>>) {
    (item_key(id), data)
}

/// What was kept of items of a folder.
pub(super) fn take_items(loaded: &mut Loaded) -> Vec<(u64, Vec<u8>)> {
    let items = loaded.rows.extract_if(.., |(key, _)| item_of_key(key).is_some());
    items.filter_map(|(key, data)| Some((item_of_key(&key)?, data))).collect()
}

/// The store's form of a row.
pub(super) fn encode((id, row): (NodeId, Option<Row>)) -> io::Result<RowChange> {
    Ok((*id.as_bytes(), row.as_ref().map(encode_row).transpose()?))
}

/// The store's form of all else in it.
pub(super) fn encode_meta(record: &Record) -> Vec<(String, Option<Vec<u8>>)> {
    let mut meta = Vec::new();
    if let Some(Position { cursor, ahead }) = record.position {
        for (key, position) in [(CURSOR, cursor), (AHEAD, ahead)] {
            meta.push((key.to_owned(), position.map(|position| position.to_string().into_bytes())));
        }
    }
    if let Some(nodes) = &record.unanswered {
        meta.push((UNANSWERED.to_owned(), Some(nodes.iter().flat_map(|id| *id.as_bytes()).collect())));
    }
    meta.extend(record.retired.iter().map(|id| (retired_key(*id), Some(Vec::new()))));
    meta
}

/// The record that a retired staging file has been removed.
pub(super) fn removed(staging: u64) -> Kept {
    Kept { rows: Vec::new(), meta: vec![(retired_key(staging), None), (durable_key(staging), None)] }
}

/// The record that the bytes of a staging file are synced, or are if they have the hash.
pub(super) fn marked_durable(staging: u64, mark: &Mark) -> Kept {
    let hash = mark.hash.iter().flat_map(FileHash::as_bytes);
    let value = mark.generation.to_le_bytes().iter().chain(hash).copied().collect();
    Kept { rows: Vec::new(), meta: vec![(durable_key(staging), Some(value))] }
}

/// The record that they are not any more.
pub(super) fn not_durable(staging: u64) -> Kept {
    Kept { rows: Vec::new(), meta: vec![(durable_key(staging), None)] }
}

fn durable_key(staging: u64) -> String {
    format!("{DURABLE}{staging}")
}

/// The marks of staging files whose bytes are synced. One that is no mark proves nothing.
pub(super) fn durable(loaded: &Loaded) -> impl Iterator<Item = (u64, Mark)> {
    loaded.meta.iter().filter_map(|(key, value)| {
        let (generation, hash) = value.split_first_chunk()?;
        let hash = if hash.is_empty() { None } else { Some(FileHash::from_bytes(hash.try_into().ok()?)) };
        let mark = Mark { generation: u64::from_le_bytes(*generation), hash };
        Some((key.strip_prefix(DURABLE)?.parse().ok()?, mark))
    })
}

fn retired_key(staging: u64) -> String {
    format!("{RETIRED}{staging}")
}

/// What was kept of the feed.
pub(super) fn position(loaded: &Loaded) -> io::Result<Position> {
    let kept = |key| loaded.meta.get(key).map(|text| String::from_utf8_lossy(text).parse().map_err(other)).transpose();
    Ok(Position { cursor: kept(CURSOR)?, ahead: kept(AHEAD)? })
}

/// What was kept, for the engine, and the staging files that may be removed.
pub(super) fn decode(loaded: Loaded) -> io::Result<(Restored, Vec<u64>)> {
    let Position { cursor, ahead } = position(&loaded)?;
    let retired = loaded.meta.keys().filter_map(|key| key.strip_prefix(RETIRED)?.parse().ok()).collect();
    let bytes = loaded.meta.get(UNANSWERED).map_or(&[][..], Vec::as_slice);
    let unanswered = bytes.as_chunks().0.iter().map(|id| NodeId::from_bytes(*id)).collect();
    let mut rows = Vec::with_capacity(loaded.rows.len());
    for (id, data) in loaded.rows {
        rows.push((NodeId::from_bytes(id), decode_row(&data)?));
    }
    Ok((Restored { rows, cursor, ahead, unanswered }, retired))
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncmount_common::{Attrs, Extent, Manifest, Name, Placement, Timestamp};
    use syncmount_engine::Names;

    fn state(xattrs: Xattrs) -> Arc<State> {
        let names = Names::from_buf([Placement { parent: NodeId::ROOT, name: Name::try_from("a~").unwrap() }]);
        Arc::new(State { names, attrs: Attrs { mode: 0o755, mtime: Timestamp(1) }, body: Body::Dir, xattrs })
    }

    #[test]
    fn a_hash_of_a_file_that_an_earlier_version_was_told_does_not_come_back() {
        let chunk =
            |bytes: &[u8]| Extent::Chunk { hash: syncmount_common::ChunkHash::of(bytes), len: bytes.len() as u32 };
        let told = Some(FileHash::of(b"told"));
        let content = |extents| Arc::new(Content::of(Manifest::new(extents).unwrap(), told));
        let file =
            |content| State { body: Body::File(FileBody::Clean(content)), ..State::clone(&state(Xattrs::default())) };
        let several = file(content(vec![chunk(b"a"), chunk(b"b")]));
        let single = file(content(vec![chunk(b"a")]));
        let synced = RowSynced::Differs { rev: 1, content_rev: 1, state: Some(Arc::new(several)) };
        let row = Row {
            local: Some(Arc::new(single)),
            synced,
            changed: Timestamp(2),
            offered: false,
            scope: Scope::Shared,
            sent_names: None,
            owner_here: OwnerHere::default(),
        };
        let mut back = decode_row(&encode_row(&row).unwrap()).unwrap();
        let hash = |state: &State| state.body.content().unwrap().sha256;
        assert_eq!(hash(back.local.as_ref().unwrap()), Some(FileHash::of(b"a")), "proved by the manifest");
        assert_eq!(hash(synced_state(&mut back).unwrap()), None);
    }

    #[test]
    fn rows_of_the_first_version_and_what_they_have_beside_come_back() {
        let mut xattrs = Xattrs::default();
        xattrs.set(b"user.note", b"value").unwrap();
        let xattrs = xattrs.with_owner(Some(syncmount_common::Owner { uid: 1, gid: 2 }));
        let none = Xattrs::default();
        let differs = |state| RowSynced::Differs { rev: 1, content_rev: 1, state };
        let row = |local, synced| Row {
            local,
            synced,
            changed: Timestamp(2),
            offered: false,
            scope: Scope::Shared,
            sent_names: None,
            owner_here: OwnerHere::default(),
        };
        let plain = row(Some(state(none.clone())), RowSynced::Never);
        assert_eq!(encode_row(&plain).unwrap(), postcard::to_stdvec(&plain).unwrap(), "as the first version wrote it");
        let scopes = [Scope::Ignored, Scope::Aside, Scope::Leftover];
        let staying = scopes.map(|scope| Row { scope, ..row(Some(state(xattrs.clone())), RowSynced::Never) });
        let owner_here = OwnerHere { uid: Some(1), gid: None };
        let others = [
            Row { owner_here, ..plain.clone() },
            plain,
            row(Some(state(xattrs.clone())), RowSynced::SameAsLocal { rev: 1, content_rev: 1 }),
            row(Some(state(xattrs.clone())), differs(Some(state(none.clone())))),
            row(Some(state(none)), differs(Some(state(xattrs.clone())))),
            row(None, differs(Some(state(xattrs)))),
        ];
        for row in staying.into_iter().chain(others) {
            let data = encode_row(&row).unwrap();
            assert_eq!(decode_row(&data).unwrap(), row);
            assert!(decode_row(&data[..data.len() - 1]).is_err());
        }
    }
}
