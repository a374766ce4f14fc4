//! Worlds with a liar: the shipped engines of two or three honest devices with users, the shipped service between them,
//! and a server or a client that lies. Equal seeds give equal worlds.
//!
//! **A lying server.** A liar stands between the service and some of the devices. The seed decides what it changes: pages of the
//! feed (parents, names, kinds, sizes, hashes, manifests, modes, authors, revs, order, omissions, additions, positions,
//! epochs, `more`), answers to commits, manifests and chunks. It also drops requests, passes on a part of them, or passes them
//! on and answers something else. After each step of a device:
//!
//! - Both views of the engine's tree, the user's and the server's as it is believed to be, are valid trees: live directories
//!   as parents, no cycles, no duplicate names. The engine's indexes fit, and a restart restores the same tree.
//! - Bytes that a user wrote and did not overwrite or remove are in a staging file of a node until a server says that it has them.
//! - An unsound state moves no position, and nothing is sent until a sound one arrives.
//! - Nothing panics, effects end, and a record has at most one row for each node that exists or existed.
//!
//! Then the server becomes honest and users stop. Devices and service come to rest, and no device stops. A plausible lie, which an
//! honest server could have told (a removal, an omission, other bytes), is merged and stays until something contradicts it. The
//! operator ends that with `restored`: the history begins again, and every device compares everything. A file that the liar made
//! up then counts as made on this device, but its bytes do not exist anywhere: it is reported as a problem, and a change that
//! needs its name waits until the user removes it. After that all devices show the folder's tree, have nothing left to send, and:
//!
//! - Bytes that were not sent when the lies ended are in the folder.
//! - Bytes that a device showed and had then are in the folder or in its history. This includes bytes that only the liar
//!   acknowledged, because the model's cache evicts nothing.
//! - The history has everything that the service acknowledged, byte by byte.
//!
//! **A lying client.** A client sends free-form commits beside two honest devices, in their folder or in another one, with their
//! token or its own: parents, cycles, kinds, bases, sizes near 2^53 and 2^63, sums beyond, manifests, unknown chunks, devices and
//! op ids of others, made-up positions. After each commit that is accepted, every query about the folder is answered and its
//! counters are counted again. No history begins again. No honest device finds the folder unsound. An honest commit fails only
//! with a conflict, or because the liar filled the folder, until the operator makes room. The promises of the end are those
//! above. Content that a liar with a token may overwrite or remove stays in the history.
//!
//! Faults planted in a copy of the source (`./dev planted`) prove that the checks find faults.

mod client;
mod device;
mod forger;
mod host;
mod judge;
mod lies;
mod questions;
mod rest;
mod server;
mod user;
mod wire;

use crate::sim::panic_text;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What happened in a world, to see that worlds are not tame.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Answers that a lying server changed, or commits that a lying client sent.
    pub lies: u64,
    /// Unsound states that devices refused, or commits that the service refused.
    pub refused: u64,
    /// Contents that the honest service has acknowledged.
    pub taken: u64,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { lies: self.lies + other.lies, refused: self.refused + other.refused, taken: self.taken + other.taken }
    }
}

/// A kind of world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The server lies to some of its clients.
    Server,
    /// A client lies to the server.
    Client,
}

/// Lives through the world of a seed, and judges it.
pub fn run(kind: Kind, seed: u64) -> Result<Tally, String> {
    let live = || match kind {
        Kind::Server => server::run(seed),
        Kind::Client => client::run(seed),
    };
    catch_unwind(AssertUnwindSafe(live)).unwrap_or_else(|panic| Err(format!("panic: {}", panic_text(&*panic))))
}
