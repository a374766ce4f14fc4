//! Programs that people live in: git, cargo, SQLite, editors, rsync, tar, fio; and the same tree on the other device.

use rand::RngExt;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// With everything local at hand no work takes longer than this, server or not.
const HELD_UP_MAX: Duration = Duration::from_secs(120);

/// Does some work, kills the server in the middle of it, as soon as `has_begun`, and starts it again when the work is done.
#[track_caller]
fn server_dies_during<T: Send>(world: &World, has_begun: impl Fn() -> bool, work: impl FnOnce() -> T + Send) -> T {
    let done = std::thread::scope(|scope| {
        let worker = scope.spawn(work);
        until("the work to begin", || if has_begun() || worker.is_finished() { Ok(()) } else { Err("not yet".into()) });
        world.server().kill();
        let begin = Instant::now();
        let in_the_middle = !worker.is_finished();
        let done = worker.join();
        let took = begin.elapsed();
        let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(in_the_middle, "the work was over before the server was killed");
        assert!(took < HELD_UP_MAX, "{took:?}");
        done
    });
    world.server().start();
    done
}

/// How many files and directories lie below a directory, which may not be there yet.
fn count_below(dir: &Path) -> usize {
    Tree::read_names(dir).map_or(0, |tree| tree.len())
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

        // The server dies while git clones, and while it commits and packs.
        let clone = a.path("second clone");
        server_dies_during(
            world,
            || count_below(&clone) > 300,
            || git(&format!("git clone -q '{}' 'second clone'", origin.display()), &a.folder),
        );
        assert_eq!(git("git fsck --full; git status --porcelain", &clone), "");
        server_dies_during(
            world,
            || clone.join("begun").exists(),
            || {
                git(
                    "touch begun; for n in {0..30}; do echo changed > \"dir $n/new\"; git add -A; git commit -q -m $n; \
                     done; git gc -q; git fsck --full",
                    &clone,
                )
            },
        );
        assert_eq!(git("git status --porcelain; git log --oneline | wc -l", &clone), "32");
        a.wait_synced();
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
        assert_eq!(sh(b, &format!("{GIT}git fsck --full; git status --porcelain"), &b.path("second clone")), "");
    });
}

#[test]
fn cargo_builds_in_the_mount() {
    on_two_devices(|world, a, _| {
        let dir = a.path("crate");
        fs::create_dir_all(dir.join("src")).unwrap();
        fs::write(dir.join("Cargo.toml"), "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2024\"\n")
            .unwrap();
        fs::write(dir.join("src/lib.rs"), "pub fn answer() -> u32 {\n    42\n}\n").unwrap();
        fs::write(dir.join("src/main.rs"), "fn main() {\n    println!(\"{}\", small::answer());\n}\n").unwrap();
        let gate = world.path("gate");
        let cargo = |words: &[&str]| {
            let mut command = Command::new(env!("CARGO"));
            command.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").env("GATE", &gate).current_dir(&dir);
            run(command.args(words).args(["--offline", "--quiet"])).good().trim().to_owned()
        };
        assert_eq!(cargo(&["run"]), "42");
        fs::write(dir.join("src/lib.rs"), "pub fn answer() -> u32 {\n    43\n}\n").unwrap();
        assert_eq!(cargo(&["run"]), "43", "the change is seen");
        fs::remove_dir_all(dir.join("target")).unwrap();

        // The server dies when the build script runs: after that is built, and before the rest.
        fs::create_dir(&gate).unwrap();
        fs::write(
            dir.join("build.rs"),
            r#"fn main() {
                   let gate = std::path::PathBuf::from(std::env::var_os("GATE").unwrap());
                   std::fs::write(gate.join("reached"), "").unwrap();
                   for _ in 0..10_000 {
                       if gate.join("open").exists() {
                           return;
                       }
                       std::thread::sleep(std::time::Duration::from_millis(10));
                   }
                   panic!("nobody has opened the gate");
               }"#,
        )
        .unwrap();
        let is_reached = || gate.join("reached").exists();
        let said = server_dies_during(world, is_reached, || {
            std::thread::scope(|scope| {
                let built = scope.spawn(|| cargo(&["run"]));
                until("the end of the server", || if a.status().connected { Err("it lives".into()) } else { Ok(()) });
                fs::write(gate.join("open"), "").unwrap();
                built.join().unwrap()
            })
        });
        assert_eq!(said, "43");
        // What was built arrives too.
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

/// The size of a file, which may not be there.
fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn ends_well(child: Child) {
    let said = child.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn four_processes_write_to_one_sqlite_database() {
    on_two_devices(|world, a, b| {
        let insert = |path: &Path| {
            let writers: Vec<Child> = (0..4)
                .map(|writer| {
                    let insert = |number| format!("INSERT INTO t VALUES ({writer}, {number}, randomblob(2000));");
                    sqlite(path, &(0..40).map(insert).collect::<Vec<_>>().join("\n")).spawn().unwrap()
                })
                .collect();
            writers.into_iter().for_each(ends_well);
        };
        for mode in ["delete", "wal"] {
            let path = a.path(format!("{mode}.db"));
            ask(
                &path,
                &format!("PRAGMA journal_mode={mode}; CREATE TABLE t (writer INTEGER, number INTEGER, pad BLOB);"),
            );
            insert(&path);
            assert_eq!(ask(&path, "PRAGMA integrity_check; SELECT count(*) FROM t;"), "ok\n160");
            // The next ones are about a quarter done when the server dies.
            let written = || size(&path) + size(&a.path(format!("{mode}.db-wal")));
            let begin = written();
            server_dies_during(world, || written() > begin + 80_000, || insert(&path));
            assert_eq!(ask(&path, "PRAGMA integrity_check; SELECT count(*) FROM t;"), "ok\n320");
            ask(&path, "PRAGMA wal_checkpoint(TRUNCATE);");
        }
        a.wait_synced();
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
        for mode in ["delete", "wal"] {
            let there = ask(&b.path(format!("{mode}.db")), "PRAGMA integrity_check; SELECT count(*) FROM t;");
            assert_eq!(there, "ok\n320", "{mode} at B");
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
    on_two_devices(|world, a, b| {
        type Save = fn(&Path, &str) -> io::Result<()>;
        for (name, save) in [("vim.txt", vim as Save), ("nano.txt", nano), ("libreoffice.odt", libreoffice)] {
            fs::write(a.path(name), "first\n").unwrap();
            let mut text = String::new();
            for round in 0..10 {
                text = format!("{name} {round}\n").repeat(500 + round * 100);
                save(&a.path(name), &text).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(fs::read_to_string(a.path(name)).unwrap(), text);
            }
            let arrives = |text: &str| {
                a.wait_synced();
                until("the last version at B", || match fs::read_to_string(b.path(name)) {
                    Ok(found) if found == text => Ok(()),
                    other => Err(format!("{:?}", other.map(|found| found.len()))),
                });
            };
            arrives(&text);
            // Saved again and again, and the server dies in the middle of one.
            let rounds = AtomicUsize::new(0);
            let text = server_dies_during(
                world,
                || rounds.load(Ordering::Relaxed) >= 3,
                || {
                    let mut text = String::new();
                    while a.status().connected || rounds.load(Ordering::Relaxed) < 10 {
                        for _ in 0..5 {
                            let round = rounds.fetch_add(1, Ordering::Relaxed);
                            text = format!("{name} again {round}\n").repeat(500);
                            save(&a.path(name), &text).unwrap_or_else(|error| panic!("{name}: {error}"));
                        }
                    }
                    text
                },
            );
            assert_eq!(fs::read_to_string(a.path(name)).unwrap(), text);
            arrives(&text);
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
    let fio = |name: &str, more: &str| {
        let job = format!(
            "fio --name={name} --directory='{}' --numjobs=3 --rw=randwrite --bsrange=1k-64k --size=12m --ioengine=psync \
             --verify=crc32c --verify_fatal=1 --randseed=7 --fallocate=none --output=/dev/null {more}",
            a.folder.display()
        );
        sh(&a, &job, &world.path("."))
    };
    let written_and_read = "--do_verify=1 --fsync=200";
    fio("job", written_and_read);
    fio("job", "--verify_only");
    a.wait_synced();
    a.fusermount_u();
    a.mount();
    fio("job", "--verify_only");
    let b = world.mount("B");
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);

    // Once more, slowly, so that the server dies while all three write.
    let all_write = || (0..3).all(|job| size(&a.path(format!("again.{job}.0"))) > 0);
    server_dies_during(&world, all_write, || fio("again", &format!("{written_and_read} --rate_iops=1500")));
    fio("again", "--verify_only");
    a.wait_synced();
    a.fusermount_u();
    a.mount();
    fio("again", "--verify_only");
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

/// Lists a directory, and finds each of `stays NUMBER` once, whatever else comes and goes.
fn assert_lists(dir: &Path, count: usize) {
    let mut seen = vec![false; count];
    let mut others = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
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

#[test]
fn a_directory_of_many_entries_can_be_lived_in() {
    // More than the server tells in one page of the feed, and than the kernel asks for in one listing.
    let count = sized(25_000, 100_000);
    let less = count / 5 * 3;
    let world = World::lasting(Duration::from_secs(1200));
    let (a, b) = (world.mount("A"), world.mount("B"));
    let dir = a.path("dir");
    fs::create_dir(&dir).unwrap();
    let done = &AtomicUsize::new(0);
    let is_at = |count| move || done.load(Ordering::Relaxed) >= count;
    server_dies_during(&world, is_at(count / 3), || {
        for index in 0..count {
            drop(File::create(dir.join(format!("stays {index}"))).unwrap());
            done.store(index, Ordering::Relaxed);
        }
    });
    // Listed while entries come and go, and what was made is sent meanwhile; the server dies during the second listing.
    done.store(0, Ordering::Relaxed);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            let mut changes = 0;
            while !is_over.load(Ordering::Relaxed) {
                let name = dir.join(format!("goes {}", changes % 100));
                drop(File::create(&name).unwrap());
                fs::remove_file(&name).unwrap();
                changes += 1;
            }
            changes
        });
        server_dies_during(&world, is_at(1), || {
            for _ in 0..3 {
                assert_lists(&dir, count);
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        is_over.store(true, Ordering::Relaxed);
        assert!(changer.join().unwrap() > 0);
    });
    let mut dice = Dice::new("a_directory_of_many_entries");
    for _ in 0..1000 {
        let name = format!("stays {}", dice.random_range(0..count));
        assert!(fs::symlink_metadata(dir.join(&name)).unwrap().is_file());
    }
    done.store(0, Ordering::Relaxed);
    server_dies_during(&world, is_at(less + (count - less) / 3), || {
        for index in less..count {
            fs::remove_file(dir.join(format!("stays {index}"))).unwrap();
            done.store(index, Ordering::Relaxed);
        }
    });
    assert_lists(&dir, less);
    a.wait_synced();
    until("the same at B", || match fs::read_dir(b.path("dir")).map(Iterator::count) {
        Ok(there) if there == less => Ok(()),
        other => Err(format!("{other:?} of {less}, {:?}", b.status())),
    });
    assert_lists(&b.path("dir"), less);
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
        server_dies_during(world, || count_below(&a.path("rsynced")) > 50, work);
        assert_equal(&native, &a.path("rsynced"), DirTimes::Compared);
        assert_eq!(ask(&database, "PRAGMA integrity_check; SELECT count(*) FROM t;"), "ok\n200");
        let unpacked = a.path("unpacked");
        fs::create_dir(&unpacked).unwrap();
        let tar = "tar -C native --format=posix -cf - . | tar -C A/Sync/unpacked -xpf -";
        server_dies_during(world, || count_below(&unpacked) > 50, || sh(a, tar, &world.path(".")));
        assert_equal(&native, &unpacked, DirTimes::Compared);
    });
}
