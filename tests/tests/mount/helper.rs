//! `syncmount-helper`: an ordinary user's kernel reads whole cached files by itself, and the helper does nothing else for anybody.
//!
//! These tests change to another user and make a program setuid, for which they must be run as root.

use crate::nobody::{NOBODY, as_nobody, ask_beside, beside_nobody, client, command_beside, fuse_with_mode, nobodys};
use rustix::fs::{CWD, IFlags, MemfdFlags, Mode, OFlags, SealFlags, ioctl_setflags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, Uid, kill_process};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use syncmount::status::Status;
use syncmount_helper::wire::{self, Answer, Request};
use syncmount_tests::support::*;

const NAME: &str = "syncmount-helper";

/// `CAP_SYS_ADMIN`, as `/proc` writes it.
const ONE_RIGHT: &str = "0000000000200000";

/// A copy of the helper in `dir` with these bits.
fn install(dir: &Path, mode: u32) -> PathBuf {
    let path = dir.join(NAME);
    fs::copy(program(NAME), &path).unwrap();
    chown(&path, Some(0), Some(0)).expect("this test makes a program setuid and must be run as root");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// A device of `nobody` with a mount, beside whose program there is a helper with these bits.
fn mounted(world: &World, helper: u32) -> Device {
    let device = nobodys(world, "A").with(&["--passthrough", "always"]);
    install(&device.home, helper);
    as_nobody(&device, &fuse_with_mode("666")).good();
    device
}

/// How often its kernel has read a file by itself.
#[track_caller]
fn passed(device: &Device) -> u64 {
    let said = ask_beside(device, "status", &["--json"]);
    serde_json::from_str::<Status>(said.good()).unwrap().passed_through
}

/// Everything is at the server.
#[track_caller]
fn wait_synced(device: &Device) {
    ask_beside(device, "wait", &["--timeout", "120s"]).good();
}

/// The helpers of a device's mount.
fn helpers(device: &Device) -> Vec<Pid> {
    let client = client(device).as_raw_nonzero().to_string();
    let all = fs::read_dir("/proc").unwrap().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    numbers.filter(|&pid| field(pid, "PPid:").as_deref() == Some(&client)).filter_map(Pid::from_raw).collect()
}

/// A line of `/proc/PID/status`, its words with one space between.
fn field(pid: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Reads a file until the kernel does so by itself; what `sha256sum` says of it.
#[track_caller]
fn read_by_the_kernel(device: &Device, name: &str) -> String {
    until("the kernel to read by itself", || {
        let before = passed(device);
        let said = beside_nobody(device, &format!("sha256sum {name}"));
        let is_passed = passed(device) > before;
        if is_passed { Ok(said.good().to_owned()) } else { Err("it was read through the program".into()) }
    })
}

#[track_caller]
fn await_gone(helper: Pid) {
    until("the helper to be gone", || {
        let number = helper.as_raw_nonzero().get();
        // One that nobody waits for any more has no memory.
        let gone = field(number, "State:").is_none_or(|state| state.starts_with('Z'));
        if gone { Ok(()) } else { Err(format!("{helper:?} is there")) }
    });
}

const MAKE: &str = "head -c 1000000 /dev/urandom > file; sha256sum file";

/// A device whose kernel reads `file` by itself, what `sha256sum` says of that, and the helper.
#[track_caller]
fn passed_through(world: &World) -> (Device, String, Pid) {
    let device = mounted(world, 0o4755);
    let written = beside_nobody(&device, MAKE).good().to_owned();
    wait_synced(&device);
    assert_eq!(read_by_the_kernel(&device, "file"), written);
    let [helper] = helpers(&device)[..] else { panic!("{:?}", helpers(&device)) };
    (device, written, helper)
}

#[test]
fn an_ordinary_users_kernel_reads_by_itself_and_sees_every_change() {
    let world = World::new();
    let (device, written, helper) = passed_through(&world);

    // It runs as the user, with one right and nothing but what it was given.
    let number = helper.as_raw_nonzero().get();
    let nobody = NOBODY.to_string();
    let says = |name| field(number, name).unwrap();
    assert_eq!(says("Uid:"), [nobody.as_str(); 4].join(" "));
    assert_eq!(says("Gid:"), [nobody.as_str(); 4].join(" "));
    assert_eq!((says("CapPrm:").as_str(), says("CapEff:").as_str()), (ONE_RIGHT, ONE_RIGHT));
    for none in ["CapInh:", "CapAmb:"] {
        assert_eq!(says(none).trim_matches('0'), "");
    }
    assert_eq!((says("NoNewPrivs:").as_str(), says("Seccomp:").as_str(), says("Threads:").as_str()), ("1", "2", "1"));
    let open = fs::read_dir(format!("/proc/{number}/fd")).unwrap().flatten();
    let open: Vec<PathBuf> = open.map(|entry| fs::read_link(entry.path()).unwrap()).collect();
    // Its standard error is the client's.
    let is_kept = |path: &PathBuf| path.starts_with(&device.home) && path.extension().is_none_or(|kind| kind != "log");
    assert!(!open.iter().any(is_kept), "what it was shown is closed: {open:?}");

    // Who has it open for reading sees what is written, appended and cut, and the server gets it.
    let changed = "exec 3<file; exec 4<file; head -c 70000 /dev/zero | dd of=file bs=70000 seek=1 conv=notrunc status=none; \
        printf end >>file; cmp - file <&3; truncate -s 500000 file; cmp - file <&4; sha256sum file";
    let changed = beside_nobody(&device, changed).good().to_owned();
    assert_ne!(changed, written);
    wait_synced(&device);
    assert_eq!(read_by_the_kernel(&device, "file"), changed);
    let b = world.mount("B");
    until("the same at another device", || {
        let said = run(Command::new("sha256sum").arg("file").current_dir(&b.folder));
        if said.stdout == changed { Ok(()) } else { Err(format!("{said:?}")) }
    });

    beside_nobody(&device, "cd /; fusermount3 -u \"$HOME/Sync\"").good();
    device.await_end();
    await_gone(helper);
}

/// Somebody who has `file` open, and says what `sha256sum` says of it when it hears that it may.
#[track_caller]
fn reader(device: &Device) -> Child {
    let before = passed(device);
    let mut command = command_beside(device, "exec 3<file; read line || true; exec sha256sum <&3");
    let reader = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    until("the file to be open", || if passed(device) > before { Ok(()) } else { Err("it is not".into()) });
    reader
}

#[test]
fn a_mount_goes_on_without_its_helper() {
    let world = World::new();
    let (device, written, helper) = passed_through(&world);
    let mut reader = reader(&device);
    kill_process(helper, Signal::KILL).unwrap();
    await_gone(helper);
    // Who has it open so goes on, and sees what is written; others open it as well meanwhile.
    let rewritten = beside_nobody(&device, "head -c 1000000 /dev/zero >file; sha256sum file").good().to_owned();
    assert_ne!(rewritten, written);
    drop(reader.stdin.take());
    let seen = reader.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(seen.stdout).unwrap(), rewritten.replace("file", "-"));
    wait_synced(&device);
    let (written, before) = (rewritten, passed(&device));
    // What is opened from now on is read through the program.
    for _ in 0..3 {
        assert_eq!(beside_nobody(&device, "sha256sum file").good(), written);
    }
    let changed = beside_nobody(&device, "printf more >>file; sha256sum file").good().to_owned();
    assert_ne!(changed, written);
    wait_synced(&device);
    assert_eq!(beside_nobody(&device, "sha256sum file").good(), changed);
    assert_eq!(passed(&device), before);
    assert!(helpers(&device).is_empty(), "{:?}", helpers(&device));
}

#[test]
fn a_client_that_is_killed_takes_its_helper_with_it() {
    let world = World::new();
    let (device, _, helper) = passed_through(&world);
    kill_process(client(&device), Signal::KILL).unwrap();
    device.await_end();
    await_gone(helper);
}

#[test]
fn a_helper_that_is_not_installed_as_it_should_be_is_not_used() {
    for mode in [0o755, 0o4775] {
        let world = World::new();
        let device = mounted(&world, mode);
        let written = beside_nobody(&device, MAKE).good().to_owned();
        wait_synced(&device);
        for _ in 0..3 {
            assert_eq!(beside_nobody(&device, "sha256sum file").good(), written);
        }
        assert_eq!(passed(&device), 0, "{mode:o}");
    }
}

/// A helper that runs for `nobody`, and our end of its socket.
struct Run {
    socket: OwnedFd,
    child: Child,
}

impl Run {
    fn new(program: &Path) -> Self {
        let (socket, there) = sockets();
        Self { socket, child: start(program, there.into()) }
    }

    /// One that has got a device that could be the connection of a mount.
    fn connected(program: &Path) -> Self {
        let run = Self::new(program);
        assert_eq!(run.ask(Request::Connection, Some(fuse().as_fd())), Ok(0));
        run
    }

    fn ask(&self, request: Request, with: Option<BorrowedFd<'_>>) -> Answer {
        self.ask_so(request.encode(), with).expect("it is still there")
    }

    fn ask_so(&self, message: [u8; wire::LEN], with: Option<BorrowedFd<'_>>) -> Option<Answer> {
        wire::send(&self.socket, message, with).unwrap();
        let (answer, with) = wire::receive(&self.socket).unwrap()?;
        assert!(with.is_none());
        Some(wire::decode_answer(&answer).unwrap())
    }

    fn shows(&self, file: impl AsFd) -> Answer {
        self.ask(Request::Show, Some(file.as_fd()))
    }

    /// How it ends when we close our end, if it has not ended before: the exit code, and what it has said.
    fn end(self) -> (Option<i32>, String) {
        drop(self.socket);
        let said = self.child.wait_with_output().unwrap();
        (said.status.code(), String::from_utf8(said.stderr).unwrap())
    }
}

/// Two ends of a socket that `nobody` has made.
fn sockets() -> (OwnedFd, OwnedFd) {
    let make = || {
        // It is the thread's user that the kernel notes.
        rustix::thread::set_thread_res_uid(None, Uid::from_raw(NOBODY), None).unwrap();
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}

/// Starts the program as `nobody`.
fn start(program: &Path, stdin: Stdio) -> Child {
    let mut command = Command::new(program);
    command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped()).uid(NOBODY).gid(NOBODY);
    command.spawn().unwrap()
}

fn fuse() -> File {
    File::options().read(true).write(true).open("/dev/fuse").unwrap()
}

/// A directory that `nobody` can enter, with a helper in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let helper = install(dir.path(), 0o4755);
    (dir, helper)
}

/// A file of `owner` in `dir`.
fn file_of(dir: &Path, name: &str, owner: u32) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, "bytes").unwrap();
    chown(&path, Some(owner), Some(owner)).unwrap();
    path
}

#[test]
fn the_helper_starts_only_as_what_it_is_and_for_whom_it_is_there() {
    let (dir, helper) = place();
    // Not by hand, and not with somebody else's socket.
    let by_hand = start(&helper, Stdio::null()).wait_with_output().unwrap();
    assert_eq!(by_hand.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&by_hand.stderr).contains("is started by `syncmount`"), "{by_hand:?}");
    let (_here, there) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    assert_eq!(start(&helper, there.into()).wait().unwrap().code(), Some(1));
    let (_here, there) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    assert_eq!(start(&helper, there.into()).wait().unwrap().code(), Some(1));
    // Not without its right.
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let (code, said) = Run { child: start(&helper, sockets().1.into()), socket: sockets().0 }.end();
    assert_eq!(code, Some(1));
    assert!(said.contains("setuid"), "{said}");
    drop(dir);
}

#[test]
fn the_helper_takes_a_connection_first_and_nothing_else() {
    let (dir, helper) = place();
    let other = File::open("/dev/null").unwrap();
    for (first, with) in [(Request::Show, Some(&other)), (Request::End(1), None), (Request::Connection, None)] {
        let run = Run::new(&helper);
        assert_eq!(run.ask_so(first.encode(), with.map(AsFd::as_fd)), None, "{first:?}");
        assert_eq!(run.end().0, Some(1));
    }
    for path in ["/dev/null", "/dev/zero", "/", "/etc/passwd"] {
        let run = Run::new(&helper);
        assert_eq!(run.ask(Request::Connection, Some(File::open(path).unwrap().as_fd())), Err(Errno::NODEV), "{path}");
        assert_eq!(run.end().0, Some(1));
    }
    let run = Run::connected(&helper);
    for wrong in [Request::Connection.encode(), [9; wire::LEN], [0; wire::LEN]] {
        assert_eq!(run.ask_so(wrong, None), Some(Err(Errno::PROTO)));
    }
    // With a file where none belongs, and without one where one does.
    assert_eq!(run.ask(Request::Show, None), Err(Errno::PROTO));
    assert_eq!(run.ask(Request::End(1), Some(other.as_fd())), Err(Errno::PROTO));
    // Another's id, or one that never was.
    for id in [0, 1, 2, u32::MAX] {
        assert_eq!(run.ask(Request::End(id), None), Err(Errno::NOENT));
    }
    assert_eq!(run.end(), (Some(0), String::new()));
    drop(dir);
}

/// A file of `dir` through a mount with these attributes, which has no place in any tree.
fn through_a_mount(dir: &Path, name: &str, attributes: u64, owners: Option<&File>) -> OwnedFd {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, dir, flags).unwrap();
    let userns_fd = owners.map_or(0, |owners| owners.as_raw_fd() as u64);
    let attributes = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd };
    let size = size_of::<libc::mount_attr>();
    let (fd, flags) = (tree.as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: the path ends with NUL, the attributes have the size that is said, and the call changes nothing of either.
    let set = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &raw const attributes, size) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    rustix::fs::openat(&tree, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Namespaces in which only the user 1000 is anybody.
fn owners() -> File {
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    let mut child = Command::new("unshare").args(["--user", "sleep", "1000"]).spawn().unwrap();
    let of_child = |name: &str| format!("/proc/{}/{name}", child.id());
    until("namespaces of its own", || match fs::read_link(of_child("ns/user")) {
        Ok(other) if other != own => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for map in ["uid_map", "gid_map"] {
        fs::write(of_child(map), "1000 1000 1").unwrap();
    }
    let owners = File::open(of_child("ns/user")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    owners
}

/// A file in memory that nobody can write to any more.
fn sealed() -> OwnedFd {
    let file = rustix::fs::memfd_create("sealed", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::fchown(&file, Some(Uid::from_raw(NOBODY)), None).unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE).unwrap();
    file
}

#[test]
fn the_helper_shows_only_what_its_caller_could_write() {
    let (dir, helper) = place();
    let dir = dir.path();
    let run = Run::connected(&helper);
    let (own, others) = (file_of(dir, "own", NOBODY), file_of(dir, "others", 0));
    // The kernel is asked about this one; it knows that this connection is no mount's.
    assert_eq!(run.shows(File::open(&own).unwrap()), Err(Errno::PERM));
    assert_eq!(run.shows(File::options().read(true).write(true).open(&own).unwrap()), Err(Errno::PERM));

    // Its owner can change that he may only read it.
    let read_only = file_of(dir, "read only", NOBODY);
    fs::set_permissions(&read_only, fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(run.shows(File::open(&read_only).unwrap()), Err(Errno::PERM));
    // But not what a mount says, and where owners are mapped, nobody's file may be anybody's.
    let read_only = through_a_mount(dir, "own", libc::MOUNT_ATTR_RDONLY, None);
    assert_eq!(run.shows(read_only), Err(Errno::ROFS));
    let mapped = through_a_mount(dir, "others", libc::MOUNT_ATTR_IDMAP, Some(&owners()));
    assert_eq!(rustix::fs::fstat(&mapped).unwrap().st_uid, NOBODY, "as if it were the caller's");
    assert_eq!(run.shows(mapped), Err(Errno::ACCESS));

    assert_eq!(run.shows(File::open(&others).unwrap()), Err(Errno::ACCESS));
    fs::set_permissions(&others, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(run.shows(File::options().read(true).write(true).open(&others).unwrap()), Err(Errno::ACCESS));
    assert_eq!(run.shows(File::open("/etc/passwd").unwrap()), Err(Errno::ACCESS));
    assert_eq!(run.shows(File::options().write(true).open(&own).unwrap()), Err(Errno::BADF));
    let only_a_name = File::options().read(true).custom_flags(OFlags::PATH.bits() as i32).open(&own).unwrap();
    assert_eq!(run.shows(only_a_name), Err(Errno::BADF));
    let own_dir = dir.join("dir");
    fs::create_dir(&own_dir).unwrap();
    chown(&own_dir, Some(NOBODY), None).unwrap();
    assert_eq!(run.shows(File::open(&own_dir).unwrap()), Err(Errno::INVAL));
    assert_eq!(run.shows(rustix::pipe::pipe().unwrap().0), Err(Errno::INVAL));
    assert_eq!(run.shows(File::open("/dev/null").unwrap()), Err(Errno::INVAL));
    // Of the helper's own user, and yet no file of bytes.
    let number = run.child.id();
    let of_process = format!("/proc/{number}/comm");
    chown(&of_process, Some(NOBODY), None).ok();
    assert!(matches!(run.shows(File::open(of_process).unwrap()), Err(Errno::OPNOTSUPP | Errno::ACCESS)));
    assert_eq!(run.shows(sealed()), Err(Errno::ROFS));
    for flag in [IFlags::IMMUTABLE, IFlags::APPEND] {
        let file = File::open(&own).unwrap();
        ioctl_setflags(&file, flag).unwrap();
        let answer = run.shows(&file);
        ioctl_setflags(&file, IFlags::empty()).unwrap();
        assert_eq!(answer, Err(Errno::ROFS), "{flag:?}");
    }
    assert_eq!(run.shows(File::open(&own).unwrap()), Err(Errno::PERM), "it goes on as before");
    assert_eq!(run.end(), (Some(0), String::new()));
}
