//! How programs save: whoever looks from another device sees the old file or the new one, never none and never a part.

use rand::RngExt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use syncmount_common::protocol::files::Versions;
use syncmount_tests::support::*;

/// Version `number` of a document: as many lines as the first one says, all with its number.
fn version(number: usize, lines: usize) -> String {
    std::iter::once(format!("{lines}\n")).chain((0..lines).map(|_| format!("version {number:08}\n"))).collect()
}

/// The number of a whole version.
fn check(text: &str) -> Result<usize, String> {
    let (first, rest) = text.split_once('\n').ok_or_else(|| format!("cut off after {} bytes", text.len()))?;
    let count: usize = first.parse().map_err(|_| format!("begins with {first:?}"))?;
    let mut lines = rest.lines();
    let line = lines.next().ok_or("no second line")?;
    let number = line.strip_prefix("version ").and_then(|number| number.parse().ok()).ok_or("no version")?;
    match rest.len() == count * (line.len() + 1) && lines.all(|other| other == line) {
        true => Ok(number),
        false => Err(format!("{} bytes instead of {}", rest.len(), count * (line.len() + 1))),
    }
}

/// As editors do it: a temporary file beside it, synced, renamed over it.
fn save(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp~");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)
}

#[test]
fn a_saved_file_is_replaced_as_a_whole_for_who_reads_it_elsewhere() {
    let mut dice = Dice::new("a_saved_file_is_replaced");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    save(&a.path("document"), &version(0, 10)).unwrap();
    a.wait_synced();
    until("the first version", || fs::read_to_string(b.path("document")).map_err(|error| error.to_string()));

    let (done, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    let versions = 60;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let text = fs::read_to_string(b.path("document")).expect("B sees no file");
                let number = check(&text).unwrap_or_else(|why| panic!("after version {last}: {why}"));
                assert!(number >= last, "version {number} after version {last}");
                if number > last {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                last = number;
            }
        });
        for number in 1..=versions {
            // From what travels with the change to what must be fetched.
            let lines = if dice.random() { dice.random_range(1..200) } else { dice.random_range(5_000..40_000) };
            save(&a.path("document"), &version(number, lines)).unwrap();
            if dice.random_bool(0.3) {
                a.wait_synced();
            }
            if reader.is_finished() {
                break;
            }
        }
        a.wait_synced();
        until("the last version", || match fs::read_to_string(b.path("document")).map(|text| check(&text)) {
            _ if reader.is_finished() => Ok(()),
            Ok(Ok(number)) if number == versions => Ok(()),
            other => Err(format!("{other:?}")),
        });
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert!(seen.load(Ordering::Relaxed) > 1, "the reader has seen it change");
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(Tree::read_names(&b.folder).unwrap().paths(), ["document"].map(Path::new), "no temporary file is left");
}

#[test]
fn a_file_that_is_emptied_to_be_written_anew_is_not_seen_empty_elsewhere() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let seen = |text: &str| match fs::read_to_string(b.path("document")) {
        Ok(found) if found == text => Ok(()),
        other => Err(format!("{other:?}")),
    };
    fs::write(a.path("document"), "the old one").unwrap();
    until("the old one", || seen("the old one"));

    // As a shell does for `command > document`: opened, and the first of two descriptors closed, before anything is written.
    let begin = Instant::now();
    let mut file = File::create(a.path("document")).unwrap();
    drop(file.try_clone().unwrap());
    loop {
        let old = seen("the old one");
        // After two quiet seconds it is sent as it is.
        if begin.elapsed() > Duration::from_millis(1800) {
            break;
        }
        assert_eq!(old, Ok(()));
    }
    file.write_all(b"the new one").unwrap();
    drop(file);
    until("the new one", || seen("the new one"));

    File::create(a.path("document")).unwrap();
    until("what was emptied on purpose", || seen(""));
}

#[test]
fn a_file_that_is_written_again_and_again_is_not_seen_empty_elsewhere() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::write(a.path("document"), version(0, 100)).unwrap();
    until("the first version", || fs::read_to_string(b.path("document")).map_err(|error| error.to_string()));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let text = fs::read_to_string(b.path("document")).expect("B sees no file");
                check(&text).unwrap();
            }
        });
        for number in 1..300 {
            fs::write(a.path("document"), version(number, 100)).unwrap();
            if reader.is_finished() {
                break;
            }
        }
        a.wait_synced();
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}

#[test]
fn what_is_synced_again_and_again_is_sent_when_its_writer_pauses() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let table = a.path("table");
    fs::write(&table, "begin\n").unwrap();
    a.wait_synced();
    let begin = Instant::now();
    // With a sync after each write, as databases do it.
    let mut writer = Command::new("dd");
    writer.args(["if=/dev/urandom", "bs=4096", "count=200", "oflag=append,sync", "conv=notrunc", "status=none"]);
    run(writer.arg(format!("of={}", table.display()))).good();
    let took = begin.elapsed();
    a.wait_synced();
    assert_eq!(fs::metadata(&table).unwrap().len(), 6 + 200 * 4096);
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let token = fs::read_to_string(world.server().token_file()).unwrap();
    let url = format!("{}/v1/folders/default/files/table?versions", world.server().url());
    let said = run(Command::new("curl").args(["-sSf", "-H", &format!("Authorization: Bearer {}", token.trim()), &url]));
    let versions: Versions = serde_json::from_str(said.good()).unwrap();
    // A machine that takes long for each sync makes as many pauses.
    let pause = if took < Duration::from_secs(10) { 400 } else { 90 };
    let most = 4 + took.as_millis() / pause;
    assert!(versions.versions.len() as u128 <= most, "{} versions in {took:?}", versions.versions.len());
}

#[test]
fn a_journal_that_comes_and_goes_with_each_transaction_is_not_sent() {
    let world = World::new();
    let (line, a) = world.device_behind_proxy("A");
    a.mount();
    let b = world.mount("B");
    let steps = "begin; insert into t values(randomblob(100)); commit;".repeat(200);
    let before = line.sent();
    let begin = Instant::now();
    let database = a.path("table.db");
    run(Command::new("sqlite3").arg(&database).arg(format!("create table t(x); {steps}"))).good();
    let took = begin.elapsed();
    a.wait_synced();
    let sent = line.sent() - before;
    // Where one transaction takes as long as a rest, each is sent.
    let most = 60_000 + 60 * took.as_millis() as u64;
    println!("{sent} of {most} in {took:?}");
    assert!(sent < most, "{sent} bytes were sent in {took:?}");
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let count =
        run(Command::new("sqlite3").arg(b.path("table.db")).arg("select count(*) from t; pragma integrity_check;"));
    assert_eq!(count.good(), "200\nok\n");
}
