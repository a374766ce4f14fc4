//! Fuzz targets: everything that reads bytes from a peer, a file or a local process.
//!
//! Each target takes arbitrary bytes and panics only if the code under test is wrong. `tests/fuzz` runs them with libFuzzer
//! (`./dev fuzz`), `tests/tests/fuzzed.rs` replays the corpus in `tests/fuzz/corpus`. A target is deterministic and bounded in time.

mod commit;
mod forms;
mod pages;

/// A target and its name, which is also its folder in the corpus.
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// Runs the code under test on the bytes; panics if it is wrong.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "frame", run: forms::frame },
    Target { name: "envelope", run: forms::envelope },
    Target { name: "delta", run: forms::delta },
    Target { name: "manifest", run: forms::manifest },
    Target { name: "commit", run: commit::commit },
    Target { name: "pages", run: pages::pages },
    Target { name: "syncignore", run: forms::syncignore },
    Target { name: "control", run: forms::control },
    #[cfg(target_os = "linux")]
    Target { name: "helper", run: forms::helper },
];

/// Runs the target with this name.
///
/// # Panics
/// If there is none, or if the code under test is wrong.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("there is no target `{name}`")).run)(data);
}

/// Reads an input from its begin: small numbers that choose. Zeros when it is used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, others)) = self.0.split_first() else { return 0 };
        self.0 = others;
        *first
    }

    /// 0 up to `end`, which it never is.
    fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
