//! One git repository on two devices: nothing that comes into being in it by conflicts may stop git.

use super::curl::Curl;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use syncmount_common::FileHash;
use syncmount_common::protocol::files::Versions;
use syncmount_tests::support::*;

const NOW_AND_THEN: Duration = Duration::from_millis(150);

fn git(device: &Device, words: &[&str]) -> Said {
    let mut command = Command::new("git");
    device.environment(&mut command);
    let names = ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|name| (name, "S"));
    let mails = ["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|name| (name, "s@example.org"));
    command.envs(names).envs(mails).env("GIT_CONFIG_NOSYSTEM", "1");
    run(command.args(words).current_dir(device.path("repository")))
}

#[track_caller]
fn good(device: &Device, words: &[&str]) -> String {
    let said = git(device, words);
    assert!(!said.stderr.contains("error"), "{words:?}: {said:?}");
    said.good().trim().to_owned()
}

/// A repository with a few files that is at both devices.
fn shared_repository(a: &Device, b: &Device) {
    fs::create_dir(a.path("repository")).unwrap();
    good(a, &["init", "-q", "-b", "main"]);
    for number in 0..20 {
        fs::write(a.path("repository").join(format!("f{number}")), format!("{number}")).unwrap();
    }
    good(a, &["add", "-A"]);
    good(a, &["commit", "-q", "-m", "first"]);
    a.wait_synced();
    let head = good(a, &["rev-parse", "main"]);
    until("the repository at B", || match git(b, &["rev-parse", "main"]) {
        said if said.code == Some(0) && said.stdout.trim() == head => Ok(()),
        said => Err(format!("{said:?}")),
    });
}

/// The paths of conflict copies below a directory.
fn copies_below(dir: &Path) -> BTreeSet<PathBuf> {
    let tree = Tree::read_names(dir).unwrap();
    tree.paths()
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("(conflict"))
        .map(Path::to_path_buf)
        .collect()
}

fn await_equal(a: &Device, b: &Device) {
    for device in [a, b, a] {
        device.wait_synced();
    }
    // What stays on one machine moves the mtime of its directory there.
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

#[test]
fn two_commits_at_once_leave_a_repository_that_git_takes() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    shared_repository(&a, &b);
    let (mut indexes, mut heads) = (BTreeSet::new(), BTreeSet::new());
    world.while_offline(|| {
        for device in [&a, &b] {
            fs::write(device.path("repository/f1"), &device.name).unwrap();
            fs::write(device.path("repository").join(format!("new at {}", device.name)), "new").unwrap();
            good(device, &["add", "-A"]);
            good(device, &["commit", "-q", "-m", &device.name]);
            indexes.insert(FileHash::of(&fs::read(device.path("repository/.git/index")).unwrap()));
            heads.insert(good(device, &["rev-parse", "HEAD"]));
        }
    });
    await_equal(&a, &b);
    let dir = a.path("repository/.git");
    let copies = copies_below(&dir);
    let names: Vec<String> = copies.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    assert!(matches!(&names[..], [one] if one.starts_with("refs/heads/.main (conflict, ")), "{names:?}");
    let of_heads =
        ["refs/heads/main".to_owned(), names[0].clone()].map(|name| fs::read_to_string(dir.join(name)).unwrap());
    assert_eq!(of_heads.iter().map(|head| head.trim().to_owned()).collect::<BTreeSet<_>>(), heads, "both are there");
    for device in [&a, &b] {
        good(device, &["fsck", "--full"]);
        good(device, &["fetch", "-q", ".", "main:fetched", "--force"]);
        for head in &heads {
            good(device, &["cat-file", "-e", &format!("{head}^{{tree}}")]);
        }
    }
    assert!(a.status().copies_removed + b.status().copies_removed >= 3, "the index and two logs at least");
    good(&a, &["gc", "-q"]);
    await_equal(&a, &b);
    good(&b, &["fsck", "--full"]);
    let versions: Versions = Curl::of(&world).json("/repository/.git/index?versions");
    let kept: BTreeSet<FileHash> = versions.versions.iter().filter_map(|version| version.sha256).collect();
    assert!(indexes.is_subset(&kept), "{indexes:?} are among {kept:?}");
}

/// A device that only looks.
#[test]
fn prompts_on_one_device_and_commits_on_the_other_make_no_copies() {
    let lasts = sized(Duration::from_secs(6), Duration::from_secs(600));
    let world = World::lasting(lasts + Duration::from_secs(300));
    let (a, b) = (world.mount("A"), world.mount("B"));
    shared_repository(&a, &b);
    let (done, seen) = (&AtomicBool::new(false), &AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let said = git(&b, &["status", "--porcelain"]);
                seen.fetch_or(said.code == Some(0), Ordering::Relaxed);
                std::thread::sleep(NOW_AND_THEN);
            }
        });
        let begin = Instant::now();
        let mut number = 0;
        while begin.elapsed() < lasts {
            fs::write(a.path("repository/f1"), format!("change {number}")).unwrap();
            // An index of the other device may have come between.
            git(&a, &["add", "-A"]);
            git(&a, &["commit", "-q", "-m", &number.to_string()]);
            number += 1;
            std::thread::sleep(NOW_AND_THEN);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(seen.load(Ordering::Relaxed));
    await_equal(&a, &b);
    assert_eq!(copies_below(&a.path("repository")), BTreeSet::new());
    for device in [&a, &b] {
        good(device, &["fsck", "--full"]);
        let status = device.status();
        assert_eq!((status.problems, status.last_error), (Vec::new(), None));
    }
}

#[test]
fn a_lock_of_git_stays_on_its_machine() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    shared_repository(&a, &b);
    fs::write(a.path("repository/.git/index.lock"), "").unwrap();
    fs::write(a.path("repository/.git/refs/heads/main.lock"), "").unwrap();
    fs::write(a.path("repository/Cargo.lock"), "").unwrap();
    a.wait_synced();
    until("the file that is sent", || {
        fs::metadata(b.path("repository/Cargo.lock")).map(drop).map_err(|e| e.to_string())
    });
    assert!(fs::metadata(b.path("repository/.git/index.lock")).is_err());
    assert!(fs::metadata(b.path("repository/.git/refs/heads/main.lock")).is_err());
    // It does not stop the other device, and what takes the lock's name off is sent.
    fs::write(b.path("repository/f1"), "from B").unwrap();
    good(&b, &["add", "-A"]);
    fs::remove_file(a.path("repository/.git/index.lock")).unwrap();
    fs::remove_file(a.path("repository/.git/refs/heads/main.lock")).unwrap();
    await_equal(&a, &b);
    fs::write(a.path("repository/f2"), "from A").unwrap();
    good(&a, &["add", "-A"]);
    good(&a, &["commit", "-q", "-m", "second"]);
    await_equal(&a, &b);
    assert_eq!(good(&b, &["status", "--porcelain"]), "");
}

#[test]
fn what_a_ref_names_is_there_before_the_ref() {
    let mut dice = Dice::new("what_a_ref_names");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    shared_repository(&a, &b);
    let (first, done) = (good(&a, &["rev-parse", "main"]), &AtomicBool::new(false));
    let heads = std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut heads = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let Ok(head) = fs::read_to_string(b.path("repository/.git/refs/heads/main")) else { continue };
                let names = ["", "^{tree}", ":big"].map(|name| format!("{}{name}", head.trim()));
                for name in &names[..if head.trim() == first { 2 } else { 3 }] {
                    let said = git(&b, &["cat-file", "-e", name]);
                    assert_eq!(said.code, Some(0), "{name}: {said:?}");
                }
                heads.insert(head);
            }
            heads.len()
        });
        for number in 0..sized(4, 40) {
            // Preparing this takes longer than all that is committed after it.
            fs::write(a.path("repository/big"), bytes(&mut dice, 12_000_000)).unwrap();
            good(&a, &["add", "-A"]);
            good(&a, &["commit", "-q", "-m", &number.to_string()]);
            a.wait_synced();
        }
        await_equal(&a, &b);
        done.store(true, Ordering::Relaxed);
        looks.join().unwrap()
    });
    assert!(heads >= 2, "B has seen {heads} heads");
    good(&b, &["fsck", "--full"]);
}
