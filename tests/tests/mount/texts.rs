//! What is said of commands that cannot be obeyed: one sentence each, which says what to do.

use std::fs;
use syncmount_tests::support::*;

/// What is typed where `empty` is a directory and `file` is a file; the exit code; and what is said, with `{here}` for that directory.
const TEXTS: [(&str, i32, &str); 65] = [
    (
        "syncmount statsu",
        2,
        "there is no directory and no command `statsu`; did you mean `syncmount status`? A folder is given as ./statsu",
    ),
    (
        "syncmount ls",
        2,
        "there is no directory and no command `ls`; did you mean `syncmount status`? A folder is given as ./ls",
    ),
    (
        "syncmount version",
        2,
        "there is no directory and no command `version`; did you mean `syncmount --version`? A folder is given as ./version",
    ),
    (
        "syncmount mount x",
        2,
        "there is no directory and no command `mount`; did you mean `syncmount FOLDER`? A folder is given as ./mount",
    ),
    (
        "syncmount completion bash",
        2,
        "there is no directory and no command `completion`; `syncmount --help` lists the commands",
    ),
    ("syncmount help statsu", 2, "there is no command `statsu`; see `syncmount --help`"),
    (
        "syncmount unmout x",
        2,
        "there is no directory and no command `unmout`; did you mean `syncmount umount`? A folder is given as ./unmout",
    ),
    (
        "syncmount empty --server files",
        2,
        "the server's address begins with https:// or http://, for example https://sync.example.org",
    ),
    (
        "syncmount empty --server ftp://h",
        2,
        "the server's address begins with https:// or http://, for example https://sync.example.org",
    ),
    (
        "syncmount empty --server http://127.0.0.1:1",
        1,
        "there is no token for http://127.0.0.1:1; run `syncmount login http://127.0.0.1:1`, or give --token-file or SYNCMOUNT_TOKEN",
    ),
    (
        "syncmount empty --server http://127.0.0.1:1 --no-such",
        2,
        "there is no option `--no-such`; see `syncmount --help`",
    ),
    ("syncmount empty --server", 2, "a value is missing: --server <URL>"),
    (
        "syncmount none --server http://127.0.0.1:1",
        1,
        "{here}/none does not exist; make it with `mkdir -p {here}/none`",
    ),
    (
        "syncmount empty --server http://127.0.0.1:1 --token-file none",
        1,
        "cannot read the token in none: No such file or directory (os error 2)",
    ),
    (
        "syncmount empty --server http://127.0.0.1:1 --token-file file --folder a/b",
        2,
        "`a/b` is not the name of a folder: 1 to 255 bytes without `/` and control characters",
    ),
    ("syncmount empty --cache-size lots", 2, "`lots` is no value for --cache-size: write a size like 500M, 1.5G or 1T"),
    ("syncmount empty --cache-size 12", 2, "`12` is no value for --cache-size: the smallest cache is 1M"),
    ("syncmount empty --cache-size -5G", 2, "there is no option `-5`; see `syncmount --help`"),
    ("syncmount empty --owners all", 2, "`all` is no value for --owners; write user, local or synced"),
    ("syncmount empty --mode both", 2, "`both` is no value for --mode; write auto, mount or watch"),
    (
        "syncmount empty --device-name a/b",
        2,
        "`a/b` is no value for --device-name: write up to 40 letters and digits, with - or _ between them",
    ),
    ("syncmount status none", 1, "{here}/none does not exist; `syncmount status` lists the folders of this machine"),
    ("syncmount status empty", 1, "{here}/empty is not mounted; mount it with `syncmount {here}/empty`"),
    ("syncmount status --no-such", 2, "there is no option `--no-such`; see `syncmount status --help`"),
    ("syncmount status empty --json extra", 2, "`extra` is one word too many; see `syncmount status --help`"),
    ("syncmount wait", 2, "what is missing: <FOLDER>; see `syncmount wait --help`"),
    ("syncmount wait empty", 1, "{here}/empty is not mounted; mount it with `syncmount {here}/empty`"),
    (
        "syncmount wait empty --timeout soon",
        2,
        "`soon` is no value for --timeout: write a number with ms, s, m, h or d, like 500ms, 30s or 1d",
    ),
    (
        "syncmount wait empty --timeout 5y",
        2,
        "`5y` is no value for --timeout: write a number with ms, s, m, h or d, like 500ms, 30s or 1d, or `unlimited`",
    ),
    ("syncmount umount empty", 1, "{here}/empty is not mounted; mount it with `syncmount {here}/empty`"),
    ("syncmount umount none", 1, "{here}/none does not exist; `syncmount status` lists the folders of this machine"),
    ("syncmount pin", 2, "what is missing: <PATH>...; see `syncmount pin --help`"),
    ("syncmount pin none", 1, "cannot look at none: No such file or directory (os error 2)"),
    ("syncmount pin file", 1, "file is in no folder that is mounted here"),
    ("syncmount pin --wait file", 1, "file is in no folder that is mounted here"),
    ("syncmount pin --list --wait file", 2, "--list and --wait do not go together; see `syncmount pin --help`"),
    ("syncmount pin --timeout 5s file", 2, "what is missing: --wait; see `syncmount pin --help`"),
    ("syncmount unpin file", 1, "file is in no folder that is mounted here"),
    ("syncmount accept file", 1, "file is in no folder that is mounted here"),
    ("syncmount login", 2, "what is missing: <URL>; see `syncmount login --help`"),
    (
        "syncmount login files",
        2,
        "the server's address begins with https:// or http://, for example https://sync.example.org",
    ),
    (
        "syncmount login http://127.0.0.1:1 --token-file none",
        1,
        "cannot read the token in none: No such file or directory (os error 2)",
    ),
    ("syncmount logout http://127.0.0.1:1", 1, "there is no saved login for http://127.0.0.1:1"),
    ("syncmount cache verify", 2, "what is missing: <FOLDER>; see `syncmount cache verify --help`"),
    ("syncmount cache verify empty", 1, "nothing was mounted at {here}/empty before; name its cache with --cache-dir"),
    ("syncmount cache verify --cache-dir empty", 1, "there is no cache in {here}/empty"),
    (
        "syncmount service install empty",
        1,
        "nothing was mounted or watched at {here}/empty before; run `syncmount {here}/empty --server URL` once, then try again",
    ),
    ("syncmount watch", 2, "what is missing: <FOLDER>; see `syncmount watch --help`"),
    (
        "syncmount watch full --server http://127.0.0.1:1 --durability server",
        2,
        "there is no option `--durability`; see `syncmount watch --help`",
    ),
    ("syncmount-server --data", 2, "a value is missing: --data <DIR>"),
    ("syncmount-server --data file", 1, "file is no directory: name another one with --data"),
    (
        "syncmount-server --data d --listen nowhere",
        2,
        "`nowhere` is no value for --listen: write ADDRESS:PORT, like 127.0.0.1:8080, or a port of this machine, from 0 to 65535",
    ),
    (
        "syncmount-server --data d --listen 0.0.0.0:1",
        1,
        "other machines can reach 0.0.0.0:1 over plain HTTP, which shows tokens and files to everyone on the way: listen on 127.0.0.1 behind a proxy that adds TLS, or say --behind-proxy if such a proxy stands before this address, or --insecure-http if the network can be trusted",
    ),
    (
        "syncmount-server --data d --listen 99999",
        2,
        "`99999` is no value for --listen: write ADDRESS:PORT, like 127.0.0.1:8080, or a port of this machine, from 0 to 65535",
    ),
    ("syncmount-server token add", 2, "what is missing: --data <DIR>, <NAME>; see `syncmount-server token add --help`"),
    (
        "syncmount-server token add x --data empty",
        1,
        "empty holds no server's data: start `syncmount-server --data empty` first",
    ),
    (
        "syncmount-server token list --data none",
        1,
        "none holds no server's data: start `syncmount-server --data none` first",
    ),
    (
        "syncmount-server --data d token add x",
        2,
        "--data stands before the command `token`, whose options come behind it",
    ),
    ("syncmount-server undo --data empty", 2, "what is missing: --to <SEQ>; see `syncmount-server undo --help`"),
    (
        "syncmount-server undo --data empty --to x",
        2,
        "`x` is no value for --to: write the number of a change, as `syncmount-server history` lists them",
    ),
    ("syncmount-server tokn add", 2, "there is no command `tokn`; did you mean `token`?"),
    ("syncmount-server --data d --memory 3", 2, "`3` is no value for --memory: write a number of MiB from 64 to 65536"),
    ("syncmount-server --data d --hold-part 7", 2, "`7` is no value for --hold-part: write a number from 0 to 1"),
    (
        "syncmount-server check --data empty",
        1,
        "empty holds no server's data: start `syncmount-server --data empty` first",
    ),
    (
        "syncmount-server history --data empty",
        1,
        "empty holds no server's data: start `syncmount-server --data empty` first",
    ),
];

#[test]
fn what_cannot_be_obeyed_is_answered_with_one_sentence_that_says_what_to_do() {
    let world = World::new();
    // Without a token in its environment.
    let device = world.device("A");
    let here = device.home.join("here");
    fs::create_dir_all(here.join("empty")).unwrap();
    fs::write(here.join("file"), "x").unwrap();
    let mut wrong = Vec::new();
    for (typed, code, expected) in TEXTS {
        let (name, words) = typed.split_once(' ').unwrap();
        let mut command = std::process::Command::new(program(name));
        device.environment(&mut command);
        command.env_remove("SYNCMOUNT_TOKEN").current_dir(&here).args(words.split(' '));
        let said = run(&mut command);
        let expected = expected.replace("{here}", here.canonicalize().unwrap().to_str().unwrap());
        if said.code != Some(code) || !said.stdout.is_empty() || said.stderr != format!("{name}: {expected}\n") {
            wrong.push(format!("{typed}: {said:?}, not {code} with: {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(fs::read_dir(here.join("empty")).unwrap().next().is_none(), "nothing was made");
}
