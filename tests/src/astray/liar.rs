//! What a lying server says in the place of what the honest one has said.

use super::ground::{DIRS, some_path};
use crate::sim::Rng;
use crate::support::Around;
use std::collections::BTreeSet;
use syncmount_common::protocol::changes::ChangesPage;
use syncmount_common::protocol::commit::{Committed, MissingDetails};
use syncmount_common::{
    Content, ContentHash, DeviceId, Epoch, FileHash, Node, NodeId, NodeKind, Placement, SymlinkTarget, Timestamp,
};
use syncmount_engine::CommitAnswer;

/// Something about which it lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lie {
    /// The SHA-256 of a whole file: that of a file which the user has.
    Told,
    /// The directory in which something lies.
    Parent,
    /// What it is called, and whether it has a second name.
    Name,
    /// What kind of thing it is.
    Kind,
    /// Where a symlink leads.
    Target,
    /// The size of a content.
    Size,
    /// Which content a file has.
    Hash,
    /// What a content consists of.
    Manifest,
    /// Permission bits.
    Mode,
    /// Times.
    Mtime,
    /// Whether something is gone.
    Deleted,
    /// Revisions.
    Rev,
    /// Who changed it.
    Author,
    /// The order of nodes.
    Order,
    /// A node twice in a page, differently.
    Twice,
    /// Nodes that are not told.
    LeftOut,
    /// The life of the history.
    Epoch,
    /// The position in it.
    Position,
    /// Whether there is more.
    More,
    /// It refuses to answer, or asks for everything to be read again.
    Refusal,
    /// What came of a commit.
    Answer,
    /// The bytes of a content.
    Body,
}

impl Lie {
    pub(super) const ALL: [Self; 22] = [
        Self::Told,
        Self::Parent,
        Self::Name,
        Self::Kind,
        Self::Target,
        Self::Size,
        Self::Hash,
        Self::Manifest,
        Self::Mode,
        Self::Mtime,
        Self::Deleted,
        Self::Rev,
        Self::Author,
        Self::Order,
        Self::Twice,
        Self::LeftOut,
        Self::Epoch,
        Self::Position,
        Self::More,
        Self::Refusal,
        Self::Answer,
        Self::Body,
    ];
}

/// What the driver and its user get over by themselves. After the others a user may have to give something another name, or
/// to let the folder join again.
pub const DRIVEN: [Lie; 18] = [
    Lie::Told,
    Lie::Parent,
    Lie::Target,
    Lie::Size,
    Lie::Manifest,
    Lie::Mode,
    Lie::Mtime,
    Lie::Deleted,
    Lie::Rev,
    Lie::Author,
    Lie::Order,
    Lie::Twice,
    Lie::LeftOut,
    Lie::Epoch,
    Lie::Position,
    Lie::More,
    Lie::Refusal,
    Lie::Body,
];

/// A server that lies about some things, and about each of them now and then.
pub struct Liar {
    rng: Rng,
    kinds: Vec<Lie>,
    /// How often, in 1000.
    rate: u64,
    /// Whether it lies at present.
    pub is_lying: bool,
    /// What it has told of.
    nodes: BTreeSet<NodeId>,
    contents: Vec<Content>,
    /// Names, sizes and hashes of what the user has.
    local: Vec<(String, u64, FileHash)>,
    /// How many lies it has told.
    pub told: u64,
}

/// How it refuses to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It says nothing.
    Silence,
    /// It asks for everything to be read again.
    Resync,
}

impl Liar {
    pub(super) fn new(seed: u64) -> Self {
        Self::about(seed, &Lie::ALL)
    }

    /// One that lies about a few of these things, by the seed.
    pub fn about(seed: u64, all: &[Lie]) -> Self {
        let mut rng = Rng::of(&[seed, 2]);
        let mut kinds: Vec<Lie> = (0..1 + rng.index(4)).map(|_| all[rng.index(all.len())]).collect();
        // What this is about most.
        kinds.extend(Some(Lie::Told).filter(|_| rng.chance(500)));
        let rate = [100, 300, 700][rng.index(3)];
        let (nodes, contents, local) = Default::default();
        Self { rng, kinds, rate, is_lying: false, nodes, contents, local, told: 0 }
    }

    /// What it lies about.
    pub fn kinds(&self) -> &[Lie] {
        &self.kinds
    }

    /// Whether it lies only about what files are.
    pub fn is_about_contents(&self) -> bool {
        self.kinds.iter().all(|kind| matches!(kind, Lie::Told | Lie::Body | Lie::Mtime | Lie::Author))
    }

    /// The user has a file with this name and these bytes.
    pub fn note(&mut self, name: &str, bytes: &[u8]) {
        self.local.push((name.to_owned(), bytes.len() as u64, FileHash::of(bytes)));
    }

    /// Whether it lies about this, now.
    fn lies(&mut self, about: Lie) -> bool {
        let lies = self.is_lying && self.kinds.contains(&about) && self.rng.chance(self.rate);
        self.told += u64::from(lies);
        lies
    }

    /// A page of the feed, as the client gets it.
    pub fn page(&mut self, mut page: ChangesPage) -> Result<ChangesPage, Refusal> {
        for node in &page.nodes {
            self.nodes.insert(node.id);
            self.contents.extend(node.content.clone());
        }
        if self.lies(Lie::Refusal) {
            return Err(if self.rng.chance(500) { Refusal::Silence } else { Refusal::Resync });
        }
        for node in &mut page.nodes {
            for kind in Lie::ALL {
                if self.lies(kind) {
                    self.twist(kind, node);
                }
            }
        }
        if self.lies(Lie::Order) {
            page.nodes.reverse();
        }
        if self.lies(Lie::Twice)
            && let Some(node) = page.nodes.first().cloned()
        {
            let other = Node { rev: node.rev.saturating_add(1), attrs: page.nodes[page.nodes.len() - 1].attrs, ..node };
            page.nodes.push(other);
        }
        if self.lies(Lie::LeftOut) {
            let which = self.rng.number();
            page.nodes.retain(|node| !(node.rev ^ which).is_multiple_of(2));
        }
        if self.lies(Lie::Epoch) {
            page.cursor.epoch = Epoch::from_bytes([self.rng.below(3) as u8; 16]);
        }
        if self.lies(Lie::Position) {
            page.cursor.seq = (page.cursor.seq + self.rng.below(9)).saturating_sub(4);
            page.cursor.tag ^= self.rng.below(2);
        }
        if self.lies(Lie::More) {
            page.more = !page.more;
        }
        Ok(page)
    }

    fn some_node(&mut self) -> NodeId {
        let known: Vec<NodeId> = self.nodes.iter().copied().collect();
        self.rng.pick(&known).copied().unwrap_or(NodeId::ROOT)
    }

    fn twist(&mut self, kind: Lie, node: &mut Node) {
        match kind {
            Lie::Told => {
                let name = node.names.first().map(|place| place.name.to_string()).unwrap_or_default();
                if let Some(content) = &mut node.content {
                    let is_alike =
                        |(other, size, _): &&(String, u64, FileHash)| *other == name && *size == content.size;
                    let alike: Vec<FileHash> = self.local.iter().filter(is_alike).map(|(_, _, hash)| *hash).collect();
                    content.sha256 = self.rng.pick(&alike).copied();
                    content.manifest = None;
                }
            }
            Lie::Parent => {
                let parent = match self.rng.below(4) {
                    0 => node.id,
                    1 => NodeId::from_bytes([9; 16]),
                    _ => self.some_node(),
                };
                node.names.iter_mut().for_each(|place| place.parent = parent);
            }
            Lie::Name => {
                let names = [".syncmount-folder", ".syncmount-work-0.part", "link", "keys", "d0", "f0", "sub"];
                let name = names[self.rng.index(names.len())];
                node.names.iter_mut().for_each(|place| place.name = name.try_into().expect("a good name"));
                if self.rng.chance(200) {
                    let name = some_path(&mut self.rng).rsplit('/').next().unwrap_or("f").to_owned();
                    let name = name.as_str().try_into().expect("a good name");
                    node.names.push(Placement { parent: NodeId::ROOT, name });
                }
            }
            Lie::Kind => {
                let kinds = [NodeKind::Symlink, NodeKind::Dir, NodeKind::File];
                node.kind = kinds[self.rng.index(3)];
                node.target = Some(self.target());
                if node.content.is_none() {
                    node.content = self.rng.pick(&self.contents).cloned();
                }
            }
            Lie::Target if node.kind == NodeKind::Symlink => node.target = Some(self.target()),
            Lie::Size => {
                if let Some(content) = &mut node.content {
                    content.size = [0, content.size + 1, u64::MAX, 1 << 40][self.rng.index(4)];
                    content.manifest = content.manifest.take().filter(|_| self.rng.chance(300));
                }
            }
            Lie::Hash => match self.rng.below(3) {
                0 => {
                    if let Some(content) = &mut node.content {
                        content.hash = ContentHash::of(content.hash.as_bytes());
                        content.manifest = None;
                    }
                }
                _ => node.content = node.content.take().and_then(|_| self.rng.pick(&self.contents).cloned()),
            },
            Lie::Manifest => {
                let other = self.rng.pick(&self.contents).and_then(|content| content.manifest.clone());
                if let Some(content) = &mut node.content {
                    content.manifest = other.filter(|_| self.rng.chance(700));
                }
            }
            Lie::Mode => node.attrs.mode = [0, 0o4755, 0o7777, 0o666, 0o100_755, u32::MAX][self.rng.index(6)],
            Lie::Mtime => {
                node.attrs.mtime = Timestamp([i64::MIN, -1, 0, i64::MAX, 1 << 60][self.rng.index(5)]);
            }
            Lie::Deleted => {
                node.deleted = !node.deleted;
                node.names.clear();
            }
            Lie::Rev => {
                node.rev = [0, 1, node.rev + 1000, u64::MAX, node.rev.saturating_sub(1)][self.rng.index(5)];
                node.content_rev = [0, node.content_rev, u64::MAX][self.rng.index(3)];
            }
            Lie::Author => node.author = DeviceId::from_bytes([self.rng.below(3) as u8; 16]),
            _ => {}
        }
    }

    fn target(&mut self) -> SymlinkTarget {
        let targets = [Around::FROM_FOLDER, "/", "..", DIRS[0], "keys"];
        let target = targets[self.rng.index(targets.len())];
        SymlinkTarget::new(target.as_bytes()).expect("a good target")
    }

    /// The answer to a commit, as the client gets it. It says of none that it was done which was not: whose only copy that
    /// destroys is lost with any server.
    pub(super) fn answer(&mut self, honest: CommitAnswer) -> CommitAnswer {
        if !self.lies(Lie::Answer) {
            return honest;
        }
        match self.rng.below(6) {
            0 => CommitAnswer::Rejected("no".to_owned()),
            1 => CommitAnswer::Resync,
            2 => CommitAnswer::Held { reason: "no".to_owned(), denied: self.rng.chance(500) },
            3 => CommitAnswer::Missing(MissingDetails { chunks: Vec::new(), contents: self.some_hashes() }),
            _ => match honest {
                CommitAnswer::Committed(done) => CommitAnswer::Committed(Committed {
                    last_seq: done.last_seq + self.rng.below(3),
                    tag: done.tag ^ self.rng.below(2),
                    ..done
                }),
                other => other,
            },
        }
    }

    fn some_hashes(&self) -> Vec<ContentHash> {
        self.contents.iter().rev().take(2).map(|content| content.hash).collect()
    }

    /// The bytes of a content, as the client gets them.
    pub fn body(&mut self, mut honest: Vec<u8>) -> Vec<u8> {
        if self.lies(Lie::Body) {
            match self.rng.below(3) {
                0 => honest.truncate(honest.len() / 2),
                1 => honest.iter_mut().for_each(|byte| *byte ^= 1),
                _ => honest.extend(b"more"),
            }
        }
        honest
    }

    /// Whether it has the manifest of a content, or says that it has not.
    pub(super) fn has_manifest(&mut self) -> bool {
        !self.lies(Lie::Manifest)
    }
}
