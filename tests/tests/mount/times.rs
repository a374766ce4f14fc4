//! Times that programs go by: mtimes of directories whose entries come and go, and ctimes, on all devices.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use syncmount_tests::support::*;

/// mtime and ctime, in nanoseconds.
fn times(path: &Path) -> (i128, i128) {
    let found = fs::symlink_metadata(path).unwrap();
    let of = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    (of(found.mtime(), found.mtime_nsec()), of(found.ctime(), found.ctime_nsec()))
}

/// The times become equal on both, and later than `before`.
#[track_caller]
fn moves_on(a: &Device, b: &Device, name: &str, before: (i128, i128)) -> (i128, i128) {
    until("the times to be equal", || {
        let (here, there) = (times(&a.path(name)), times(&b.path(name)));
        let is_later = there.0 > before.0 && there.1 > before.1;
        if here == there && is_later { Ok(()) } else { Err(format!("{name}: {here:?}, {there:?}, before {before:?}")) }
    });
    times(&b.path(name))
}

#[test]
fn a_directory_is_as_new_as_its_newest_entry_on_all_devices_and_after_a_start() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    for dir in ["dir", "other", "dir/inner"] {
        fs::create_dir(a.path(dir)).unwrap();
    }
    a.wait_synced();
    b.wait_synced();
    let mut before = times(&b.path("dir"));
    let mut step = |act: &dyn Fn()| {
        act();
        before = moves_on(&a, &b, "dir", before);
        before
    };
    step(&|| fs::write(a.path("dir/file"), "text").unwrap());
    step(&|| fs::create_dir(b.path("dir/made")).unwrap());
    step(&|| fs::hard_link(a.path("dir/file"), a.path("dir/link")).unwrap());
    step(&|| fs::rename(b.path("dir/file"), b.path("dir/renamed")).unwrap());
    let other = times(&b.path("other"));
    step(&|| fs::rename(a.path("dir/link"), a.path("other/link")).unwrap());
    moves_on(&a, &b, "other", other);
    step(&|| fs::remove_file(b.path("dir/renamed")).unwrap());
    let inner = times(&b.path("dir/inner"));
    let last = step(&|| fs::remove_dir(a.path("dir/made")).unwrap());
    // Bytes of an entry are none of the directory, nor is what happens below.
    fs::write(a.path("other/link"), "other").unwrap();
    fs::write(a.path("dir/inner/deep"), "deep").unwrap();
    moves_on(&a, &b, "dir/inner", inner);
    let other = times(&b.path("other"));
    for device in [&a, &b] {
        device.wait_synced();
        device.fusermount_u();
        device.await_end();
        device.mount();
        assert_eq!((times(&device.path("dir")), times(&device.path("other"))), (last, other));
    }
    // A clock of a device does not decide: what was set to the future is left behind.
    let seconds = (last.0 / 1_000_000_000) as i64 + 40_000;
    set_mtime(&a.path("dir"), seconds, 0).unwrap();
    let set = i128::from(seconds) * 1_000_000_000;
    until("the mtime", || if times(&b.path("dir")).0 == set { Ok(()) } else { Err("not yet".into()) });
    fs::write(b.path("dir/one more"), "text").unwrap();
    until("an mtime past it on both", || {
        let both = [&a, &b].map(|device| times(&device.path("dir")).0);
        if both == [set + 1000; 2] { Ok(()) } else { Err(format!("{both:?}")) }
    });
}

#[test]
fn what_sets_the_mtime_of_a_directory_after_its_entries_sets_it_everywhere() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::create_dir(a.path("dir")).unwrap();
    set_mtime(&a.path("dir"), 1_000_000_000, 7).unwrap();
    a.wait_synced();
    let is_set = |device: &Device| {
        let (mtime, _) = times(&device.path("dir"));
        if mtime == 1_000_000_000_000_000_007 { Ok(()) } else { Err(format!("{mtime}")) }
    };
    until("the mtime at B", || is_set(&b));
    // As rsync does, again and again: an entry, then the mtime that the directory had.
    for number in 0..5 {
        fs::write(a.path(format!("dir/f{number}")), "text").unwrap();
        set_mtime(&a.path("dir"), 1_000_000_000, 7).unwrap();
        is_set(&a).unwrap();
        a.wait_synced();
        is_set(&a).unwrap();
        until("the file", || if b.path(format!("dir/f{number}")).exists() { Ok(()) } else { Err("not yet".into()) });
        until("the mtime at B", || is_set(&b));
    }
}

#[test]
fn what_was_not_touched_has_the_same_ctime_everywhere_and_after_a_start() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::create_dir(a.path("dir")).unwrap();
    fs::write(a.path("dir/file"), "text").unwrap();
    std::os::unix::fs::symlink("file", a.path("dir/link")).unwrap();
    a.wait_synced();
    let names = ["dir", "dir/file", "dir/link"];
    let before = names.map(|name| moves_on(&a, &b, name, (0, 0)));
    fs::set_permissions(b.path("dir/file"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let (mtime, ctime) = before[1];
    until("the ctime of a changed mode", || {
        let both = [&a, &b].map(|device| times(&device.path("dir/file")));
        if both[0] == both[1] && both[0].0 == mtime && both[0].1 > ctime { Ok(()) } else { Err(format!("{both:?}")) }
    });
    let before = names.map(|name| times(&b.path(name)));
    let late = world.mount("C");
    assert_eq!(names.map(|name| times(&late.path(name))), before, "a device that joins");
    for device in [&a, &b] {
        device.wait_synced();
        device.fusermount_u();
        device.await_end();
        device.mount();
        assert_eq!(names.map(|name| times(&device.path(name))), before);
    }
}

/// Python's mailbox reads a directory again if its mtime has moved.
const READER: &str = "
import mailbox, sys
box = mailbox.Maildir(sys.argv[1], create=False)
for line in sys.stdin:
    print(len(box), flush=True)
";

#[test]
fn an_open_mailbox_sees_new_mail() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    for dir in ["mail", "mail/cur", "mail/new", "mail/tmp"] {
        fs::create_dir(a.path(dir)).unwrap();
    }
    a.wait_synced();
    b.wait_synced();
    let mut reader = Command::new("python3")
        .args(["-c", READER])
        .arg(b.path("mail"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut ask, mut answers) = (reader.stdin.take().unwrap(), BufReader::new(reader.stdout.take().unwrap()).lines());
    let mut count = move || {
        writeln!(ask).unwrap();
        answers.next().unwrap().unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(count(), 0);
    for mails in 1..=2 {
        // While it has just read, it does not trust mtimes.
        std::thread::sleep(Duration::from_millis(2500));
        let name = format!("{mails}.mail");
        fs::write(a.path("mail/tmp").join(&name), "Subject: new\n\n").unwrap();
        fs::rename(a.path("mail/tmp").join(&name), a.path("mail/new").join(&name)).unwrap();
        until("the mail at B", || if b.path("mail/new").join(&name).exists() { Ok(()) } else { Err("no".into()) });
        until("the mail to be seen", || match count() {
            found if found == mails => Ok(()),
            found => Err(format!("{found} mails")),
        });
    }
    drop(count);
    assert!(reader.wait().unwrap().success());
}

#[test]
fn git_on_another_device_reads_no_file_to_know_that_nothing_has_changed() {
    let mut dice = Dice::new("git-status");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let repo = a.path("repo");
    let git = |device: &Device, words: &[&str]| {
        let mut command = Command::new("git");
        device.environment(&mut command);
        command.env("GIT_OPTIONAL_LOCKS", "1").arg("-C").arg(device.path("repo")).args(words);
        run(&mut command).good().to_owned()
    };
    fs::create_dir(&repo).unwrap();
    git(&a, &["init", "-q"]);
    for number in 0..40 {
        let dir = repo.join(format!("d{}", number % 5));
        fs::create_dir_all(&dir).unwrap();
        // Too large to ride along with a page.
        fs::write(dir.join(format!("f{number}")), bytes(&mut dice, 200_000)).unwrap();
    }
    // Files as new as the index, to the second, are read again by git.
    std::thread::sleep(Duration::from_millis(1100));
    git(&a, &["add", "."]);
    git(&a, &["-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-q", "-m", "first"]);
    git(&a, &["status", "--porcelain"]);
    a.wait_synced();
    until("the same at B", || {
        let index = |device: &Device| fs::read(device.path("repo/.git/index")).unwrap_or_default();
        if b.path("repo/d4/f39").exists() && index(&a) == index(&b) { Ok(()) } else { Err("not yet".into()) }
    });
    // What git itself needs.
    git(&b, &["log", "-1", "--format=%H"]);
    let (received, index) = (b.status().bytes_received, times(&b.path("repo/.git/index")));
    assert_eq!(git(&b, &["status", "--porcelain"]), "");
    let now = b.status().bytes_received;
    assert!(now - received < 100_000, "{} bytes were fetched", now - received);
    assert_eq!(times(&b.path("repo/.git/index")), index, "the index was written");
    // And so it sees what is new.
    fs::write(a.path("repo/d1/new"), "new").unwrap();
    until("the new file", || match git(&b, &["status", "--porcelain"]) {
        found if found == "?? d1/new\n" => Ok(()),
        found => Err(found),
    });
}
