//! What a server tells of files is believed only as far as it is proved.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;
use syncmount_common::text::steers;
use syncmount_common::{Content, FileHash};
use syncmount_tests::support::*;

fn conflict_copies(dir: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let copies = entries.filter(|path| path.to_string_lossy().contains("(conflict, "));
    copies.map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn a_told_hash_replaces_no_file_that_was_there_before() {
    let mut dice = Dice::new("a_told_hash_replaces_no_file");
    let world = World::new();
    let a = world.watch("A");
    let (theirs, ours) = (bytes(&mut dice, 3_000_000), bytes(&mut dice, 3_000_000));
    fs::write(a.path("file"), &theirs).unwrap();
    a.wait_synced();

    let (liar, b) = world.device_behind_liar("B");
    let b = b.watched();
    let lie = FileHash::of(&ours);
    liar.lie_in_nodes(move |node| node.content.iter_mut().for_each(|content| content.sha256 = Some(lie)));
    fs::write(b.path("file"), &ours).unwrap();
    b.mount();
    b.wait_synced();
    until("a conflict copy", || {
        let copies = conflict_copies(&b.folder);
        let has_both = |one: &[u8], other: &[u8]| one == ours && other == theirs || one == theirs && other == ours;
        match (fs::read(b.path("file")), copies.as_slice()) {
            (Ok(file), [copy]) if has_both(&file, copy) => Ok(()),
            (file, copies) => Err(format!("{:?} bytes and {} copies", file.map(|file| file.len()), copies.len())),
        }
    });
}

#[test]
fn a_manifest_of_other_bytes_under_a_known_hash_is_refused() {
    let mut dice = Dice::new("a_manifest_of_other_bytes");
    let world = World::new();
    let a = world.watch("A");
    fs::write(a.path("one"), bytes(&mut dice, 300_000)).unwrap();
    fs::write(a.path("two"), bytes(&mut dice, 300_000)).unwrap();
    a.wait_synced();
    let (liar, b) = world.device_behind_liar("B");
    let b = b.watched();
    b.mount();
    b.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let one = fs::read(b.path("one")).unwrap();

    // What is changed elsewhere is told under the hash of the former content, with the manifest of the new one.
    let former = std::sync::Mutex::new(None::<Content>);
    liar.lie_in_nodes(move |node| {
        let Some(content) = &mut node.content else { return };
        let mut former = former.lock().unwrap();
        let known = former.get_or_insert_with(|| content.clone());
        content.hash = syncmount_common::ContentHash::of(known.hash.as_bytes());
    });
    fs::write(a.path("one"), bytes(&mut dice, 300_000)).unwrap();
    a.wait_synced();
    until("the refusal", || match b.status().last_error {
        Some(error) if error.message.contains("does not have the hash") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(fs::read(b.path("one")).unwrap() == one);
    liar.be_honest();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

/// Cut otherwise, since there is a hole in it there and none here: the bytes are compared all the same.
#[test]
fn a_joining_folder_finds_the_same_bytes_however_they_were_cut() {
    let mut dice = Dice::new("a_joining_folder_finds_the_same_bytes");
    let world = World::new();
    let a = world.watch("A");
    let mut content = bytes(&mut dice, 20_000_000);
    content[3_000_000..9_000_000].fill(0);
    fs::write(a.path("file"), &content).unwrap();
    let file = fs::OpenOptions::new().write(true).open(a.path("file")).unwrap();
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 3_000_000, 6_000_000).unwrap();
    drop(file);
    a.wait_synced();
    let joins = |name, before: &dyn Fn(&Path), meanwhile: &(dyn Fn(&Path) + Sync)| {
        let device = world.device(name).watched();
        let file = device.path("file");
        fs::write(&file, &content).unwrap();
        before(&file);
        std::thread::scope(|scope| {
            scope.spawn(|| meanwhile(&file));
            device.mount();
        });
        device.wait_synced();
        assert!(conflict_copies(&device.folder).is_empty() && conflict_copies(&a.folder).is_empty());
        assert!(device.status().bytes_received < 2_000_000, "{}", device.status().bytes_received);
        assert!(fs::read(file).unwrap() == content);
    };
    let rest = Duration::from_millis(10);
    joins("B", &|_| std::thread::sleep(30 * rest), &|_| ());
    // While it is written it is neither told nor fetched.
    joins("C", &|_| (), &|file| {
        let file = fs::OpenOptions::new().write(true).open(file).unwrap();
        for _ in 0..100 {
            file.write_all_at(&content[..1], 0).unwrap();
            std::thread::sleep(rest);
        }
    });
}

#[test]
fn a_message_of_the_server_does_not_steer_the_terminal() {
    const HOSTILE: &str = "no\u{1b}[2J\u{7}\u{202e}txt\u{2028}\nsyncmount: all is well";
    let world = World::new();
    let (liar, b) = world.device_behind_liar("B");
    liar.lie(|_, answer| {
        let body = serde_json::json!({ "code": "invalid", "message": HOSTILE, "retryable": false });
        answer.status = axum::http::StatusCode::BAD_REQUEST;
        answer.headers.insert("content-type", axum::http::HeaderValue::from_static("application/json"));
        answer.body = serde_json::to_vec(&body).unwrap();
    });
    let said = b.try_mount();
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.stderr.contains("no\\u{1b}[2J\\u{7}\\u{202e}txt\\u{2028} syncmount: all is well"), "{said:?}");
    assert!(said.stderr.ends_with('\n') && !said.stderr.trim_end_matches('\n').chars().any(steers), "{said:?}");

    // The same once it runs, in what `status` says and in the log.
    liar.be_honest();
    let b = b.watched();
    b.mount();
    liar.lie(|asked, answer| {
        if asked.is_changes() {
            let body = serde_json::json!({ "code": "invalid", "message": HOSTILE, "retryable": false });
            answer.status = axum::http::StatusCode::BAD_REQUEST;
            answer.headers.insert("content-type", axum::http::HeaderValue::from_static("application/json"));
            answer.body = serde_json::to_vec(&body).unwrap();
        }
    });
    until("the message", || match b.status().last_error {
        Some(error) if error.message.contains("all is well") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for options in [&[][..], &["--json"]] {
        let said = b.ask("status", options);
        for text in [&said.stdout, &said.stderr] {
            assert!(!text.is_empty() && !text.chars().any(|c| steers(c) && c != '\n'), "{said:?}");
        }
        assert!(!said.stdout.lines().any(|line| line.starts_with("syncmount: all")), "{said:?}");
    }
    assert!(!b.log_tail().chars().any(|c| steers(c) && c != '\n'), "{}", b.log_tail());
}

/// A small disk over a directory. Needs root, as every mount of this kind does.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn new(path: &'a Path, size: &str) -> Self {
        let said = run(std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(path));
        assert_eq!(said.code, Some(0), "this test mounts a tmpfs and must be run as root: {said:?}");
        Self(path)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("-l").arg(self.0).output());
    }
}

#[test]
fn what_the_disk_has_no_room_for_is_not_begun_and_comes_when_there_is() {
    let world = World::new();
    let a = world.mount("A");
    let b = world.device("B").watched();
    let disk = SmallDisk::new(&b.folder, "160m");
    fs::create_dir(b.folder.join("x")).unwrap();
    // It fills the disk and stays on this machine.
    fs::write(b.path("x/.DS_Store"), vec![1; 80_000_000]).unwrap();
    b.mount();
    let content = bytes(&mut Dice::new("what_the_disk_has_no_room_for"), 60_000_000);
    fs::write(a.path("large"), &content).unwrap();
    // A hole takes no room.
    let holey = fs::File::create(a.path("holey")).unwrap();
    holey.set_len(1 << 40).unwrap();
    drop(holey);
    a.wait_synced();
    until("the hole, and why the file is not there", || {
        let (status, holey) = (b.status(), fs::metadata(b.path("holey")).map(|found| found.len()).ok());
        let why = status.problems.iter().find(|problem| problem.path == "large");
        match why {
            Some(why) if why.reason.contains("no room") && holey == Some(1 << 40) => Ok(()),
            other => Err(format!("{other:?}, {holey:?}")),
        }
    });
    assert!(b.status().bytes_received < 5_000_000, "{} bytes were fetched for nothing", b.status().bytes_received);
    fs::remove_file(b.path("x/.DS_Store")).unwrap();
    until("the file", || match fs::read(b.path("large")) {
        Ok(found) if found == content => Ok(()),
        Ok(found) => Err(format!("{} bytes", found.len())),
        Err(error) => Err(error.to_string()),
    });
    b.stop();
    drop(disk);
}
