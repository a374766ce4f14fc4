//! The pure heart: what becomes of one node that may have changed here and at the server since both agreed.
//!
//! Works part by part (place, attributes, bytes), so that a rename here and an edit there are no conflict. Rules: equal
//! bytes never conflict; an edit beats a removal; when both edited, the newer mtime keeps the node and the other bytes
//! become a copy beside it; when both moved it, the server's place counts, because other devices already see it there.

use crate::state::{Body, FileBody, Names, State, in_order};
use std::sync::Arc;
use syncmount_common::node::NAMES_MAX;
use syncmount_common::{Attrs, Content, Placement, Xattrs};

/// What is known about the remote change beyond the state itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// The remote content was set by a commit newer than the one both sides agreed on.
    pub content_changed: bool,
    /// That content was written by this very device: an earlier version of what is here, never a conflict with it.
    pub content_mine: bool,
    /// The last change of the node was made by this device.
    pub mine: bool,
    /// An earlier run may have sent a change of the node and not have lived to hear the answer.
    pub unanswered: bool,
}

/// Bytes that lost the node and are to be kept beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Copy {
    /// What was written here; the remote bytes keep the node.
    Local(Box<State>),
    /// What came from the server; the bytes written here keep the node.
    Remote {
        /// The remote bytes.
        content: Arc<Content>,
        /// Their mode and mtime.
        attrs: Attrs,
        /// Their extended attributes.
        xattrs: Xattrs,
    },
}

/// Which side a removal or an edit was kept from, for logs and status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// Nothing to choose.
    Both,
    /// What is here.
    Local,
    /// What the server has.
    Remote,
}

/// What becomes of the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Merged {
    /// What the user sees from now on; `None`: removed.
    pub local: Option<State>,
    /// Bytes to be kept beside it.
    pub copy: Option<Copy>,
    /// Which side prevailed.
    pub kept: Kept,
}

impl Merged {
    fn plain(local: Option<State>, kept: Kept) -> Self {
        Self { local, copy: None, kept }
    }
}

/// Merges one node. `synced` is what both sides agreed on, `local` what the user sees, `remote` what the server says now;
/// `None` means removed (or not there yet).
pub fn merge(synced: Option<&State>, local: Option<&State>, remote: Option<&State>, facts: Facts) -> Merged {
    // What both sides agreed on before an unanswered change says nothing about what was changed here since: the user may
    // have gone back to it.
    let from_here = facts.mine || facts.content_mine;
    let forgotten = facts.unanswered && from_here && local.is_some() && remote.is_some();
    let synced = synced.filter(|_| !forgotten);
    let clean = match (synced, local) {
        (None, None) => !facts.mine,
        (Some(synced), Some(local)) => local.agrees_with(synced),
        _ => false,
    };
    if clean {
        return Merged::plain(remote.map(|remote| keep_draft(local, remote)), Kept::Remote);
    }
    match (local, remote) {
        (None, None) => Merged::plain(None, Kept::Both),
        (None, Some(remote)) => removed_here(synced, remote, facts),
        (Some(local), None) => removed_there(synced, local),
        (Some(local), Some(remote)) => changed_on_both(synced, local, remote, facts),
    }
}

/// A draft that the server has acknowledged stays a draft, under whatever name, until its staging file has become a cached
/// content: somebody may have it open.
fn keep_draft(local: Option<&State>, remote: &State) -> State {
    match local {
        Some(local) if local.body.draft().is_some() && local.body.same_as(&remote.body) => {
            State { body: local.body.clone(), ..remote.clone() }
        }
        _ => remote.clone(),
    }
}

fn removed_here(synced: Option<&State>, remote: &State, facts: Facts) -> Merged {
    if facts.content_changed && !facts.content_mine {
        return Merged::plain(Some(remote.clone()), Kept::Remote);
    }
    match synced.filter(|_| !facts.mine).and_then(|synced| only_linked(synced, remote)) {
        Some(linked) => Merged::plain(Some(linked), Kept::Both),
        None => Merged::plain(None, Kept::Local),
    }
}

/// The node under the names that it was given beside those that both sides knew, if it was: a removal takes away what its
/// user saw.
fn only_linked(synced: &State, now: &State) -> Option<State> {
    if now.names.len() <= synced.names.len() {
        return None;
    }
    let given = now.names.iter().filter(|place| !synced.names.contains(place)).cloned().collect();
    Some(State { names: given, ..now.clone() })
}

fn removed_there(synced: Option<&State>, local: &State) -> Merged {
    let edited = match synced {
        Some(synced) => !local.body.same_as(&synced.body),
        None => true,
    };
    if edited {
        return Merged::plain(Some(local.clone()), Kept::Local);
    }
    match synced.and_then(|synced| only_linked(synced, local)) {
        Some(linked) => Merged::plain(Some(linked), Kept::Both),
        None => Merged::plain(None, Kept::Remote),
    }
}

fn changed_on_both(synced: Option<&State>, local: &State, remote: &State, facts: Facts) -> Merged {
    let names = merge_names(synced.map(|state| &*state.names), &local.names, &remote.names, facts.mine);
    let xattrs = merge_xattrs(synced.map(|state| &state.xattrs), &local.xattrs, &remote.xattrs, facts.mine);
    let mode = *three_way(synced.map(|state| &state.attrs.mode), &local.attrs.mode, &remote.attrs.mode, facts.mine);
    let edited_here = synced.is_none_or(|synced| !local.body.same_as(&synced.body));
    let edited_there = facts.content_changed && !facts.content_mine;
    let with = |body: &Body, mtime| State {
        names: names.clone(),
        attrs: Attrs { mode, mtime },
        body: body.clone(),
        xattrs: xattrs.clone(),
    };
    if local.body.same_as(&remote.body) {
        let mtime =
            *three_way(synced.map(|state| &state.attrs.mtime), &local.attrs.mtime, &remote.attrs.mtime, facts.mine);
        return Merged::plain(Some(with(&local.body, mtime)), Kept::Both);
    }
    if !edited_here {
        return Merged::plain(Some(with(&remote.body, remote.attrs.mtime)), Kept::Remote);
    }
    if !edited_there {
        return Merged::plain(Some(with(&local.body, local.attrs.mtime)), Kept::Local);
    }
    if local.attrs.mtime > remote.attrs.mtime {
        let copy = match &remote.body {
            Body::File(FileBody::Clean(content)) => {
                Some(Copy::Remote { content: content.clone(), attrs: remote.attrs, xattrs: remote.xattrs.clone() })
            }
            _ => None,
        };
        Merged { local: Some(with(&local.body, local.attrs.mtime)), copy, kept: Kept::Local }
    } else {
        Merged {
            local: Some(with(&remote.body, remote.attrs.mtime)),
            copy: Some(Copy::Local(Box::new(local.clone()))),
            kept: Kept::Remote,
        }
    }
}

/// The side that changed; the remote one if both did, unless the remote change was made here.
fn three_way<'a, T: PartialEq + ?Sized>(synced: Option<&T>, local: &'a T, remote: &'a T, mine: bool) -> &'a T {
    let changed_here = synced != Some(local);
    let changed_there = synced != Some(remote);
    if changed_here && (!changed_there || mine) { local } else { remote }
}

/// Names are merged one by one: each that either side has given or taken away counts. Where both took the same name away,
/// what the other side put in its place counts, so that one file that both have moved is in one place. The last name is
/// not taken away by two sides that each leave another one.
pub(crate) fn merge_names(
    synced: Option<&[Placement]>,
    local: &[Placement],
    remote: &[Placement],
    mine: bool,
) -> Names {
    let Some(synced) = synced.filter(|synced| !mine && *synced != local && *synced != remote) else {
        return three_way(synced, local, remote, mine).iter().cloned().collect();
    };
    let kept = remote.iter().filter(|place| local.contains(place) || !synced.contains(place));
    let mut names: Vec<Placement> = kept.cloned().collect();
    let is_gone = |place: &&Placement| !local.contains(place) && !remote.contains(place);
    let moved_there = remote.iter().filter(|place| !synced.contains(place)).count();
    let moved_by_both = synced.iter().filter(is_gone).count().min(moved_there);
    let given_here = local.iter().filter(|place| !synced.contains(place) && !remote.contains(place));
    let room = NAMES_MAX.saturating_sub(names.len());
    names.extend(given_here.skip(moved_by_both).take(room).cloned());
    in_order(if names.is_empty() { remote.to_vec() } else { names })
}

fn merge_xattrs(synced: Option<&Xattrs>, local: &Xattrs, remote: &Xattrs, mine: bool) -> Xattrs {
    match synced {
        Some(synced) if !mine => Xattrs::merged(synced, local, remote),
        Some(_) => three_way(synced, local, remote, mine).clone(),
        // Nothing says that the owner was taken away.
        None => {
            let known = [remote, local].into_iter().find_map(Xattrs::owner);
            let all = three_way(synced, local, remote, mine);
            all.with_owner(all.owner().or(known))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Draft;
    use proptest::prelude::*;
    use smallvec::smallvec;
    use syncmount_common::{ChunkHash, Extent, Manifest, Name, NodeId, Timestamp};

    fn content(seed: u8) -> Arc<Content> {
        let extent = Extent::Chunk { hash: ChunkHash::of(&[seed]), len: 1 };
        Arc::new(Content::of(Manifest::new(vec![extent]).unwrap(), None))
    }

    fn state(name: u8, mode: u32, mtime: i64, body: Body) -> State {
        let name = Name::new(vec![b'a' + name]).unwrap();
        State {
            names: smallvec![Placement { parent: NodeId::ROOT, name }],
            attrs: Attrs { mode, mtime: Timestamp(mtime) },
            body,
            xattrs: Xattrs::default(),
        }
    }

    fn clean(seed: u8) -> Body {
        Body::File(FileBody::Clean(content(seed)))
    }

    fn draft(seed: u8) -> Body {
        Body::File(FileBody::Draft(Box::new(Draft { prepared: Some(content(seed)), size: 1, ..Draft::empty() })))
    }

    fn bytes_in(merged: &Merged) -> Vec<Option<syncmount_common::ContentHash>> {
        let mut out: Vec<_> = merged.local.iter().map(|state| state.body.content_hash()).collect();
        match &merged.copy {
            Some(Copy::Local(state)) => out.push(state.body.content_hash()),
            Some(Copy::Remote { content, .. }) => out.push(Some(content.hash)),
            None => {}
        }
        out
    }

    const EDITED_THERE: Facts = Facts { content_changed: true, content_mine: false, mine: false, unanswered: false };

    #[test]
    fn a_rename_here_and_an_edit_there_are_no_conflict() {
        let synced = state(0, 0o644, 1, clean(1));
        let local = state(1, 0o644, 1, clean(1));
        let remote = state(0, 0o644, 5, clean(2));
        let merged = merge(Some(&synced), Some(&local), Some(&remote), EDITED_THERE);
        assert_eq!(merged, Merged::plain(Some(state(1, 0o644, 5, clean(2))), Kept::Remote));
    }

    #[test]
    fn the_newer_edit_keeps_the_node_and_the_other_is_kept_beside() {
        let synced = state(0, 0o644, 1, clean(1));
        for (here, there, local_wins) in [(9, 5, true), (5, 9, false), (5, 5, false)] {
            let local = state(0, 0o644, here, draft(2));
            let remote = state(0, 0o644, there, clean(3));
            let merged = merge(Some(&synced), Some(&local), Some(&remote), EDITED_THERE);
            assert_eq!(merged.kept == Kept::Local, local_wins);
            assert!(bytes_in(&merged).contains(&Some(content(2).hash)));
            assert!(bytes_in(&merged).contains(&Some(content(3).hash)));
        }
    }

    #[test]
    fn an_edit_beats_a_removal_on_either_side() {
        let synced = state(0, 0o644, 1, clean(1));
        let edited = state(0, 0o644, 2, draft(2));
        let there = state(0, 0o644, 2, clean(2));
        assert!(merge(Some(&synced), Some(&edited), None, Facts::default()).local.is_some());
        assert!(merge(Some(&synced), None, Some(&there), EDITED_THERE).local.is_some());
    }

    #[test]
    fn a_removal_beats_a_mere_rename() {
        let synced = state(0, 0o644, 1, clean(1));
        let moved = state(1, 0o644, 1, clean(1));
        assert!(merge(Some(&synced), Some(&moved), None, Facts::default()).local.is_none());
        assert!(merge(Some(&synced), None, Some(&moved), Facts::default()).local.is_none());
    }

    #[test]
    fn what_this_device_wrote_itself_never_conflicts_with_it() {
        let synced = state(0, 0o644, 1, clean(1));
        let local = state(0, 0o644, 3, draft(3));
        let remote = state(0, 0o644, 2, clean(2));
        let facts = Facts { content_changed: true, content_mine: true, mine: true, unanswered: false };
        assert_eq!(merge(Some(&synced), Some(&local), Some(&remote), facts), Merged::plain(Some(local), Kept::Local));
    }

    #[test]
    fn going_back_to_what_was_agreed_before_an_unanswered_change_counts() {
        let agreed = state(0, 0o644, 1, clean(1));
        let sent = state(0, 0o644, 2, clean(2));
        let facts = Facts { content_changed: true, content_mine: true, mine: true, unanswered: true };
        let merged = merge(Some(&agreed), Some(&agreed), Some(&sent), facts);
        assert_eq!(merged, Merged::plain(Some(agreed), Kept::Local));
    }

    #[test]
    fn an_acknowledged_draft_stays_one_under_a_new_name() {
        let (local, synced) = (state(0, 0o644, 1, draft(1)), state(0, 0o644, 1, clean(1)));
        let merged = merge(Some(&synced), Some(&local), Some(&state(1, 0o644, 1, clean(1))), Facts::default());
        assert_eq!(merged.local, Some(state(1, 0o644, 1, draft(1))));
    }

    fn names(letters: &str) -> Names {
        letters.bytes().map(|at| Placement { parent: NodeId::ROOT, name: Name::new([at]).unwrap() }).collect()
    }

    #[test]
    fn names_are_given_and_taken_one_by_one() {
        for (synced, local, remote, merged) in [
            ("a", "ab", "ac", "abc"),
            ("ab", "a", "abc", "ac"),
            ("ab", "b", "ac", "c"),
            ("a", "b", "c", "c"),
            ("a", "ab", "c", "bc"),
            ("a", "b", "ac", "bc"),
            ("ab", "bc", "bd", "bd"),
            ("ab", "ac", "bd", "cd"),
            ("ab", "b", "bc", "bc"),
            ("ab", "a", "b", "b"),
            ("ab", "ab", "a", "a"),
        ] {
            let found = merge_names(Some(&names(synced)), &names(local), &names(remote), false);
            assert_eq!(found, names(merged), "{synced}: {local} and {remote}");
        }
        assert_eq!(merge_names(Some(&names("a")), &names("ab"), &names("c"), true), names("ab"), "its own past");
    }

    fn any_state() -> impl Strategy<Value = Option<State>> {
        proptest::option::of(
            (0u8..3, 0u8..3, 0i64..4).prop_map(|(name, body, mtime)| state(name, 0o644, mtime, clean(body))),
        )
    }

    proptest! {
        /// Whatever was edited on a side is somewhere afterwards, and a change on one side only is taken as it is.
        #[test]
        fn no_bytes_are_lost(synced in any_state(), local in any_state(), remote in any_state()) {
            let changed = |side: &Option<State>| side.as_ref().filter(|state| {
                synced.as_ref().is_none_or(|synced| !state.body.same_as(&synced.body))
            }).map(|state| state.body.content_hash());
            let facts = Facts { content_changed: changed(&remote).is_some(), ..Facts::default() };
            let merged = merge(synced.as_ref(), local.as_ref(), remote.as_ref(), facts);
            for hash in [changed(&local), changed(&remote)].into_iter().flatten() {
                prop_assert!(bytes_in(&merged).contains(&hash), "{merged:?}");
            }
            if local == synced {
                prop_assert_eq!(&merged.local, &remote);
            }
            if remote == synced && local.is_some() {
                prop_assert_eq!(&merged.local, &local);
            }
        }
    }
}
