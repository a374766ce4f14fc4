//! Real servers, real mounts, real files: what a user is promised, end to end.
//!
//! The programs are those that `cargo build --workspace --bins` has made beside this test.

mod answers;
mod cache;
mod cache_verify;
mod command_line;
mod conflicts;
mod crashes;
mod curl;
mod durability;
mod filesystem;
mod full_disk;
mod full_server;
mod git;
mod healing;
mod held;
mod helper;
mod ignore;
mod joins;
mod large_files;
mod listings;
mod model;
mod new_versions;
mod nobody;
mod offline;
mod open_files;
mod owners;
mod passthrough;
mod pins;
mod power_cut;
mod programs;
mod read_only;
mod refused_starts;
mod restored;
mod resume;
mod room;
mod saves;
mod syscalls;
mod texts;
mod times;
mod torture;
mod two_devices;
mod unclean_stops;
mod whole;
mod written_slowly;
