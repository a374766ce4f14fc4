//! An upload that is cut off goes on where it was, and does not send again what had arrived.
//!
//! `SYNCMOUNT_RESUME_MIB` sets the size of the file; the promise is about 2048, the suite is content with less.

use rand::RngExt;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};
use syncmount_tests::support::*;

const MIB: u64 = 1 << 20;

fn size() -> u64 {
    let mib: u64 = std::env::var("SYNCMOUNT_RESUME_MIB").map_or(64, |text| text.parse().expect("a number of MiB"));
    mib * MIB
}

/// Noise, so that no compression and no equal chunk makes less of it.
fn write_noise(path: &Path, dice: &mut Dice, size: u64) {
    let mut file = File::create(path).unwrap();
    for _ in 0..size / MIB {
        file.write_all(&bytes(dice, MIB as usize)).unwrap();
    }
}

/// What is on the line, in requests and in buffers, when it is cut: a few requests of a few MiB.
const IN_FLIGHT_MAX: u64 = 20 * MIB;

/// Begins to send a file over a line that breaks in the middle, lets `recover` do what it does, and counts.
fn cut_off(name: &str, recover: impl FnOnce(&World, &Device, &Proxy)) {
    let mut dice = Dice::new(name);
    let world = World::new();
    let (proxy, a) = world.device_behind_proxy("A");
    a.mount();
    let b = world.mount("B");
    let size = size();
    proxy.break_after(size / 2 + dice.random_range(0..size / 8));
    let begin = Instant::now();
    write_noise(&a.path("large"), &mut dice, size);
    until("the line to break", || if proxy.is_cut() { Ok(()) } else { Err(format!("{} sent", proxy.sent())) });
    let before = proxy.sent();
    recover(&world, &a, &proxy);
    a.wait_synced();
    let sent = proxy.sent();
    eprintln!(
        "{name}: {size} bytes, {before} sent before, {sent} in all, {} too many, {:?}",
        sent.saturating_sub(size),
        begin.elapsed()
    );
    assert!(sent > size, "noise cannot be sent in less");
    assert!(sent < size + size / 50 + IN_FLIGHT_MAX, "{sent} bytes were sent for {size}");
    until("the file at B", || match b.path("large").metadata() {
        Ok(metadata) if metadata.len() == size => Ok(()),
        other => Err(format!("{:?}", other.map(|metadata| metadata.len()))),
    });
    assert_eq!(sha256(&a.path("large")).unwrap(), sha256(&b.path("large")).unwrap());
    assert_eq!(a.status().problems, []);
}

#[test]
fn an_upload_goes_on_after_the_line_was_cut() {
    cut_off("an_upload_goes_on_after_the_line_was_cut", |_, a, proxy| {
        until("A to notice", || if a.status().connected { Err("connected".into()) } else { Ok(()) });
        proxy.mend();
    });
}

#[test]
fn an_upload_goes_on_after_the_client_was_killed() {
    cut_off("an_upload_goes_on_after_the_client_was_killed", |_, a, proxy| {
        a.kill();
        proxy.mend();
        a.mount();
    });
}

#[test]
fn an_upload_goes_on_after_the_server_was_killed() {
    cut_off("an_upload_goes_on_after_the_server_was_killed", |world, _, proxy| {
        world.server().kill();
        proxy.mend();
        world.server().start();
    });
}

/// What the requests have that are on their way at the same time: three of 4 MiB, each with one chunk more at most.
const REQUESTS_LEN_MAX: u64 = 3 * (4 + 4) * MIB;

#[test]
fn a_server_that_is_killed_is_found_at_once_and_the_upload_goes_on() {
    let (rounds, limit) = sized((2, None), (20, Some(Duration::from_secs(2))));
    let mut dice = Dice::new("a_server_that_is_killed_is_found_at_once");
    let world = World::lasting(Duration::from_secs(600));
    let (proxy, a) = world.device_behind_proxy("A");
    a.mount();
    let (size, mut waits, mut repeated) = (64 * MIB, Vec::new(), Vec::new());
    for round in 0..rounds {
        let before = proxy.sent();
        let at = before + dice.random_range(MIB..size / 2);
        let path = a.path(format!("file {round}"));
        let (noise, writer) = (bytes(&mut dice, size as usize), path.clone());
        let writing = std::thread::spawn(move || std::fs::write(writer, noise));
        until("the moment", || if proxy.sent() >= at { Ok(()) } else { Err(proxy.sent().to_string()) });
        world.server().kill();
        until("A to notice", || if a.status().connected { Err("connected".into()) } else { Ok(()) });
        let sent = proxy.sent();
        world.server().start();
        let begin = Instant::now();
        until("the upload to go on", || match a.status() {
            status if proxy.sent() > sent + MIB || status.pending_files == 0 => Ok(()),
            status => Err(format!("{} sent: {status:?}", proxy.sent())),
        });
        waits.push(begin.elapsed());
        writing.join().unwrap().unwrap();
        a.wait_synced();
        repeated.push((proxy.sent() - before).saturating_sub(size));
    }
    eprintln!("went on after {waits:?}; bytes sent twice, with all requests: {repeated:?}");
    assert!(repeated.iter().all(|bytes| *bytes < REQUESTS_LEN_MAX + size / 50), "{repeated:?}");
    assert!(waits.iter().all(|wait| limit.is_none_or(|limit| *wait < limit)), "{waits:?}");
    assert_eq!(a.status().problems, []);
}
