//! Worlds for end-to-end tests: the real programs, each with folders of its own, and what is compared in the end.
//!
//! Everything lies in one temporary directory per world and talks over 127.0.0.1. Whatever a world has started ends with
//! it, also after a panic. Waiting is asking again until a deadline, never a guess about how long something takes.

mod around;
mod device;
mod dice;
mod liar;
mod lossy_disk;
mod program;
mod proxy;
mod server;
mod small_disk;
mod tree;
mod until;
mod world;
mod writer;

pub use around::Around;
pub use device::Device;
pub use dice::{Dice, Twin, bytes, make_file, random_edits, random_tree, set_mtime};
pub use liar::{Answer, Asked, Liar, id_named, node_named};
pub use lossy_disk::{LossyDisk, Ordering};
pub use program::{Said, Version, program, run};
pub use proxy::Proxy;
pub use server::Server;
pub use small_disk::SmallDisk;
pub use tree::{DirTimes, Kind, Tree, assert_become_equal, assert_equal, escaped, sha256};
pub use until::{PATIENCE, until};
pub use world::{World, hostname, mounts_below};
pub use writer::Writer;

/// How large something is: for every change, and for `./dev cases`, which has the time.
pub fn sized<T>(everyday: T, cases: T) -> T {
    if std::env::var_os("SYNCMOUNT_CASES").is_some() { cases } else { everyday }
}
