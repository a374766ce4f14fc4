//! Owners: kept with their nodes, told to those that ask for them, and changed only by those that name them.

use crate::support::*;
use syncmount_common::node::NodeOwner;
use syncmount_common::protocol::commit::{CommitRequest, Op};
use syncmount_common::{NodeId, Owner, Xattrs};
use syncmount_server::service::{Poll, ServiceError};

fn owner(uid: u32) -> Owner {
    Owner { uid, gid: uid + 1 }
}

async fn commit(world: &World, ops: Vec<Op>, owners: &[(NodeId, u32)]) -> Result<u64, ServiceError> {
    let owners = owners.iter().map(|(id, uid)| NodeOwner { id: *id, owner: owner(*uid) }).collect();
    let request = CommitRequest { owners, ..request(world.cursor().await.epoch, ops) };
    Ok(world.service.commit(F, request, Vec::new()).await?.first_seq)
}

/// What a page tells of owners; `extra`: to a device that ignores what it does not know.
async fn told(world: &World, extra: bool) -> Option<Vec<(NodeId, Owner)>> {
    let poll = Poll { since: None, known: None, limit: 100, inline: 0, device: None, session: None, extra };
    let page = world.service.page(F, poll).await.unwrap().page;
    assert!(page.nodes.iter().all(|node| node.xattrs.owner().is_none()), "an owner is no attribute");
    let mut told: Vec<_> = page.owners?.into_iter().map(|told| (told.id, told.owner)).collect();
    told.sort_unstable_by_key(|(id, _)| *id);
    Some(told)
}

#[tokio::test]
async fn an_owner_stays_until_it_is_changed_whatever_else_is() {
    for world in worlds().await {
        let (dir, link, other) = (id(), id(), id());
        let ops = vec![
            mkdir(dir, NodeId::ROOT, "dir"),
            symlink(link, NodeId::ROOT, "link", "dir"),
            mkdir(other, dir, "other"),
        ];
        let mut of = vec![(dir, owner(1)), (link, owner(2))];
        of.sort_unstable_by_key(|(id, _)| *id);
        let first = commit(&world, ops, &[(dir, 1), (link, 2)]).await.unwrap();
        assert_eq!(told(&world, true).await, Some(of.clone()), "{}", world.kind);
        assert_eq!(told(&world, false).await, None);
        // From a device that knows nothing of owners.
        let mut xattrs = Xattrs::default();
        xattrs.set(b"user.note", b"x").unwrap();
        let noted = Op::Update { id: dir, base: first, names: None, attrs: None, xattrs: Some(xattrs), content: None };
        let rev = commit(&world, vec![noted, rename(link, first + 1, NodeId::ROOT, "moved")], &[]).await.unwrap();
        assert_eq!(told(&world, true).await, Some(of.clone()), "{}", world.kind);
        assert_eq!(world.node(dir).await.xattrs.get(b"user.note"), Some(&b"x"[..]));
        let given = Op::Update { id: dir, base: rev, names: None, attrs: None, xattrs: None, content: None };
        commit(&world, vec![given], &[(dir, 7)]).await.unwrap();
        let now = told(&world, true).await.unwrap();
        assert!(now.contains(&(dir, owner(7))) && now.contains(&(link, owner(2))), "{now:?}");
        assert_eq!(world.node(dir).await.xattrs.get(b"user.note"), Some(&b"x"[..]));
        // What was is brought back with its owner.
        world.service.undo(F, rev, false).await.unwrap();
        assert_eq!(told(&world, true).await, Some(of));
    }
}

#[tokio::test]
async fn an_owner_is_of_one_changed_node_and_can_be() {
    let world = in_memory().await;
    let (dir, gone) = (id(), id());
    let first = commit(&world, vec![mkdir(gone, NodeId::ROOT, "gone")], &[(gone, 1)]).await.unwrap();
    let ops = || vec![mkdir(dir, NodeId::ROOT, "dir"), remove(gone, first)];
    for wrong in [&[(id(), 1)][..], &[(dir, 1), (dir, 1)], &[(gone, 1)], &[(dir, u32::MAX - 1)]] {
        let refused = commit(&world, ops(), wrong).await;
        assert!(matches!(refused, Err(ServiceError::Invalid(_))), "{wrong:?}: {refused:?}");
    }
    commit(&world, ops(), &[(dir, u32::MAX - 2)]).await.unwrap();
    assert_eq!(told(&world, true).await, Some(vec![(dir, owner(u32::MAX - 2))]));
}
