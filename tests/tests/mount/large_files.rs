//! Large files: whole at the other device, and only what is new travels.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::time::{Duration, Instant};
use syncmount_common::ChunkHash;
use syncmount_common::chunker::{ChunkSizes, Chunker};
use syncmount_tests::support::*;

const MIB: u64 = 1 << 20;

#[test]
fn a_large_file_arrives_whole_and_copies_and_small_edits_of_it_cost_little() {
    let mut dice = Dice::new("a_large_file_arrives_whole");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let mut content = bytes(&mut dice, 200 * MIB as usize);
    fs::write(a.path("large"), &content).unwrap();
    a.wait_synced();
    let expected = sha256(&a.path("large")).unwrap();
    until("the file at B", || match fs::metadata(b.path("large")).map(|found| found.len()) {
        Ok(len) if len == 200 * MIB => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(sha256(&b.path("large")).unwrap(), expected);

    let sent = |act: &dyn Fn()| {
        let before = a.status().bytes_sent;
        act();
        a.wait_synced();
        a.status().bytes_sent - before
    };
    let copy = sent(&|| {
        run(Command::new("cp").arg(a.path("large")).arg(a.path("copy"))).good();
    });
    assert!(copy < MIB, "{copy} bytes were sent for a second copy");
    let former = chunks_of(&content);
    let change = bytes(&mut dice, 4096);
    content[100 * MIB as usize + 12_345..][..4096].copy_from_slice(&change);
    let moved = beyond_one_chunk(&former, &chunks_of(&content));
    let edit = sent(&|| {
        let file = OpenOptions::new().write(true).open(a.path("copy")).unwrap();
        file.write_all_at(&change, 100 * MIB + 12_345).unwrap();
    });
    assert!(
        edit < moved + MIB / 16,
        "{edit} bytes were sent for 4 KiB; {moved} of them are in chunks that were cut anew"
    );
    let renamed = sent(&|| fs::rename(a.path("large"), a.path("renamed")).unwrap());
    assert!(renamed < MIB / 8, "{renamed} bytes were sent for a rename");

    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(sha256(&b.path("renamed")).unwrap(), expected);
    let mut found = vec![0; 4096];
    File::open(b.path("copy")).unwrap().read_exact_at(&mut found, 100 * MIB + 12_345).unwrap();
    assert_eq!(found, change);
}

/// Where a content is cut: the first byte of each chunk, the byte behind it, and its bytes' hash.
fn chunks_of(content: &[u8]) -> Vec<(Range<u64>, ChunkHash)> {
    let mut chunks = Vec::new();
    let mut at = 0;
    let mut take = |chunk: &[u8]| -> Result<(), Infallible> {
        let end = at + chunk.len() as u64;
        chunks.push((at..end, ChunkHash::of(chunk)));
        at = end;
        Ok(())
    };
    let mut chunker = Chunker::new(ChunkSizes::for_content(content.len() as u64));
    let Ok(()) = chunker.push(content, &mut take);
    let Ok(()) = chunker.finish(&mut take);
    chunks
}

/// A changed chunk travels as its difference to one former chunk. How many bytes of changed chunks lie outside of the one
/// that they have most of: none, unless the change fell on a cut point.
fn beyond_one_chunk(former: &[(Range<u64>, ChunkHash)], chunks: &[(Range<u64>, ChunkHash)]) -> u64 {
    let known: HashSet<_> = former.iter().map(|(_, hash)| hash).collect();
    let changed = chunks.iter().filter(|(_, hash)| !known.contains(hash));
    let beyond = changed.map(|(chunk, _)| {
        let overlap = |(other, _): &(Range<u64>, ChunkHash)| {
            chunk.end.min(other.end).saturating_sub(chunk.start.max(other.start))
        };
        chunk.end - chunk.start - former.iter().map(overlap).max().unwrap_or(0)
    });
    beyond.sum()
}

#[test]
fn the_kernel_reads_a_mount_of_root_further_ahead() {
    let world = World::new();
    let a = world.mount("A");
    let device = fs::metadata(&a.folder).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let ahead = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")).unwrap();
    // Nobody else may change it.
    let expected = if rustix::process::geteuid().is_root() { "1024" } else { "128" };
    assert_eq!(ahead.trim(), expected);
}

#[test]
fn who_reads_a_little_here_and_there_fetches_little_and_reads_what_was_written() {
    let mut dice = Dice::new("who_reads_a_little_here_and_there");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let content = bytes(&mut dice, 60 * MIB as usize);
    fs::write(a.path("large"), &content).unwrap();
    a.wait_synced();
    until("the file at B", || match fs::metadata(b.path("large")).map(|found| found.len()) {
        Ok(len) if len == 60 * MIB => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let file = File::open(b.path("large")).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
    let received = |read: &dyn Fn()| {
        let before = b.status().bytes_received;
        read();
        b.status().bytes_received - before
    };
    let read = |at: u64, len: usize| {
        let mut found = vec![0; len];
        file.read_exact_at(&mut found, at).unwrap();
        assert!(found == content[at as usize..at as usize + len], "other bytes at {at}");
    };
    read(59 * MIB, 4096);

    // A chunk is 1 MiB at most, and none of these is read twice.
    let scattered = received(&|| (0..20).map(|part| 2 * part * MIB + 7000).for_each(|at| read(at, 4096)));
    assert!(scattered < 20 * 16 * 1024, "{scattered} bytes came for 20 reads of 4 KiB");
    // A reader of 64 KiB at a time crosses the borders of chunks now and then.
    for at in (0..50).map(|step| 3 * MIB + step * 200_000) {
        read(at, 64 * 1024);
    }
    // Who stays at one place gets its chunk: far fewer bytes than one after the other, and none the second time.
    let local = received(&|| (0..100).rev().for_each(|step| read(50 * MIB + step * 4096, 4096)));
    assert!((64 * 1024..4 * MIB).contains(&local), "{local} bytes came for 400 KiB at one place");
    let again = received(&|| (0..100).for_each(|step| read(50 * MIB + 2048 + step * 4096, 1024)));
    assert!(again < 64 * 1024, "{again} bytes came for what was there");
    assert_eq!(sha256(&b.path("large")).unwrap(), sha256(&a.path("large")).unwrap());
}

#[test]
fn a_file_is_no_larger_than_its_disk_can_hold_and_that_is_said_at_once() {
    const MORE: u64 = 1 << 53;
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::write(a.path("file"), "begin").unwrap();
    let file = OpenOptions::new().write(true).open(a.path("file")).unwrap();
    let begin = Instant::now();
    let too_large = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EFBIG));
    };
    too_large(file.set_len(5 << 60));
    too_large(file.set_len(MORE));
    too_large(file.write_all_at(b"x", MORE));
    let all = rustix::fs::FallocateFlags::empty();
    too_large(rustix::fs::fallocate(&file, all, 0, MORE).map_err(Into::into));
    let said = run(Command::new("truncate").args(["-s", "5E"]).arg(a.path("file")));
    assert!(said.code == Some(1) && said.stderr.contains("File too large"), "{said:?}");
    // What the disk can hold goes, and costs no more.
    let disk = File::create(world.path("beneath")).unwrap();
    let largest = (40..53).rev().map(|bits| (1 << bits) - 4096).find(|size| disk.set_len(*size).is_ok()).unwrap();
    disk.set_len(0).unwrap();
    file.set_len(largest).unwrap();
    file.write_all_at(b"end", largest - 3).unwrap();
    drop(file);
    a.wait_synced();
    until("the file elsewhere", || match fs::metadata(b.path("file")).unwrap().len() {
        len if len == largest => Ok(()),
        other => Err(other.to_string()),
    });
    let mut end = [0; 4];
    File::open(b.path("file")).unwrap().read_exact_at(&mut end, largest - 4).unwrap();
    assert_eq!(&end, b"\0end");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?} for one hole", begin.elapsed());
}
