//! Where the program's words for its operator go: stderr, or a file that cannot grow without end.

use crate::config::StartError;
use crate::system::{files, private};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use syncmount_common::text::LogLines;
use tracing_subscriber::EnvFilter;

/// A log file that is longer is renamed to `NAME.old`, in place of the one before.
const LOG_LEN_MAX: u64 = 8 << 20;

/// For commands that end soon and speak for themselves: warnings only, on stderr.
pub fn init_quiet() -> Result<(), StartError> {
    set_up(None, "warn")
}

/// Sets the log up for the process of a mount. `RUST_LOG` decides what is logged, else `verbose`: 0 is `info`, 1 is `debug` for
/// this program, 2 is everything.
pub fn init(log_file: Option<&Path>, verbose: u8) -> Result<(), StartError> {
    let default = match verbose {
        // That a mount is gone already when its end is noticed is how it ends in order; other ends are told elsewhere.
        0 => "info,fuser=error",
        1 => "info,fuser=error,syncmount=debug,syncmount_engine=debug",
        _ => "trace",
    };
    set_up(log_file, default)
}

fn set_up(log_file: Option<&Path>, default: &str) -> Result<(), StartError> {
    let given = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|given| !given.is_empty());
    // Directives that are none are said on stderr and left out.
    let filter = EnvFilter::builder().parse_lossy(given.as_deref().unwrap_or(default));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let result = match log_file {
        Some(path) => {
            let file = LogFile::open(path).map_err(StartError::io("open the log file", path))?;
            subscriber.with_ansi(false).with_writer(Mutex::new(LogLines::new(file, false))).try_init()
        }
        None => {
            let colours = io::stderr().is_terminal();
            subscriber.with_ansi(colours).with_writer(move || LogLines::new(io::stderr(), colours)).try_init()
        }
    };
    // Only a second call can fail, and then the first one holds.
    result.or(Ok(()))
}

/// Opens a log file to append to, for this user alone; makes its directory.
pub fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        private::create_dir_all(dir)?;
    }
    private::private(OpenOptions::new().create(true).append(true)).open(path)
}

/// A log file that begins anew when it has become long.
struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    len_max: u64,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.into(), file, len, len_max: LOG_LEN_MAX })
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".old");
        files::rename(&self.path, Path::new(&old))?;
        self.file = open(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.len >= self.len_max && self.file.metadata()?.is_file() {
            self.begin_anew()?;
        }
        let written = self.file.write(line)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_long_log_begins_anew_and_one_old_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/x.log");
        let mut log = LogFile { len_max: 10, ..LogFile::open(&path).unwrap() };
        for line in ["first line\n", "second line\n", "third line\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "third line\n");
        assert_eq!(fs::read_to_string(dir.path().join("sub/x.log.old")).unwrap(), "second line\n");
        drop(log);
        let mut log = LogFile::open(&path).unwrap();
        log.write_all(b"more\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "third line\nmore\n");
    }

    #[test]
    #[cfg(unix)] // Windows has no device that a path leads to.
    fn a_device_is_no_file_to_rename() {
        let mut log = LogFile { len_max: 1, ..LogFile::open(Path::new("/dev/null")).unwrap() };
        log.write_all(b"one\n").unwrap();
        log.write_all(b"two\n").unwrap();
    }
}
