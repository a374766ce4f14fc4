//! The liar between a device and the service: what it passes on, swallows, changes and makes up.

use super::host::{Host, PageAnswer, Straight, Told, Wire};
use super::lies::Lies;
use crate::sim::Rng;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use syncmount_common::protocol::changes::{Ask, Cursor};
use syncmount_common::protocol::commit::{
    CommitRequest, Committed, Conflict, ConflictDetails, ConflictReason, MissingDetails,
};
use syncmount_common::{ChunkHash, ContentHash, DeviceId, Manifest, Node, NodeId, OpId};
use syncmount_engine::CommitAnswer;

/// What a liar remembers of the device that it lies to, and how it lies.
pub(super) struct Liar {
    rng: Rng,
    /// What it may make lies of.
    known: BTreeMap<NodeId, Node>,
    /// Positions that it made up, with those of the service that they stand for: the next lie goes on from them.
    issued: HashMap<Cursor, Option<Cursor>>,
    /// How many of 1,000 answers it changes.
    rate: u64,
    /// How many of 1,000 changes of a page make no folder by themselves.
    wild: u64,
    /// How many answers it has changed.
    pub(super) told: u64,
}

impl Liar {
    pub(super) fn new(seed: u64, index: u64) -> Self {
        let mut rng = Rng::of(&[seed, 20, index]);
        let rate = [100, 300, 700][rng.index(3)];
        let wild = [0, 300, 900][rng.index(3)];
        Self { rng, known: BTreeMap::new(), issued: HashMap::new(), rate, wild, told: 0 }
    }

    fn lies(&mut self) -> bool {
        let lies = self.rng.chance(self.rate);
        self.told += u64::from(lies);
        lies
    }

    fn made_up_answer(&mut self, request: &CommitRequest) -> CommitAnswer {
        match self.rng.below(7) {
            0 | 1 => {
                let known = request.known.map_or(0, |known| known.seq);
                let first_seq = [known.saturating_add(1), 0, 1, u64::MAX, u64::MAX - 1][self.rng.index(5)];
                let ends = [first_seq.saturating_add(request.ops.len() as u64).saturating_sub(1), 0, u64::MAX];
                let (last_seq, tag) = (ends[self.rng.index(3)], self.rng.number());
                CommitAnswer::Committed(Committed { first_seq, last_seq, tag })
            }
            2 => {
                let index = [0, u32::MAX][self.rng.index(2)];
                let conflict = Conflict { index, reason: ConflictReason::Cycle, current: None };
                let conflicts = if self.rng.chance(500) { vec![conflict] } else { Vec::new() };
                CommitAnswer::Conflict(ConflictDetails { conflicts })
            }
            3 => CommitAnswer::Missing(MissingDetails { chunks: vec![ChunkHash::of(b"?")], contents: Vec::new() }),
            4 => CommitAnswer::Rejected("no".to_owned()),
            5 => CommitAnswer::Held { reason: "too much".to_owned(), denied: self.rng.chance(500) },
            _ => CommitAnswer::Resync,
        }
    }

    /// The ask in the service's own positions.
    fn translated(&self, ask: Ask) -> Ask {
        let of = |cursor: Cursor| self.issued.get(&cursor).copied().unwrap_or(Some(cursor));
        Ask { since: ask.since.and_then(of), known: ask.known.filter(|known| !self.issued.contains_key(known)) }
    }
}

/// The way through a liar.
pub(super) struct Lying<'a> {
    way: Straight<'a>,
    liar: &'a mut Liar,
}

impl<'a> Lying<'a> {
    pub(super) fn new(host: &'a mut Host, liar: &'a mut Liar) -> Self {
        let service = host.service.clone();
        Self { way: Straight::new(host, service), liar }
    }

    /// Passes on a part of a commit, or the whole with another name.
    fn pass_changed(&mut self, request: &CommitRequest) -> Option<CommitAnswer> {
        let (keep, rng) = (self.liar.rng.index(request.ops.len() + 1), &mut self.liar.rng);
        let mut changed = request.clone();
        changed.ops.truncate(keep);
        let mut op_id = [0; 16];
        op_id.iter_mut().for_each(|byte| *byte = rng.number() as u8);
        changed.op_id = OpId::from_bytes(op_id);
        let answer = self.way.commit(&changed)?;
        let CommitAnswer::Committed(done) = answer else { return Some(answer) };
        let last_seq = done.first_seq + request.ops.len() as u64 - 1;
        Some(CommitAnswer::Committed(Committed { last_seq, ..done }))
    }
}

impl Wire for Lying<'_> {
    fn commit(&mut self, request: &CommitRequest) -> Option<CommitAnswer> {
        if !self.liar.lies() {
            return self.way.commit(request);
        }
        match self.liar.rng.below(6) {
            0 | 1 => Some(self.liar.made_up_answer(request)),
            2 => {
                // It is done, and another answer is given.
                self.way.commit(request);
                Some(self.liar.made_up_answer(request))
            }
            3 => {
                self.way.commit(request);
                None
            }
            4 => None,
            _ => self.pass_changed(request),
        }
    }

    fn page(&mut self, ask: Ask, limit: usize, device: DeviceId) -> PageAnswer {
        let real = self.liar.translated(ask);
        let answer = self.way.page(real, limit, device);
        let mut page = match answer {
            PageAnswer::Page(page) => page,
            // A made-up position that stands for none: from the begin.
            PageAnswer::Resync => return PageAnswer::Resync,
            PageAnswer::Lost => return PageAnswer::Lost,
        };
        self.liar.known.extend(page.nodes.iter().map(|node| (node.id, node.clone())));
        let end = page.cursor;
        if self.liar.lies() {
            let Liar { rng, known, wild, .. } = &mut *self.liar;
            match rng.below(20) {
                0 => return PageAnswer::Lost,
                1 => return PageAnswer::Resync,
                _ => Lies { rng, known, device, wild: *wild }.tell(&mut page),
            }
            let told = page.nodes.iter().map(|node| (node.id, node.clone()));
            // What was made up may be told of again.
            self.liar.known.extend(told);
        } else if let (Some(since), Some(before)) = (ask.since, real.since)
            && since != before
        {
            // From a made-up position nothing leads back to the true ones.
            page.cursor.epoch = since.epoch;
            page.cursor.seq = page.cursor.seq.max(since.seq);
            if page.nodes.is_empty() {
                page.cursor = since;
            }
        }
        if page.cursor != end {
            self.liar.issued.insert(page.cursor, Some(end));
        }
        PageAnswer::Page(page)
    }

    fn put(&mut self, chunks: Vec<(ChunkHash, Bytes)>) {
        if !self.liar.lies() {
            self.way.put(chunks);
        }
    }

    fn content(&mut self, hash: ContentHash) -> Option<Told> {
        let (manifest, mut chunks) = self.way.content(hash)?;
        if !self.liar.lies() {
            return Some((manifest, chunks));
        }
        let rng = &mut self.liar.rng;
        match rng.below(4) {
            0 => None,
            1 => Some((Manifest::default(), Vec::new())),
            2 => {
                chunks.pop();
                Some((manifest, chunks))
            }
            _ => {
                for (_, sealed) in &mut chunks {
                    let mut bytes = sealed.to_vec();
                    let at = rng.index(bytes.len().max(1));
                    bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << rng.below(8));
                    *sealed = bytes.into();
                }
                Some((manifest, chunks))
            }
        }
    }

    fn host(&self) -> &Host {
        self.way.host()
    }
}
