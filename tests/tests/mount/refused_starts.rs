//! Every bad start: one sentence that says what is wrong, an exit code, nothing mounted and no process left.

use crate::nobody::{MOUNT_ONLY, as_nobody, fuse_with_mode, in_own_mounts, nobodys, replaced};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use syncmount_tests::support::*;

/// The sentence with which a start of this device with these words fails. Leaves nothing behind.
#[track_caller]
fn refused(device: &Device, words: &[impl AsRef<OsStr>]) -> String {
    sentence(device, &device.syncmount(words))
}

#[track_caller]
fn sentence(device: &Device, said: &Said) -> String {
    let sentence = said.refusal().to_owned();
    assert!(!device.is_mounted(), "{sentence}");
    device.await_end();
    sentence
}

/// Each of these words is in the sentence.
#[track_caller]
fn names(sentence: &str, words: &[&str]) {
    for word in words {
        assert!(sentence.contains(word), "`{word}` is not in: {sentence}");
    }
}

#[test]
fn a_token_that_is_wrong_missing_or_none() {
    let world = World::new();
    let device = world.device("A");
    let file = world.path("token");
    fs::write(&file, "0123456789abcdef\n").unwrap();
    names(&refused(&device, &replaced(&device, "--token-file", file.as_os_str())), &["refuses the token", "token add"]);
    fs::write(&file, "\n").unwrap();
    names(&refused(&device, &replaced(&device, "--token-file", file.as_os_str())), &["does not hold a token", "empty"]);
    fs::write(&file, "two words").unwrap();
    names(&refused(&device, &replaced(&device, "--token-file", file.as_os_str())), &["does not hold a token"]);
    let none = replaced(&device, "--token-file", world.path("none").as_os_str());
    names(&refused(&device, &none), &["cannot read the token", "No such file"]);
    let url = world.server().url();
    let words = [device.folder.as_os_str(), "--server".as_ref(), url.as_ref()];
    names(&refused(&device, &words), &["no token for", "syncmount login", "--token-file"]);

    // And each way to give one works.
    let token = fs::read_to_string(world.server().token_file()).unwrap();
    let said = run(device.program().args(words).env("SYNCMOUNT_TOKEN", token.trim()));
    assert_eq!(said.code, Some(0), "{said:?}");
    device.ask("umount", &[]).good();
    let token_file = world.server().token_file();
    device.syncmount(&["login".as_ref(), url.as_ref(), "--token-file".as_ref(), token_file.as_os_str()]).good();
    let logins = device.home.join(".config/syncmount/logins.toml");
    assert_eq!(fs::metadata(&logins).unwrap().permissions().mode() & 0o7777, 0o600);
    device.syncmount(&[device.folder.as_os_str()]).good();
    device.ask("umount", &[]).good();
    device.syncmount(&["logout", &url]).good();
    names(&refused(&device, &[device.folder.as_os_str()]), &["no token for"]);
}

#[test]
fn a_revoked_token_is_no_token() {
    let world = World::new();
    let device = world.device("A");
    let (token, file) = (world.server().command(&["token", "add", "laptop"]), world.path("token"));
    fs::write(&file, &token).unwrap();
    world.server().command(&["token", "revoke", "laptop"]);
    let sentence = refused(&device, &replaced(&device, "--token-file", file.as_os_str()));
    names(&sentence, &["refuses the token"]);
    assert!(!sentence.contains(&token), "a token is shown to nobody");
}

#[test]
fn a_folder_that_the_server_does_not_have() {
    let world = World::new();
    let device = world.device("A").with(&["--folder", "photos"]);
    names(&sentence(&device, &device.try_mount()), &["no folder `photos`", "--folder"]);
    let device = world.device("B").with(&["--folder", "a/b"]);
    names(&sentence(&device, &device.try_mount()), &["a/b", "not the name of a folder"]);
}

#[test]
fn a_server_that_cannot_be_reached_or_is_none() {
    let world = World::new();
    let device = world.device("A");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = refused(&device, &replaced(&device, "--server", format!("http://{free}").as_ref()));
    names(&nobody, &["cannot be reached", &free.to_string(), "first mount"]);
    let unknown = refused(&device, &replaced(&device, "--server", "https://none.invalid".as_ref()));
    names(&unknown, &["cannot be reached", "none.invalid"]);
    // Something answers there, but not our server.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let answer = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = other.accept().unwrap();
        drop(stream.read(&mut [0; 4096]));
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"));
    });
    names(
        &refused(&device, &replaced(&device, "--server", format!("http://{address}").as_ref())),
        &["answers, but not"],
    );
    answer.join().unwrap();
}

#[test]
fn an_address_of_the_wrong_form() {
    let world = World::new();
    let device = world.device("A");
    for (address, words) in [
        ("files.example.org", ["begins with https://", "https://"]),
        ("ftp://files.example.org", ["begins with https://", "http://"]),
        ("http://", ["is not an address", "http://"]),
        ("http://a b", ["is not an address", "a b"]),
        ("http://host:99999", ["is not an address", "port"]),
        ("http://anna:secret@host", ["user name or password", "token"]),
        ("http://host/?x=1", ["must end before", "?"]),
        ("", ["begins with https://", "http://"]),
    ] {
        let said = device.syncmount(&replaced(&device, "--server", address.as_ref()));
        assert_eq!(said.code, Some(2), "wrong usage: {said:?}");
        let sentence = sentence(&device, &said);
        names(&sentence, &words);
        assert!(!sentence.contains("secret"), "{sentence}");
    }
}

#[test]
fn a_mount_point_that_cannot_be_one() {
    let world = World::new();
    let device = world.device("A");
    let with = |path: &Path| {
        let mut words = device.mount_words();
        words[0] = path.into();
        words
    };
    names(&refused(&device, &with(&world.path("none"))), &["does not exist", "mkdir"]);
    let file = world.path("file");
    fs::write(&file, "x").unwrap();
    names(&refused(&device, &with(&file)), &["is not a directory"]);
    names(&refused(&device, &with(&file.join("below"))), &["is not a directory"]);
    let full = world.path("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join(".hidden"), "kept").unwrap();
    names(&refused(&device, &with(&full)), &["is not empty"]);
    assert_eq!(fs::read_to_string(full.join(".hidden")).unwrap(), "kept");
    let cache = device.folder.join("cache");
    let inside = device.mount_words().into_iter().chain(["--cache-dir".into(), cache.into()]).collect::<Vec<_>>();
    names(&refused(&device, &inside), &["inside the mount point", "--cache-dir"]);
    assert_eq!(fs::read_dir(&device.folder).unwrap().count(), 0, "nothing was made in it");
}

#[test]
fn a_mount_point_that_is_mounted_already() {
    let world = World::new();
    let device = world.mount("A");
    fs::write(device.path("file"), "x").unwrap();
    fs::create_dir(device.path("dir")).unwrap();
    let pid = device.status().pid;
    names(device.try_mount().refusal(), &["is mounted already", "syncmount umount"]);
    let mut words = device.mount_words();
    words[0] = device.path("dir").into();
    names(device.syncmount(&words).refusal(), &["lies inside"]);
    assert_eq!(device.status().pid, pid);
    assert_eq!(fs::read_to_string(device.path("file")).unwrap(), "x");
}

#[test]
fn a_cache_directory_that_another_process_uses_or_that_belongs_to_another_folder() {
    let world = World::new();
    world.server().command(&["folder", "add", "photos"]);
    let cache = world.path("cache");
    let option = ["--cache-dir".as_ref(), cache.as_os_str()];
    let first = world.mount_with("A", &option);
    let second = world.device("B").with(&option);
    names(&sentence(&second, &second.try_mount()), &["in use by another syncmount", &first.status().pid.to_string()]);
    fs::write(first.path("file"), "works on").unwrap();
    first.wait_synced();
    first.ask("umount", &[]).good();
    let other = world.device("C").with(&option).with(&["--folder", "photos"]);
    names(&sentence(&other, &other.try_mount()), &["cache folder holds", "--cache-dir"]);
    second.mount();
    assert_eq!(fs::read_to_string(second.path("file")).unwrap(), "works on");

    let file = world.path("a file");
    fs::write(&file, "").unwrap();
    let third = world.device("D").with(&["--cache-dir".as_ref(), file.as_os_str()]);
    names(&sentence(&third, &third.try_mount()), &["cannot make the cache directory", "a file"]);
}

#[test]
fn a_dead_mount_is_cleared_and_mounted_again() {
    let world = World::new();
    let device = world.mount("A");
    fs::write(device.path("file"), "before").unwrap();
    device.kill();
    assert!(device.is_mounted(), "the dead mount is there");
    assert_eq!(fs::metadata(&device.folder).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    names(device.ask("status", &[]).refusal(), &["has gone", "mounts it again"]);
    names(device.ask("wait", &[]).refusal(), &["has gone"]);
    let said = device.try_mount();
    assert!(said.good().contains(": mounted; log: "), "{said:?}");
    names(&said.stderr, &["cleared a dead mount"]);
    assert_eq!(fs::read_to_string(device.path("file")).unwrap(), "before");
    assert_eq!(mounts_below(&device.folder).len(), 1);

    device.kill();
    let said = device.ask("umount", &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    names(&said.stderr, &["cleared the dead mount"]);
    assert!(!device.is_mounted());
}

#[test]
fn no_fuse_device() {
    let world = World::new();
    let device = world.device("A").with(&MOUNT_ONLY);
    let said = in_own_mounts(&device, r#"mount -t tmpfs none /dev; exec "$0" "$@""#);
    names(&sentence(&device, &said), &["/dev/fuse is missing", "modprobe fuse", "--device /dev/fuse"]);
}

#[test]
fn a_folder_that_was_mounted_is_not_made_a_plain_one_where_there_is_no_fuse() {
    let world = World::new();
    let device = world.mount("A");
    fs::write(device.path("file"), "at the server").unwrap();
    device.wait_synced();
    device.fusermount_u();
    let said = in_own_mounts(&device, r#"mount -t tmpfs none /dev; exec "$0" "$@""#);
    names(&sentence(&device, &said), &["/dev/fuse is missing", "--mode watch"]);
    assert_eq!(fs::read_dir(&device.folder).unwrap().count(), 0, "nothing was fetched");
    device.mount();
    assert_eq!(fs::read_to_string(device.path("file")).unwrap(), "at the server");
}

#[test]
fn a_fuse_device_that_may_not_be_opened() {
    let world = World::new();
    let device = nobodys(&world, "A");
    let said = as_nobody(&device, &fuse_with_mode("600"));
    names(&sentence(&device, &said), &["/dev/fuse cannot be opened", "Permission denied", "chmod 666"]);
}

#[test]
fn no_fusermount_for_an_ordinary_user() {
    let world = World::new();
    let device = nobodys(&world, "A");
    let before = format!("{}; export FUSERMOUNT_PATH=/none/fusermount3", fuse_with_mode("666"));
    names(&sentence(&device, &as_nobody(&device, &before)), &["fusermount3 is missing", "apt-get install fuse3"]);
}

#[test]
fn a_mount_point_of_somebody_else() {
    let world = World::new();
    let device = nobodys(&world, "A");
    chown(&device.folder, Some(0), Some(0)).unwrap();
    let said = as_nobody(&device, &fuse_with_mode("666"));
    names(&sentence(&device, &said), &["you may not write to", "directory of your own"]);
}

#[test]
fn a_start_that_is_given_up_leaves_nothing() {
    let world = World::new();
    let device = world.device("A");
    // Somebody who takes the connection and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut child = device.program().args(replaced(&device, "--server", url.as_ref())).spawn().unwrap();
    let (connection, _) = silent.accept().unwrap();
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    drop((connection, silent));
    device.await_end();
    assert!(!device.is_mounted());
}

/// A proxy that notes what it is asked for and answers nothing.
struct Snoop {
    url: String,
    heard: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Snoop {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
        let noted = heard.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut head = [0; 4096];
                let len = std::io::Read::read(&mut stream, &mut head).unwrap_or(0);
                noted.lock().unwrap().extend_from_slice(&head[..len]);
            }
        });
        Self { url, heard }
    }

    fn run(&self, command: &mut Command) -> Said {
        run(command.env("http_proxy", &self.url).env("all_proxy", &self.url))
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.heard.lock().unwrap())).into_owned()
    }
}

#[test]
fn a_token_goes_in_clear_over_no_network_and_through_no_proxy_unasked() {
    // An address of no other machine, which is not known to be one of this.
    const ELSEWHERE: &str = "http://0.0.0.0:9";
    let world = World::new();
    let device = world.device("A");
    let (proxy, token_file) = (Snoop::new(), world.server().token_file());
    let token = fs::read_to_string(&token_file).unwrap();
    let login = |server: &str, more: &[&str]| {
        let words = ["login".as_ref(), server.as_ref(), "--token-file".as_ref(), token_file.as_os_str()];
        proxy.run(device.program().args(words).args(more))
    };
    let said = login(ELSEWHERE, &[]);
    assert_eq!(said.code, Some(2), "{said:?}");
    names(said.refusal(), &["another machine", "could be read", "https://", "--insecure-http"]);
    let said = proxy.run(device.program().args(replaced(&device, "--server", ELSEWHERE.as_ref())));
    names(&sentence(&device, &said), &["another machine", "--insecure-http"]);
    assert_eq!(proxy.heard(), "", "nothing was asked");
    assert!(!device.home.join(".config/syncmount/logins.toml").exists(), "nothing was saved");

    // Asked for, it is sent, and through the proxy that the environment names.
    assert_eq!(login(ELSEWHERE, &["--insecure-http"]).code, Some(1), "that proxy answers nothing");
    let heard = proxy.heard();
    assert!(heard.contains(ELSEWHERE) && heard.contains(token.trim()), "{heard}");

    // A server on this machine is reached without one.
    let url = world.server().url();
    assert_eq!(login(&url, &[]).code, Some(0));
    let said = proxy.run(device.program().arg(&device.folder));
    assert_eq!(said.code, Some(0), "{said:?}");
    fs::write(device.path("a"), "a").unwrap();
    device.wait_synced();
    device.ask("umount", &[]).good();
    assert_eq!(proxy.heard(), "");
}

#[test]
fn what_went_on_in_clear_goes_on_and_says_so() {
    let world = World::new();
    let device = world.mount("A");
    device.ask("umount", &[]).good();
    // As an earlier version has saved it: the same server, by a name that is not known to be this machine.
    let address = world.server().url().replace("127.0.0.1", "0.0.0.0");
    let mounts = device.home.join(".state/syncmount/mounts.toml");
    let saved = fs::read_to_string(&mounts).unwrap();
    fs::write(&mounts, saved.replace(&world.server().url(), &address)).unwrap();
    let cache = saved.lines().find_map(|line| line.strip_prefix("cache_dir = ")).unwrap().trim_matches('"').to_owned();
    fs::remove_dir_all(&cache).unwrap();
    let proxy = Snoop::new();
    let token = fs::read_to_string(world.server().token_file()).unwrap();
    let said = proxy.run(device.program().arg(&device.folder).env("SYNCMOUNT_TOKEN", token.trim()));
    assert_eq!(said.code, Some(0), "{said:?}");
    let note = device.status().problems.into_iter().find(|problem| problem.reason.contains("is encrypted"));
    names(&note.expect("a note").reason, &[&address, "https://", "--insecure-http"]);
    names(&device.log_tail(), &["can be read on the way"]);
    fs::write(device.path("a"), "a").unwrap();
    device.wait_synced();
    assert_eq!(proxy.heard(), "", "a token in clear goes through no proxy unasked");
    device.ask("umount", &[]).good();
}

#[test]
fn owners_of_a_plain_folder_that_is_not_roots() {
    let world = World::new();
    let device = nobodys(&world, "A");
    let mut command = Command::new("setpriv");
    device.environment(&mut command);
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(device.home.join("syncmount"));
    command.arg("watch").arg(&device.folder).args(["--once", "--owners", "synced", "--server", &world.server().url()]);
    let said = run(command.arg("--token-file").arg(device.home.join("token")));
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.stderr.contains("--owners=synced is for root in a plain folder"), "{said:?}");
}
