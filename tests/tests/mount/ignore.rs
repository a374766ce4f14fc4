//! Names that stay on one machine, and where they meet those of the folder: rules, editors that save, directories that go.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use syncmount::status::ProblemKind;
use syncmount_tests::support::*;

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

#[track_caller]
fn until_names(dir: &Path, expected: &[&str]) {
    until("the names", || match names(dir) {
        found if found == expected => Ok(()),
        found => Err(format!("{found:?} instead of {expected:?}")),
    });
}

#[track_caller]
fn until_reads(path: &Path, expected: &str) {
    until("the text", || match fs::read_to_string(path) {
        Ok(text) if text == expected => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Everything that A has done until now has been seen by B.
#[track_caller]
fn settle(a: &Device, b: &Device) {
    fs::write(a.path("settled"), "").unwrap();
    a.wait_synced();
    until("the last change", || if b.path("settled").exists() { Ok(()) } else { Err("not there".into()) });
    fs::remove_file(a.path("settled")).unwrap();
    a.wait_synced();
    until("its removal", || if b.path("settled").exists() { Err("there".into()) } else { Ok(()) });
}

#[test]
fn ignored_names_stay_on_their_machine_and_are_never_pending() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::write(a.path(".syncignore"), "build/\n*.log\n").unwrap();
    a.wait_synced();
    fs::create_dir_all(a.path("project/build/deep")).unwrap();
    fs::write(a.path("project/build/deep/out.o"), "object").unwrap();
    fs::write(a.path("project/main.c"), "int main;").unwrap();
    fs::write(a.path("today.log"), "log").unwrap();
    fs::write(a.path(".main.c.swp"), "swap").unwrap();
    symlink("anna@laptop.1", a.path(".#main.c")).unwrap();
    settle(&a, &b);
    assert_eq!(
        (names(&b.folder), names(&b.path("project"))),
        (vec![".syncignore".into(), "project".into()], vec!["main.c".into()])
    );
    let status = a.status();
    assert_eq!((status.pending_files, status.pending_nodes, status.only_here), (0, 0, 6));
    assert!(a.ask("status", &[]).good().contains("only here"));

    // They are ordinary files to whoever uses them, and to the next mount.
    OpenOptions::new().append(true).open(a.path("today.log")).unwrap().write_all(b" and more").unwrap();
    let inode = fs::metadata(a.path("today.log")).unwrap().ino();
    a.fusermount_u();
    a.mount();
    assert_eq!(fs::read_to_string(a.path("today.log")).unwrap(), "log and more");
    assert_eq!(fs::metadata(a.path("today.log")).unwrap().ino(), inode);
    assert_eq!(fs::read_to_string(a.path("project/build/deep/out.o")).unwrap(), "object");
    assert_eq!(fs::read_link(a.path(".#main.c")).unwrap(), Path::new("anna@laptop.1"));
    fs::remove_dir_all(a.path("project/build")).unwrap();
    fs::remove_file(a.path("today.log")).unwrap();
    settle(&a, &b);
    assert_eq!(a.status().only_here, 2);
}

#[test]
fn ignored_files_survive_a_client_that_is_killed() {
    let world = World::new();
    let a = world.mount("A");
    fs::write(a.path("notes.txt~"), "backup").unwrap();
    fs::create_dir(a.path("dir")).unwrap();
    let mut synced = File::create(a.path("dir/#notes.txt#")).unwrap();
    synced.write_all(b"saved by itself").unwrap();
    synced.sync_all().unwrap();
    a.kill();
    a.mount();
    assert_eq!(fs::read_to_string(a.path("notes.txt~")).unwrap(), "backup");
    assert_eq!(fs::read_to_string(a.path("dir/#notes.txt#")).unwrap(), "saved by itself");
    a.wait_synced();
    assert_eq!(a.status().only_here, 2);
}

/// A file comes to the server by another way than a mount, where no rules count.
fn put(world: &World, name: &str, text: &str) {
    let (url, token) = {
        let server = world.server();
        (server.url(), fs::read_to_string(server.token_file()).unwrap())
    };
    let url = format!("{url}/v1/folders/default/files/{name}");
    let auth = format!("Authorization: Bearer {}", token.trim());
    run(Command::new("curl").args(["-sS", "--fail", "-H", &auth, "-X", "PUT", "--data-binary", text, &url])).good();
}

/// gedit and most GTK programs: a temporary file of their own name, synced, renamed over the document.
fn save_as_gedit(path: &Path, text: &str) {
    let temporary = path.with_file_name(".goutputstream-X7A1Z2");
    let mut file = File::create(&temporary).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.sync_all().unwrap();
    drop(file);
    fs::rename(temporary, path).unwrap();
}

/// vim: a probe, the old version renamed aside, the new one written, the old one removed.
fn save_as_vim(path: &Path, text: &str) {
    let probe = path.with_file_name("4913");
    File::create(&probe).unwrap();
    fs::remove_file(probe).unwrap();
    let mut backup = path.as_os_str().to_owned();
    backup.push("~");
    fs::rename(path, &backup).unwrap();
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.sync_all().unwrap();
    drop(file);
    fs::remove_file(backup).unwrap();
}

/// LibreOffice: a lock, a temporary file, renamed over the document, the lock removed.
fn save_as_libreoffice(path: &Path, text: &str) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let lock = path.with_file_name(format!(".~lock.{name}#"));
    fs::write(&lock, ",anna,laptop").unwrap();
    let temporary = path.with_file_name("lu12345a6b.tmp");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, path).unwrap();
    fs::remove_file(lock).unwrap();
}

/// emacs: a lock, the first time the old version renamed to a backup that stays, the new one written.
fn save_as_emacs(path: &Path, text: &str) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let lock = path.with_file_name(format!(".#{name}"));
    symlink("anna@laptop.1", &lock).unwrap();
    let mut backup = path.as_os_str().to_owned();
    backup.push("~");
    if !Path::new(&backup).exists() {
        fs::rename(path, &backup).unwrap();
    }
    fs::write(path, text).unwrap();
    fs::remove_file(lock).unwrap();
}

#[test]
fn what_editors_save_arrives_as_edits_of_one_file_that_is_never_missing() {
    type Save = fn(&Path, &str);
    let saves: [(&str, Save); 4] = [
        ("gedit", save_as_gedit),
        ("vim", save_as_vim),
        ("libreoffice", save_as_libreoffice),
        ("emacs", save_as_emacs),
    ];
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    for (editor, save) in saves {
        let (here, there) = (a.path(editor), b.path(editor));
        fs::write(&here, "version 000").unwrap();
        a.wait_synced();
        until_reads(&there, "version 000");
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = "version 000".to_owned();
                while last != "version 020" {
                    let text = match fs::read_to_string(&there) {
                        Ok(text) => text,
                        // Replaced twice while it was being opened: the kernel looks a name up anew only once.
                        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => continue,
                        Err(error) => panic!("{editor} after {last}: {error}"),
                    };
                    assert!(text.len() == 11 && text >= last, "{editor}: {text:?} after {last:?}");
                    last = text;
                }
            });
            for number in 1..=20 {
                save(&here, &format!("version {number:03}"));
                if number % 3 == 0 {
                    a.wait_synced();
                }
            }
            until("the last version", || if reader.is_finished() { Ok(()) } else { Err("not yet".into()) });
            reader.join().unwrap();
        });
    }
    settle(&a, &b);
    assert_eq!(names(&b.folder), ["emacs", "gedit", "libreoffice", "vim"], "and nothing else, no conflict either");
    assert_eq!(names(&a.folder), ["emacs", "emacs~", "gedit", "libreoffice", "vim"]);
    assert_eq!(fs::read_to_string(a.path("emacs~")).unwrap(), "version 000");
    assert_eq!((a.status().only_here, a.status().problems, b.status().problems), (1, vec![], vec![]));
}

#[test]
fn a_rule_that_comes_is_for_new_names_and_one_that_goes_lets_them_travel() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/old.log"), "1").unwrap();
    a.wait_synced();
    until_reads(&b.path("d/old.log"), "1");
    // From the other device.
    fs::write(b.path(".syncignore"), "*.log\n").unwrap();
    b.wait_synced();
    until_reads(&a.path(".syncignore"), "*.log\n");
    settle(&b, &a);
    fs::write(a.path("d/new.log"), "2").unwrap();
    fs::write(a.path("d/old.log"), "1, edited").unwrap();
    until_reads(&b.path("d/old.log"), "1, edited");
    settle(&a, &b);
    assert_eq!(names(&b.path("d")), ["old.log"]);
    // Taken back in a directory below, and then for all.
    fs::write(a.path("top.log"), "3").unwrap();
    fs::write(a.path("d/.syncignore"), "!*.log\n").unwrap();
    until_reads(&b.path("d/new.log"), "2");
    settle(&a, &b);
    assert!(!b.path("top.log").exists());
    fs::remove_file(b.path(".syncignore")).unwrap();
    until_reads(&b.path("top.log"), "3");
    a.wait_synced();
    assert_eq!(a.status().only_here, 0);
}

#[test]
fn what_is_made_while_offline_is_held_to_the_rules_that_were_made_after_it() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    world.while_offline(|| {
        // What is on its way to the server when the rules come is not held to them: that is this file alone.
        fs::write(a.path("first"), "").unwrap();
        a.kill();
        a.mount();
        fs::create_dir(a.path("build")).unwrap();
        fs::write(a.path("build/out.o"), "object").unwrap();
        fs::write(a.path("main.c"), "int main;").unwrap();
        fs::write(a.path(".syncignore"), "build/\n").unwrap();
    });
    until_reads(&b.path("main.c"), "int main;");
    settle(&a, &b);
    assert_eq!(names(&b.folder), [".syncignore", "first", "main.c"]);
    assert_eq!((a.status().only_here, fs::read_to_string(a.path("build/out.o")).unwrap().as_str()), (2, "object"));
}

#[test]
fn a_rule_that_means_nothing_is_told_and_the_others_count() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::write(a.path(".syncignore"), "*.log\n[z-a]\n*.o\n").unwrap();
    a.wait_synced();
    fs::write(a.path("x.log"), "").unwrap();
    fs::write(a.path("x.o"), "").unwrap();
    settle(&a, &b);
    assert_eq!(names(&b.folder), [".syncignore"]);
    for device in [&a, &b] {
        let problems = device.status().problems;
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.kind == ProblemKind::Note && problem.path == ".syncignore", "{problem:?}");
        assert!(problem.reason.starts_with("line 2: "), "{problem:?}");
    }
    fs::write(b.path(".syncignore"), "*.log\n*.o\n").unwrap();
    until("the end of the problem", || match a.status().problems {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    });
}

#[test]
fn a_name_that_another_device_brings_is_the_folders_and_the_ignored_file_stands_beside_it() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::write(a.path("x~"), "A's own").unwrap();
    put(&world, "x~", "from elsewhere");
    until_reads(&a.path("x~"), "from elsewhere");
    settle(&a, &b);
    assert_eq!(names(&b.folder), ["x~"]);
    let found = names(&a.folder);
    let aside: Vec<&String> = found.iter().filter(|name| name.starts_with("x~ (conflict")).collect();
    let [aside] = &aside[..] else { panic!("{found:?}") };
    assert_eq!(fs::read_to_string(a.path(aside)).unwrap(), "A's own");
    assert_eq!((a.status().only_here, a.status().problems.len()), (1, 1), "listed as a conflict, and not sent");
    fs::write(a.path("x~"), "edited at A").unwrap();
    until_reads(&b.path("x~"), "edited at A");
}

#[test]
fn a_directory_that_is_removed_elsewhere_keeps_what_is_ignored_in_it() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::create_dir_all(a.path("d/e")).unwrap();
    fs::write(a.path("d/e/file"), "x").unwrap();
    fs::write(a.path("d/e/file~"), "backup").unwrap();
    a.wait_synced();
    until_reads(&b.path("d/e/file"), "x");
    fs::remove_dir_all(b.path("d")).unwrap();
    until_names(&a.path("d/e"), &["file~"]);
    settle(&a, &b);
    assert!(!b.path("d").exists(), "it does not come back to the others");
    a.fusermount_u();
    a.mount();
    assert_eq!(fs::read_to_string(a.path("d/e/file~")).unwrap(), "backup");
    fs::write(a.path("d/e/new"), "y").unwrap();
    until_reads(&b.path("d/e/new"), "y");
}

#[test]
fn what_moves_out_of_the_folder_keeps_its_bytes_and_its_readers_or_is_refused() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let large = "x".repeat(200_000);
    fs::write(a.path("doc"), &large).unwrap();
    fs::create_dir(a.path("tree")).unwrap();
    fs::write(a.path("tree/file"), "in a tree").unwrap();
    a.wait_synced();
    until_reads(&b.path("doc"), &large);
    until_reads(&b.path("tree/file"), "in a tree");
    let mut open = OpenOptions::new().read(true).write(true).open(a.path("doc")).unwrap();
    let inode = open.metadata().unwrap().ino();
    fs::rename(a.path("doc"), a.path("doc~")).unwrap();
    until("the removal", || if b.path("doc").exists() { Err("still there".into()) } else { Ok(()) });
    assert_eq!(fs::metadata(a.path("doc~")).unwrap().ino(), inode);
    open.write_all(b"begin").unwrap();
    open.rewind().unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    drop(open);
    let expected = format!("begin{}", "x".repeat(199_995));
    assert!(text == expected && fs::read_to_string(a.path("doc~")).unwrap() == expected);
    a.kill();
    a.mount();
    assert_eq!(fs::read_to_string(a.path("doc~")).unwrap(), expected);

    // What is not here, and trees, are left to be copied.
    fs::write(b.path("far"), "y".repeat(100_000)).unwrap();
    b.wait_synced();
    until("the name", || if a.path("far").exists() { Ok(()) } else { Err("not there".into()) });
    for (from, to) in [("far", "far~"), ("tree", "tree~")] {
        let error = fs::rename(a.path(from), a.path(to)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::CrossesDevices, "{from}");
    }
    run(Command::new("mv").arg(a.path("far")).arg(a.path("far~"))).good();
    run(Command::new("mv").arg(a.path("tree")).arg(a.path("tree~"))).good();
    assert_eq!(fs::read_to_string(a.path("far~")).unwrap(), "y".repeat(100_000));
    assert_eq!(fs::read_to_string(a.path("tree~/file")).unwrap(), "in a tree");
    until_names(&b.folder, &[]);
    // And back.
    fs::rename(a.path("tree~"), a.path("tree")).unwrap();
    fs::rename(a.path("doc~"), a.path("doc")).unwrap();
    until_reads(&b.path("tree/file"), "in a tree");
    until_reads(&b.path("doc"), &expected);
}
