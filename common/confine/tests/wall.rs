//! Code inside a confined thread that tries to leave.

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::ErrorKind::PermissionDenied;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use syncmount_confine::{Held, Wall};

/// Runs `job` in a thread inside of `wall`.
fn inside<T: Send>(wall: &Wall, job: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            let held = wall.enter().unwrap();
            assert_eq!(held, Held { files: true, ports: true, calls: true }, "this kernel has all of it");
            job()
        });
        thread.join().unwrap()
    })
}

fn refused<T>(what: &str, result: std::io::Result<T>) {
    let error = result.err().unwrap_or_else(|| panic!("{what} went through"));
    assert_eq!(error.kind(), PermissionDenied, "{what}: {error}");
}

fn tree() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let all = tempfile::tempdir().unwrap();
    let (own, other) = (all.path().join("own"), all.path().join("other"));
    for dir in [&own, &other] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("file"), "here").unwrap();
    }
    symlink(&other, own.join("link")).unwrap();
    (all, own, other)
}

#[test]
fn files_outside_are_out_of_reach_and_those_inside_are_not() {
    let (_all, own, other) = tree();
    let wall = Wall::default().writing(&own);
    inside(&wall, || {
        assert_eq!(fs::read(own.join("file")).unwrap(), b"here");
        fs::write(own.join("new"), "new").unwrap();
        fs::create_dir(own.join("dir")).unwrap();
        fs::rename(own.join("new"), own.join("dir/moved")).unwrap();
        fs::hard_link(own.join("dir/moved"), own.join("again")).unwrap();
        fs::remove_file(own.join("again")).unwrap();
        for path in [other.join("file"), own.join("link/file"), own.join("../other/file")] {
            refused("reading", fs::read(&path));
            refused("writing", fs::write(&path, "bad"));
            refused("appending", File::options().append(true).open(&path));
            refused("cutting", File::options().write(true).truncate(true).open(&path));
            refused("removing", fs::remove_file(&path));
        }
        refused("making", fs::write(other.join("new"), "bad"));
        refused("making a directory", fs::create_dir(other.join("dir")));
        refused("making a link", symlink("/", other.join("to-root")));
        refused("listing", fs::read_dir(&other));
        refused("reading passwords", fs::read("/etc/shadow"));
        for moved in
            [fs::rename(own.join("file"), other.join("file")), fs::hard_link(own.join("file"), other.join("x"))]
        {
            assert!(moved.is_err(), "a file left");
        }
    });
    assert_eq!(fs::read(other.join("file")).unwrap(), b"here");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
}

#[test]
fn what_is_readable_stays_as_it_is() {
    let (_all, own, other) = tree();
    let wall = Wall::default().writing(&own).reading(&other);
    inside(&wall, || {
        assert_eq!(fs::read(other.join("file")).unwrap(), b"here");
        assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
        refused("writing", fs::write(other.join("file"), "bad"));
        refused("removing", fs::remove_file(other.join("file")));
    });
}

#[test]
fn programs_do_not_run() {
    inside(&Wall::with_system_files(), || refused("running", Command::new("/usr/bin/true").status()));
}

#[test]
fn only_the_named_ports_are_reached() {
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = there.local_addr().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    inside(&Wall { ports: vec![free.port()], ..Wall::default() }, || {
        let listener = TcpListener::bind(free).unwrap();
        refused("listening", TcpListener::bind("127.0.0.1:1"));
        refused("connecting", TcpStream::connect(address));
        drop(listener);
    });
    inside(&Wall { connects: true, ..Wall::default() }, || drop(TcpStream::connect(address).unwrap()));
}

#[test]
fn a_path_that_is_missing_is_left_out() {
    let wall = Wall::default().reading("/there/is/no/such/path").writing("/nor/this");
    inside(&wall, || refused("reading", fs::read(Path::new("/etc/passwd"))));
}

#[test]
fn what_holds_is_said() {
    assert_eq!(Held::default().to_string(), "nothing");
    assert_eq!(Held { files: true, ports: false, calls: true }.to_string(), "files, system calls");
}
