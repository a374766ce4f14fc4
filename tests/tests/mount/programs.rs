//! Programs that people live in: git, cargo, SQLite, editors, rsync, tar, fio; and the same tree on the other device.

use rand::RngExt;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use syncmount_tests::support::*;

/// A world with two devices, and at the end the same on both.
fn on_two_devices(act: impl FnOnce(&World, &Device, &Device)) {
    let world = World::lasting(Duration::from_secs(900));
    let (a, b) = (world.mount("A"), world.mount("B"));
    act(&world, &a, &b);
    for device in [&a, &b] {
        device.wait_synced();
    }
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    for device in [&a, &b] {
        assert_eq!(device.status().problems, []);
    }
}

#[track_caller]
fn sh(device: &Device, script: &str, dir: &Path) -> String {
    let mut command = Command::new("bash");
    device.environment(&mut command);
    run(command.args(["-e", "-o", "pipefail", "-c", script]).current_dir(dir)).good().trim().to_owned()
}

const GIT: &str = "export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=S GIT_AUTHOR_EMAIL=s@example.org GIT_COMMITTER_NAME=S \
                   GIT_COMMITTER_EMAIL=s@example.org; ";

#[test]
fn git_works_with_a_repository_of_thousands_of_files() {
    on_two_devices(|world, a, b| {
        let origin = world.path("origin");
        fs::create_dir(&origin).unwrap();
        for index in 0..3000 {
            let dir = origin.join(format!("dir {}", index % 60));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("file {index}")), format!("{index}\n").repeat(1 + index % 200)).unwrap();
        }
        let git = |script: &str, dir: &Path| sh(a, &format!("{GIT}{script}"), dir);
        git("git init -q -b main; git add -A; git commit -q -m first", &origin);
        git(&format!("git clone -q '{}' clone", origin.display()), &a.folder);
        let clone = a.path("clone");
        assert_eq!(git("git status --porcelain", &clone), "");
        git(
            "git switch -q -c branch; for n in {0..50}; do echo changed > \"dir $n/new\"; done; git add -A; \
             git commit -q -m second; git switch -q main; git merge -q --no-ff -m third branch; git gc -q; git fsck --full",
            &clone,
        );
        assert_eq!(git("git status --porcelain; git log --oneline | wc -l", &clone), "3");
        a.wait_synced();
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
        let there = sh(b, &format!("{GIT}git fsck --full; git status --porcelain"), &b.path("clone"));
        assert_eq!(there, "");
    });
}

#[test]
fn cargo_builds_in_the_mount() {
    on_two_devices(|_, a, _| {
        let dir = a.path("crate");
        fs::create_dir_all(dir.join("src")).unwrap();
        fs::write(dir.join("Cargo.toml"), "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2024\"\n")
            .unwrap();
        fs::write(dir.join("src/lib.rs"), "pub fn answer() -> u32 {\n    42\n}\n").unwrap();
        fs::write(dir.join("src/main.rs"), "fn main() {\n    println!(\"{}\", small::answer());\n}\n").unwrap();
        let cargo = |words: &[&str]| {
            let mut command = Command::new(env!("CARGO"));
            command.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").current_dir(&dir);
            run(command.args(words).args(["--offline", "--quiet"])).good().trim().to_owned()
        };
        assert_eq!(cargo(&["run"]), "42");
        fs::write(dir.join("src/lib.rs"), "pub fn answer() -> u32 {\n    43\n}\n").unwrap();
        assert_eq!(cargo(&["run"]), "43", "the change is seen");
        // What it has built is the machine's own business.
        fs::remove_dir_all(dir.join("target")).unwrap();
    });
}

fn sqlite(path: &Path, script: &str) -> Command {
    let mut command = Command::new("sqlite3");
    command.args(["-bail", "-cmd", ".timeout 60000"]).arg(path).arg(script);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn ask(path: &Path, script: &str) -> String {
    run(&mut sqlite(path, script)).good().trim().to_owned()
}

fn ends_well(child: Child) {
    let said = child.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn four_processes_write_to_one_sqlite_database() {
    on_two_devices(|_, a, b| {
        for mode in ["delete", "wal"] {
            let path = a.path(format!("{mode}.db"));
            ask(
                &path,
                &format!("PRAGMA journal_mode={mode}; CREATE TABLE t (writer INTEGER, number INTEGER, pad BLOB);"),
            );
            let writers: Vec<Child> = (0..4)
                .map(|writer| {
                    let insert = |number| format!("INSERT INTO t VALUES ({writer}, {number}, randomblob(2000));");
                    sqlite(&path, &(0..40).map(insert).collect::<Vec<_>>().join("\n")).spawn().unwrap()
                })
                .collect();
            writers.into_iter().for_each(ends_well);
            assert_eq!(ask(&path, "PRAGMA integrity_check; SELECT count(*) FROM t;"), "ok\n160");
            ask(&path, "PRAGMA wal_checkpoint(TRUNCATE);");
        }
        a.wait_synced();
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
        for mode in ["delete", "wal"] {
            let there = ask(&b.path(format!("{mode}.db")), "PRAGMA integrity_check; SELECT count(*) FROM t;");
            assert_eq!(there, "ok\n160", "{mode} at B");
        }
    });
}

/// As vim saves: a probe, the old file becomes the backup, the new one is written, the backup goes.
fn vim(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap();
    drop(OpenOptions::new().write(true).create_new(true).open(dir.join("4913"))?);
    fs::remove_file(dir.join("4913"))?;
    let backup = path.with_file_name(format!("{}~", path.file_name().unwrap().display()));
    fs::rename(path, &backup)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    drop(file);
    fs::set_permissions(path, fs::metadata(&backup)?.permissions())?;
    fs::remove_file(backup)
}

/// As nano saves: into the file itself.
fn nano(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// As LibreOffice saves: under a lock file, into a temporary file that takes the place.
fn libreoffice(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap();
    let lock = dir.join(format!(".~lock.{}#", path.file_name().unwrap().display()));
    fs::write(&lock, ",somebody,host;")?;
    let temporary = dir.join("lu123456.tmp");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    fs::remove_file(lock)
}

#[test]
fn what_editors_save_is_the_whole_document_on_both_devices() {
    on_two_devices(|_, a, b| {
        type Save = fn(&Path, &str) -> io::Result<()>;
        for (name, save) in [("vim.txt", vim as Save), ("nano.txt", nano), ("libreoffice.odt", libreoffice)] {
            fs::write(a.path(name), "first\n").unwrap();
            let mut text = String::new();
            for round in 0..10 {
                text = format!("{name} {round}\n").repeat(500 + round * 100);
                save(&a.path(name), &text).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(fs::read_to_string(a.path(name)).unwrap(), text);
            }
            a.wait_synced();
            until("the last version at B", || match fs::read_to_string(b.path(name)) {
                Ok(found) if found == text => Ok(()),
                other => Err(format!("{:?}", other.map(|found| found.len()))),
            });
        }
        let names: BTreeSet<_> = fs::read_dir(&b.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    });
}

#[test]
fn rsync_and_tar_go_there_and_back() {
    let mut dice = Dice::new("rsync_and_tar_go_there_and_back");
    on_two_devices(|world, a, b| {
        let native = world.path("native");
        fs::create_dir(&native).unwrap();
        random_tree(&mut dice, &native, 400).unwrap();
        fs::write(native.join("linked"), "twice").unwrap();
        fs::hard_link(native.join("linked"), native.join("linked too")).unwrap();
        sh(a, "rsync -aHX --delete native/ 'A/Sync/rsynced'", &world.path("."));
        assert_equal(&native, &a.path("rsynced"), DirTimes::Compared);
        assert_eq!(
            sh(a, "rsync -aHXn --delete -i native/ 'A/Sync/rsynced'", &world.path(".")),
            "",
            "nothing is left to do"
        );
        fs::create_dir(a.path("unpacked")).unwrap();
        sh(a, "tar -C rsynced --format=posix -cf - . | tar -C unpacked -xpf -", &a.folder);
        assert_equal(&native, &a.path("unpacked"), DirTimes::Compared);
        a.wait_synced();
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
        let back = world.path("back");
        fs::create_dir(&back).unwrap();
        sh(b, "tar -C B/Sync/unpacked --format=posix -cf - . | tar -C back -xpf -", &world.path("."));
        assert_equal(&native, &back, DirTimes::Compared);
        assert_eq!(fs::read_to_string(back.join("linked too")).unwrap(), "twice");
    });
}

#[test]
fn fio_finds_every_byte_where_it_wrote_it() {
    let world = World::lasting(Duration::from_secs(900));
    let a = world.mount("A");
    let fio = |more: &str| {
        let job = format!(
            "fio --name=job --directory='{}' --numjobs=3 --rw=randwrite --bsrange=1k-64k --size=12m --ioengine=psync \
             --verify=crc32c --verify_fatal=1 --randseed=7 --fallocate=none --output=/dev/null {more}",
            a.folder.display()
        );
        sh(&a, &job, &world.path("."))
    };
    fio("--do_verify=1 --fsync=200");
    fio("--verify_only");
    a.wait_synced();
    a.fusermount_u();
    a.mount();
    fio("--verify_only");
    let b = world.mount("B");
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

#[test]
fn a_directory_of_a_hundred_thousand_entries_can_be_lived_in() {
    const COUNT: usize = 100_000;
    let world = World::lasting(Duration::from_secs(900));
    let a = world.mount("A");
    let dir = a.path("dir");
    fs::create_dir(&dir).unwrap();
    for index in 0..COUNT {
        drop(File::create(dir.join(format!("stays {index}"))).unwrap());
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            let mut changes = 0;
            while !done.load(Ordering::Relaxed) {
                let name = dir.join(format!("goes {}", changes % 100));
                drop(File::create(&name).unwrap());
                fs::remove_file(&name).unwrap();
                changes += 1;
            }
            changes
        });
        for _ in 0..3 {
            let mut seen = vec![false; COUNT];
            let mut others = BTreeSet::new();
            for entry in fs::read_dir(&dir).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let Some(index) = name.strip_prefix("stays ") else {
                    assert!(others.insert(name.clone()), "{name} twice");
                    continue;
                };
                let index: usize = index.parse().unwrap();
                assert!(!seen[index], "{name} twice");
                seen[index] = true;
            }
            assert!(seen.iter().all(|seen| *seen), "something was missed");
        }
        done.store(true, Ordering::Relaxed);
        assert!(changer.join().unwrap() > 0);
    });
    let mut dice = Dice::new("a_directory_of_a_hundred_thousand_entries");
    for _ in 0..1000 {
        let name = format!("stays {}", dice.random_range(0..COUNT));
        assert!(fs::symlink_metadata(dir.join(&name)).unwrap().is_file());
    }
}

#[test]
fn a_server_that_stops_in_the_middle_holds_nobody_up_and_loses_nothing() {
    let mut dice = Dice::new("a_server_that_stops_in_the_middle");
    on_two_devices(|world, a, _| {
        let native = world.path("native");
        fs::create_dir(&native).unwrap();
        random_tree(&mut dice, &native, 300).unwrap();
        let database = a.path("data.db");
        ask(&database, "CREATE TABLE t (number INTEGER);");
        let work = || {
            let insert = |number| format!("INSERT INTO t VALUES ({number});");
            let writer = sqlite(&database, &(0..200).map(insert).collect::<Vec<_>>().join("\n")).spawn().unwrap();
            sh(a, "rsync -aH --delete native/ 'A/Sync/rsynced'", &world.path("."));
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(a.path("written")).unwrap();
            for at in 0..500 {
                file.write_all_at(&[at as u8; 5000], at * 5000).unwrap();
            }
            file.sync_all().unwrap();
            ends_well(writer);
        };
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let begin = Instant::now();
                work();
                begin.elapsed()
            });
            std::thread::sleep(Duration::from_millis(300));
            world.server().stop();
            let took = worker.join().unwrap();
            assert!(took < Duration::from_secs(120), "{took:?}");
            world.server().start();
        });
        assert_equal(&native, &a.path("rsynced"), DirTimes::Compared);
        assert_eq!(ask(&database, "PRAGMA integrity_check; SELECT count(*) FROM t;"), "ok\n200");
    });
}
