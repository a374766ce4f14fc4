//! Options that were given at a folder count at its later starts too, until others are given.
//!
//! They are in a file of their own beside the one that says what was mounted where, so that an older program reads that one.

use crate::cli::{Mode, MountArgs, MountChoices, WatchChoices};
use crate::config::{Dirs, MountConfig, StartError, is_other_folder, lock_settings, read_settings, write_settings};
use crate::mountpoint;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(Default, Debug, Serialize, Deserialize)]
#[serde(default)]
struct Remembered {
    #[serde(rename = "folder")]
    folders: Vec<Folder>,
}

#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
struct Folder {
    path: PathBuf,
    mount: MountChoices,
    watch: WatchChoices,
}

fn file(dirs: &Dirs) -> PathBuf {
    dirs.state.join("options.toml")
}

/// The arguments with what an earlier start at the same folder was given and this one leaves open, and that in words.
pub fn recall(args: &MountArgs, dirs: &Dirs) -> Result<(MountArgs, Vec<String>), StartError> {
    // What is wrong with the path is told where it is used.
    let Ok(path) = mountpoint::canonical(&args.mountpoint) else { return Ok((args.clone(), Vec::new())) };
    let Some(earlier) = at(&path, dirs)? else { return Ok((args.clone(), Vec::new())) };
    if is_other_folder(args, &path, dirs)? {
        return Ok((args.clone(), Vec::new()));
    }
    let choices = match args.mode.or(earlier.mount.mode) {
        // Of what was chosen for a mount only its name and owners are choices for a plain folder.
        Some(Mode::Watch) => {
            let device_name = args.device_name.clone().or(earlier.mount.device_name);
            let owners = args.owners.or(earlier.mount.owners);
            MountChoices { mode: Some(Mode::Watch), owners, device_name, ..args.choices() }
        }
        _ => args.choices().or(earlier.mount),
    };
    let mut all = args.clone().with(choices);
    all.watch = args.watch.or(earlier.watch);
    let said = words(&all).into_iter().filter(|word| !words(args).contains(word)).collect();
    Ok((all, said))
}

/// Keeps what was chosen at a folder, which is mounted or watched now.
pub(crate) fn keep(config: &MountConfig, dirs: &Dirs) -> Result<(), StartError> {
    let MountConfig { mountpoint: path, choices, watch, .. } = config;
    let _lock = lock_settings(&dirs.state)?;
    let mut all: Remembered = read_settings(&file(dirs))?;
    let earlier = all.folders.iter().find(|folder| folder.path == *path).cloned().unwrap_or_default();
    let before = earlier.mount.clone();
    let mount = match choices.mode {
        Some(Mode::Watch) => MountChoices {
            mode: choices.mode,
            owners: choices.owners,
            device_name: choices.device_name.clone(),
            ..before
        },
        _ => choices.clone(),
    };
    let now = Folder { path: path.clone(), mount, watch: *watch };
    if now == earlier || path.to_str().is_none() {
        return Ok(());
    }
    all.folders.retain(|folder| folder.path != *path);
    all.folders.push(now);
    write_settings(&file(dirs), &all)
}

/// How a folder was last: mounted, or a plain one.
pub fn mode_at(path: &Path, dirs: &Dirs) -> Result<Option<Mode>, StartError> {
    Ok(at(path, dirs)?.and_then(|folder| folder.mount.mode))
}

fn at(path: &Path, dirs: &Dirs) -> Result<Option<Folder>, StartError> {
    let all: Remembered = read_settings(&file(dirs))?;
    Ok(all.folders.into_iter().find(|folder| folder.path == path))
}

/// The choices as they are typed, but for those that are so anyway.
fn words(args: &MountArgs) -> Vec<String> {
    let MountChoices { cache_size, mode: _, read_only, allow_other, owners, passthrough, durability, device_name } =
        &args.choices();
    let WatchChoices { scan_interval, apply_setid, no_confinement } = &args.watch;
    let watched = args.mode == Some(Mode::Watch);
    let flag = |name: &str, given: Option<bool>| given.filter(|is| *is).map(|_| format!("--{name}"));
    let mut of_mount = vec![
        flag("read-only", *read_only),
        flag("allow-other", *allow_other),
        passthrough.filter(|given| *given != Default::default()).map(|given| format!("--passthrough={}", word(&given))),
        durability.filter(|given| *given != Default::default()).map(|given| format!("--durability={}", word(&given))),
        cache_size.map(|bytes| format!("--cache-size={bytes}")),
    ];
    let of_watch = vec![
        scan_interval.map(|time| format!("--scan-interval={}s", time.as_secs())),
        flag("apply-setid", *apply_setid),
        flag("no-confinement", *no_confinement),
    ];
    let mode = watched.then(|| "--mode=watch".to_owned());
    let owners = owners.map(|given| format!("--owners={}", word(&given)));
    let name = device_name.as_ref().map(|name| format!("--device-name={name}"));
    if watched {
        of_mount.clear();
    }
    let of_watch = of_watch.into_iter().filter(|_| watched);
    [mode].into_iter().chain(of_mount).chain(of_watch).chain([owners, name]).flatten().collect()
}

fn word(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Durability, Owners, Passthrough};
    use crate::config::Environment;
    use std::time::Duration;

    struct World {
        root: tempfile::TempDir,
        dirs: Dirs,
    }

    impl World {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir(root.path().join("Sync")).unwrap();
            Self { dirs: Dirs::below(root.path()), root }
        }

        fn path(&self) -> PathBuf {
            dunce::canonicalize(self.root.path().join("Sync")).unwrap()
        }

        /// It is mounted or watched with these arguments.
        fn start(&self, args: &MountArgs, mode: Mode) {
            let args = MountArgs { server: Some("http://localhost:1".to_owned()), mode: Some(mode), ..args.clone() };
            let token = Some("token".to_owned());
            let config = MountConfig::resolve(&args, &Environment { dirs: self.dirs.clone(), token }).unwrap();
            config.remember(&self.dirs).unwrap();
        }

        fn args(&self, choices: MountChoices) -> MountArgs {
            MountArgs { mountpoint: self.path(), ..MountArgs::default() }.with(choices)
        }
    }

    fn chosen() -> MountChoices {
        MountChoices {
            cache_size: Some(5 << 30),
            mode: None,
            read_only: Some(true),
            allow_other: Some(true),
            owners: Some(Owners::Synced),
            passthrough: Some(Passthrough::Never),
            durability: Some(Durability::Server),
            device_name: Some("pi-2".into()),
        }
    }

    #[test]
    fn what_was_given_counts_until_something_else_is() {
        let world = World::new();
        assert_eq!(recall(&world.args(chosen()), &world.dirs).unwrap(), (world.args(chosen()), Vec::new()));
        world.start(&world.args(chosen()), Mode::Mount);
        let (again, said) = recall(&world.args(MountChoices::default()), &world.dirs).unwrap();
        assert_eq!(again.choices(), MountChoices { mode: Some(Mode::Mount), ..chosen() });
        let expected = [
            "--read-only",
            "--allow-other",
            "--passthrough=never",
            "--durability=server",
            "--cache-size=5368709120",
            "--owners=synced",
            "--device-name=pi-2",
        ];
        assert_eq!(said, expected);
        // A choice that is taken back is forgotten with the next start that succeeds.
        let writable = MountChoices { read_only: Some(false), ..MountChoices::default() };
        let (again, said) = recall(&world.args(writable), &world.dirs).unwrap();
        assert!(again.read_only == Some(false) && !said.contains(&"--read-only".to_owned()), "{said:?}");
        world.start(&again, Mode::Mount);
        let (later, _) = recall(&world.args(MountChoices::default()), &world.dirs).unwrap();
        assert_eq!(later.read_only, Some(false));
        assert_eq!(mode_at(&world.path(), &world.dirs).unwrap(), Some(Mode::Mount));
    }

    #[test]
    fn a_plain_folder_has_choices_of_its_own() {
        let world = World::new();
        world.start(&world.args(chosen()), Mode::Mount);
        let watch = WatchChoices {
            scan_interval: Some(Duration::from_secs(90)),
            apply_setid: Some(true),
            no_confinement: None,
        };
        let as_plain = MountChoices { mode: Some(Mode::Watch), ..MountChoices::default() };
        let args = MountArgs { watch, ..world.args(as_plain.clone()) };
        let (args, said) = recall(&args, &world.dirs).unwrap();
        let common = MountChoices { device_name: Some("pi-2".into()), owners: Some(Owners::Synced), ..as_plain };
        assert_eq!(args.choices(), common);
        assert_eq!(said, ["--owners=synced", "--device-name=pi-2"]);
        world.start(&args, Mode::Watch);
        // Without a word it is a plain folder again.
        let (again, said) = recall(&world.args(MountChoices::default()), &world.dirs).unwrap();
        assert_eq!((again.mode, again.watch), (Some(Mode::Watch), watch));
        assert_eq!(
            said,
            ["--mode=watch", "--scan-interval=90s", "--apply-setid", "--owners=synced", "--device-name=pi-2"]
        );
        assert_eq!((again.read_only, again.durability), (None, None), "what a plain folder cannot be");
        // As a mount it is as it was when it was one.
        let mount = MountChoices { mode: Some(Mode::Mount), ..MountChoices::default() };
        let (again, _) = recall(&world.args(mount), &world.dirs).unwrap();
        assert_eq!(again.read_only, Some(true));
    }

    #[test]
    fn fields_of_a_later_version_do_no_harm() {
        let world = World::new();
        std::fs::create_dir_all(&world.dirs.state).unwrap();
        let path = world.path();
        let text = format!(
            "new = 1\n[[folder]]\npath = '{}'\nother = 2\n[folder.mount]\nread_only = true\nx = 3\n",
            path.display()
        );
        std::fs::write(file(&world.dirs), text).unwrap();
        let (args, said) = recall(&world.args(MountChoices::default()), &world.dirs).unwrap();
        assert_eq!((args.read_only, said), (Some(true), vec!["--read-only".to_owned()]));
    }
}
