//! Real servers, real processes, plain folders that are watched: what their users are promised, end to end.
//!
//! The programs are those that `cargo build --workspace --bins` has made beside this test.

mod astray;
mod both_ways;
mod command_line;
mod conflicts;
mod deep;
mod disks;
mod folder;
mod hints;
mod large_files;
mod lying_server;
mod owners;
mod random;
mod restarts;
mod roots;
mod saves;
mod setid;
mod stepped;
mod swaps;
mod told;
mod waiting;
