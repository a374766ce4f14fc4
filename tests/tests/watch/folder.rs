//! The folder itself: emptied by its owner, gone, replaced, shown twice, or beyond what the system tells of.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::process::Command;
use syncmount_tests::support::*;

#[test]
fn a_folder_whose_marker_is_missing_is_not_touched_and_deletes_nothing() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    fs::write(a.path("precious"), "1").unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    // Its disk is not mounted: an empty directory is in its place.
    a.stop();
    fs::rename(&a.folder, a.home.join("elsewhere")).unwrap();
    fs::create_dir(&a.folder).unwrap();
    let said = a.try_mount();
    assert!(said.refusal().contains("marker"), "{said:?}");
    assert_eq!(fs::read_dir(&a.folder).unwrap().count(), 0);
    // The same while it is watched.
    fs::remove_dir(&a.folder).unwrap();
    fs::rename(a.home.join("elsewhere"), &a.folder).unwrap();
    a.mount();
    fs::rename(&a.folder, a.home.join("elsewhere")).unwrap();
    fs::create_dir(&a.folder).unwrap();
    assert_eq!(a.ask("wait", &["--timeout", "60s"]).code, Some(1), "{}", a.log_tail());
    b.wait_synced();
    assert_eq!(fs::read_to_string(b.path("precious")).unwrap(), "1");
    assert_eq!(fs::read_dir(&a.folder).unwrap().count(), 0);
    fs::remove_dir(&a.folder).unwrap();
    fs::rename(a.home.join("elsewhere"), &a.folder).unwrap();
    until("the end of the pause", || if a.status().paused { Err("it pauses".to_owned()) } else { Ok(()) });
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

#[test]
fn what_its_owner_removes_is_removed_everywhere() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    fs::create_dir_all(a.path("d/e")).unwrap();
    fs::write(a.path("d/e/f"), "1").unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    fs::remove_dir_all(a.path("d")).unwrap();
    a.wait_synced();
    until("nothing at the other side", || match b.path("d").exists() {
        false => Ok(()),
        true => Err("it is still there".into()),
    });
}

#[test]
fn one_process_keeps_one_folder() {
    let world = World::new();
    let a = world.watch("A");
    let said = a.try_mount();
    assert!(said.refusal().contains("another syncmount process"), "{said:?}");
    assert_eq!(a.status().mode, syncmount::status::Mode::Watch);
}

/// Starts watching where the system listens to so many directories at most.
fn watch_with_limit(device: &Device, most: u32) {
    let limit = "/proc/sys/user/max_inotify_watches";
    // In a user namespace of its own the limit can be set for this one process.
    let script = format!("echo {most} > {limit} && exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    device.environment(&mut command);
    command.args(["--user", "--map-root-user", "sh", "-c", &script]);
    command.arg(device.program().get_program()).args(device.mount_words());
    assert_eq!(run(&mut command).code, Some(0), "{}", device.log_tail());
}

#[test]
fn where_the_system_tells_of_no_changes_the_folder_is_scanned() {
    let world = World::new();
    let b = world.watch("B");
    let a = world.device("A").watched().with(&["--scan-interval", "1s"]);
    for number in 0..20 {
        fs::create_dir(a.path(format!("d{number}"))).unwrap();
    }
    watch_with_limit(&a, 3);
    let problems = a.status().problems;
    assert!(problems.iter().any(|problem| problem.reason.contains("sysctl fs.inotify")), "{problems:?}");
    fs::write(a.path("d19/file"), "1").unwrap();
    until("the file at the other side", || fs::read(b.path("d19/file")).map(drop).map_err(|error| error.to_string()));
}

/// The system tells of the root and of some directories, and of no others.
#[test]
fn where_the_limit_of_the_system_is_reached_later_wait_looks_at_everything() {
    let world = World::new();
    let b = world.mount("B");
    let a = world.device("A").watched();
    watch_with_limit(&a, 12);
    for number in 0..30 {
        fs::create_dir(a.path(format!("d{number}"))).unwrap();
    }
    until("the sentence about the limit", || {
        let problems = a.status().problems;
        let is_said = problems.iter().any(|problem| problem.reason.contains("sysctl fs.inotify"));
        if is_said { Ok(()) } else { Err(format!("{problems:?}")) }
    });
    a.wait_synced();
    (0..30).for_each(|number| fs::write(a.path(format!("d{number}/file")), "1").unwrap());
    a.wait_synced();
    // What was not sent by now is not sent.
    a.kill();
    until("what was sent", || {
        let lacks = |number: &u32| !b.path(format!("d{number}/file")).exists();
        let late: Vec<u32> = (0..30).filter(lacks).collect();
        if late.is_empty() { Ok(()) } else { Err(format!("{late:?}")) }
    });
}

/// Starts watching as somebody whom permissions concern: root without its power to read everything.
fn watch_without_privileges(device: &Device) {
    let mut command = device.program();
    if rustix::process::geteuid().is_root() {
        command = Command::new("setpriv");
        device.environment(&mut command);
        command.args(["--bounding-set", "-dac_override,-dac_read_search"]).arg(device.program().get_program());
    }
    assert_eq!(run(command.args(device.mount_words())).code, Some(0), "{}", device.log_tail());
}

#[test]
fn what_may_not_be_read_is_listed_and_sent_later_and_stops_nobody() {
    let world = World::new();
    let (a, b) = (world.device("A").watched(), world.watch("B"));
    fs::create_dir(a.path("closed")).unwrap();
    fs::write(a.path("closed/inside"), "1").unwrap();
    watch_without_privileges(&a);
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let mut secret = OpenOptions::new().create_new(true).write(true).mode(0o000).open(a.path("secret")).unwrap();
    secret.write_all(b"2").unwrap();
    drop(secret);
    fs::set_permissions(a.path("closed"), Permissions::from_mode(0o000)).unwrap();
    fs::write(a.path("open"), "3").unwrap();
    let said = a.ask("wait", &["--timeout", "3s"]);
    assert!(said.code == Some(1) && said.stderr.contains("left: 1 file"), "{said:?}");
    until("both to be listed", || {
        let problems = a.status().problems;
        let is_listed = |path: &str| problems.iter().any(|problem| problem.path == path);
        if is_listed("secret") && is_listed("closed") { Ok(()) } else { Err(format!("{problems:?}")) }
    });
    until("the file at the other side", || fs::read(b.path("open")).map(drop).map_err(|error| error.to_string()));
    assert!(b.path("closed").exists() && !b.path("secret").exists());
    fs::set_permissions(a.path("secret"), Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(a.path("closed"), Permissions::from_mode(0o755)).unwrap();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    a.wait_synced();
    assert_eq!(a.status().problems, []);
    assert_eq!(fs::read_to_string(b.path("closed/inside")).unwrap(), "1");
}

#[test]
fn what_cannot_be_shared_stops_nobody() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    run(Command::new("mkfifo").arg(a.path("pipe"))).good();
    fs::write(a.path("file"), "1").unwrap();
    a.wait_synced();
    until("the file at the other side", || fs::read(b.path("file")).map(drop).map_err(|error| error.to_string()));
    assert!(!b.path("pipe").exists());
}

#[test]
fn a_directory_that_goes_elsewhere_stays_for_what_is_not_shared() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/shared"), "1").unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    fs::write(b.path("d/~$local.docx"), "mine").unwrap();
    fs::remove_dir_all(a.path("d")).unwrap();
    a.wait_synced();
    until("the rest to go", || match b.path("d/shared").exists() {
        false => Ok(()),
        true => Err("it is still there".into()),
    });
    assert_eq!(fs::read_to_string(b.path("d/~$local.docx")).unwrap(), "mine");
    until("it to be listed", || {
        let problems = b.status().problems;
        if problems.iter().any(|problem| problem.path == "d") { Ok(()) } else { Err(format!("{problems:?}")) }
    });
}
