//! Who this client is to the server: its device, and the session that each start begins.
//!
//! Promises: the session's number is durable before anything is sent in it; before a commit is sent, the journal has its
//! op id. So the server can tell this client from an older copy of itself, and when it says that this is one, the client
//! goes on as another device: nothing that the former device wrote is taken for an earlier version of what is here.

use super::Client;
use crate::ports::Speaker;
use crate::store::{Loaded, Record, State};
use std::io;
use std::time::Duration;
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::protocol::commit::CommitRequest;
use syncmount_common::protocol::session::Session;
use syncmount_common::{DeviceId, Seq};

const DEVICE: &str = "device";
const SESSION: &str = "session";

/// Said when the server has refused this device's session.
const SUPERSEDED: &str =
    "this cache folder was restored from a backup or is in use elsewhere; it goes on as a new device";

/// Said after a power cut.
const CUT: &str = "the machine stopped without warning, and the last changes that this folder's client had noted may be \
                   missing; it goes on as a new device";

/// The voice of this client at present.
#[derive(Clone, Copy, Debug)]
pub(super) struct Voice {
    pub(super) speaker: Speaker,
    /// The end of the newest commit that was answered in this session.
    acknowledged: Seq,
}

impl Voice {
    /// Begins a session, durably. `known` is how far the folder's history is known here.
    pub(super) fn begin(
        state: &State,
        loaded: &Loaded,
        known: Option<Cursor>,
    ) -> io::Result<(Self, Option<&'static str>)> {
        let device = loaded.meta.get(DEVICE).and_then(|bytes| <[u8; 16]>::try_from(bytes.as_slice()).ok());
        let (speaker, note) = match device {
            Some(id) if !loaded.suspect => {
                let last = loaded.meta.get(SESSION).map(|text| String::from_utf8_lossy(text).parse::<Session>());
                let last = last.transpose().map_err(io::Error::other)?;
                let session = next(last, known)?;
                (Speaker { device: DeviceId::from_bytes(id), session }, None)
            }
            former => (newcomer()?, former.map(|_| CUT)),
        };
        state.append(&record(speaker))?;
        state.sync()?;
        Ok((Self { speaker, acknowledged: 0 }, note))
    }

    /// Whether the end of the session before is not known: a commit of it may have reached the server.
    pub(super) const fn begins_in_doubt(&self) -> bool {
        self.speaker.session.unanswered.is_some()
    }
}

fn next(last: Option<Session>, known: Option<Cursor>) -> io::Result<Session> {
    let (number, acknowledged) = last.map_or((0, 0), |last| (last.number, last.acknowledged));
    Ok(Session {
        number: number + 1,
        nonce: super::recover::random_u64()?,
        acknowledged: acknowledged.max(known.map_or(0, |known| known.seq)),
        unanswered: last.and_then(|last| last.unanswered),
    })
}

/// A device that nobody has heard of.
fn newcomer() -> io::Result<Speaker> {
    let mut random = [0; 10];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let device = DeviceId::new_v7(super::now().unix_ms(), &random);
    Ok(Speaker { device, session: next(None, None)? })
}

fn record(speaker: Speaker) -> Record {
    let meta = vec![
        (DEVICE.to_owned(), Some(speaker.device.as_bytes().to_vec())),
        (SESSION.to_owned(), Some(speaker.session.to_string().into_bytes())),
    ];
    Record { rows: Vec::new(), meta }
}

impl Client {
    /// Who speaks at present. Asked under the engine's lock, it fits what the engine says.
    pub(super) fn speaker(&self) -> Speaker {
        self.voice.lock().speaker
    }

    /// The next commit, and who makes it.
    pub(super) fn next_commit(&self) -> Option<(CommitRequest, Speaker)> {
        let mut engine = self.engine.write();
        let request = engine.next_commit(super::now())?;
        let speaker = self.speaker();
        let is_newer = self.remote.ignores_unknown_fields();
        let concluded = self.folder.get().is_some() && is_newer;
        let session = Some(speaker.session);
        let owners = if self.remote.takes_owners() { request.owners } else { Vec::new() };
        let request = CommitRequest { session, concluded, owners, ..request };
        let plain = |request| CommitRequest { times: Vec::new(), touched: Vec::new(), versions: Vec::new(), ..request };
        Some((if is_newer { request } else { plain(request) }, speaker))
    }

    /// Keeps what the next start must know if the answer to this commit does not come: what it was about, and its name.
    pub(super) fn keep_unanswered(&self, request: &CommitRequest, speaker: Speaker) -> io::Result<()> {
        let mut engine = self.engine.write();
        let voice = *self.voice.lock();
        if voice.speaker != speaker {
            // The server will refuse it, and the note would be that of a device that is over.
            return self.keep(&mut engine);
        }
        let known = engine.known().map_or(0, |known| known.seq).max(voice.acknowledged);
        let session = Session { acknowledged: known, unanswered: Some(request.op_id), ..speaker.session };
        self.keep_with(&mut engine, record(Speaker { session, ..speaker }))
    }

    /// The server has answered a commit that ends at `last`.
    pub(super) fn note_acknowledged(&self, speaker: Speaker, last: Seq) {
        let mut voice = self.voice.lock();
        if voice.speaker == speaker {
            voice.acknowledged = last;
        }
    }

    /// The server's history is another one: what it had acknowledged does not count in it.
    pub(super) fn forget_acknowledged(&self) {
        self.voice.lock().acknowledged = 0;
    }

    /// The server has refused `refused`: this client is another device from now on. Returns when that is durable.
    pub(super) async fn become_other(&self, refused: Speaker) {
        while let Err(error) = self.try_become_other(refused) {
            self.link.failed(&format!("the journal cannot be written: {error}"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.wake.notify_one();
        self.page_wanted.notify_one();
    }

    fn try_become_other(&self, refused: Speaker) -> io::Result<()> {
        let mut engine = self.engine.write();
        if self.speaker() != refused {
            return Ok(());
        }
        let speaker = newcomer()?;
        self.state.append(&record(speaker))?;
        self.state.sync()?;
        *self.voice.lock() = Voice { speaker, acknowledged: 0 };
        engine.become_device(speaker.device);
        self.note(SUPERSEDED.to_owned());
        // After an error the record is part of the next one.
        self.keep(&mut engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use syncmount_common::{Epoch, OpId};

    fn start(dir: &Path, seq: Seq, suspect: bool) -> (Speaker, Option<&'static str>) {
        let (state, loaded) = State::open(dir).unwrap();
        let cursor = Some(Cursor { epoch: Epoch::from_bytes([7; 16]), seq, tag: 0 });
        let (voice, note) = Voice::begin(&state, &Loaded { suspect, ..loaded }, cursor).unwrap();
        (voice.speaker, note)
    }

    #[test]
    fn each_start_is_a_session_of_the_same_device() {
        let dir = tempfile::tempdir().unwrap();
        let (first, note) = start(dir.path(), 0, false);
        assert_eq!((first.session.number, first.session.acknowledged, note), (1, 0, None));
        let (second, note) = start(dir.path(), 5, false);
        assert_eq!((second.device, second.session.number, note), (first.device, 2, None));
        assert_ne!(second.session.nonce, first.session.nonce);
        assert_eq!(second.session.acknowledged, 5, "what came with the feed is known");
        // What was kept before a commit was sent is told until something newer is known.
        let sent = Session { acknowledged: 9, unanswered: Some(OpId::from_bytes([3; 16])), ..second.session };
        let (state, _) = State::open(dir.path()).unwrap();
        state.append(&record(Speaker { session: sent, ..second })).unwrap();
        drop(state);
        for number in [3, 4] {
            let (next, _) = start(dir.path(), 7, false);
            assert_eq!(next.session, Session { number, nonce: next.session.nonce, ..sent });
        }
    }

    #[test]
    fn after_a_power_cut_it_is_another_device() {
        let dir = tempfile::tempdir().unwrap();
        let (first, note) = start(dir.path(), 0, true);
        assert_eq!(note, None, "there was none before");
        let (second, note) = start(dir.path(), 5, true);
        assert!(note.is_some_and(|note| note.contains("new device")));
        assert_ne!(second.device, first.device);
        assert_eq!((second.session.number, second.session.unanswered), (1, None));
        assert_eq!(start(dir.path(), 5, false).0.device, second.device, "it is kept");
    }
}
