//! The real client against a server that lies: nothing outside the folder changes, and nothing in it is lost.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;
use syncmount_common::{Node, NodeId, NodeKind, SymlinkTarget};
use syncmount_tests::support::*;

#[test]
fn behind_a_liar_that_is_honest_a_folder_is_kept_in_step() {
    let world = World::new();
    let a = world.watch("A");
    let (liar, b) = world.device_behind_liar("B");
    let b = b.watched();
    b.mount();
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/f"), vec![7; 300_000]).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    fs::write(b.path("g"), "1").unwrap();
    b.wait_synced();
    assert_become_equal(&b.folder, &a.folder, DirTimes::Ignored);
    assert!(liar.polls() > 0 && liar.commits() > 0);
    // What it says is what arrives.
    liar.lie_in_nodes(|node| node.attrs.mode = 0o600);
    fs::write(a.path("h"), "1").unwrap();
    until("the lie", || match fs::metadata(b.path("h")) {
        Ok(found) if found.permissions().mode() & 0o777 == 0o600 => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// A watched folder behind a liar, with a symlink that leads out of it.
fn lied_to(world: &World) -> (Device, Liar, Device, Around) {
    let a = world.watch("A");
    let (liar, b) = world.device_behind_liar("B");
    let b = b.watched();
    b.mount();
    let around = Around::of(&b, &[]);
    symlink(Around::FROM_FOLDER, a.path("way out")).unwrap();
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/kept"), "kept").unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    (a, liar, b, around)
}

/// The status says of a device that its server says what no folder is.
#[track_caller]
fn await_disbelief(device: &Device, what: &str) {
    until("the fault in the status", || {
        let problems = device.status().problems;
        let told = problems.iter().any(|problem| problem.reason.contains("no folder") && problem.reason.contains(what));
        if told { Ok(()) } else { Err(format!("{problems:?}")) }
    });
}

#[test]
fn what_a_liar_puts_behind_a_symlink_is_not_written_and_told_until_it_says_otherwise() {
    let world = World::new();
    let (a, liar, b, around) = lied_to(&world);
    let tree = Tree::read(&b.folder, DirTimes::Ignored).unwrap();
    // Whatever is new lies in the symlink, as the liar has it.
    let link = liar.id_of("way out");
    liar.lie_in_nodes(move |node| {
        if node.names.iter().any(|place| place.name.as_bytes().starts_with(b"planted")) {
            node.names.iter_mut().for_each(|place| place.parent = link);
        }
    });
    fs::write(a.path("planted"), "by the server").unwrap();
    fs::write(a.path("planted large"), vec![7; 300_000]).unwrap();
    fs::create_dir(a.path("planted dir")).unwrap();
    a.wait_synced();
    await_disbelief(&b, "not a directory");
    // It is asked again with pauses, what is here stays, and what is made here is kept and not sent.
    fs::write(b.path("mine"), "mine").unwrap();
    let (polls, commits) = (liar.polls(), liar.commits());
    std::thread::sleep(Duration::from_secs(3));
    assert!(liar.polls() - polls < 12, "{} polls in three seconds", liar.polls() - polls);
    assert_eq!(liar.commits(), commits, "nothing is sent");
    fs::remove_file(b.path("mine")).unwrap();
    assert_eq!(tree.differences(&Tree::read(&b.folder, DirTimes::Ignored).unwrap()), Vec::<String>::new());
    around.assert_untouched();
    fs::write(b.path("mine"), "mine").unwrap();
    // It goes on by itself.
    liar.be_honest();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    b.wait_synced();
    until("what was made meanwhile", || fs::read(a.path("mine")).map(drop).map_err(|error| error.to_string()));
    assert!(b.status().problems.is_empty(), "{:?}", b.status().problems);
    around.assert_untouched();
}

#[test]
fn every_other_fault_of_the_tree_is_told_too() {
    let world = World::new();
    let (a, liar, b, around) = lied_to(&world);
    let dir = liar.id_of("d");
    type Lie = Box<dyn FnMut(&mut Node) + Send>;
    let of = |name: &'static str, mut lie: Box<dyn FnMut(&mut Node) + Send>| -> Lie {
        Box::new(move |node| {
            if node.names.iter().any(|place| place.name.as_bytes() == name.as_bytes()) {
                lie(node);
            }
        })
    };
    let nowhere = NodeId::from_bytes([9; 16]);
    let lies: [(&str, &'static str, Lie); 4] = [
        ("not there", "new 1", of("new 1", Box::new(move |node| node.names[0].parent = nowhere))),
        ("in itself", "new 2", of("new 2", Box::new(|node| node.names[0].parent = node.id))),
        ("its name", "new 3", of("new 3", Box::new(|node| node.names[0].name = "way out".try_into().unwrap()))),
        ("permissions", "new 4", of("new 4", Box::new(|node| node.attrs.mode |= 0o100_000))),
    ];
    for (what, name, lie) in lies {
        liar.lie_in_nodes(lie);
        fs::create_dir(a.path(name)).unwrap();
        a.wait_synced();
        await_disbelief(&b, what);
        liar.be_honest();
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    }
    // A directory that is known is said to be a symlink from now on.
    liar.lie_in_nodes(move |node| {
        if node.id == dir {
            node.kind = NodeKind::Symlink;
            node.target = Some(SymlinkTarget::new(Around::FROM_FOLDER.as_bytes()).unwrap());
        }
    });
    fs::set_permissions(a.path("d"), Permissions::from_mode(0o700)).unwrap();
    a.wait_synced();
    await_disbelief(&b, "another kind");
    assert!(fs::symlink_metadata(b.path("d")).unwrap().is_dir());
    around.assert_untouched();
}

#[test]
fn a_symlink_and_a_size_that_were_lies_are_put_right() {
    let world = World::new();
    let (a, liar, b, around) = lied_to(&world);
    liar.lie_in_nodes(|node| {
        node.target = node.target.take().map(|_| SymlinkTarget::new(Around::FROM_FOLDER.as_bytes()).unwrap());
        if let Some(content) = &mut node.content {
            (content.size, content.manifest) = (content.size + 1, None);
        }
    });
    symlink("d", a.path("link")).unwrap();
    fs::write(a.path("file"), vec![7; 300_000]).unwrap();
    a.wait_synced();
    // The manifest is proved by its hash, so the size is what that says.
    let target = || fs::read_link(b.path("link")).map_err(|error| error.to_string());
    until("the file, and the lie about the symlink", || match (fs::read(b.path("file")), target()) {
        (Ok(bytes), Ok(told)) if bytes == [7; 300_000] && told == Path::new(Around::FROM_FOLDER) => Ok(()),
        (file, told) => Err(format!("{:?} bytes, {told:?}", file.map(|bytes| bytes.len()))),
    });
    liar.be_honest();
    // It is told once more, as it is.
    set_mtime(&a.path("link"), 1_600_000_000, 0).unwrap();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    b.wait_synced();
    around.assert_untouched();
}

#[test]
fn a_first_start_at_a_server_that_says_no_folder_is_refused_with_a_sentence() {
    let world = World::new();
    let a = world.watch("A");
    fs::create_dir(a.path("d")).unwrap();
    a.wait_synced();
    let (liar, b) = world.device_behind_liar("B");
    liar.lie_in_nodes(|node| {
        let id = node.id;
        node.names.iter_mut().for_each(|place| place.parent = id);
    });
    let said = b.watched().try_mount();
    assert!(said.refusal().contains("no folder"), "{said:?}");
}

/// What takes the place of a directory never takes what is in it.
#[test]
fn what_is_only_here_stays_in_a_directory_that_was_a_lie() {
    let world = World::new();
    let (a, liar, b, around) = lied_to(&world);
    liar.lie_in_nodes(|node| {
        if node.names.iter().any(|place| [&b"full"[..], b"empty"].contains(&place.name.as_bytes())) {
            (node.kind, node.content) = (NodeKind::Dir, None);
        }
    });
    fs::write(a.path("full"), vec![7; 300_000]).unwrap();
    fs::write(a.path("empty"), vec![8; 300_000]).unwrap();
    a.wait_synced();
    until("the lie", || {
        let are_there = ["full", "empty"].map(|name| b.path(name).is_dir());
        if are_there == [true; 2] { Ok(()) } else { Err(format!("{are_there:?}")) }
    });
    // A name that is ignored.
    fs::write(b.path("full/.notes.swp"), "only here").unwrap();
    b.wait_synced();
    liar.be_honest();
    world.server().command(&["restored"]);
    // Each directory goes on as another node, and the file stands beside it.
    until("both files", || {
        let is_file = |name: &str| name.contains(" (conflict, ");
        let names = fs::read_dir(&b.folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files: Vec<_> = names.filter(|name| is_file(name)).map(|name| fs::read(b.path(name))).collect();
        let has = |byte: u8| files.iter().flatten().any(|bytes| *bytes == [byte; 300_000]);
        if has(7) && has(8) { Ok(()) } else { Err(format!("{} files", files.len())) }
    });
    assert_eq!(fs::read_to_string(b.path("full/.notes.swp")).unwrap(), "only here");
    fs::remove_file(b.path("full/.notes.swp")).unwrap();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    b.wait_synced();
    around.assert_untouched();
}
