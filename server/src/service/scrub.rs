//! The check of the whole store, and its repair: every row on its own and against others, the folders' counters, packs against
//! the index, contents against both.
//!
//! Each pack is read once and whole (packs are bounded), rows come in pages. A repair never makes up anything: it enters
//! what packs hold and a file consists of, and drops the rows of chunks that are gone or wrong, so that they count as missing.
//! What is lost is noted, and devices are asked for it when the server runs ([`super::losses`]).

use super::audit::{Audit, audit};
use super::{Result, Service, ServiceError};
use crate::blob::BlobError;
use crate::blob::pack::Record;
use crate::meta::{
    ContentUse, FolderFault, FolderKey, PackId, PackedChunk, RawContent, ReadTx, SmallChunk, Totals, WriteTx,
};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use syncmount_common::{ChunkHash, ContentHash, Manifest, NodeId, Placement, envelope};

/// Rows with values are read in pages of about this many bytes.
const PAGE_LEN: u64 = 16 * 1024 * 1024;

/// Files and versions that are named in a report.
const USES_MAX: usize = 100_000;

/// What a check found and a repair did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scrubbed {
    /// One sentence for each thing that is wrong, and still is.
    pub problems: Vec<String>,
    /// Packs read.
    pub packs: u64,
    /// Bytes of packs read.
    pub bytes: u64,
    /// Chunks that are there and hash right.
    pub chunks: u64,
    /// Contents looked at.
    pub contents: u64,
    /// Chunks in packs that the index did not name. An upload that was cut short leaves some; they do no harm.
    pub unnamed: u64,
    /// Bytes of packs that hold nothing readable.
    pub unreadable: u64,
    /// Rows that the repair has entered.
    pub entered: u64,
    /// Chunks that the repair has taken out of the index: they are gone or wrong.
    pub dropped: u64,
    /// Chunks that contents lack after the repair: devices are asked for their bytes when the server runs.
    pub asked: u64,
    /// Folders whose counters the repair has set right.
    pub recounted: u64,
}

impl Service {
    /// Checks everything; with `repair` also mends what can be mended. Nobody else may use the stores meanwhile.
    pub async fn scrub(&self, repair: bool) -> Result<Scrubbed> {
        let integrity = self.read(|tx| Ok(tx.integrity()?)).await?;
        let mut problems: Vec<_> =
            integrity.into_iter().map(|line| format!("the database is damaged: {line}")).collect();
        problems.extend(self.read(|tx| Ok(tx.row_faults()?)).await?);
        let mut scrub = Scrub {
            service: self,
            repair,
            done: Scrubbed { problems, ..Scrubbed::default() },
            bad: HashSet::new(),
            lost: HashSet::new(),
        };
        match scrub.run().await {
            // What is damaged in the database has been told; it may keep the rest from being read.
            Err(ServiceError::Meta(error)) if !scrub.done.problems.is_empty() => {
                scrub.done.problems.push(format!("the rest could not be checked: {error}"));
            }
            done => done?,
        }
        Ok(scrub.done)
    }
}

struct Scrub<'a> {
    service: &'a Service,
    repair: bool,
    done: Scrubbed,
    /// Chunks whose rows lead to nothing good. A repair has dropped the rows.
    bad: HashSet<ChunkHash>,
    /// Chunks that contents consist of and that the index did not name. Only a repair asks.
    lost: HashSet<ChunkHash>,
}

impl Scrub<'_> {
    async fn run(&mut self) -> Result<()> {
        self.counters().await?;
        if self.repair {
            self.lost().await?;
        }
        self.packs().await?;
        self.small_chunks().await?;
        if self.repair && !self.bad.is_empty() {
            self.search_again().await?;
        }
        self.contents().await
    }

    async fn counters(&mut self) -> Result<()> {
        let wrong = self.service.read(|tx| Ok(tx.miscounted()?)).await?;
        if self.repair {
            self.done.recounted = wrong.len() as u64;
            let job = move |tx: &dyn WriteTx| {
                wrong.iter().try_for_each(|folder| Ok(tx.set_totals(folder.key, folder.counted)?))
            };
            return self.service.write(job).await;
        }
        self.done.problems.extend(wrong.iter().map(miscounted));
        Ok(())
    }

    async fn lost(&mut self) -> Result<()> {
        let mut after = 0;
        loop {
            let (last, lost) = self.service.read(move |tx| lost_page(tx, after)).await?;
            self.lost.extend(lost);
            match last {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    async fn packs(&mut self) -> Result<()> {
        let stored: HashMap<PackId, u64> = self.service.0.chunks.packs().await?.into_iter().collect();
        let indexed = self.service.read(|tx| Ok(tx.indexed_packs()?)).await?;
        let all: BTreeSet<PackId> = stored.keys().copied().chain(indexed).collect();
        for pack in all {
            let len = stored.get(&pack).copied().unwrap_or(0);
            let found = self.audit(pack, len).await?;
            self.done.packs += u64::from(len > 0);
            self.done.bytes += len;
            self.done.chunks += found.sound;
            self.done.unreadable += found.unreadable;
            self.settle(pack, found).await?;
        }
        Ok(())
    }

    async fn audit(&self, pack: PackId, len: u64) -> Result<Audit> {
        let rows = self.service.read(move |tx| Ok(tx.indexed_in(pack)?)).await?;
        let bytes = match self.service.0.chunks.pack(pack, len).await {
            Ok(bytes) => bytes,
            Err(BlobError::Lost(_)) => Bytes::new(),
            // A disk that does not answer is no proof that the bytes are gone.
            Err(error @ (BlobError::Full | BlobError::Store(_))) if len > 0 => return Err(error.into()),
            Err(BlobError::Full | BlobError::Store(_)) => Bytes::new(),
        };
        self.service.0.offload.run(move || audit(pack, &bytes, rows)).await
    }

    async fn settle(&mut self, pack: PackId, found: Audit) -> Result<()> {
        let Audit { bad, headless, strays, .. } = found;
        let shown = shown(pack);
        self.bad.extend(bad.iter().map(|row| row.hash));
        if self.repair {
            self.drop_chunks(bad.iter().map(|row| row.hash).collect()).await?;
            self.move_away(headless).await?;
            return self.enter(strays).await;
        }
        let wrong = |row: &PackedChunk| {
            format!("chunk {}: its bytes in pack {shown} at offset {} are gone or wrong", row.hash, row.slice.offset)
        };
        self.done.problems.extend(bad.iter().map(wrong));
        let headless = headless.iter().map(|record| {
            format!("chunk {}: it can be read, but its record's head in pack {shown} is damaged", record.hash)
        });
        self.done.problems.extend(headless);
        self.done.unnamed += self.unnamed(strays).await?;
        Ok(())
    }

    async fn unnamed(&self, strays: Vec<PackedChunk>) -> Result<u64> {
        let count = move |tx: &dyn ReadTx| {
            strays.iter().try_fold(0, |sum, chunk| Ok(sum + u64::from(tx.chunk_len(&chunk.hash)?.is_none())))
        };
        self.service.read(count).await
    }

    async fn drop_chunks(&mut self, chunks: Vec<ChunkHash>) -> Result<()> {
        self.done.dropped += chunks.len() as u64;
        self.service.write(move |tx| chunks.iter().try_for_each(|hash| Ok(tx.drop_chunk(hash)?))).await
    }

    /// Writes chunks into a new pack, from which an index can be rebuilt.
    async fn move_away(&mut self, records: Vec<Record>) -> Result<()> {
        let moved = self.service.0.chunks.append(records).await?;
        self.done.entered += moved.len() as u64;
        let job = move |tx: &dyn WriteTx| {
            moved.iter().try_for_each(|chunk| {
                tx.drop_chunk(&chunk.hash)?;
                tx.add_packed(chunk)?;
                Ok(tx.found(&chunk.hash).map(drop)?)
            })
        };
        self.service.write(job).await
    }

    /// Enters chunks that the index does not name and that something consists of. What else lies in packs is of uploads
    /// that were given up.
    async fn enter(&mut self, strays: Vec<PackedChunk>) -> Result<()> {
        let is_wanted = |chunk: &PackedChunk| self.lost.contains(&chunk.hash) || self.bad.contains(&chunk.hash);
        let (chunks, given_up): (Vec<_>, Vec<_>) = strays.into_iter().partition(is_wanted);
        self.done.unnamed += self.unnamed(given_up).await?;
        let job = move |tx: &dyn WriteTx| {
            chunks.iter().try_fold(0, |sum, chunk| {
                tx.found(&chunk.hash)?;
                Ok(sum + u64::from(tx.add_packed(chunk)?))
            })
        };
        self.done.entered += self.service.write(job).await?;
        Ok(())
    }

    /// A chunk whose row was dropped may lie in a pack that was read before.
    async fn search_again(&mut self) -> Result<()> {
        for (pack, len) in self.service.0.chunks.packs().await? {
            let mut strays = self.audit(pack, len).await?.strays;
            strays.retain(|chunk| self.bad.contains(&chunk.hash));
            self.enter(strays).await?;
        }
        Ok(())
    }

    async fn small_chunks(&mut self) -> Result<()> {
        let mut after = 0;
        loop {
            let (chunks, last) = self.service.read(move |tx| Ok(tx.small_after(after, PAGE_LEN)?)).await?;
            if chunks.is_empty() {
                return Ok(());
            }
            after = last;
            self.done.chunks += chunks.len() as u64;
            let wrong: Vec<_> = chunks.into_iter().filter(|chunk| !is_sound(chunk)).map(|chunk| chunk.hash).collect();
            self.done.chunks -= wrong.len() as u64;
            self.bad.extend(&wrong);
            if self.repair {
                self.drop_chunks(wrong).await?;
            } else {
                let told = wrong.iter().map(|hash| format!("chunk {hash}: its bytes in the database are wrong"));
                self.done.problems.extend(told);
            }
        }
    }

    async fn contents(&mut self) -> Result<()> {
        let mut faults: HashMap<ContentHash, String> = HashMap::new();
        let mut after = 0;
        // After a repair the index tells what is there; before it, some of its rows lead nowhere.
        let bad = Arc::new(if self.repair { HashSet::new() } else { std::mem::take(&mut self.bad) });
        loop {
            let bad = Arc::clone(&bad);
            let (last, count, found) = self.service.read(move |tx| content_page(tx, after, &bad)).await?;
            if count == 0 {
                break;
            }
            after = last;
            self.done.contents += count;
            let mut lost = HashSet::new();
            for (content, fault, chunks) in found {
                faults.insert(content, fault);
                lost.extend(chunks);
            }
            self.note_lost(lost).await?;
        }
        if !faults.is_empty() {
            let told = self.service.read(move |tx| tell(tx, &faults)).await?;
            self.done.problems.extend(told);
        }
        Ok(())
    }
}

impl Scrub<'_> {
    /// What a repair could not find is asked for when the server runs.
    async fn note_lost(&mut self, chunks: HashSet<ChunkHash>) -> Result<()> {
        if !self.repair || chunks.is_empty() {
            return Ok(());
        }
        self.done.asked += chunks.len() as u64;
        self.service.write(move |tx| chunks.iter().try_for_each(|chunk| Ok(tx.lose(chunk)?))).await
    }
}

fn miscounted(folder: &FolderFault) -> String {
    let FolderFault { name, said, counted, .. } = folder;
    let told = |totals: &Totals| format!("{} nodes with {} bytes", totals.nodes, totals.bytes);
    let said = said.as_ref().map_or_else(|| "something that cannot be read".to_owned(), told);
    format!("the folder `{name}` has {}, its row says {said}", told(counted))
}

fn is_sound(chunk: &SmallChunk) -> bool {
    envelope::open(&chunk.hash, &chunk.envelope).is_ok_and(|raw| raw.len() == chunk.raw_len as usize)
}

fn shown(pack: PackId) -> String {
    pack.0.iter().fold(String::with_capacity(32), |text, byte| text + &format!("{byte:02x}"))
}

/// The chunks without a row that the contents of one page consist of, and the page's last row; none behind the last page.
fn lost_page(tx: &dyn ReadTx, after: i64) -> Result<(Option<i64>, Vec<ChunkHash>)> {
    let page = tx.contents_after(after, PAGE_LEN)?;
    let mut lost = Vec::new();
    // A manifest that cannot be read is told of later on.
    for manifest in page.iter().filter_map(|content| Manifest::decode(&content.manifest).ok()) {
        for (hash, _) in manifest.chunks() {
            if tx.chunk_len(&hash)?.is_none() {
                lost.push(hash);
            }
        }
    }
    Ok((page.last().map(|content| content.key), lost))
}

/// What is wrong with contents, and the chunks that they lack.
type Faults = Vec<(ContentHash, String, Vec<ChunkHash>)>;

/// What is wrong in one page of contents; its last row and how many it has.
fn content_page(tx: &dyn ReadTx, after: i64, bad: &HashSet<ChunkHash>) -> Result<(i64, u64, Faults)> {
    let page = tx.contents_after(after, PAGE_LEN)?;
    let last = page.last().map_or(after, |content| content.key);
    let mut faults = Vec::new();
    for content in &page {
        faults.extend(fault(tx, content, bad)?.map(|(fault, lost)| (content.hash, fault, lost)));
    }
    Ok((last, page.len() as u64, faults))
}

fn fault(tx: &dyn ReadTx, content: &RawContent, bad: &HashSet<ChunkHash>) -> Result<Option<(String, Vec<ChunkHash>)>> {
    let other = |fault: String| Ok(Some((fault, Vec::new())));
    let Ok(manifest) = Manifest::decode(&content.manifest) else {
        return other("its manifest cannot be read".to_owned());
    };
    if ContentHash::of(&content.manifest) != content.hash {
        return other("its manifest is not the one that its hash names".to_owned());
    }
    if manifest.size() != content.size {
        return other(format!("its chunks have {} bytes, its row says {}", manifest.size(), content.size));
    }
    let mut lost = Vec::new();
    for (hash, len) in manifest.chunks() {
        if bad.contains(&hash) || tx.chunk_len(&hash)? != Some(len) {
            lost.push(hash);
        }
    }
    let Some(first) = lost.first() else { return Ok(None) };
    let (count, all) = (lost.len(), manifest.chunks().count());
    Ok(Some((format!("{count} of its {all} chunks are missing or damaged, the first is {first}"), lost)))
}

/// One sentence for each content, with everything that consists of it.
fn tell(tx: &dyn ReadTx, faults: &HashMap<ContentHash, String>) -> Result<Vec<String>> {
    let contents = faults.keys().copied().collect();
    let mut paths: HashMap<ContentHash, Vec<String>> = HashMap::new();
    for used in tx.uses(&contents, USES_MAX)? {
        let path = path(tx, &used)?;
        paths.entry(used.content).or_default().push(path);
    }
    let line = |(hash, fault): (&ContentHash, &String)| match paths.get(hash) {
        Some(paths) => format!("{}: {fault}", paths.join(", ")),
        None => format!("content {hash}, which no file has: {fault}"),
    };
    let mut lines: Vec<_> = faults.iter().map(line).collect();
    lines.sort_unstable();
    Ok(lines)
}

/// `FOLDER:/PATH`, with `?version=REV` for an earlier version. `…` stands for what has been removed above.
fn path(tx: &dyn ReadTx, used: &ContentUse) -> Result<String> {
    let Some(folder) = tx.folder(&used.folder)? else { return Ok(used.folder.clone()) };
    let way = way(tx, folder.key, &used.placement)?;
    let version = used.rev.map_or_else(String::new, |rev| format!("?version={rev}"));
    Ok(format!("{}:{way}{version}", used.folder))
}

fn way(tx: &dyn ReadTx, folder: FolderKey, place: &Placement) -> Result<String> {
    let mut way = format!("/{}", place.name);
    let (mut next, mut seen) = (place.parent, HashSet::new());
    while next != NodeId::ROOT && seen.insert(next) {
        let above = tx.node(folder, next)?.and_then(|node| node.names.into_iter().next());
        let Some(above) = above else { return Ok(format!("/…{way}")) };
        way.insert_str(0, &format!("/{}", above.name));
        next = above.parent;
    }
    Ok(way)
}
