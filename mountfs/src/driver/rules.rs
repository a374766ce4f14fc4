//! Which names stay on this machine: the folder's own `.syncignore` files, read when they change and told to the engine.
//!
//! Until a file that travels is read, nothing is sent: it may say that what was made here stays here. A file that cannot
//! be read because its bytes are not here and the server is away is waited for, which costs nothing; nothing could be sent.

use super::{Client, WriteError, content::ReadError};
use crate::files::Backing;
use crate::ignore::{BadLine, FILE_LEN_MAX, FILE_NAME, RuleFile, Rules};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::{ContentHash, Name, NodeId};
use syncmount_engine::{Body, FileBody, State};

/// How long the bytes of one file are waited for, at a time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes that are looked at under one lock.
const RESCOPE_STEP: usize = 256;

/// What tells one state of a file's bytes from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    Content(ContentHash),
    Draft(u64),
}

struct Known {
    version: Version,
    file: Arc<RuleFile>,
    bad: Vec<BadLine>,
}

/// The files as they were read last.
#[derive(Default)]
pub(super) struct RuleBook {
    /// Held while they are read, so that an older state never follows a newer one.
    known: Mutex<HashMap<NodeId, Known>>,
    /// What is wrong with them: path and reason.
    bad: Mutex<Vec<(String, String)>>,
}

impl Client {
    /// Does what [`syncmount_engine::Effect::ReadRules`] asks for. Blocks; `Unreachable` if that has to be tried again.
    pub(super) fn read_rules(self: &Arc<Self>) -> Result<(), ReadError> {
        let mut known = self.rules.known.lock();
        let (version, files) = self.look(|engine| {
            let place =
                |id| Some((id, engine.names(engine.local(id)?.names.first()?.parent), engine.local(id)?.clone()));
            (engine.rules_version(), engine.rule_files().filter_map(place).collect::<Vec<_>>())
        });
        known.retain(|id, _| files.iter().any(|(file, ..)| file == id));
        let (mut parsed, mut all_bad) = (Vec::new(), Vec::new());
        for (id, dir, state) in files {
            if let Some(changed) = unread(&state, known.get(&id)) {
                self.read_file(id, changed, &mut known)?;
            }
            let Some(file) = known.get(&id) else { continue };
            let path = path_of(&dir);
            all_bad.extend(file.bad.iter().map(|bad| (path.clone(), bad.to_string())));
            parsed.push((dir, file.file.clone()));
        }
        *self.rules.bad.lock() = all_bad;
        let rules = Arc::new(Rules::new(parsed));
        self.change(|engine, _| engine.set_rules(rules, version))?;
        Ok(())
    }

    fn read_file(
        self: &Arc<Self>,
        id: NodeId,
        version: Version,
        known: &mut HashMap<NodeId, Known>,
    ) -> Result<(), ReadError> {
        let read = match self.open(id, false) {
            Ok(file) => {
                let backing = file.inner.read().backing.clone();
                let read = self.read_begin(&backing);
                self.close_file(&file);
                read
            }
            Err(WriteError::Io(error)) => Err(error.into()),
            // Gone meanwhile: that is told, too.
            Err(_) => return Ok(()),
        };
        match read {
            Ok(bytes) => {
                let (file, bad) = RuleFile::parse(&bytes);
                known.insert(id, Known { version, file: Arc::new(file), bad });
                Ok(())
            }
            Err(ReadError::Unreachable) => Err(ReadError::Unreachable),
            // What cannot be had at all must not keep everything else from being sent.
            Err(error) => {
                let bad = vec![BadLine { line: 0, reason: format!("its rules do not count: {error}") }];
                let file = known.remove(&id).map_or_else(|| Arc::new(RuleFile::parse(b"").0), |known| known.file);
                known.insert(id, Known { version, file, bad });
                Ok(())
            }
        }
    }

    /// As many bytes as a file with rules may have, and one more.
    fn read_begin(self: &Arc<Self>, backing: &Backing) -> Result<Vec<u8>, ReadError> {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = vec![0; backing.size().min(FILE_LEN_MAX as u64 + 1) as usize];
        let mut at = 0;
        while at < bytes.len() {
            let got = match backing {
                Backing::Clean(content) => self.read_content(content, at as u64, &mut bytes[at..], 0, deadline)?,
                Backing::Draft(overlay) => self.read_draft(overlay, at as u64, &mut bytes[at..], deadline)?,
            };
            if got == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            at += got;
        }
        Ok(bytes)
    }

    /// Looks at some nodes whether the rules have changed where they belong. Returns whether more are left.
    pub(super) fn rescope_some(&self) -> io::Result<bool> {
        if !self.look(syncmount_engine::Engine::is_rescoping) {
            return Ok(false);
        }
        self.change(|engine, _| engine.rescope(RESCOPE_STEP))
    }

    /// Lines of `.syncignore` files that count for nothing: path and reason.
    pub fn bad_rules(&self) -> Vec<(String, String)> {
        self.rules.bad.lock().clone()
    }
}

/// The version of a file that is to be read. While somebody is still writing to it the last state counts.
fn unread(state: &State, known: Option<&Known>) -> Option<Version> {
    let version = match &state.body {
        Body::File(FileBody::Clean(content)) => Version::Content(content.hash),
        Body::File(FileBody::Draft(draft)) if draft.ready => match &draft.prepared {
            Some(content) => Version::Content(content.hash),
            None => Version::Draft(draft.generation),
        },
        Body::File(FileBody::Draft(_)) | Body::Dir | Body::Symlink(_) => return None,
    };
    (known.map(|known| known.version) != Some(version)).then_some(version)
}

fn path_of(dir: &[Name]) -> String {
    let names = dir.iter().map(Name::to_string).chain([FILE_NAME.to_owned()]);
    names.collect::<Vec<_>>().join("/")
}
