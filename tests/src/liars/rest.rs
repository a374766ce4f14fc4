//! When honest devices and an honest service have said all that they have to say.

use super::device::Device;
use super::host::Host;
use crate::sim::view::{self, View};
use syncmount_common::Epoch;
use syncmount_common::protocol::changes::Cursor;
use syncmount_engine::Pending;
use syncmount_server::FIRST_FOLDER;

/// Rounds within which everything must have come to rest.
const ROUNDS_MAX: usize = 60;

/// Rounds without any change that count as rest: what failed is tried again in each of them, and what is no folder is read
/// from the begin after three of them.
const QUIET: usize = 5;

/// All that may change while devices talk.
pub(super) type Picture = ((Epoch, u64), Vec<(Option<Cursor>, Pending, View)>);

/// The present one.
pub(super) fn picture(devices: &[Device], host: &Host) -> Picture {
    let of = |device: &Device| (device.engine.cursor(), device.engine.pending(), view::of_engine(&device.engine, None));
    (host.end(FIRST_FOLDER), devices.iter().map(of).collect())
}

/// Plays rounds until some change nothing.
pub(super) fn come_to_rest<W>(
    world: &mut W,
    mut round: impl FnMut(&mut W) -> Result<Picture, String>,
) -> Result<(), String> {
    let (mut before, mut quiet) = (None, 0);
    for _ in 0..ROUNDS_MAX {
        let now = Some(round(world)?);
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        if quiet == QUIET {
            return Ok(());
        }
    }
    Err("they do not come to rest".to_owned())
}

/// All devices have read the feed to its end, and find it sound.
pub(super) fn is_at_rest(devices: &[Device], host: &Host) -> Result<(), String> {
    let end = host.end(FIRST_FOLDER);
    for device in devices {
        let name = &device.named.name;
        if let Some(unsound) = device.engine.unsound() {
            return Err(format!("{name} finds an honest server unsound: {unsound}"));
        }
        let at = device.engine.cursor().map(|cursor| (cursor.epoch, cursor.seq));
        if at != Some(end) || device.engine.wants_page_now() || device.is_waiting() {
            return Err(format!("{name} is at {at:?} of {end:?}"));
        }
    }
    Ok(())
}
