//! The machine stopped without warning: what is doubtful is set aside and listed, and the client is a new device.
//!
//! A real power cut cannot be had here. What the next start finds is made by hand: a client that was killed, the mark of a
//! session of an earlier run of the machine, and a staging file that has lost its end.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use syncmount::status::{Problem, ProblemKind};
use syncmount_tests::support::*;

fn cut_power(cache: &Path) {
    let marker = cache.join("session");
    let rest = fs::read_to_string(&marker).unwrap();
    let rest = rest.split_once('\n').expect("the mark has two lines").1.to_owned();
    fs::write(marker, format!("another run of the machine\n{rest}")).unwrap();
}

fn problems(device: &Device, kind: ProblemKind) -> Vec<Problem> {
    device.status().problems.into_iter().filter(|problem| problem.kind == kind).collect()
}

#[test]
fn what_lost_its_end_is_set_aside_and_listed_until_its_owner_clears_it() {
    let world = World::new();
    let cache = world.path("cache of A");
    let a = world.mount_with("A", &["--cache-dir".as_ref(), cache.as_os_str()]);
    let b = world.mount("B");
    fs::write(a.path("known"), "kept").unwrap();
    a.wait_synced();
    world.while_offline(|| {
        fs::create_dir(a.path("dir")).unwrap();
        fs::write(a.path("dir/cut short"), "x".repeat(50_000)).unwrap();
        let mut whole = fs::File::create(a.path("whole")).unwrap();
        whole.write_all(&[b'y'; 40_000]).unwrap();
        whole.sync_all().unwrap();
        drop(whole);
        a.kill();
        cut_power(&cache);
        let staged = fs::read_dir(cache.join("staging")).unwrap().map(|entry| entry.unwrap().path());
        let [cut] = &staged.filter(|path| fs::metadata(path).unwrap().len() == 50_000).collect::<Vec<_>>()[..] else {
            panic!("the staging file is there")
        };
        OpenOptions::new().write(true).open(cut).unwrap().set_len(20_000).unwrap();
    });
    a.mount();
    let check = |device: &Device| {
        let aside = problems(device, ProblemKind::SetAside);
        let [problem] = aside.as_slice() else { panic!("{aside:?}") };
        assert_eq!(problem.path, "dir/cut short");
        assert!(
            problem.reason.contains("did not reach the disk") && problem.reason.contains("20000 bytes"),
            "{problem:?}"
        );
        let lost = cache.join("lost+found");
        assert!(problem.reason.contains(lost.to_str().unwrap()), "{problem:?}");
        let said = device.ask("status", &[]);
        assert!(said.good().contains("set aside") && said.stdout.contains("dir/cut short"), "{said:?}");
    };
    check(&a);
    let notes = problems(&a, ProblemKind::Note);
    let told = notes.iter().filter(|note| note.reason.contains("the machine stopped without warning"));
    assert_eq!(told.count(), 1, "{notes:?}");
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(fs::read_to_string(b.path("whole")).unwrap(), "y".repeat(40_000));
    assert!(!b.path("dir/cut short").exists(), "it is never sent as if it had been written");

    // Also by the next start, and by one after a kill.
    a.fusermount_u();
    a.mount();
    check(&a);
    assert_eq!(problems(&a, ProblemKind::Note), []);
    a.kill();
    a.mount();
    check(&a);
    assert_eq!(problems(&a, ProblemKind::Note), [], "only the machine's stop makes a new device");

    for entry in fs::read_dir(cache.join("lost+found")).unwrap().map(Result::unwrap) {
        if entry.file_name() != "INDEX" {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    until("the list to be empty", || match problems(&a, ProblemKind::SetAside).as_slice() {
        [] => Ok(()),
        left => Err(format!("{left:?}")),
    });
}
