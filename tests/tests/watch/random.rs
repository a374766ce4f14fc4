//! Two watched folders and a mount on one server, everybody at work at the same time.

use std::fs;
use std::process::Command;
use syncmount_tests::support::*;

#[test]
fn a_thousand_random_changes_on_three_devices_end_equal() {
    let mut dice = Dice::new("a_thousand_random_changes_on_three_devices_end_equal");
    let world = World::new();
    let devices = [world.watch("A"), world.watch("B"), world.mount("C")];
    let mirror = world.path("mirror");
    fs::create_dir(&mirror).unwrap();
    random_tree(&mut dice, &mirror, 800).unwrap();
    run(Command::new("cp").arg("-a").arg(mirror.join(".")).arg(&devices[0].folder)).good();
    devices[0].wait_synced();
    for device in &devices {
        assert_become_equal(&mirror, &device.folder, DirTimes::Ignored);
    }
    // Different subtrees, at the same time: 8 of them, 125 changes each.
    let mut work: Vec<_> = devices.iter().map(|device| (device, Vec::new(), dice.fork())).collect();
    (0..8).for_each(|number| work[number % 3].1.push(number));
    std::thread::scope(|scope| {
        for (device, subtrees, mut dice) in work {
            let twin = Twin { mount: &device.folder, mirror: &mirror };
            scope.spawn(move || {
                for number in subtrees {
                    random_edits(&mut dice, &twin, &format!("t{number}"), 125);
                }
            });
        }
    });
    for device in devices.iter().chain(&devices) {
        device.wait_synced();
    }
    for device in &devices {
        until(&format!("{} to be equal to the mirror", device.name), || {
            let read = |root| Tree::read(root, DirTimes::Ignored).map_err(|error| error.to_string());
            match read(&mirror)?.differences(&read(&device.folder)?).as_slice() {
                [] => Ok(()),
                some => Err(format!("{} differences: {:#?}\n{:?}", some.len(), &some[..1], device.status())),
            }
        });
        assert_eq!(device.status().problems, [], "{}", device.name);
    }
}
