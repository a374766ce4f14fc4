//! The files that the process of a watched folder needs.
//!
//! A mount has no such wall: ending it takes a setuid program (`fusermount3`), and a confined process can give no program more rights
//! than it has itself.

use crate::config::Dirs;
use crate::control::run_dirs;
use std::path::Path;
use syncmount_confine::Wall;

/// The folder, the client's state, the directory of its log, and the certificates that the environment names.
pub(crate) fn around(folder: &Path, cache_dir: &Path, log_file: Option<&Path>, dirs: &Dirs) -> Wall {
    let certificates = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(std::env::var_os).map(Into::into);
    let mut wall = Wall { connects: true, ..Wall::with_system_files().with_temporary_files() };
    wall.readable.extend(certificates);
    wall.readable.push(dirs.config.clone());
    wall.writable.extend(run_dirs(dirs));
    // A log that has become long is renamed.
    wall.writable.extend(log_file.and_then(Path::parent).map(Into::into));
    wall.writing(folder).writing(cache_dir).writing(&dirs.state)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::fs;
    use std::io::ErrorKind::PermissionDenied;
    use std::net::TcpListener;

    #[test]
    fn only_the_folder_and_the_state_are_within_reach() {
        let all = tempfile::tempdir().unwrap();
        let path = |name: &str| all.path().join(name);
        for name in ["folder", "cache", "state", "config", "home"] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("file"), name).unwrap();
        }
        let dirs = Dirs { config: path("config"), state: path("state"), data: path("data"), runtime: None };
        let there = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let inside = move || {
            let mut wall = around(&all.path().join("folder"), &all.path().join("cache"), None, &dirs);
            // This test's own directories are among the temporary files.
            wall.writable.retain(|dir| !all.path().starts_with(dir));
            assert_eq!(wall.enter().unwrap().to_string(), "files, ports, system calls");
            for name in ["folder", "cache", "state"] {
                fs::write(all.path().join(name).join("new"), "new").unwrap();
            }
            assert_eq!(fs::read(all.path().join("config/file")).unwrap(), b"config");
            for error in [
                fs::write(all.path().join("config/file"), "bad").unwrap_err(),
                fs::write(all.path().join("home/authorized_keys"), "bad").unwrap_err(),
                fs::read(all.path().join("home/file")).unwrap_err(),
                std::process::Command::new("/bin/true").status().unwrap_err(),
                TcpListener::bind(there).unwrap_err(),
            ] {
                assert_eq!(error.kind(), PermissionDenied, "{error}");
            }
            all
        };
        let all = std::thread::spawn(inside).join().unwrap();
        assert_eq!(fs::read(all.path().join("home/file")).unwrap(), b"home");
    }
}
