//! What comes out of the engine: work for the driver, rows for the disk, news for whoever shows the folder.

use crate::news::ToldOf;
use crate::state::State;
use std::collections::BTreeSet;
use std::sync::Arc;
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::protocol::commit::{Committed, ConflictDetails, MissingDetails};
use syncmount_common::{Attrs, Content, NodeId, Placement};

/// Work for the driver. Each is answered by a call back, except where it says otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Cut and hash the draft of `node` at `generation`; answer with [`crate::Engine::prepared`]. What a commit cannot carry
    /// inline is uploaded first. With `upload` everything is: the server has said that it lacks chunks.
    Prepare {
        /// Whose draft.
        node: NodeId,
        /// Which state of its bytes.
        generation: u64,
        /// Whether small chunks must be uploaded too.
        upload: bool,
    },
    /// The server lacks chunks of a content that is not a draft here: upload them from the cache; answer with
    /// [`crate::Engine::supplied`] if that worked.
    Supply {
        /// Whose content.
        node: NodeId,
        /// The content.
        content: Arc<Content>,
    },
    /// The server has the draft of `node` at `generation`: turn its staging file into a cached content and call
    /// [`crate::Engine::settle`], unless it has been written again.
    Settle {
        /// Whose draft.
        node: NodeId,
        /// Which state of its bytes.
        generation: u64,
        /// What it turned out to be.
        content: Arc<Content>,
    },
    /// No node refers to this staging file any more: remove it once the record that says so is kept. Not answered.
    DropStaging(u64),
    /// The draft of `from` goes on as the draft of `to` (a conflict copy): open files follow it. Not answered.
    DraftMoved {
        /// The node that was written to.
        from: NodeId,
        /// The node that has the bytes now.
        to: NodeId,
    },
    /// Files that say which names stay here came, went, changed or moved ([`crate::Engine::rule_files`]): read them and
    /// call [`crate::Engine::set_rules`]. Nothing is sent before.
    ReadRules,
    /// A node changed because of the feed. Not answered.
    Changed(Changed),
}

/// What whoever shows the folder must look at again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The node.
    pub node: NodeId,
    /// Places that it left or came to.
    pub places: Vec<Placement>,
    /// Whether its bytes are others now.
    pub content: bool,
    /// Whether it is gone.
    pub removed: bool,
    /// If it is gone: the attributes it had.
    pub last_attrs: Option<Attrs>,
}

/// Effects that wait for their turn.
pub(crate) enum Queued {
    Effect(Box<Effect>),
    /// [`Effect::Changed`] for each of these nodes that is there, from one of them on: of a large folder that arrives, nearly
    /// all. They are told as they are when it is their turn: who asked for a place of one before that was told of it.
    Arrived {
        nodes: ToldOf,
        next: usize,
    },
    /// [`Effect::Changed`], in less room.
    Changed {
        node: NodeId,
        before: Option<Arc<State>>,
        after: Option<Arc<State>>,
    },
}

impl Changed {
    pub(crate) fn between(node: NodeId, before: Option<&State>, after: Option<&State>) -> Self {
        let names = |state: Option<&State>| state.into_iter().flat_map(|s| s.names.clone()).collect::<BTreeSet<_>>();
        let places = names(before).symmetric_difference(&names(after)).cloned().collect();
        let content = match (before, after) {
            (Some(before), Some(after)) => !before.body.same_as(&after.body),
            _ => false,
        };
        let removed = before.is_some() && after.is_none();
        let last_attrs = before.filter(|_| removed).map(|state| state.attrs);
        Self { node, places, content, removed, last_attrs }
    }
}

/// What is known of the server's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Everything up to here.
    pub cursor: Option<Cursor>,
    /// The end of the newest own commit, if it is past that.
    pub ahead: Option<Cursor>,
}

impl Position {
    /// The newest of it.
    pub fn known(&self) -> Option<Cursor> {
        self.ahead.or(self.cursor)
    }
}

/// What must be kept, all of it or nothing, before anything that follows from it is done or said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Nodes whose rows are to be written: [`crate::Engine::rows`] has them, as long as nothing else is asked of the engine.
    pub(crate) nodes: Vec<NodeId>,
    /// More of them, which have arrived with the feed.
    pub(crate) arrived: ToldOf,
    /// What is known of the history that the rows belong to, if it changed.
    pub position: Option<Position>,
    /// Nodes of commits that may have reached the server without an answer, all of them, if they changed.
    pub unanswered: Option<Vec<NodeId>>,
    /// Staging files that no row refers to any more. They may be deleted once this is kept.
    pub retired: Vec<u64>,
}

impl Record {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        let no_rows = self.nodes.is_empty() && self.arrived.is_empty();
        no_rows && self.position.is_none() && self.unanswered.is_none() && self.retired.is_empty()
    }
}

/// How preparing a draft ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PrepareAnswer {
    /// It is this content, and the server has (or the next commit will carry) its chunks.
    Ready(Arc<Content>),
    /// It was written in the meantime, or is no draft any more.
    Outdated,
    /// The server could not be reached: to be tried again when it can.
    Unreachable,
    /// It lies in the user's own folder and is being written; whoever watches the folder tells when it has come to rest.
    Moving,
    /// It cannot be read or sent; tried again later, shown in the status.
    Failed(String),
    /// The server has no room for its bytes: asked again every minute, shown in the status.
    Full(String),
    /// The server, or a proxy before it, takes no request that is as long as its longest chunk: asked again every minute, shown
    /// in the status.
    TooLarge(String),
}

/// How a commit ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommitAnswer {
    /// Done and durable.
    Committed(Committed),
    /// It has certainly not reached the server: what it was about goes into a later batch, as it is then.
    NotSent,
    /// The folder has moved on.
    Conflict(ConflictDetails),
    /// The server lacks chunks or contents.
    Missing(MissingDetails),
    /// It was refused for good.
    Rejected(String),
    /// It is longer than the server, or a proxy before it, takes.
    TooLarge(String),
    /// The server has no room for the bytes that came with it.
    Full(String),
    /// The server holds removals back until somebody allows them. Its own words, and whether somebody has said no.
    Held {
        /// Why, and how to allow them.
        reason: String,
        /// They stay refused: what was removed comes back.
        denied: bool,
    },
    /// The epoch is another: everything has to be compared anew.
    Resync,
}
