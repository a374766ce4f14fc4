//! Large files: whole at the other device, and only what is new travels.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use syncmount_tests::support::*;

const MIB: u64 = 1 << 20;

#[test]
fn a_large_file_arrives_whole_and_copies_and_small_edits_of_it_cost_little() {
    let mut dice = Dice::new("a_large_file_arrives_whole");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let file = File::create(a.path("large")).unwrap();
    for part in 0..200 {
        file.write_all_at(&bytes(&mut dice, MIB as usize), part * MIB).unwrap();
    }
    drop(file);
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
    let change = bytes(&mut dice, 4096);
    let edit = sent(&|| {
        let file = OpenOptions::new().write(true).open(a.path("copy")).unwrap();
        file.write_all_at(&change, 100 * MIB + 12_345).unwrap();
    });
    assert!(edit < 4 * MIB, "{edit} bytes were sent for 4 KiB");
    let renamed = sent(&|| fs::rename(a.path("large"), a.path("renamed")).unwrap());
    assert!(renamed < MIB / 8, "{renamed} bytes were sent for a rename");

    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(sha256(&b.path("renamed")).unwrap(), expected);
    let mut found = vec![0; 4096];
    File::open(b.path("copy")).unwrap().read_exact_at(&mut found, 100 * MIB + 12_345).unwrap();
    assert_eq!(found, change);
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
