//! What earlier versions have left on disks goes on: a server's data directory, a device's cache with changes that were not
//! sent, and the unit that mounts its folder. Nothing is lost, fetched or sent again, or refused.
//!
//! `tests/fixtures/make` makes a fixture of the landed version.

use super::mounted;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use syncmount_tests::support::*;

/// A child that ends with the test.
struct Foreground(Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The words of a unit's `ExecStart=`, each in quotes or without a space in it.
fn exec_start(unit: &str) -> Vec<String> {
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a unit starts something");
    let mut words = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (word, left) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').expect("a quote ends"),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = left.trim_start();
    }
    words
}

/// Puts `new` in the place of `old` in a file of texts.
fn replace(path: &Path, old: &str, new: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(old), "{} does not name {old}", path.display());
    fs::write(path, text.replace(old, new)).unwrap();
}

/// Puts another address in the place of the one that a device's database remembers.
fn move_server(database: &Path, old: &str, new: &str) {
    let database = rusqlite::Connection::open(database).unwrap();
    let mut changed = 0;
    let mut rows = database.prepare("SELECT key, value FROM meta").unwrap();
    let found: Vec<(String, Vec<u8>)> =
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    for (key, value) in found {
        if let Some(at) = value.windows(old.len()).position(|window| window == old.as_bytes()) {
            // The length of a text may stand before it.
            assert_eq!(old.len(), new.len(), "the new address is as long as the old one");
            let mut value = value;
            value[at..at + old.len()].copy_from_slice(new.as_bytes());
            changed += database.execute("UPDATE meta SET value = ?1 WHERE key = ?2", (value, key)).unwrap();
        }
    }
    assert!(changed > 0, "the database remembers its server");
}

/// Each file's bytes are those of the fixture's list.
#[track_caller]
fn assert_expected(list: &str, folder: &Path) {
    let lines: Vec<_> = list.lines().collect();
    assert!(lines.len() > 40, "{list}");
    for line in lines {
        let (sum, name) = line.split_once("  ").expect("a sum and a name");
        let found = sha256(&folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found, sum, "{name}");
    }
}

fn goes_on(fixture: &str) {
    let world = World::new();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
    let root = world.path("");
    let a = world.device("home");
    fs::remove_dir_all(&a.home).unwrap();
    {
        let mut server = world.server();
        server.stop();
        fs::remove_dir_all(server.data()).unwrap();
        run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&root)).good();
        server.start();
    }
    let places = fs::read_to_string(root.join("places")).unwrap();
    let (old_root, old_address) = places.trim().split_once('\n').unwrap();
    let url = world.server().url();
    let address = url.strip_prefix("http://").unwrap();
    let state = a.home.join(".state/syncmount/mounts.toml");
    replace(&state, old_root, root.to_str().unwrap().trim_end_matches('/'));
    replace(&state, old_address, address);
    replace(&a.home.join(".config/syncmount/logins.toml"), old_address, address);
    let caches: Vec<_> =
        fs::read_dir(a.home.join(".data/syncmount")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [cache] = caches.as_slice() else { panic!("{caches:?}") };
    move_server(&cache.join("state.sqlite"), old_address, address);

    let unit = fs::read_to_string(root.join("syncmount.service")).unwrap();
    let words = exec_start(&unit);
    let (program, words) = words.split_first().unwrap();
    assert!(program.ends_with("/syncmount"), "{program}");
    let words = words.iter().map(|word| word.replace(old_root, root.to_str().unwrap().trim_end_matches('/')));
    let mut command = a.program();
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Foreground(command.spawn().unwrap());
    until("the mount", || if a.is_mounted() { Ok(()) } else { Err(a.log_tail()) });

    let expected = fs::read_to_string(root.join("expected")).unwrap();
    assert_expected(&expected, &a.folder);
    assert_eq!(fs::read(a.path("scratch.tmp")).unwrap(), b"stays here\n", "what is ignored stays");
    a.wait_synced();
    assert_expected(&expected, &a.folder);
    let status = a.status();
    assert_eq!(status.problems, []);
    // Of the content, 80,000 bytes and two lines were not sent before, and nothing was missing here.
    assert!((80_000..200_000).contains(&status.bytes_sent), "{} bytes were sent", status.bytes_sent);
    assert!(status.bytes_received < 100_000, "{} bytes came", status.bytes_received);
    assert!(!a.path("gone").exists() && !a.path("renamed-later").exists());
    assert_eq!(fs::metadata(a.path("dir/one")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(a.path("run")).unwrap().permissions().mode() & 0o777, 0o750);
    let pins = run(a.program().arg("pin").arg(&a.folder).arg("--list"));
    assert!(pins.good().contains("random"), "{pins:?}");

    let b = mounted(world.device("B"));
    b.wait_synced();
    fs::remove_file(a.path("scratch.tmp")).unwrap();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_expected(&expected, &b.folder);
    fs::write(b.path("from now on"), "1").unwrap();
    b.wait_synced();
    until("what is new", || fs::read(a.path("from now on")).map(drop).map_err(|error| error.to_string()));
    a.fusermount_u();
    drop(running);
    world.server().stop();
    world.server().assert_sound();
}

#[test]
fn what_the_first_version_left_goes_on() {
    goes_on("first.tar.gz");
}
