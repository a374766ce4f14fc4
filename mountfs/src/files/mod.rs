//! The bytes of files that are open or being written: staging files over contents over zeros.
//!
//! Owns which bytes a file has at this moment. Knows neither the tree nor the kernel; the network only as "not here".

mod open_file;
mod overlay;
mod shown;

pub use open_file::{Backing, Inner, Last, OpenFile, OpenFiles, allocated};
pub(crate) use overlay::clear;
pub use overlay::{Overlay, Run, Segment, StagingFile};
pub use shown::{Pass, Shown};
