//! Devices of an ordinary user: the user `nobody`, with mounts that nobody else has and a `/dev/fuse` that it may open.
//!
//! Changing to another user needs root.

use rustix::process::Pid;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use syncmount_tests::support::*;

/// The user `nobody`, and its group.
pub(crate) const NOBODY: u32 = 65_534;

/// Without it, the folder is watched where it cannot be mounted.
pub(crate) const MOUNT_ONLY: [&str; 2] = ["--mode", "mount"];

const AS_NOBODY: &str = "exec setpriv --reuid=65534 --regid=65534 --clear-groups";

/// The words that mount, with another value of an option.
pub(crate) fn replaced(device: &Device, option: &str, value: &OsStr) -> Vec<OsString> {
    let mut words = device.mount_words();
    let at = words.iter().position(|word| word == option).expect("the option is given");
    words[at + 1] = value.to_owned();
    words
}

/// Runs a shell script with `syncmount` and the words that mount as its arguments, in mounts of its own.
pub(crate) fn in_own_mounts(device: &Device, script: &str) -> Said {
    let mut command = Command::new("unshare");
    device.environment(&mut command);
    let program = device.program().get_program().to_owned();
    run(command.args(["--mount", "sh", "-ec", script]).arg(program).args(device.mount_words()))
}

/// A device that the user `nobody` can use. Changing to that user needs root.
pub(crate) fn nobodys(world: &World, name: &str) -> Device {
    let device = world.device(name).with(&MOUNT_ONLY);
    for dir in [world.path(""), device.home.clone()] {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for dir in [&device.home, &device.folder] {
        chown(dir, Some(NOBODY), Some(NOBODY)).expect("this test changes to another user and must be run as root");
    }
    // Neither this directory nor the token need be open to others.
    let (program, token) = (device.home.join("syncmount"), device.home.join("token"));
    fs::copy(device.program().get_program(), program).unwrap();
    fs::copy(world.server().token_file(), &token).unwrap();
    chown(&token, Some(NOBODY), Some(NOBODY)).unwrap();
    device
}

/// Like [`in_own_mounts`], as `nobody` in the end.
pub(crate) fn as_nobody(device: &Device, before: &str) -> Said {
    let words = replaced(device, "--token-file", device.home.join("token").as_os_str());
    let mut command = Command::new("unshare");
    device.environment(&mut command);
    let script = format!(r#"{before}; {AS_NOBODY} "$0" "$@""#);
    run(command.args(["--mount", "sh", "-ec", &script]).arg(device.home.join("syncmount")).args(words))
}

/// Gives the script's own `/dev/fuse` this mode.
pub(crate) fn fuse_with_mode(mode: &str) -> String {
    format!(
        "mount -t tmpfs none /mnt; mknod -m {mode} /mnt/fuse c 10 229; chmod {mode} /mnt/fuse; mount --bind /mnt/fuse /dev/fuse"
    )
}

/// The process of a mount of [`as_nobody`].
#[track_caller]
pub(crate) fn client(device: &Device) -> Pid {
    let [client] = device.processes()[..] else { panic!("not one process: {:?}", device.processes()) };
    client
}

/// A command of `nobody` among the mounts of a device that [`as_nobody`] has mounted.
#[track_caller]
fn beside(device: &Device, words: &[&OsStr]) -> Command {
    let client = client(device).as_raw_nonzero().to_string();
    let mut command = Command::new("nsenter");
    device.environment(&mut command);
    command.args(["--mount", "--target", &client, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args(words);
    command
}

/// Runs a shell script so, in the mount.
#[track_caller]
pub(crate) fn beside_nobody(device: &Device, script: &str) -> Said {
    run(&mut command_beside(device, script))
}

/// The same, to be run otherwise.
#[track_caller]
pub(crate) fn command_beside(device: &Device, script: &str) -> Command {
    let script = format!("cd {}; {script}", device.folder.display());
    beside(device, &["sh".as_ref(), "-ec".as_ref(), script.as_ref()])
}

/// Runs `syncmount COMMAND FOLDER OPTIONS…` so.
#[track_caller]
pub(crate) fn ask_beside(device: &Device, command: &str, options: &[&str]) -> Said {
    let program = device.home.join("syncmount");
    let words = [program.as_os_str(), command.as_ref(), device.folder.as_os_str()];
    let options = options.iter().map(OsStr::new);
    run(&mut beside(device, &words.into_iter().chain(options).collect::<Vec<_>>()))
}
