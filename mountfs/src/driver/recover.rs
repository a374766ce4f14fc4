//! Opening the store: what was kept is checked against what is on the disk before anything is shown or sent.

use super::durable::Marks;
use super::{
    Client, Room, ahead, content, digest, fleeting, former, known, link::Link, outbox::Outbox, parts, pins, rows,
    session::Voice, space,
};
use crate::files::OpenFiles;
use crate::ports::Remote;
use crate::store::Cache;
use crate::store::{Staged, StagingDir};
use crate::store::{State, StateError};
use crate::system::files;
use parking_lot::{Mutex, RwLock};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use syncmount_common::manifest::FILE_SIZE_MAX;
use syncmount_common::protocol::changes::Device;
use syncmount_common::{NodeId, Timestamp};
use syncmount_engine::{Draft, DraftUpdate, Engine, Entry, Expected, Identity};

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// In use, damaged, not writable.
    #[error(transparent)]
    State(#[from] StateError),
    /// The disk.
    #[error("the cache folder cannot be used: {0}")]
    Io(#[from] io::Error),
    /// It belongs to something else.
    #[error("the cache folder holds the folder {found} and not {wanted}; give another --cache-dir")]
    OtherFolder {
        /// What it was made for.
        found: String,
        /// What was asked for.
        wanted: String,
    },
}

const FOLDER: &str = "folder";

/// The size of the largest file that the disk below `dir` can hold and that may travel.
fn largest_file(dir: &Path) -> io::Result<u64> {
    let path = dir.join("probe");
    let largest = files::largest(&std::fs::File::create(&path)?, FILE_SIZE_MAX);
    files::remove_if_there(&path)?;
    Ok(largest)
}

impl Client {
    /// Opens the store in `dir`, for the folder that `identity` names (server and folder), as a device that people call
    /// `device_name`. After a power cut the next start is told of it too, until [`Client::end_suspicion`].
    pub fn open_store(
        dir: &Path,
        cache_limit: u64,
        identity: &str,
        device_name: &str,
        remote: Arc<dyn Remote>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Arc<Self>, OpenError> {
        let (state, mut loaded) = State::open(dir)?;
        let suspect = loaded.suspect;
        let mut notes = loaded.repaired.clone();
        if let Some(found) = loaded.meta.get(FOLDER)
            && found != identity.as_bytes()
        {
            let found = String::from_utf8_lossy(found).into_owned();
            return Err(OpenError::OtherFolder { found, wanted: identity.to_owned() });
        }
        if !loaded.meta.contains_key(FOLDER) {
            let meta = vec![(FOLDER.to_owned(), Some(identity.as_bytes().to_vec()))];
            state.append(&crate::store::Record { rows: Vec::new(), meta })?;
        }
        let (voice, note) = Voice::begin(&state, &loaded, rows::position(&loaded)?.known())?;
        let items = rows::take_items(&mut loaded);
        let marks = Marks::load(&loaded);
        let pins = pins::Pins::load(pins::kept(&loaded.meta)?.into_iter());
        let (restored, retired) = rows::decode(loaded)?;
        let staging = StagingDir::open(dir)?;
        for id in retired {
            if super::item_of_draft(id).is_none() {
                staging.remove(id)?;
            }
            state.append(&rows::removed(id))?;
            marks.forget(id);
        }
        let device = Device { id: voice.speaker.device, name: device_name.chars().take(64).collect() };
        let mut engine = Engine::new(Identity { device, seed: random_u64()? }, restored);
        if voice.begins_in_doubt() {
            // What the last session sent has arrived by then, or is refused from then on.
            engine.look_first();
        }
        engine.set_rules(Arc::new(crate::ignore::Rules::default()), 0);
        let kept = pins.contents(&engine).into_iter();
        let cache = Cache::open_keeping(&dir.join("cache"), cache_limit, suspect, kept)?;
        let manifests = super::manifests::Manifests::open(dir.join("manifests"))?;
        let client = Self {
            engine: RwLock::new(engine),
            state,
            staging,
            cache,
            manifests,
            around: super::around::Around::default(),
            downloads: content::Downloads::default(),
            parts: parts::Parts::default(),
            known: known::KnownChunks::default(),
            healing: super::heal::Healing::default(),
            formers: former::Formers::default(),
            digests: digest::Digests::default(),
            fleeting: fleeting::Fleeting::default(),
            followers: ahead::Followers::default(),
            outbox: Outbox::default(),
            advances: Mutex::default(),
            server_room: super::server_room::ServerRoom::default(),
            counted: Mutex::default(),
            unsettled: Mutex::default(),
            unsettled_later: Mutex::default(),
            unreadable: super::unreadable::Unreadable::default(),
            stumbles: Mutex::default(),
            voice: Mutex::new(voice),
            remote,
            runtime,
            link: Link::default(),
            files: OpenFiles::default(),
            wake: tokio::sync::Notify::new(),
            stirred: tokio::sync::Notify::new(),
            commit_wake: tokio::sync::Notify::new(),
            rested: tokio::sync::Notify::new(),
            hurried: tokio::sync::Notify::new(),
            page_wanted: tokio::sync::Notify::new(),
            unkept: Mutex::default(),
            on_changed: Mutex::new(None),
            notes: Mutex::new(std::mem::take(&mut notes)),
            lost: Mutex::default(),
            room: Room::default(),
            largest: largest_file(dir)?,
            cache_space: space::Space::default(),
            folder_space: space::Space::default(),
            // 0 is what nobody has written to.
            generations: AtomicU64::new(1),
            unsynced_names: AtomicBool::new(false),
            leaving: Mutex::default(),
            syncing_names: Mutex::default(),
            marks,
            rules: super::rules::RuleBook::default(),
            pins,
            folder: std::sync::OnceLock::new(),
            items: Mutex::new(items),
            was_cut: suspect,
        };
        let last = client.look(|engine| engine.stagings().map(|(_, draft)| draft.generation).max());
        client.generations.store(last.map_or(1, |last| last + 1), Ordering::Relaxed);
        client.check_staging(suspect)?;
        client.marks.leave_proofs();
        client.look_for_lost();
        crate::system::give_back_memory();
        if let Some(note) = note {
            client.note(note.to_owned());
        }
        Ok(Arc::new(client))
    }

    fn check_staging(&self, suspect: bool) -> io::Result<()> {
        let drafts: Vec<(NodeId, Draft, Timestamp)> = self.look(|engine| {
            let mtime = |id| engine.local(id).map_or(Timestamp(0), |state| state.attrs.mtime);
            engine.stagings().map(|(id, draft)| (id, draft.clone(), mtime(id))).collect()
        });
        let mut known = HashSet::new();
        for (node, draft, mtime) in drafts {
            let Some(id) = draft.staging else {
                if suspect && !draft.ready {
                    // Somebody had made it and had not closed it: what was written then is not here.
                    self.give_up(node)?;
                } else {
                    self.resume(node, draft.clone(), mtime)?;
                }
                continue;
            };
            if super::item_of_draft(id).is_some() {
                // Whoever watches the folder looks at it before anything is sent.
                continue;
            }
            known.insert(id);
            match self.staging.file(id).and_then(|file| file.metadata()).map(|data| data.len()) {
                Ok(len) => self.check_draft(node, draft, len, mtime, suspect)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_in_cache(&draft)? => {
                    // It was settled, and the record of that did not survive.
                    let base = draft.prepared.clone();
                    let settled = Draft { staging: None, present: Vec::new(), base_len: draft.size, base, ..draft };
                    self.resume_as(node, Some(id), settled, mtime)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.give_up(node)?;
                }
                Err(error) => return Err(error),
            }
        }
        for Staged { id, len } in self.staging.list()? {
            if known.contains(&id) {
                continue;
            }
            if len == 0 {
                self.staging.remove(id)?;
            } else {
                self.staging.set_aside(id, "unknown", "no file of the folder refers to these bytes")?;
                tracing::warn!("staging file {id} belongs to no file; it was moved to lost+found");
            }
        }
        Ok(())
    }

    fn is_in_cache(&self, draft: &Draft) -> io::Result<bool> {
        let Some(content) = &draft.prepared else { return Ok(false) };
        let Some(manifest) = self.manifest_here(content) else { return Ok(false) };
        Ok(self.cache.entry(&content.hash, &manifest)?.is_whole())
    }

    fn check_draft(&self, node: NodeId, mut draft: Draft, len: u64, mtime: Timestamp, suspect: bool) -> io::Result<()> {
        let reaches = draft.present.last().map_or(0, |(_, end)| *end);
        if suspect && len == 0 && !draft.ready {
            // Not closed, and nothing is left of what may have been written.
            self.give_up(node)?;
            return self.staging.remove(draft.staging.unwrap_or_default());
        }
        if len < reaches && !draft.ready && !suspect {
            // The process ended after the writer had cut the file.
            draft = self.cut_off(draft, len);
        } else if len < reaches {
            let id = draft.staging.unwrap_or_default();
            return self.set_aside(node, id, "its bytes did not reach the disk before the machine stopped");
        }
        if suspect && !self.is_proven(&draft)? {
            let id = draft.staging.unwrap_or_default();
            return self.set_aside(
                node,
                id,
                "nothing proves that its bytes reached the disk before the machine stopped",
            );
        }
        if !draft.ready {
            // The process ended while somebody wrote: nothing that was known of the bytes is sure any more.
            draft.generation = self.next_generation();
            draft.prepared = None;
            if len > draft.size {
                draft = with_end(draft, len);
            }
        }
        self.resume(node, draft, mtime)
    }

    /// The draft as it is if only `len` bytes are left of it.
    fn cut_off(&self, draft: Draft, len: u64) -> Draft {
        let present =
            draft.present.iter().filter(|(start, _)| *start < len).map(|(start, end)| (*start, len.min(*end)));
        let (present, base_len) = (present.collect(), draft.base_len.min(len));
        Draft { size: len, present, base_len, generation: self.next_generation(), prepared: None, ..draft }
    }

    /// Nobody has the file open any more: it may be sent.
    fn resume(&self, node: NodeId, draft: Draft, mtime: Timestamp) -> io::Result<()> {
        if draft.ready && draft.prepared.is_some() {
            return Ok(());
        }
        self.resume_as(node, draft.staging, draft, mtime)
    }

    fn resume_as(&self, node: NodeId, known: Option<u64>, draft: Draft, mtime: Timestamp) -> io::Result<()> {
        let expected = Expected::Draft(known);
        let update = DraftUpdate {
            generation: draft.generation,
            size: draft.size,
            staging: draft.staging,
            present: draft.present,
            base: draft.base,
            base_len: draft.base_len,
            mtime,
            ready: true,
        };
        self.change(|engine, now| engine.write_draft(node, expected, update, now))?.map_err(io::Error::other)
    }

    fn give_up(&self, node: NodeId) -> io::Result<()> {
        let path = self.look(|engine| engine.path(node)).unwrap_or_else(|| "(removed)".into());
        self.change(|engine, now| engine.abandon_draft(node, now))?;
        self.note(format!("{path}: its last bytes did not survive; what the server has of it is shown"));
        Ok(())
    }

    fn set_aside(&self, node: NodeId, staging: u64, why: &str) -> io::Result<()> {
        let path = self.look(|engine| engine.path(node)).unwrap_or_else(|| "(removed)".into());
        let is_sent = self.look(|engine| engine.entry(node).is_some_and(is_sent));
        self.change(|engine, now| engine.abandon_draft(node, now))?;
        if is_sent {
            // The server has the bytes, and the file is what it is there.
            return self.staging.remove(staging);
        }
        match self.staging.set_aside(staging, &path, why) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.note(format!("{path}: {why}; it was not sent"));
            }
            result => {
                let to = result?;
                tracing::warn!("{path}: {why}; what is left of it was moved to {}, and it was not sent", to.display());
            }
        }
        Ok(())
    }
}

/// The draft with what its writer had handed over and the tree had not been told: the staging file has `len` bytes.
fn with_end(mut draft: Draft, len: u64) -> Draft {
    // Without a base nothing else can be meant by any of its bytes.
    let from = if draft.base.is_none() { 0 } else { draft.size };
    draft.present.retain(|(start, _)| *start < from);
    match draft.present.last_mut() {
        Some((_, end)) if *end >= from => *end = len,
        _ => draft.present.push((from, len)),
    }
    draft.size = len;
    draft
}

/// Whether the server has taken the draft's bytes.
fn is_sent(entry: &Entry) -> bool {
    let bodies = entry.local.as_ref().zip(entry.synced_state());
    bodies.is_some_and(|(local, synced)| local.body.same_as(&synced.body))
}

pub(super) fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ports::{Changes, ChunkSink, Difference, Part, RemoteError, Reply, Speaker};
    use bytes::Bytes;
    use std::fs;
    use std::time::Duration;
    use syncmount_common::protocol::changes::Ask;
    use syncmount_common::protocol::chunks::{Alike, PutReply};
    use syncmount_common::protocol::commit::{CommitRequest, Committed};
    use syncmount_common::protocol::folders::FolderInfo;
    use syncmount_common::{Attrs, ChunkHash, Content, ContentHash, Manifest, Name};
    use syncmount_engine::{Body, FileBody};

    /// A server that cannot be reached.
    struct Nowhere;

    fn unreachable<'a, T: 'a>() -> Reply<'a, T> {
        Box::pin(async { Err(RemoteError::Unreachable(String::new())) })
    }

    impl Remote for Nowhere {
        fn folder(&self) -> Reply<'_, FolderInfo> {
            unreachable()
        }
        fn changes(&self, _: Ask, _: Duration, _: u64, _: Option<Speaker>) -> Reply<'_, Changes> {
            unreachable()
        }
        fn commit<'a>(&'a self, _: &'a CommitRequest, _: &'a [(ChunkHash, Bytes)]) -> Reply<'a, Committed> {
            unreachable()
        }
        fn takes_content_deltas(&self) -> bool {
            false
        }
        fn takes_chunk_deltas(&self) -> bool {
            false
        }
        fn gives_deltas(&self) -> bool {
            false
        }
        fn missing<'a>(&'a self, _: &'a [ChunkHash]) -> Reply<'a, Vec<ChunkHash>> {
            unreachable()
        }
        fn put<'a>(&'a self, _: &'a [(ChunkHash, Bytes)]) -> Reply<'a, PutReply> {
            unreachable()
        }
        fn fetch_alike<'a>(
            &'a self,
            _: &'a [ChunkHash],
            _: &'a [Alike],
            _: &'a mut ChunkSink<'_>,
        ) -> Reply<'a, Vec<Difference>> {
            unreachable()
        }
        fn part<'a>(&'a self, _: &'a ChunkHash, _: std::ops::Range<u32>) -> Reply<'a, Part> {
            unreachable()
        }
        fn manifest<'a>(&'a self, _: &'a ContentHash, _: Option<&'a Manifest>) -> Reply<'a, Manifest> {
            unreachable()
        }
    }

    pub(crate) fn open(dir: &Path, runtime: &tokio::runtime::Runtime) -> Arc<Client> {
        let client =
            Client::open_store(dir, 1 << 20, "here", "me", Arc::new(Nowhere), runtime.handle().clone()).unwrap();
        client.end_suspicion().unwrap();
        client
    }

    /// A file that was closed.
    fn written(client: &Arc<Client>, name: &str, bytes: &[u8]) -> NodeId {
        let name = Name::try_from(name).unwrap();
        let body = Body::File(FileBody::Draft(Box::new(Draft::empty())));
        let attrs = Attrs { mode: 0o644, mtime: Timestamp(0) };
        let node = client.change(|engine, now| engine.create(NodeId::ROOT, name, attrs, body, now)).unwrap().unwrap();
        let file = client.open(node, true).unwrap();
        client.write(&file, 0, bytes).unwrap();
        client.end_writing(&file).unwrap();
        client.close_file(&file);
        node
    }

    pub(crate) fn cut_power(dir: &Path) {
        let marker = dir.join("session");
        let text = fs::read_to_string(&marker).unwrap();
        fs::write(&marker, format!("another boot{}", &text[text.find('\n').unwrap()..])).unwrap();
    }

    /// A file that was closed and hashed, and then the power was cut.
    fn cut_after_hashing(dir: &Path, runtime: &tokio::runtime::Runtime) -> NodeId {
        let client = open(dir, runtime);
        let node = written(&client, "file", b"the last");
        let generation = client.look(|engine| engine.local(node).unwrap().body.draft().unwrap().generation);
        let answer = client.prepare(node, generation, false);
        client.change(|engine, now| engine.prepared(node, generation, answer, now)).unwrap();
        drop(client);
        cut_power(dir);
        node
    }

    #[test]
    fn what_is_closed_after_a_power_cut_survives_the_process_as_ever() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), &runtime));
        cut_power(dir.path());
        let client = open(dir.path(), &runtime);
        let node = written(&client, "file", b"nothing proves this");
        drop(client);
        assert!(open(dir.path(), &runtime).look(|engine| engine.local(node).is_some()));
    }

    fn only_file(dir: &Path) -> std::path::PathBuf {
        fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
    }

    #[test]
    fn after_a_power_cut_only_the_bytes_that_were_hashed_are_sent() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for is_older in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let node = cut_after_hashing(dir.path(), &runtime);
            if is_older {
                fs::write(only_file(&dir.path().join("staging")), "the past").unwrap();
            }
            let client = open(dir.path(), &runtime);
            assert_eq!(client.look(|engine| engine.local(node).is_none()), is_older);
            let lost = fs::read_dir(dir.path().join("lost+found")).unwrap();
            let lost: Vec<_> = lost.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
            assert_eq!(lost.iter().any(|text| text == "the past"), is_older, "{lost:?}");
        }
    }

    /// A file that was written, synced, and as `then` wishes overwritten, in a client whose machine loses power.
    fn cut_after_sync(dir: &Path, runtime: &tokio::runtime::Runtime, len: usize, then: Option<&[u8]>) -> NodeId {
        let client = open(dir, runtime);
        let node = written(&client, "file", &vec![b'a'; len]);
        let file = client.open(node, true).unwrap();
        client.sync_file(&file).unwrap();
        if let Some(bytes) = then {
            client.write(&file, 1, bytes).unwrap();
        }
        client.close_file(&file);
        drop(client);
        cut_power(dir);
        node
    }

    #[test]
    fn what_was_synced_is_there_after_a_power_cut_unless_it_was_overwritten() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        // With the hash of the bytes in the mark, and without.
        for len in [5, 300_000] {
            for then in [None, Some(&b"half"[..])] {
                let dir = tempfile::tempdir().unwrap();
                let node = cut_after_sync(dir.path(), &runtime, len, then);
                let client = open(dir.path(), &runtime);
                let is_there = client.look(|engine| engine.local(node).is_some());
                assert_eq!(is_there, then.is_none(), "{len} {then:?}");
                assert_eq!(client.lost().len(), usize::from(then.is_some()), "{len} {then:?}");
            }
        }
    }

    #[test]
    fn a_mark_with_a_hash_counts_only_for_the_bytes_that_have_it() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let node = cut_after_sync(dir.path(), &runtime, 5, None);
        // The record of the sync reached the disk, and the bytes did not.
        fs::write(only_file(&dir.path().join("staging")), "aa\0\0\0").unwrap();
        let client = open(dir.path(), &runtime);
        assert!(client.look(|engine| engine.local(node).is_none()));
        assert_eq!(client.lost().len(), 1);
    }

    #[test]
    fn a_mark_with_a_hash_says_nothing_of_a_sync_to_the_next_process() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let client = open(dir.path(), &runtime);
        let node = written(&client, "file", b"bytes");
        let file = client.open(node, true).unwrap();
        client.sync_file(&file).unwrap();
        let staging = client.look(|engine| engine.local(node).unwrap().body.draft().unwrap().staging.unwrap());
        assert!(client.marks.is_marked(staging));
        drop((file, client));
        let client = open(dir.path(), &runtime);
        assert!(!client.marks.is_marked(staging));
        let file = client.open(node, true).unwrap();
        client.sync_file(&file).unwrap();
        assert!(client.marks.is_marked(staging));
    }

    #[test]
    fn the_staging_file_of_what_was_synced_and_removed_goes_with_the_next_beat_or_start() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for with_beat in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let client = open(dir.path(), &runtime);
            let node = written(&client, "file", b"bytes");
            let file = client.open(node, true).unwrap();
            client.sync_file(&file).unwrap();
            client.close_file(&file);
            client.change(|engine, now| engine.remove(NodeId::ROOT, b"file", false, now)).unwrap().unwrap();
            let staged = || client.staging.list().unwrap().len();
            while let Some(effect) = client.engine.write().poll(crate::driver::now()) {
                if let syncmount_engine::Effect::DropStaging(id) = effect {
                    client.drop_staging(id).unwrap();
                }
            }
            assert_eq!((staged(), client.leaving.lock().len()), (1, 1));
            if with_beat {
                client.drop_leaving().unwrap();
                assert_eq!((staged(), client.leaving.lock().len()), (0, 0));
            }
            drop(client);
            assert_eq!(open(dir.path(), &runtime).staging.list().unwrap().len(), 0);
        }
    }

    #[test]
    fn what_was_handed_over_behind_the_end_counts() {
        let staged = |present: &[(u64, u64)], size| Draft {
            size,
            staging: Some(1),
            present: present.to_vec(),
            base: None,
            base_len: 0,
            generation: 1,
            ready: false,
            prepared: None,
        };
        let base = Some(Arc::new(Content::of(Manifest::default(), None)));
        let with_base =
            |present: &[(u64, u64)], size| Draft { base: base.clone(), base_len: 7, ..staged(present, size) };
        let present = |draft| with_end(draft, 50).present;
        assert_eq!(present(staged(&[], 0)), [(0, 50)]);
        assert_eq!(present(staged(&[(3, 9), (20, 40)], 40)), [(0, 50)]);
        assert_eq!(present(with_base(&[], 7)), [(7, 50)], "what lies beneath is not the writer's");
        assert_eq!(present(with_base(&[(2, 4), (5, 30)], 30)), [(2, 4), (5, 50)]);
        assert_eq!(with_end(with_base(&[(2, 4)], 30), 50).size, 50);
    }
}
