//! Starting with the user's session: a unit of systemd, an agent of launchd, a task of Windows.
//!
//! Says what belongs where and what makes it count; writes the file where there is one. What was last mounted or watched at a
//! folder is remembered with its options, so the command in it needs the folder only, and how it is to be here. Starts and stops nothing itself.

use crate::cli::{Mode, ServiceCommand};
use crate::config::{Dirs, StartError, create_private_dir, earlier_cache_dir, short_hash, write_private_file};
use crate::mountpoint;
use crate::remembered;
use crate::system::files::remove_if_there;
use crate::terminal;
use std::io;
use std::path::{Path, PathBuf};

/// Why it was not done; one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The folder, the home or a file cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Nothing is known of the folder.
    #[error("nothing was mounted or watched at {0} before; run `syncmount {0} --server URL` once, then try again")]
    NeverThere(PathBuf),
    /// There is no systemd that could start it.
    #[error("there is no systemd for users here; `--print` shows the unit, and what must be run is in it")]
    NoSystemd,
    /// A path that cannot be written into a unit.
    #[error("{0} cannot be written into a service: it is not text, or has control characters")]
    Unwritable(PathBuf),
    /// stdout failed.
    #[error("cannot write to stdout: {0}")]
    Output(#[from] io::Error),
}

/// Whose services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum System {
    Systemd,
    Launchd,
    Windows,
}

const HERE: System = if cfg!(windows) {
    System::Windows
} else if cfg!(target_os = "macos") {
    System::Launchd
} else {
    System::Systemd
};

/// What is to run.
struct What<'a> {
    program: &'a str,
    folder: &'a str,
    mode: &'a str,
}

/// A service as it is written and made to count.
#[derive(Debug)]
struct Service {
    /// Below the user's home; `None` where there is no file.
    file: Option<String>,
    text: String,
    enable: String,
    disable: String,
}

impl What<'_> {
    fn service(&self, system: System) -> Service {
        let name = format!("syncmount-{}", short_hash(self.folder.as_bytes()));
        match system {
            System::Systemd => self.systemd(&name),
            System::Launchd => self.launchd(&name),
            System::Windows => self.task(&name),
        }
    }

    fn systemd(&self, name: &str) -> Service {
        // systemd takes `%` and `$` for its own.
        let escaped = |text: &str| text.replace('%', "%%");
        let quoted = |text: &str| {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$");
            format!("\"{}\"", escaped(&text))
        };
        let text = format!(
            "[Unit]\nDescription=syncmount at {}\n\n[Service]\nExecStart={} {} --mode {} --foreground\n\
             Restart=on-failure\nRestartSec=10\n\n[Install]\nWantedBy=default.target\n",
            escaped(self.folder),
            quoted(self.program),
            quoted(self.folder),
            self.mode
        );
        Service {
            file: Some(format!(".config/systemd/user/{name}.service")),
            text,
            enable: format!("systemctl --user enable --now {name}.service"),
            disable: format!("systemctl --user disable --now {name}.service"),
        }
    }

    fn launchd(&self, name: &str) -> Service {
        let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let label = format!("org.syncmount.{name}");
        let words = [self.program, self.folder, "--mode", self.mode, "--foreground"];
        let words: String = words.iter().map(|word| format!("    <string>{}</string>\n", escaped(word))).collect();
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
             <plist version=\"1.0\">\n<dict>\n  <key>Label</key>\n  <string>{label}</string>\n  <key>ProgramArguments</key>\n  \
             <array>\n{words}  </array>\n  <key>RunAtLoad</key>\n  <true/>\n  <key>KeepAlive</key>\n  <dict>\n    \
             <key>SuccessfulExit</key>\n    <false/>\n  </dict>\n</dict>\n</plist>\n"
        );
        let file = format!("Library/LaunchAgents/{label}.plist");
        Service {
            text,
            enable: format!("launchctl bootstrap gui/$(id -u) ~/{file}"),
            disable: format!("launchctl bootout gui/$(id -u)/{label}"),
            file: Some(file),
        }
    }

    /// A task has no file; the command says everything. Quotes within quotes are escaped as `schtasks` wants it.
    fn task(&self, name: &str) -> Service {
        let run = format!(r#"\"{}\" \"{}\" --mode {} --foreground"#, self.program, self.folder, self.mode);
        let enable = format!(r#"schtasks /Create /TN "{name}" /SC ONLOGON /RL LIMITED /F /TR "{run}""#);
        Service {
            file: None,
            text: format!("{enable}\n"),
            enable,
            disable: format!(r#"schtasks /Delete /TN "{name}" /F"#),
        }
    }
}

/// `syncmount service …`.
pub fn service(command: &ServiceCommand, dirs: &Dirs) -> Result<(), ServiceError> {
    let (args, installs) = match command {
        ServiceCommand::Install(args) => (args, true),
        ServiceCommand::Uninstall(args) => (args, false),
    };
    let folder = match mountpoint::find_mounted(&args.folder_path) {
        Err(StartError::MountpointMissing(gone)) if !installs => gone,
        found => found?,
    };
    let program = std::env::current_exe().map_err(StartError::io("find", "the program itself"))?;
    let earlier = remembered::mode_at(&folder, dirs)?;
    let mode = match args.mode.or(earlier).unwrap_or_default() {
        Mode::Auto => "auto",
        Mode::Mount => "mount",
        Mode::Watch => "watch",
    };
    let what = What { program: written(&program)?, folder: written(&folder)?, mode };
    let service = what.service(HERE);
    if args.print {
        return print(&service, installs);
    }
    if installs && earlier_cache_dir(dirs, &folder)?.is_none() {
        return Err(ServiceError::NeverThere(folder));
    }
    carry_out(&service, installs)
}

fn print(service: &Service, installs: bool) -> Result<(), ServiceError> {
    match &service.file {
        Some(file) if installs => {
            terminal::say(format_args!("# ~/{file}\n{}\n# {}", service.text, service.enable))?;
        }
        Some(file) => terminal::say(format_args!("# {}\n# then ~/{file} is removed", service.disable))?,
        None => terminal::say(if installs { &service.enable } else { &service.disable })?,
    }
    Ok(())
}

fn carry_out(service: &Service, installs: bool) -> Result<(), ServiceError> {
    let Some(file) = &service.file else {
        let command = if installs { &service.enable } else { &service.disable };
        return Ok(terminal::say(format_args!("Run this once:\n{command}"))?);
    };
    let path = std::env::home_dir().ok_or(StartError::NoHome)?.join(file);
    if installs {
        if HERE == System::Systemd && !Path::new("/run/systemd/system").exists() {
            return Err(ServiceError::NoSystemd);
        }
        let dir = path.parent().unwrap_or(&path);
        create_private_dir(dir).map_err(StartError::io("make the directory", dir))?;
        write_private_file(&path, service.text.as_bytes()).map_err(StartError::io("write", &path))?;
        let (path, enable) = (path.display(), &service.enable);
        terminal::say(format_args!("Wrote {path}. It starts with you from now on after\n{enable}"))?;
    } else {
        let was_there = remove_if_there(&path).map_err(StartError::io("remove", &path))?;
        let did = if was_there { "Removed" } else { "There is no" };
        let (path, disable) = (path.display(), &service.disable);
        terminal::say(format_args!("{did} {path}. What runs is ended by\n{disable}"))?;
    }
    Ok(())
}

fn written(path: &Path) -> Result<&str, ServiceError> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control) && !text.contains('"'));
    text.ok_or_else(|| ServiceError::Unwritable(path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ServiceArgs;

    fn what(folder: &str) -> What<'_> {
        What { program: "/opt/sync mount/syncmount", folder, mode: "watch" }
    }

    #[test]
    fn a_unit_of_systemd_starts_the_folder_whatever_it_is_called() {
        let service = what("/data/100% $HOME").service(System::Systemd);
        let line = "ExecStart=\"/opt/sync mount/syncmount\" \"/data/100%% $$HOME\" --mode watch --foreground\n";
        assert!(service.text.contains(line), "{}", service.text);
        assert!(service.text.contains("Description=syncmount at /data/100%% $HOME\n"));
        assert!(service.text.ends_with("[Install]\nWantedBy=default.target\n"));
        let file = service.file.unwrap();
        let unit = file.strip_prefix(".config/systemd/user/").unwrap();
        assert_eq!(service.enable, format!("systemctl --user enable --now {unit}"));
        assert_eq!(service.disable, format!("systemctl --user disable --now {unit}"));
    }

    #[test]
    fn an_agent_of_launchd_is_well_formed() {
        let service = what("/Users/u/R&D <1>").service(System::Launchd);
        assert!(service.text.contains("    <string>/Users/u/R&amp;D &lt;1&gt;</string>\n"), "{}", service.text);
        let count = |tag: &str| service.text.matches(tag).count();
        for tag in ["dict", "array", "string", "key", "plist"] {
            assert_eq!(count(&format!("<{tag}")), count(&format!("</{tag}>")), "{tag}");
        }
        let file = service.file.unwrap();
        assert!(file.starts_with("Library/LaunchAgents/org.syncmount.") && service.enable.ends_with(&file));
    }

    #[test]
    fn a_task_of_windows_quotes_its_paths() {
        let service = What { program: r"C:\Program Files\s.exe", folder: r"D:\My Files", mode: "watch" };
        let service = service.service(System::Windows);
        let run = r#"/TR "\"C:\Program Files\s.exe\" \"D:\My Files\" --mode watch --foreground""#;
        assert!(service.enable.contains("/SC ONLOGON") && service.enable.ends_with(run), "{}", service.enable);
        assert!(service.file.is_none() && service.disable.starts_with("schtasks /Delete"));
    }

    #[test]
    fn each_folder_has_a_service_of_its_own() {
        for system in [System::Systemd, System::Launchd, System::Windows] {
            assert_eq!(what("/a").service(system).disable, what("/a").service(system).disable);
            assert_ne!(what("/a").service(system).disable, what("/b").service(system).disable);
        }
    }

    #[test]
    fn a_folder_that_was_never_there_and_an_odd_path_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(root.path());
        let folder = dunce::canonicalize(root.path()).unwrap();
        let args = |print| ServiceArgs { folder_path: folder.clone(), mode: None, print };
        let install = |print| ServiceCommand::Install(args(print));
        assert!(matches!(service(&install(false), &dirs), Err(ServiceError::NeverThere(_))));
        service(&install(true), &dirs).unwrap();
        assert!(matches!(written(Path::new("a\nb")), Err(ServiceError::Unwritable(_))));
    }
}
