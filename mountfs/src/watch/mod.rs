//! Watch mode: a plain folder that is kept in step, where there is no FUSE.
//!
//! The tree is the engine's, as for a mount. What the disk had at the last look is the *index*. What differs between disk
//! and index the user has done, and the tree is told; what differs between index and tree is done on the disk. Nothing
//! else says what is to be done, so both are made again from a look at everything after a crash. Knows nothing of mounts.

mod apply;
mod beneath;
mod distrust;
mod dry_run;
mod fetch;
mod folder;
mod hash;
mod hints;
mod host;
mod inbox;
mod index;
mod marker;
mod modes;
mod names;
mod observe;
mod other_disk;
mod part;
mod platform;
mod root;
mod rules;
mod runner;
mod scan;
mod start;
mod stepped;

pub use dry_run::dry_run;
pub use folder::{Backlog, Folder, Job, Look, Open, Report, Told};
pub use host::Host;
pub use part::Part;
pub use runner::QUIET;
pub use start::{Options, run};
pub use stepped::Stepped;
