//! What one request asks for is seen whole or not at all by every device, whenever the server is killed.

use rand::RngExt as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use syncmount_common::protocol::folders::FolderInfo;
use syncmount_tests::support::*;

/// Files in each directory below `d`.
const PER_DIR: usize = 100;

const LIMIT: Duration = Duration::from_secs(2_000);

struct Asker {
    url: String,
    auth: String,
}

impl Asker {
    fn of(world: &World) -> Self {
        let server = world.server();
        let token = fs::read_to_string(server.token_file()).unwrap();
        let url = format!("{}/v1/folders/default", server.url());
        Self { url, auth: format!("Authorization: Bearer {}", token.trim()) }
    }

    fn ask(&self, options: &[&str], path: &str) -> Said {
        let url = format!("{}{path}", self.url);
        run(Command::new("curl").args(["-sS", "--fail", "-H", &self.auth]).args(options).arg(url))
    }

    fn folder(&self) -> FolderInfo {
        serde_json::from_str(self.ask(&[], "").good()).unwrap()
    }

    /// Removes everything, or brings it back.
    fn change(&self, is_there: bool, full: u64) -> Said {
        if is_there {
            return self.ask(&["-X", "DELETE"], "/files/d?recursive");
        }
        let body = format!("{{\"to\": {full}}}");
        self.ask(&["-X", "POST", "-H", "Content-Type: application/json", "-d", &body], "/undo")
    }
}

/// Sets it when it goes.
struct Sets<'a>(&'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The directories below `d`; none if that is not there.
fn dirs(folder: &Path) -> usize {
    fs::read_dir(folder.join("d")).map_or(0, Iterator::count)
}

fn files(folder: &Path) -> usize {
    let dirs = fs::read_dir(folder.join("d")).into_iter().flatten();
    // It may go meanwhile.
    dirs.flatten().map(|dir| fs::read_dir(dir.path()).map_or(0, Iterator::count)).sum()
}

#[test]
fn what_one_request_asks_for_is_whole_at_every_device_whenever_the_server_is_killed() {
    let mut dice = Dice::new("what_one_request_asks_for_is_whole");
    let world = World::lasting(LIMIT);
    let (count, rounds) = sized((2_000, 6), (50_000, 6));
    world.server().restart_with(&["--hold-removes", "0"]);
    let (a, b) = (world.mount("A"), world.watch("B"));
    for number in 0..count {
        let dir = b.path("d").join(format!("{}", number / PER_DIR));
        if number % PER_DIR == 0 {
            fs::create_dir_all(&dir).unwrap();
        }
        // Some numbers are names that are not shared, such as the 4913 of an editor.
        fs::write(dir.join(format!("f{number}")), "").unwrap();
    }
    let full_dirs = count / PER_DIR;
    let shows = |device: &Device, expected: usize| {
        until("the state of the server", || match files(&device.folder) {
            found if found == expected => Ok(()),
            found => Err(format!("{} has {found} of {expected}", device.name)),
        });
    };
    until("all to be sent", || {
        let said = b.ask("wait", &["--timeout", "300s"]);
        if said.code == Some(0) { Ok(()) } else { Err(format!("{said:?}")) }
    });
    shows(&a, count);
    let asker = Asker::of(&world);
    let full = asker.folder();
    let since = Instant::now();
    for is_there in [true, false] {
        asker.change(is_there, full.cursor.seq).good();
    }
    let takes = since.elapsed() / 2;
    let (over, mut ends) = (AtomicBool::new(false), [0, 0]);
    thread::scope(|scope| {
        // Also if this fails.
        let sets = Sets(&over);
        // In a mount it is whole at every moment.
        let looking = scope.spawn(|| {
            let (mut looks, end) = (0, Instant::now() + LIMIT);
            while !over.load(Ordering::Relaxed) && Instant::now() < end {
                let seen = dirs(&a.folder);
                assert!(seen == 0 || seen == full_dirs, "{seen} of {full_dirs} directories are there");
                looks += 1;
                thread::sleep(Duration::from_millis(1));
            }
            looks
        });
        for round in 0..rounds {
            let before = asker.folder();
            let (is_there, asking) = (before.nodes > 0, &asker);
            let changing = scope.spawn(move || asking.change(is_there, full.cursor.seq).code == Some(0));
            thread::sleep(takes.mul_f64(dice.random_range(0.2..1.6)));
            world.server().kill();
            let was_answered = changing.join().unwrap();
            world.server().start();
            let after = asker.folder();
            let is_done = after.nodes != before.nodes;
            assert!(is_done || !was_answered, "round {round}: what was answered is not there");
            assert!(after.nodes == 0 || after.nodes == full.nodes, "round {round}: {} nodes", after.nodes);
            ends[usize::from(is_done)] += 1;
            let expected = if after.nodes == 0 { 0 } else { count };
            [&a, &b].into_iter().for_each(|device| shows(device, expected));
        }
        drop(sets);
        assert!(looking.join().unwrap() > 10);
    });
    eprintln!("{count} files, {takes:?} each way; not done, done: {ends:?}");
    a.stop();
    b.stop();
    world.server().stop();
    world.server().assert_sound();
}
