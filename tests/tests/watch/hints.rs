//! Hints that are late, lost or of old paths.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use syncmount_tests::hinted::hinted;
use syncmount_tests::support::{World, sized, until};

/// Of some thirty thousand seeds one takes a file that was renamed twice, and whose first new name another one took, for
/// removed and made again: hints do not tell the two apart. No seed that was tried lost a file.
#[test]
fn hints_in_any_order_lead_to_what_is_there() {
    for seed in 0..sized(2000, 25_000) {
        hinted(seed, 40).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Each of these files could be one that is missing, under another name: a removal is told in the end all the same.
#[test]
fn what_is_removed_is_gone_elsewhere_while_other_files_come_and_go() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.mount("B"));
    fs::write(a.path("file"), "bytes").unwrap();
    until("the file at B", || fs::read(b.path("file")).map_err(|error| error.to_string()));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0u64.. {
                let path = a.path(format!("goes {number}"));
                fs::write(&path, "").unwrap();
                fs::remove_file(&path).unwrap();
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        fs::remove_file(a.path("file")).unwrap();
        let gone = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("the file to be gone at B", || match fs::symlink_metadata(b.path("file")) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => Err(format!("{other:?}, {:?}", a.status())),
            });
        }));
        is_over.store(true, Ordering::Relaxed);
        gone.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}
