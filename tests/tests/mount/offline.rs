//! Without a server the folder stays usable, and it comes up again without one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use syncmount_tests::support::*;

/// A read does not wait for a server that has been away for 10 seconds. What is above one second is for a loaded machine.
const READ_MAX: Duration = Duration::from_secs(5);

const AWAY_KNOWN: Duration = Duration::from_secs(10);

#[test]
fn a_mount_comes_up_without_its_server_and_catches_up_when_it_is_back() {
    let mut dice = Dice::new("a_mount_comes_up_without_its_server");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    random_tree(&mut dice, &a.folder, 60).unwrap();
    fs::create_dir(a.path("known")).unwrap();
    for number in 0..5 {
        fs::write(a.path(format!("known/{number}")), bytes(&mut dice, 400_000)).unwrap();
    }
    let never = bytes(&mut dice, 3_000_000);
    fs::write(a.path("never read"), &never).unwrap();
    a.wait_synced();
    until("everything at B", || {
        let (left, right) = (Tree::read_names(&a.folder), Tree::read_names(&b.folder));
        match left.unwrap().differences(&right.map_err(|error| error.to_string())?).as_slice() {
            [] => Ok(()),
            differences => Err(differences.join("\n")),
        }
    });
    assert_equal(&a.path("known"), &b.path("known"), DirTimes::Ignored);
    let names = Tree::read_names(&b.folder).unwrap();

    b.fusermount_u();
    world.while_offline(|| {
        b.mount();
        assert!(!b.status().connected);
        assert_eq!(names.differences(&Tree::read_names(&b.folder).unwrap()), [] as [&str; 0]);
        run(Command::new("ls").arg("-lR").arg(&b.folder)).good();
        assert_equal(&a.path("known"), &b.path("known"), DirTimes::Ignored);

        // A handler that waits does not keep the others.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| fs::read(b.path("never read")));
            for number in 0..20 {
                fs::create_dir_all(b.path(format!("new/{number}"))).unwrap();
                fs::write(b.path(format!("new/{number}/file")), format!("written offline {number}")).unwrap();
            }
            fs::rename(b.path("known"), b.path("renamed")).unwrap();
            fs::remove_file(b.path("renamed/0")).unwrap();
            assert!(!waiting.is_finished(), "the read waits for the server");
            assert_eq!(b.status().pending_files, 20);
            world_is_back(&world);
            assert!(waiting.join().unwrap().unwrap() == never, "a read that waits is answered when the server is back");
        });
        // For `while_offline`, which starts it.
        world.server().stop();
    });
    b.wait_synced();
    assert_become_equal(&b.folder, &a.folder, DirTimes::Ignored);
    assert_eq!(fs::read_to_string(a.path("new/19/file")).unwrap(), "written offline 19");
    assert!(a.path("renamed/1").exists() && !a.path("renamed/0").exists() && !a.path("known").exists());
    assert_eq!(sha256(Path::new(&b.path("never read"))).unwrap(), sha256(&a.path("never read")).unwrap());
}

#[test]
fn reading_what_is_not_here_fails_at_once_while_the_server_is_known_to_be_away() {
    let mut dice = Dice::new("reading_what_is_not_here");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::create_dir(a.path("dir")).unwrap();
    for number in 0..100 {
        fs::write(a.path(format!("dir/f{number}")), bytes(&mut dice, 100_000)).unwrap();
    }
    fs::write(a.path("dir/known"), "read here before").unwrap();
    a.wait_synced();
    until("the known file at B", || fs::read(b.path("dir/known")).map(drop).map_err(|error| error.to_string()));
    until("the last file at B", || fs::metadata(b.path("dir/f99")).map(drop).map_err(|error| error.to_string()));
    world.while_offline(|| {
        until("B to know", || if b.status().connected { Err("connected".into()) } else { Ok(()) });
        std::thread::sleep(AWAY_KNOWN + Duration::from_secs(1));
        let begin = Instant::now();
        let error = fs::read(b.path("dir/f0")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
        assert!(begin.elapsed() < READ_MAX, "{:?}", begin.elapsed());
        let begin = Instant::now();
        let said = run(Command::new("grep").args(["-r", "read here before"]).arg(b.path("dir")));
        assert!(begin.elapsed() < 4 * READ_MAX, "{:?}", begin.elapsed());
        assert!(said.code == Some(2) && said.stdout.contains("dir/known"), "{said:?}");
        let copied = run(Command::new("cp").arg(b.path("dir/f1")).arg(b.path("dir/copy")));
        assert!(copied.code == Some(0), "a copy of a whole file needs no bytes: {copied:?}");
        fs::remove_file(b.path("dir/copy")).unwrap();
        let mapped = Command::new("python3").arg("-c").arg(MAPPED).arg(b.path("dir/f2")).status().unwrap();
        assert!(mapped.code() != Some(0) && begin.elapsed() < 6 * READ_MAX, "{mapped:?} {:?}", begin.elapsed());
    });
    // As soon as the server is found again, it is asked again.
    for number in 0..100 {
        let name = format!("dir/f{number}");
        let whole = until("the file at B", || fs::read(b.path(&name)).map_err(|error| error.to_string()));
        assert!(whole == fs::read(a.path(&name)).unwrap(), "{name}");
    }
}

#[test]
fn who_reads_from_a_server_that_hangs_can_be_killed() {
    let mut dice = Dice::new("who_reads_from_a_server_that_hangs");
    let world = World::new();
    let a = world.mount("A");
    for name in ["direct", "mapped", "plain"] {
        fs::write(a.path(name), bytes(&mut dice, 300_000)).unwrap();
    }
    a.wait_synced();
    let (liar, b) = world.device_behind_liar("B");
    b.mount();
    until("the last file at B", || fs::metadata(b.path("plain")).map(drop).map_err(|error| error.to_string()));
    let hangs = Arc::new(AtomicBool::new(true));
    let until_then = hangs.clone();
    liar.lie(move |asked, _| {
        let gives_bytes = asked.path.ends_with("/fetch") || asked.path.contains("/chunks/");
        while gives_bytes && until_then.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let reader = |words: &[&str], name: &str| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(b.path(name)).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut readers = [
        reader(&["python3", "-c", DIRECT], "direct"),
        reader(&["python3", "-c", MAPPED], "mapped"),
        reader(&["cat"], "plain"),
    ];
    std::thread::sleep(Duration::from_secs(2));
    for reader in &mut readers {
        assert_eq!(reader.try_wait().unwrap(), None, "it waits");
        let begin = Instant::now();
        reader.kill().unwrap();
        reader.wait().unwrap();
        assert!(begin.elapsed() < READ_MAX, "{:?} until it was gone", begin.elapsed());
    }
    hangs.store(false, Ordering::Relaxed);
    for name in ["direct", "mapped", "plain"] {
        let whole = until("the file at B", || fs::read(b.path(name)).map_err(|error| error.to_string()));
        assert!(whole == fs::read(a.path(name)).unwrap(), "{name}");
    }
}

const DIRECT: &str =
    "import mmap, os, sys; f = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT); os.readv(f, [mmap.mmap(-1, 4096)])";

const MAPPED: &str =
    "import mmap, sys; f = open(sys.argv[1], 'rb'); print(sum(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:]))";

fn world_is_back(world: &World) {
    world.server().start();
}

#[test]
fn a_server_that_is_away_deletes_nothing() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::write(a.path("file"), "kept").unwrap();
    a.wait_synced();
    until("the file at B", || fs::read(b.path("file")).map_err(|error| error.to_string()));
    for _ in 0..3 {
        world.while_offline(|| {
            until("B to notice", || if b.status().connected { Err("connected".into()) } else { Ok(()) });
            assert_eq!(fs::read_to_string(b.path("file")).unwrap(), "kept");
        });
        until("B to be connected", || if b.status().connected { Ok(()) } else { Err(format!("{:?}", b.status())) });
    }
    assert_eq!(fs::read_to_string(b.path("file")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(a.path("file")).unwrap(), "kept");
}

#[test]
fn what_fusermount_leaves_unsent_is_sent_by_the_next_mount() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    world.while_offline(|| {
        fs::write(a.path("file"), "written before the unmount").unwrap();
        // There is nobody to send it to, so the process does not stay.
        a.fusermount_u();
    });
    a.mount();
    a.wait_synced();
    until("the file at B", || fs::read_to_string(b.path("file")).map_err(|error| error.to_string()));
    assert_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

#[test]
fn what_is_pending_at_fusermount_is_still_sent_while_the_server_answers() {
    let mut dice = Dice::new("what_is_pending_at_fusermount");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let expected: Vec<Vec<u8>> = (0..10).map(|_| bytes(&mut dice, 2_000_000)).collect();
    for (number, content) in expected.iter().enumerate() {
        fs::write(a.path(number.to_string()), content).unwrap();
    }
    a.fusermount_u();
    for (number, content) in expected.iter().enumerate() {
        until("the files at B", || match fs::read(b.path(number.to_string())) {
            Ok(found) if found == *content => Ok(()),
            other => Err(format!("{number}: {:?}", other.map(|found| found.len()))),
        });
    }
}

fn git(device: &Device, dir: &Path, words: &[&str]) -> Said {
    let mut command = Command::new("git");
    device.environment(&mut command);
    for (variable, value) in [
        ("GIT_AUTHOR_NAME", "Somebody"),
        ("GIT_AUTHOR_EMAIL", "somebody@example.org"),
        ("GIT_COMMITTER_NAME", "Somebody"),
        ("GIT_COMMITTER_EMAIL", "somebody@example.org"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
    ] {
        command.env(variable, value);
    }
    run(command.current_dir(dir).args(words))
}

/// A repository with a few hundred files and some history, outside of the mounts.
fn repository(world: &World, device: &Device, dice: &mut Dice) -> PathBuf {
    let repository = world.path("repository");
    fs::create_dir(&repository).unwrap();
    git(device, &repository, &["init", "--quiet", "--initial-branch=main"]).good();
    random_tree(dice, &repository, 250).unwrap();
    for number in 0..5 {
        fs::write(repository.join("counted"), format!("{number}\n")).unwrap();
        fs::write(repository.join(format!("added {number}")), bytes(dice, 20_000)).unwrap();
        git(device, &repository, &["add", "--all"]).good();
        git(device, &repository, &["commit", "--quiet", "--message", &format!("Number {number}")]).good();
    }
    repository
}

fn assert_is_sound_clone(device: &Device, what: &str) {
    let clone = device.path("clone");
    let said = git(device, &clone, &["fsck", "--full", "--strict"]);
    assert_eq!(said.code, Some(0), "{what}: {said:?}");
    let said = git(device, &clone, &["status", "--porcelain"]);
    assert_eq!(said.good(), "", "{what}: the tree is as it was committed");
    assert_eq!(git(device, &clone, &["rev-list", "--count", "HEAD"]).good().trim(), "5", "{what}");
}

#[test]
fn a_git_clone_works_without_a_server_and_arrives_whole_later() {
    let mut dice = Dice::new("a_git_clone_works_without_a_server");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let repository = repository(&world, &a, &mut dice);
    world.while_offline(|| {
        // From a path git would make hard links, which cannot lead out of a disk: it must go on by copying.
        let said = git(&a, &a.folder, &["clone", "--quiet", repository.to_str().unwrap(), "clone"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_is_sound_clone(&a, "at A, offline");
        assert!(!a.status().connected && a.status().pending_files > 250, "{:?}", a.status());
    });
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_is_sound_clone(&b, "at B");
    assert_is_sound_clone(&a, "at A");
    assert_eq!(a.status().problems, []);
}
