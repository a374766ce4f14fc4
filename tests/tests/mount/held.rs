//! A device that suddenly removes a large part of the folder: its removals wait for a person, everything else goes on.

use std::fs;
use syncmount::status::{Problem, ProblemKind};
use syncmount_tests::support::*;

const FILES: usize = 10;

/// Ten files at A and B; B has removed seven of them, and the server holds most of that back. The last number is how many:
/// the first of them may have been on their way when the server went, and come alone.
fn held(world: &World) -> (Device, Device, usize) {
    world.server().restart_with(&["--hold-removes", "3", "--hold-part", "0.3"]);
    let (a, b) = (world.mount("A"), world.mount("B"));
    for number in 0..FILES {
        fs::write(a.path(number.to_string()), format!("file {number}")).unwrap();
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    world.while_offline(|| {
        for number in 0..7 {
            fs::remove_file(b.path(number.to_string())).unwrap();
        }
    });
    let held = until("B to be held", || match held_problems(&b).as_slice() {
        [problem] => {
            assert!(problem.reason.contains("syncmount-server holds allow"), "{problem:?}");
            let number = problem.reason.split_once(" removals: ").expect("it says how many").0;
            Ok(number.parse::<usize>().unwrap())
        }
        other => Err(format!("{other:?}")),
    });
    assert!((4..=7).contains(&held), "{held}");
    until("what came before at A", || match count(&a) {
        left if left == 3 + held => Ok(()),
        left => Err(format!("{left} left, {held} held")),
    });
    (a, b, held)
}

fn held_problems(device: &Device) -> Vec<Problem> {
    device.status().problems.into_iter().filter(|problem| problem.kind == ProblemKind::Held).collect()
}

fn count(device: &Device) -> usize {
    fs::read_dir(&device.folder).unwrap().count()
}

#[test]
fn a_held_device_still_sends_everything_else_and_its_removals_once_they_are_allowed() {
    let world = World::new();
    let (a, b, held) = held(&world);
    fs::write(b.path("new"), "by B").unwrap();
    fs::write(b.path("8"), "edited by B").unwrap();
    fs::write(b.path("9.tmp"), "replaced by B").unwrap();
    fs::rename(b.path("9.tmp"), b.path("9")).unwrap();
    for (name, content) in [("new", "by B"), ("8", "edited by B"), ("9", "replaced by B")] {
        until("what B has written at A", || match fs::read_to_string(a.path(name)) {
            Ok(found) if found == content => Ok(()),
            other => Err(format!("{name}: {other:?}")),
        });
    }
    assert_eq!(count(&a), 3 + held + 1, "nothing is removed at A");
    assert!(b.status().connected);
    let said = b.ask("wait", &["--timeout", "60s"]);
    assert!(said.code == Some(1) && said.stderr.contains("could not be sent"), "{said:?}");
    let said = b.ask("status", &[]);
    assert_eq!(said.good().matches("held back").count(), 1, "{said:?}");

    world.server().command(&["holds", "allow", &hostname()]);
    until("the removals at A", || match count(&a) {
        4 => Ok(()),
        left => Err(format!("{left} left")),
    });
    b.wait_synced();
    assert_eq!(held_problems(&b), []);
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

#[test]
fn what_may_not_be_removed_comes_back() {
    let world = World::new();
    let (a, b, held) = held(&world);
    world.server().command(&["holds", "deny", &hostname()]);
    // Those too that went through before the server held the rest back.
    until("all files at A", || match count(&a) {
        FILES => Ok(()),
        left => Err(format!("{left} of {FILES}, {held} were held")),
    });
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(count(&b), FILES);
    b.wait_synced();
    let notes: Vec<Problem> = b.status().problems;
    assert!(notes.iter().any(|note| note.kind == ProblemKind::Note && note.reason.contains("is back")), "{notes:?}");
}
