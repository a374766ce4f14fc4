//! A full disk under the cache: the writer is told, what was accepted is kept and sent, and nothing crashes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use syncmount_tests::support::*;

/// Writes a file in pieces, as programs do; the error of any step is the answer.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    content.chunks(128 * 1024).try_for_each(|piece| file.write_all(piece))?;
    file.sync_all()
}

#[test]
fn a_full_disk_is_told_to_the_writer_and_loses_nothing_that_was_accepted() {
    let mut dice = Dice::new("a_full_disk_is_told");
    let world = World::new();
    let disk = SmallDisk::new(world.path("disk"), "96m");
    let cache = disk.path().join("cache");
    let options = ["--cache-size".as_ref(), "16M".as_ref(), "--cache-dir".as_ref(), cache.as_os_str()];
    let (a, b) = (world.mount_with("A", &options), world.mount("B"));
    let pid = a.status().pid;
    let accepted = world.path("accepted");
    fs::create_dir(&accepted).unwrap();

    world.while_offline(|| {
        let error = (0..100).find_map(|number| {
            let content = bytes(&mut dice, 3_000_000);
            match write(&a.path(number.to_string()), &content) {
                Ok(()) => fs::write(accepted.join(number.to_string()), &content).err(),
                Err(error) => {
                    // What was not taken whole is the writer's to remove.
                    drop(fs::remove_file(a.path(number.to_string())));
                    Some(error)
                }
            }
        });
        assert_eq!(error.expect("300 MB do not fit").raw_os_error(), Some(libc::ENOSPC));
        assert!(fs::read_dir(&accepted).unwrap().count() >= 5);
        let error = write(&a.path("one more"), &bytes(&mut dice, 3_000_000)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "still full");
        drop(fs::remove_file(a.path("one more")));
        for entry in fs::read_dir(&accepted).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(fs::read(a.path(&name)).unwrap() == fs::read(accepted.join(&name)).unwrap(), "{name:?}");
        }
    });
    a.wait_synced();
    let contents_equal = |left: &Path, right: &Path| {
        let names =
            |dir: &Path| Tree::read_names(dir).map(|tree| tree.paths().iter().map(|path| path.to_path_buf()).collect());
        let (left_names, right_names): (Vec<PathBuf>, Vec<PathBuf>) =
            (names(left).map_err(|error| error.to_string())?, names(right).map_err(|error| error.to_string())?);
        if left_names != right_names {
            return Err(format!("{left_names:?} and {right_names:?}"));
        }
        left_names.iter().try_for_each(|name| match (sha256(&left.join(name)), sha256(&right.join(name))) {
            (Ok(one), Ok(two)) if one == two => Ok(()),
            other => Err(format!("{}: {other:?}", name.display())),
        })
    };
    until("what was accepted at B", || contents_equal(&accepted, &b.folder));
    // What is at the server makes room again.
    until("room at A", || write(&a.path("again"), b"there is room").map_err(|error| error.to_string()));
    a.wait_synced();
    assert_eq!(a.status().pid, pid, "it has not crashed");
    assert_eq!(a.status().problems, []);
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

#[test]
fn what_is_pinned_waits_for_room_on_the_disk_and_comes_when_there_is() {
    let world = World::new();
    let disk = SmallDisk::new(world.path("disk"), "160m");
    let cache = disk.path().join("cache");
    fs::write(disk.path().join("filler"), vec![1; 80_000_000]).unwrap();
    let options = ["--cache-size".as_ref(), "150M".as_ref(), "--cache-dir".as_ref(), cache.as_os_str()];
    let (a, b) = (world.mount("A"), world.mount_with("B", &options));
    let content = bytes(&mut Dice::new("what_is_pinned_waits_for_room"), 60_000_000);
    fs::write(a.path("large"), &content).unwrap();
    a.wait_synced();
    until("the file", || fs::metadata(b.path("large")).map(drop).map_err(|error| error.to_string()));
    run(b.program().arg("pin").arg(b.path("large"))).good();
    until("that it waits", || {
        let problems = b.status().problems;
        let waits = problems.iter().any(|problem| problem.reason.contains("has no room for all that is pinned"));
        if waits { Ok(()) } else { Err(format!("{problems:?}")) }
    });
    assert!(b.status().bytes_received < 5_000_000, "{} bytes were fetched for nothing", b.status().bytes_received);
    fs::remove_file(disk.path().join("filler")).unwrap();
    until("that all of it is here", || match b.status().pinned {
        pinned if pinned.files == 1 && pinned.missing_bytes == 0 => Ok(()),
        pinned => Err(format!("{pinned:?}")),
    });
    world.while_offline(|| assert!(fs::read(b.path("large")).unwrap() == content));
    let is_over = |problem: &syncmount::status::Problem| !problem.reason.contains("has no room");
    assert!(b.status().problems.iter().all(is_over));
    drop((a, b));
}
