//! Listings, which the kernel asks for without opening directories and remembers until it is told otherwise.

use rustix::fs::Dir;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use syncmount_tests::support::*;

fn listed(dir: &Path) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(seen.insert(name.clone()), "{name} is there twice");
    }
    seen
}

fn await_listed(device: &Device, dir: &str, expected: &BTreeSet<String>) {
    until(&format!("the same names at {}", device.name), || {
        let seen = listed(&device.path(dir));
        let odd: Vec<_> = seen.symmetric_difference(expected).collect();
        if odd.is_empty() { Ok(()) } else { Err(format!("{odd:?}")) }
    });
}

/// Names from where the listing stands to its end, each with the place behind it.
fn rest(dir: &mut Dir) -> Vec<(i64, String)> {
    let entries = std::iter::from_fn(|| dir.read()).map(Result::unwrap);
    entries.map(|entry| (entry.offset(), entry.file_name().to_string_lossy().into_owned())).collect()
}

#[test]
fn what_comes_from_elsewhere_is_in_a_listing_that_the_kernel_remembers() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::create_dir(a.path("dir")).unwrap();
    // More than one page of them, so that what the kernel remembers can be there in part.
    let mut expected: BTreeSet<String> = (0..500).map(|number| format!("stays {number:05}")).collect();
    expected.iter().for_each(|name| drop(File::create(a.path("dir").join(name)).unwrap()));
    a.wait_synced();
    until("the directory at B", || fs::read_dir(b.path("dir")).map(drop).map_err(|error| error.to_string()));
    await_listed(&b, "dir", &expected);
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Answers to these cross the news.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                listed(&b.path("dir"));
            }
        });
        for round in 0..60 {
            let (made, renamed) = (format!("made {round}"), format!("renamed {round}"));
            fs::write(a.path("dir").join(&made), "text").unwrap();
            expected.insert(made.clone());
            await_listed(&b, "dir", &expected);
            fs::rename(a.path("dir").join(&made), a.path("dir").join(&renamed)).unwrap();
            expected.remove(&made);
            expected.insert(renamed.clone());
            await_listed(&b, "dir", &expected);
            if round % 2 == 0 {
                fs::remove_file(a.path("dir").join(&renamed)).unwrap();
                expected.remove(&renamed);
                await_listed(&b, "dir", &expected);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    // What is done here is seen at once, also in the middle of what came from there.
    for round in 0..50 {
        let (here, there) = (format!("here {round}"), format!("there {round}"));
        fs::write(a.path("dir").join(&there), "text").unwrap();
        fs::write(b.path("dir").join(&here), "text").unwrap();
        assert!(listed(&b.path("dir")).contains(&here));
        fs::rename(b.path("dir").join(&here), b.path("dir").join("moved")).unwrap();
        let seen = listed(&b.path("dir"));
        assert!(seen.contains("moved") && !seen.contains(&here));
        fs::remove_file(b.path("dir/moved")).unwrap();
        assert!(!listed(&b.path("dir")).contains("moved"));
        expected.insert(there);
    }
    await_listed(&b, "dir", &expected);
    b.wait_synced();
    await_listed(&a, "dir", &expected);
}

#[test]
fn a_conflict_copy_is_in_a_listing_that_the_kernel_remembers() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::write(b.path("file"), "").unwrap();
    let mut open = File::options().write(true).open(b.path("file")).unwrap();
    open.write_all(b"first half, ").unwrap();
    open.sync_all().unwrap();
    b.wait_synced();
    until("the first half at A", || match fs::read_to_string(a.path("file")) {
        Ok(text) if text == "first half, " => Ok(()),
        other => Err(format!("{other:?}")),
    });
    fs::write(a.path("file"), "from A").unwrap();
    let read = || fs::read_to_string(b.path("file")).map_err(|error| error.to_string());
    until("A's version at B", || if read()? == "from A" { Ok(()) } else { Err(read()?) });
    for _ in 0..3 {
        assert_eq!(listed(&b.folder).len(), 1);
    }
    open.write_all(b"second half").unwrap();
    until("the copy at B, while it is being written", || match listed(&b.folder).len() {
        2 => Ok(()),
        count => Err(count.to_string()),
    });
    drop(open);
    until("the copy at A", || match listed(&a.folder).len() {
        2 => Ok(()),
        count => Err(count.to_string()),
    });
}

#[test]
fn a_listing_goes_on_at_every_place_that_it_has_told() {
    let world = World::new();
    let a = world.mount("A");
    let mut expected: BTreeSet<String> = (0..4000).map(|number| format!("entry {number:05}")).collect();
    expected.iter().for_each(|name| drop(File::create(a.path(name)).unwrap()));
    let mut dir = Dir::read_from(File::open(&a.folder).unwrap()).unwrap();
    let all = rest(&mut dir);
    expected.extend([".".to_owned(), "..".to_owned()]);
    let names = |entries: &[(i64, String)]| entries.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&all).into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(all.len(), expected.len(), "nothing twice");
    for at in [3999, 17, 2000, 0, 4001] {
        dir.seek(all[at].0).unwrap();
        assert_eq!(names(&rest(&mut dir)), names(&all[at + 1..]), "from {at} on");
    }
    // Also where what stood there is gone, for who listed before and for who opens the directory anew.
    let gone: Vec<&String> = all.iter().skip(2).step_by(3).map(|(_, name)| name).collect();
    gone.iter().for_each(|name| fs::remove_file(a.path(name)).unwrap());
    let stays = |entries: &[(i64, String)]| -> Vec<String> {
        names(entries).into_iter().filter(|name| !gone.contains(&name)).collect()
    };
    for at in [2, 1001, 3002, 5] {
        let mut anew = Dir::read_from(File::open(&a.folder).unwrap()).unwrap();
        for dir in [&mut dir, &mut anew] {
            dir.seek(all[at].0).unwrap();
            assert_eq!(stays(&rest(dir)), stays(&all[at + 1..]), "from {at} on");
        }
    }
    File::create(a.path("new")).unwrap();
    dir.rewind();
    let again = names(&rest(&mut dir));
    assert!(again.contains(&"new".to_owned()));
    assert_eq!(again.len(), expected.len() - gone.len() + 1);
}

#[test]
fn a_directory_is_synced_and_what_is_none_is_not_listed() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::create_dir(a.path("dir")).unwrap();
    File::create(a.path("dir/file")).unwrap();
    let open = File::open(a.path("dir")).unwrap();
    open.sync_all().unwrap();
    assert_eq!(listed(&a.path("dir")).len(), 1);
    a.wait_synced();
    until("the directory at B", || fs::metadata(b.path("dir/file")).map(drop).map_err(|error| error.to_string()));
    fs::remove_file(b.path("dir/file")).unwrap();
    fs::remove_dir(b.path("dir")).unwrap();
    until("its end at A", || if a.path("dir").exists() { Err("it is there".into()) } else { Ok(()) });
    assert_eq!(fs::read_dir(a.path("dir")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    fs::write(a.path("file"), "").unwrap();
    assert_eq!(fs::read_dir(a.path("file")).unwrap_err().kind(), std::io::ErrorKind::NotADirectory);
}
