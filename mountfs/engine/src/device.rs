//! Which device this engine is, and becoming another one.

use crate::engine::Engine;
use syncmount_common::DeviceId;

impl Engine {
    /// Who this device is.
    pub fn device(&self) -> DeviceId {
        self.identity.device.id
    }

    /// This engine goes on as another device, because another copy of it speaks for the former one, or it has lost a part
    /// of its memory. What it knows of the server's history stays true; but what the former device wrote there may be the
    /// work of the other copy, and is like anybody's from now on. The commit in flight is given up.
    pub fn become_device(&mut self, id: DeviceId) {
        if let Some(batch) = self.in_flight.take() {
            self.forget_offers(&batch);
        }
        self.identity.device.id = id;
        self.held = None;
        self.look_first();
    }
}

#[cfg(test)]
mod tests {
    use crate::RenameMode;
    use crate::rig::{NOW, Rig, content, id, name};
    use syncmount_common::protocol::commit::Op;
    use syncmount_common::{ContentHash, NodeId, NodeKind};

    const ROOT: NodeId = NodeId::ROOT;

    fn contents(rig: &Rig) -> Vec<Option<ContentHash>> {
        let states = rig.engine.children(ROOT).filter_map(|(_, child)| rig.engine.local(child));
        let mut out: Vec<_> = states.map(|state| state.body.content_hash()).collect();
        out.sort();
        out
    }

    fn hashes(seeds: &[u8]) -> Vec<Option<ContentHash>> {
        let mut out: Vec<_> = seeds.iter().map(|seed| Some(content(*seed).hash)).collect();
        out.sort();
        out
    }

    #[test]
    fn an_older_draft_stands_beside_what_the_device_wrote_since() {
        for mtime in [NOW.0 - 100, NOW.0 + 100] {
            let mut rig = Rig::new();
            let file = rig.file(ROOT, "a", 1);
            rig.sync();
            rig.edit(file, 2, mtime);
            let backup = rig.backup();
            rig.sync();
            rig.edit(file, 3, NOW.0);
            rig.sync();
            let newer = Rig::mine(rig.theirs(file, ROOT, "a", Some(3)));
            rig.set_back(backup);
            rig.news(vec![newer]);
            assert_eq!(contents(&rig), hashes(&[2, 3]), "nothing was overwritten");
            rig.sync();
            assert_eq!(contents(&rig), hashes(&[2, 3]));
        }
    }

    #[test]
    fn an_unsent_creation_stands_beside_what_became_of_it() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        let backup = rig.backup();
        rig.sync();
        rig.edit(file, 2, NOW.0);
        rig.sync();
        let newer = Rig::mine(rig.theirs(file, ROOT, "a", Some(2)));
        rig.set_back(backup);
        rig.news(vec![newer]);
        assert_eq!(contents(&rig), hashes(&[1, 2]));
    }

    #[test]
    fn a_clean_old_copy_takes_what_is_newer() {
        let mut rig = Rig::new();
        let (file, dir) = (rig.file(ROOT, "a", 1), rig.mkdir(ROOT, "dir"));
        rig.sync();
        let backup = rig.backup();
        let newer = Rig::mine(rig.theirs(file, dir, "moved", Some(2)));
        rig.set_back(backup);
        rig.news(vec![newer]);
        assert_eq!((rig.names(ROOT), rig.names(dir)), (vec!["dir".to_owned()], vec!["moved".to_owned()]));
        assert_eq!(rig.engine.local(file).unwrap().body.content_hash(), Some(content(2).hash));
        assert!(rig.sync().is_empty());
    }

    #[test]
    fn a_removal_that_was_undone_since_is_not_repeated() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        rig.sync();
        rig.engine.remove(ROOT, b"a", false, NOW).unwrap();
        let backup = rig.backup();
        rig.sync();
        let undone = Rig::mine(rig.theirs(file, ROOT, "a", Some(1)));
        rig.set_back(backup);
        rig.news(vec![undone]);
        assert_eq!(rig.engine.child(ROOT, b"a"), Some(file));
        assert!(rig.sync().is_empty());
    }

    #[test]
    fn what_was_deleted_since_stays_deleted() {
        let mut rig = Rig::new();
        let (by_others, by_itself) = (rig.file(ROOT, "a", 1), rig.file(ROOT, "b", 2));
        rig.sync();
        let backup = rig.backup();
        let mut gone = vec![rig.gone(by_others, NodeKind::File), Rig::mine(rig.gone(by_itself, NodeKind::File))];
        gone[1].rev += 1;
        rig.set_back(backup);
        rig.news(gone);
        assert!(rig.names(ROOT).is_empty());
        assert!(rig.sync().is_empty());
    }

    #[test]
    fn equal_bytes_are_no_conflict() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        rig.sync();
        rig.edit(file, 2, NOW.0);
        let fresh = rig.file(ROOT, "b", 3);
        let backup = rig.backup();
        let a = Rig::mine(rig.theirs(file, ROOT, "a", Some(2)));
        let mut b = Rig::mine(rig.theirs(fresh, ROOT, "b", Some(3)));
        b.rev += 1;
        rig.set_back(backup);
        rig.news(vec![a, b]);
        assert_eq!(rig.names(ROOT), ["a", "b"]);
    }

    #[test]
    fn it_looks_before_it_sends_and_then_sends_what_was_in_flight() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        let before = rig.send().unwrap();
        rig.become_another();
        assert!(!rig.engine.is_committing() && rig.engine.wants_page_now());
        assert!(rig.send().is_none(), "what others have done meanwhile comes first");
        rig.take(&before);
        assert!(rig.engine.entry(file).unwrap().is_dirty(), "an answer to what was given up counts no more");
        rig.news(vec![rig.theirs(id(9), ROOT, "other", Some(2))]);
        let again = rig.send().unwrap();
        assert_ne!((again.op_id, again.device.id), (before.op_id, before.device.id));
        assert!(matches!(again.ops[..], [Op::Create { id, .. }] if id == file));
    }

    #[test]
    fn a_move_made_before_the_backup_and_sent_since_is_no_move_again() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        rig.sync();
        rig.engine.rename((ROOT, b"a"), (ROOT, name("b")), RenameMode::Replace, NOW).unwrap();
        let backup = rig.backup();
        let newest = Rig::mine(rig.theirs(file, ROOT, "c", Some(1)));
        rig.set_back(backup);
        rig.news(vec![newest]);
        assert_eq!(rig.names(ROOT), ["c"]);
    }
}
