//! The change feed: what is new past a cursor, at once or as soon as there is something.

use super::bodies::Wanted;
use super::commit::for_travel;
use super::history::{cursor_at, has, resync};
use super::losses::wanted;
use super::session::standing;
use super::tokens::admit;
use super::{Allowance, Charge, CursorKey, FREE_LEN, Result, Service, ServiceError, folder};
use crate::meta::{FolderKey, FolderRow, ReadTx};
use bytes::Bytes;
use futures::TryStreamExt as _;
use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use syncmount_common::node::{NodeOwner, TouchedDir};
use syncmount_common::protocol::changes::{
    ChangesPage, Cursor, Device, INLINE_LEN_MAX, INLINE_TOTAL_MAX, PAGE_NODES_MAX,
};
use syncmount_common::protocol::commit::TOUCHED_MAX;
use syncmount_common::protocol::session::Session;
use syncmount_common::{ChunkHash, ContentHash, DeviceId, Node, Seq};

/// What a poll asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Poll {
    /// Everything up to here is known; absent: nothing is.
    pub since: Option<Cursor>,
    /// A later position that is known too.
    pub known: Option<Cursor>,
    /// The largest number of nodes in the page.
    pub limit: usize,
    /// Chunks of contents up to this size ride along; 0: none do.
    pub inline: u64,
    /// Who asks: what that device wrote itself does not ride along.
    pub device: Option<DeviceId>,
    /// The session in which that device asks.
    pub session: Option<Session>,
    /// Whether fields beyond version 1 are told: lost chunks, times.
    pub extra: bool,
}

/// A page and the chunks that ride along.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// The page.
    pub page: ChangesPage,
    /// Chunks with their envelopes.
    pub chunks: Vec<(ChunkHash, Bytes)>,
}

impl Service {
    /// The changes past a cursor, as they are now.
    pub async fn changes(&self, folder: &str, since: Option<Cursor>, limit: usize, inline: u64) -> Result<Changes> {
        self.page(folder, Poll { since, known: None, limit, inline, device: None, session: None, extra: false }).await
    }

    /// The answer to a poll as things are now.
    pub async fn page(&self, folder: &str, poll: Poll) -> Result<Changes> {
        poll.check()?;
        let (page, riders) = match self.counted_page(folder, poll).await? {
            Ok(found) => found,
            Err(strayed) => return Err(self.strayed(folder, strayed).await),
        };
        // They are counted with the page. They are a favour: what is lost must not keep the page from being told, and a
        // device that wants the bytes asks for them and hears of it.
        let chunks = match self.within(Allowance::default()).envelopes(riders).try_collect().await {
            Err(ServiceError::Damaged(_) | ServiceError::UnknownChunks(_) | ServiceError::Blob(_)) => Vec::new(),
            chunks => chunks?,
        };
        Ok(Changes { page, chunks })
    }

    /// The page, whose memory is held until the reply has been sent. What a page takes is known when it has been read: one that
    /// takes more than it has is dropped, and read again when there is memory for it.
    async fn counted_page(&self, folder: &str, poll: Poll) -> Result<std::result::Result<Page, Cursor>> {
        let (mut room, mut charge) = (if self.1.counts() { FREE_LEN } else { u64::MAX }, Charge::default());
        for looks_left in (0..LOOKS_MAX).rev() {
            let (name, held, credential) = (folder.to_owned(), charge.clone(), self.2.clone());
            let (key, from) = (self.0.environment.cursor_key(), self.first_loss(&poll));
            let look = self.read(move |tx| {
                let _held = held;
                admit(tx, credential.as_ref())?;
                poll.look(tx, &name, &key, &from, room)
            });
            match look.await? {
                Look::Page(page) => {
                    self.1.keep(charge);
                    return Ok(Ok(*page));
                }
                Look::Strayed(position) => return Ok(Err(position)),
                Look::Costs(cost) => {
                    drop(std::mem::take(&mut charge));
                    charge = self.1.charge(cost).await?;
                    // Changes that come in between make little difference.
                    room = if looks_left == 1 { u64::MAX } else { cost };
                }
            }
        }
        Err(ServiceError::Busy("the folder changes too fast to be read: try again".to_owned()))
    }

    /// Where a page begins to tell what is lost.
    fn first_loss(&self, poll: &Poll) -> ContentHash {
        let from = if poll.extra { self.0.environment.random() } else { [0; 32] };
        ContentHash::from_bytes(from)
    }

    /// The same, but an empty page is held back until there is a change or `until` ends. From the first poll of a session
    /// on, earlier sessions of the device are refused.
    pub async fn poll(&self, name: &str, poll: Poll, until: impl Future<Output = ()> + Send) -> Result<Changes> {
        poll.check()?;
        self.hear(name, poll).await?;
        let owned = name.to_owned();
        let key = self.read(move |tx| Ok(folder(tx, &owned)?.key)).await?;
        // Taken before the first look: a change in between is seen by one or the other.
        let mut ticket = self.0.wake.ticket(key);
        let mut until = pin!(until);
        loop {
            let asked = self.0.losses.asked();
            let changes = self.page(name, poll).await?;
            let asks = !changes.page.wanted.is_empty() && self.0.losses.is_news(poll.device, asked);
            if asks || !changes.page.nodes.is_empty() || changes.page.more {
                return Ok(changes);
            }
            tokio::select! {
                () = ticket.wait() => (),
                () = &mut until => return Ok(changes),
            }
        }
    }
}

/// A page is read at most so many times.
const LOOKS_MAX: usize = 4;

/// Bytes that a node takes in memory and in the reply, beside what may be long of it.
const NODE_COST: u64 = 1024;

/// What is long of a node is in memory so many times: as it is stored, read and sent.
const FORMS: u64 = 3;

/// Bytes of an extent in memory and in the reply.
const EXTENT_COST: u64 = 120;

/// Bytes of a hash in memory and in the reply.
const WANTED_COST: u64 = 200;

/// Bytes of a touched directory in memory and in the reply.
const TOUCHED_COST: u64 = 120;

/// The nodes of a page, and where it ends.
struct NodesPage {
    nodes: Vec<Node>,
    end: Seq,
    more: bool,
}

impl NodesPage {
    /// Directories whose entries have changed between `since` and the end. The page ends earlier if they are too many.
    fn touched(&mut self, tx: &dyn ReadTx, folder: FolderKey, since: Seq) -> Result<Vec<TouchedDir>> {
        if since == 0 {
            // All are told as they are now.
            return Ok(Vec::new());
        }
        let mut touched = tx.touched(folder, since, self.end, TOUCHED_MAX + 1)?;
        if let Some((_, rev)) = touched.get(TOUCHED_MAX).copied() {
            // No operation touches as many as that, so something is left.
            (self.end, self.more) = (rev - 1, true);
            touched.retain(|(_, rev)| *rev <= self.end);
            self.nodes.retain(|node| node.rev <= self.end);
        }
        Ok(touched.into_iter().map(|(dir, _)| dir).collect())
    }
}

/// A page and the chunks that ride along.
type Page = (ChangesPage, Vec<Wanted>);

/// What comes of reading a page.
enum Look {
    Page(Box<Page>),
    /// The position that is of this epoch but not of its history.
    Strayed(Cursor),
    /// The page takes about so many bytes of memory, which are more than it has.
    Costs(u64),
}

/// The memory that a page and the chunks that ride along take, in bytes.
fn page_cost((page, riders): &Page) -> u64 {
    let long = |node: &Node| {
        let names: usize = node.names.iter().map(|place| place.name.as_bytes().len()).sum();
        let manifest = node.content.as_ref().and_then(|content| content.manifest.as_ref());
        let extents = manifest.map_or(0, |manifest| manifest.extents().len() as u64);
        FORMS * (names + node.xattrs.len()) as u64 + EXTENT_COST * extents
    };
    let nodes: u64 = page.nodes.iter().map(|node| NODE_COST + long(node)).sum();
    let touched = TOUCHED_COST * page.touched.len() as u64;
    let wanted: usize = page.wanted.iter().map(|wanted| 1 + wanted.chunks.len()).sum();
    nodes + touched + WANTED_COST * wanted as u64 + FORMS * riders.iter().map(|(_, len)| u64::from(*len)).sum::<u64>()
}

impl Poll {
    fn check(&self) -> Result<()> {
        if !(1..=PAGE_NODES_MAX).contains(&self.limit) {
            return Err(ServiceError::Invalid(format!("`limit` is 1 to {PAGE_NODES_MAX}")));
        }
        if self.inline > INLINE_LEN_MAX {
            return Err(ServiceError::Invalid(format!("`inline` is 0 to {INLINE_LEN_MAX}")));
        }
        self.speaker().map(drop)
    }

    /// Whose session it is, if it is told.
    pub(super) fn speaker(&self) -> Result<Option<(DeviceId, Session)>> {
        match (self.device, self.session) {
            (Some(device), Some(session)) => Ok(Some((device, session))),
            (None, Some(_)) => Err(ServiceError::Invalid("a `session` is that of a `device`: give both".to_owned())),
            (_, None) => Ok(None),
        }
    }

    /// Whether what it knows is of this history.
    pub(super) fn fits(&self, tx: &dyn ReadTx, folder: &FolderRow) -> Result<bool> {
        Ok(self.strayed(tx, folder)?.is_none())
    }

    /// The first position of this epoch that is not of its history.
    fn strayed(&self, tx: &dyn ReadTx, folder: &FolderRow) -> Result<Option<Cursor>> {
        for position in [self.since, self.known].into_iter().flatten() {
            if strays(tx, folder, position)? {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }

    /// The page if it takes at most `room` bytes of memory.
    fn look(&self, tx: &dyn ReadTx, name: &str, key: &CursorKey, from: &ContentHash, room: u64) -> Result<Look> {
        let end = folder(tx, name)?.seq;
        let news = end.saturating_sub(self.since.map_or(0, |since| since.seq)).min(self.limit as u64);
        if news * NODE_COST > room {
            return Ok(Look::Costs(news * NODE_COST));
        }
        let page = match self.page(tx, name, key, from)? {
            Ok(page) => page,
            Err(strayed) => return Ok(Look::Strayed(strayed)),
        };
        let cost = page_cost(&page);
        Ok(if cost > room { Look::Costs(cost) } else { Look::Page(Box::new(page)) })
    }

    /// The page; or the position that is of this epoch but not of its history.
    fn page(
        &self,
        tx: &dyn ReadTx,
        name: &str,
        key: &CursorKey,
        from: &ContentHash,
    ) -> Result<std::result::Result<Page, Cursor>> {
        let folder = folder(tx, name)?;
        if let Some(strayed) = self.strayed(tx, &folder)? {
            return Ok(Err(strayed));
        }
        let since = self.since.map_or(0, |since| since.seq);
        if let Some((device, session)) = self.speaker()? {
            // Another one may have begun while this poll was held.
            standing(tx, folder.key, device, &session)?;
        }
        let (nodes, more) = tx.changed(folder.key, since, self.limit)?;
        let mut page =
            NodesPage { end: nodes.last().filter(|_| more).map_or(folder.seq, |node| node.rev), nodes, more };
        let touched = if self.extra { page.touched(tx, folder.key, since)? } else { Vec::new() };
        let NodesPage { nodes, end, more } = page;
        let owners = self.extra.then(|| nodes.iter().filter_map(owned).collect());
        let told = |node: Node| {
            let (xattrs, changed) = (node.xattrs.with_owner(None), node.changed.filter(|_| self.extra));
            Node { xattrs, changed, ..for_travel(node) }
        };
        let nodes: Vec<_> = nodes.into_iter().map(told).collect();
        let riders = self.riders(&nodes);
        let cursor = cursor_at(tx, &folder, end, key)?;
        let devices = devices(tx, &nodes)?;
        let own = match self.device {
            Some(device) => tx.newest_by(folder.key, device)?,
            None => None,
        };
        let own = own.map(|(seq, tag)| key.cursor(&folder, seq, tag));
        let wanted = if self.extra { wanted(tx, folder.key, from)? } else { Vec::new() };
        Ok(Ok((ChangesPage { folder: folder.id, cursor, more, nodes, devices, own, wanted, touched, owners }, riders)))
    }

    /// The chunks that ride along. A client fetches the others by hash.
    fn riders(&self, nodes: &[Node]) -> Vec<Wanted> {
        let mut room = INLINE_TOTAL_MAX as u64;
        let mut seen = HashSet::new();
        let mut riders = Vec::new();
        let others = nodes.iter().filter(|node| Some(node.content_author) != self.device);
        for content in others.filter_map(|node| node.content.as_ref()) {
            let Some(manifest) = &content.manifest else { continue };
            if content.size > self.inline || content.size > room {
                continue;
            }
            room -= content.size;
            riders.extend(manifest.chunks().filter(|(hash, _)| seen.insert(*hash)));
        }
        riders
    }
}

fn owned(node: &Node) -> Option<NodeOwner> {
    Some(NodeOwner { id: node.id, owner: node.xattrs.owner()? })
}

/// Whether a position is of this epoch but not of its history; an error if it is of another one.
pub(super) fn strays(tx: &(impl ReadTx + ?Sized), folder: &FolderRow, position: Cursor) -> Result<bool> {
    if position.epoch != folder.epoch {
        return Err(resync("the cursor is of another epoch"));
    }
    Ok(!has(tx, folder, position)?)
}

fn devices(tx: &dyn ReadTx, nodes: &[Node]) -> Result<Vec<Device>> {
    let ids: BTreeSet<_> = nodes.iter().flat_map(|node| [node.author, node.content_author]).collect();
    let mut devices = Vec::with_capacity(ids.len());
    for id in ids {
        devices.extend(tx.device(id)?);
    }
    Ok(devices)
}
