//! What a server needs to know to start.

pub use crate::api::Limits;
pub use crate::service::{HoldRule, RESERVE_DEFAULT};
use std::path::PathBuf;

/// Where a server listens if it is not told.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:8080";

/// One server's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory that holds everything.
    pub data: PathBuf,
    /// Address and port; port 0 takes any free one.
    pub listen: String,
    /// Bounds on what clients may make the server hold.
    pub limits: Limits,
    /// A proxy that adds TLS stands before the address, so that it may be one that other machines reach.
    pub behind_proxy: bool,
    /// The address may be one that other machines reach over plain HTTP.
    pub insecure_http: bool,
    /// Bytes of the disk that bodies leave free.
    pub reserve: u64,
    /// When removes of a large part of a folder are held back.
    pub hold: HoldRule,
}

impl Config {
    /// The usual settings over a directory.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let (listen, limits, hold) = (LISTEN_DEFAULT.to_owned(), Limits::default(), HoldRule::default());
        Self {
            data: data.into(),
            listen,
            limits,
            behind_proxy: false,
            insecure_http: false,
            reserve: RESERVE_DEFAULT,
            hold,
        }
    }

    /// The same, on another address.
    pub fn listening_on(mut self, listen: impl Into<String>) -> Self {
        self.listen = listen.into();
        self
    }
}
