//! `syncmount cache verify` finds bytes that went bad on the disk, and they are right again.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use syncmount::verify_report::VerifyReport;
use syncmount_tests::support::*;

/// All files below a directory.
pub(super) fn cached_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(Result::unwrap);
    let found = entries.flat_map(|entry| match entry.file_type().unwrap().is_dir() {
        true => cached_files(&entry.path()),
        false => vec![entry.path()],
    });
    found.collect()
}

/// Flips a byte in the whole content that has this many bytes.
fn damage(cache: &Path, len: usize) {
    let files = cached_files(&cache.join("cache/objects"));
    let [file] = files.iter().filter(|path| fs::metadata(path).unwrap().len() == len as u64).collect::<Vec<_>>()[..]
    else {
        panic!("{files:?}")
    };
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1000).unwrap();
    file.write_all_at(&[!byte[0]], 1000).unwrap();
}

fn report(said: &Said) -> VerifyReport {
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

const LEN: usize = 300_000;

#[test]
fn a_damaged_byte_is_found_and_the_file_reads_right_afterwards() {
    let mut dice = Dice::new("a_damaged_byte_is_found");
    let world = World::new();
    let cache = world.path("cache of B");
    let a = world.mount("A");
    let b = world.mount_with("B", &["--cache-dir".as_ref(), cache.as_os_str()]);
    let content = bytes(&mut dice, LEN);
    fs::write(a.path("file"), &content).unwrap();
    for number in 0..20 {
        fs::write(a.path(format!("small {number}")), bytes(&mut dice, 500)).unwrap();
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);

    let said = b.ask("cache", &[]);
    assert_eq!(said.code, Some(2), "{said:?}");
    let folder = b.folder.to_str().unwrap();
    let verify = || b.syncmount(&["cache", "verify", folder, "--json"]);
    let all_good = |said: &Said| {
        let found = report(said);
        assert_eq!((said.code, found.contents, found.good, found.damaged), (Some(0), 21, 21, 0), "{said:?}");
        assert!(found.bytes >= LEN as u64 + 20 * 500, "{found:?}");
    };
    all_good(&verify());

    // Mounted: what the kernel has of the damaged file goes too.
    b.fusermount_u();
    damage(&cache, LEN);
    b.mount();
    assert!(fs::read(b.path("file")).unwrap() != content, "nobody has looked yet");
    let in_use = b.syncmount(&["cache", "verify", "--cache-dir", cache.to_str().unwrap()]);
    assert!(in_use.code == Some(1) && in_use.stderr.contains("in use"), "{in_use:?}");
    let said = verify();
    let found = report(&said);
    assert_eq!((said.code, found.good, found.damaged), (Some(1), 20, 1), "{said:?}");
    assert!(said.stderr.contains("damaged"), "{said:?}");
    until("the right bytes", || match fs::read(b.path("file")) {
        Ok(found) if found == content => Ok(()),
        other => Err(format!("{:?}", other.map(|found| found.len()))),
    });
    all_good(&verify());

    // Not mounted, by folder and by directory.
    b.fusermount_u();
    damage(&cache, LEN);
    let said = verify();
    assert_eq!((said.code, report(&said).damaged), (Some(1), 1), "{said:?}");
    let said = b.syncmount(&["cache", "verify", "--cache-dir", cache.to_str().unwrap()]);
    assert!(said.code == Some(0) && said.stdout.contains("20 contents"), "{said:?}");
    b.mount();
    assert!(fs::read(b.path("file")).unwrap() == content);
    all_good(&verify());

    let nothing = b.syncmount(&["cache", "verify", "--cache-dir", world.path("none").to_str().unwrap()]);
    assert!(nothing.code == Some(1) && nothing.stderr.contains("no cache"), "{nothing:?}");
    assert!(!world.path("none").exists());
}
