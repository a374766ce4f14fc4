//! The wall around a server that serves: its data directory and its port, and nothing else.

use crate::Config;
use crate::data::make_directory;
use crate::server::{ServerError, refuse_in_the_open};
use std::net::ToSocketAddrs as _;
use syncmount_confine::{ConfineError, Held, Wall};

/// Why a server cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its directory cannot be made.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// It may not listen there.
    #[error(transparent)]
    Listen(#[from] ServerError),
    /// The kernel refuses.
    #[error(transparent)]
    Confine(#[from] ConfineError),
}

/// Confines this thread and those that it starts. The data directory is made if it is missing.
///
/// # Errors
/// The server may not listen at its address, its directory cannot be made, or the kernel refuses the rules that it knows.
pub fn enter(config: &Config) -> Result<Held, Error> {
    refuse_in_the_open(config)?;
    make_directory(&config.data)?;
    Ok(wall(config).enter()?)
}

/// What a server with these settings needs.
pub fn wall(config: &Config) -> Wall {
    // An address that cannot be resolved is refused where the server listens.
    let addresses = config.listen.to_socket_addrs().into_iter().flatten();
    let ports = addresses.map(|address| address.port()).collect();
    Wall { ports, ..Wall::with_system_files().with_temporary_files().writing(&config.data) }
}
