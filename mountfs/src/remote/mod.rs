//! The server as the client sees it: [`crate::ports::Remote`] over HTTP.
//!
//! Owns addresses, connections, deadlines and the translation of replies into [`crate::ports::RemoteError`]. Knows the
//! protocol of `syncmount_common` and nothing of trees, files or the engine. The only place of the client with HTTP in it.

mod body;
mod faulty;
mod http;
mod limit;
mod reply;
mod stall;
mod url;

pub use faulty::{Call, Fault, FaultyRemote};
pub use http::{HttpRemote, SetupError, Traffic};
pub use url::{ServerUrl, UrlError};
