//! Many names: making, looking, renaming, removing, and what programs do. Client and caller share one processor.

use super::Bench;
use super::pair::{Ground, Side, await_it};
use crate::support::{bytes, run};
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const FILES: usize = 10_000;

/// Files of the tree that is unpacked and cloned.
const TREE: usize = 3_000;

const LISTED: usize = 100_000;

fn timed<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<Duration> {
    let begin = Instant::now();
    act()?;
    Ok(begin.elapsed())
}

fn program(words: &[&str], dir: &Path) -> io::Result<Duration> {
    timed(|| {
        let mut command = Command::new(words[0]);
        let said = run(command.args(&words[1..]).current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null"));
        if said.code == Some(0) { Ok(()) } else { Err(io::Error::other(format!("{words:?}: {said:?}"))) }
    })
}

pub(super) fn metadata(bench: &mut Bench, side: Side) -> io::Result<()> {
    let origin = tempfile::Builder::new().prefix("syncmount-bench-").tempdir()?;
    make_origin(bench, origin.path())?;
    let ground = Ground::new(side)?;
    let pinned = ground.share_one_processor()?;
    let (dir, noise) = (ground.dir.join("d"), bytes(&mut bench.dice, 4096));
    fs::create_dir(&dir)?;
    let path = |number: usize| dir.join(format!("{number:05}"));
    let renamed = |number: usize| dir.join(format!("r{number:05}"));
    let took = timed(|| (0..FILES).try_for_each(|number| fs::write(path(number), &noise)))?;
    bench.seconds(side, "make 10,000 files of 4 KiB", took);
    let took = timed(|| (0..FILES).try_for_each(|number| fs::rename(path(number), renamed(number))))?;
    bench.seconds(side, "rename them", took);
    let took = timed(|| (0..FILES).try_for_each(|number| fs::remove_file(renamed(number))))?;
    bench.seconds(side, "remove them", took);
    let source = origin.path().join("tree.git");
    let source = source.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    let archive = origin.path().join("tree.tar");
    let archive = archive.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    bench.seconds(side, "tar x of 3,000 files", program(&["tar", "xf", archive], &ground.dir)?);
    let url = format!("file://{source}");
    bench.seconds(side, "git clone of 3,000 files", program(&["git", "clone", "-q", &url, "clone"], &ground.dir)?);
    let copied = program(&["git", "clone", "-q", source, "copied"], &ground.dir)?;
    bench.seconds(side, "git clone of as many with objects one by one", copied);
    let clone = ground.dir.join("clone");
    program(&["git", "status"], &clone)?;
    bench.seconds(side, "git status, warm", program(&["git", "status"], &clone)?);
    let bulk = "create table t(x); with recursive n(i) as (select 1 union all select i+1 from n where i<100000) \
                insert into t select randomblob(20) from n;";
    bench.seconds(side, "SQLite, 100,000 rows at once", program(&["sqlite3", "bulk.db", bulk], &ground.dir)?);
    let steps = format!("create table t(x); {}", "begin; insert into t values(randomblob(100)); commit;".repeat(200));
    bench.seconds(side, "SQLite, 200 transactions", program(&["sqlite3", "steps.db", &steps], &ground.dir)?);
    drop(pinned);
    Ok(())
}

/// A repository and an archive with the same tree.
fn make_origin(bench: &mut Bench, dir: &Path) -> io::Result<()> {
    let tree = dir.join("tree");
    for number in 0..TREE {
        let part = tree.join(format!("dir {}/{}", number % 40, number % 7));
        fs::create_dir_all(&part)?;
        fs::write(part.join(number.to_string()), bytes(&mut bench.dice, 200 + number * 13 % 9000))?;
    }
    program(&["git", "init", "-q", "."], &tree)?;
    program(&["git", "add", "."], &tree)?;
    program(&["git", "-c", "user.name=b", "-c", "user.email=b@localhost", "commit", "-qm", "tree"], &tree)?;
    program(&["git", "clone", "-q", "--bare", "tree", "tree.git"], dir)?;
    program(&["tar", "cf", "tree.tar", "--exclude=.git", "tree"], dir)?;
    Ok(())
}

/// Makes the kernel forget names and attributes, of the disk and of the mount alike. Pages stay. Needs root.
fn forget_names() -> io::Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "2")
}

pub(super) fn listing(bench: &mut Bench, side: Side) -> io::Result<()> {
    let ground = Ground::new(side)?;
    let dir = ground.dir.join("d");
    fs::create_dir(&dir)?;
    let took = timed(|| (0..LISTED).try_for_each(|number| fs::write(dir.join(format!("{number:06}")), b"x")))?;
    bench.seconds(side, "make 100,000 files of 1 byte", took);
    if let Some(pair) = &ground.pair {
        await_it("all files at B", Duration::from_millis(100), || {
            Ok(fs::read_dir(pair.b.path("d")).is_ok_and(|entries| entries.count() == LISTED).then_some(()))
        })?;
        pair.rest()?;
    }
    forget_names()?;
    let pinned = ground.share_one_processor()?;
    let stat = || (0..LISTED).try_for_each(|number| fs::symlink_metadata(dir.join(format!("{number:06}"))).map(drop));
    bench.seconds(side, "stat of 100,000, names not cached", timed(stat)?);
    bench.seconds(side, "stat of 100,000, again", timed(stat)?);
    for (what, words) in [("ls -l", "ls -l d"), ("find", "find d -links +9")] {
        let words: Vec<&str> = words.split(' ').collect();
        program(&words, &ground.dir)?;
        bench.seconds(side, &format!("{what} of 100,000, warm"), program(&words, &ground.dir)?);
    }
    drop(pinned);
    Ok(())
}
