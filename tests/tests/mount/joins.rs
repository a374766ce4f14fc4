//! A device that joins a folder of several pages, and what comes of it if that does not go to its end.

use rustix::io::Errno;
use rustix::process::{Signal, kill_process};
use std::fs;
use std::thread;
use std::time::Duration;
use syncmount_tests::support::*;

/// More than two pages.
const DIRS: usize = 25;
const FILES: usize = 1_000;

/// What is sent until a page has come: more than it takes to ask for the folder and the first, less than for all.
const SENT: u64 = 900;

/// What no answer but a page has.
const A_PAGE: u64 = 100_000;

fn fill(device: &Device) -> usize {
    for dir in 0..DIRS {
        let dir = device.path(format!("{dir}"));
        fs::create_dir(&dir).unwrap();
        (0..FILES).for_each(|file| fs::write(dir.join(format!("{file}")), b"").unwrap());
    }
    device.wait_synced();
    DIRS * (FILES + 1)
}

/// Lets a device join over a line that is cut in the middle of it, does something then, and lets the line be whole again. Both
/// devices have everything afterwards.
fn join_over_a_bad_line(in_the_middle: impl FnOnce(&Device) + Send) {
    let world = World::new();
    let a = world.mount("A");
    let nodes = fill(&a);
    let (proxy, b) = world.device_behind_proxy("B");
    proxy.break_after(SENT);
    thread::scope(|scope| {
        let joining = scope.spawn(|| b.try_mount());
        until("the line to break", || if proxy.is_cut() { Ok(()) } else { Err(format!("{} sent", proxy.sent())) });
        assert!(proxy.received() > A_PAGE, "{} received", proxy.received());
        thread::sleep(Duration::from_millis(500));
        assert!(!joining.is_finished() && !b.is_mounted(), "nothing is shown of half a folder");
        in_the_middle(&b);
        proxy.mend();
        if joining.join().unwrap().code != Some(0) {
            b.mount();
        }
    });
    assert_eq!(Tree::read_names(&b.folder).unwrap().len(), nodes);
    b.wait_synced();
    assert_eq!((b.status().pending_nodes, b.status().problems), (0, Vec::new()));
    assert_eq!(Tree::read_names(&a.folder).unwrap().len(), nodes, "and nothing is removed");
}

#[test]
fn a_join_over_a_line_that_is_cut_goes_on_when_it_is_there_again() {
    join_over_a_bad_line(|_| {});
}

#[test]
fn a_join_whose_client_is_killed_in_the_middle_begins_again() {
    join_over_a_bad_line(|joining| {
        for process in joining.processes() {
            if let Err(error) = kill_process(process, Signal::KILL) {
                assert_eq!(error, Errno::SRCH, "the one that waits for the other may have ended with it");
            }
        }
        // A process gives up its locks a moment after it was killed.
        joining.await_end();
    });
}
