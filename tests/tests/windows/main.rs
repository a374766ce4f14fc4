//! The client for Windows, run by wine, on one server with a mount on Linux: the same files on both, also under names that
//! Windows cannot hold, through restarts, `kill -9` and programs that keep files to themselves.
//!
//! `./dev windows test` builds what this needs. Wine looks names up slowly and tells of fewer changes than Windows does:
//! folders are small, and the client looks at everything every few seconds.

mod machine;

use machine::Windows;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use syncmount::status::ProblemKind;
use syncmount_common::portable::{Platform, from_local, to_local};
use syncmount_tests::support::{Device, World, until};

/// What is in a folder, by true name; directories have no bytes.
type Files = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What is below `root`. `true_name` tells what a name on that disk stands for; `None` leaves it out.
fn files(root: &Path, true_name: &dyn Fn(&[u8]) -> Option<Vec<u8>>) -> std::io::Result<Files> {
    let mut found = Files::new();
    let mut pending = vec![(root.to_path_buf(), PathBuf::new())];
    while let Some((dir, name)) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let Some(own) = true_name(entry.file_name().as_bytes()) else { continue };
            let name = name.join(std::ffi::OsStr::from_bytes(&own));
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push((entry.path(), name.clone()));
                found.insert(name, None);
            } else if kind.is_file() {
                found.insert(name, Some(fs::read(entry.path())?));
            }
        }
    }
    Ok(found)
}

/// What a name on Windows stands for. The client's own files stand for nothing.
fn windows_name(local: &[u8]) -> Option<Vec<u8>> {
    if local.starts_with(b".syncmount-") {
        return None;
    }
    let name = from_local(local, Platform::Windows);
    let name = name.unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(local)));
    assert_eq!(to_local(&name, Platform::Windows).as_deref(), Ok(local), "the mapping is exact in both directions");
    Some(name.as_bytes().to_vec())
}

/// Until both have the same files.
#[track_caller]
fn become_equal(linux: &Device, windows: &Windows) {
    until("the same files on both", || {
        let here = files(&linux.folder, &|name| Some(name.to_vec())).map_err(|error| error.to_string())?;
        let there = files(&windows.folder, &windows_name).map_err(|error| error.to_string())?;
        if here == there {
            return Ok(());
        }
        let differ = |(name, bytes): &(&PathBuf, &Option<Vec<u8>>), other: &Files| other.get(*name) != Some(bytes);
        let names = |of: &Files, other: &Files| -> Vec<String> {
            let names = of.iter().filter(|entry| differ(entry, other)).map(|(name, _)| name.display().to_string());
            names.take(10).collect()
        };
        Err(format!(
            "Linux: {:?}, Windows: {:?}, problems on Windows: {:?}\n{}",
            names(&here, &there),
            names(&there, &here),
            windows.ask("status", &[]).stdout,
            windows.log_tail()
        ))
    });
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn two_thousand_files_and_changes_on_both_sides_through_restarts_and_kills() {
    let world = World::new();
    let linux = world.mount("linux");
    for number in 0..2000 {
        write(&linux.path(format!("d{}/s{}/f{number}", number % 10, number % 50)), format!("file {number}"));
    }
    let mut windows = Windows::new(&world, "windows");
    write(&windows.path("mine/own.txt"), "made here before");
    write(&windows.path("d1/s1/f1"), "file 1");
    windows.watch();
    become_equal(&linux, &windows);
    assert!(linux.path("mine/own.txt").exists());

    // Both at the same time.
    windows.does(&[
        "write {new on windows.txt}|hello",
        "mkdir {deep}",
        "mkdir {deep/er}",
        "mkdir {deep/er/still}",
        "write {deep/er/still/x.txt}|far down",
        "append {d2/s2/f2}| and more",
        "rename {d3/s3/f3}|{d3/s3/renamed}",
        "rename {d4/s4}|{moved}",
        "remove {d5/s5/f5}",
    ]);
    write(&linux.path("new on linux/a/b/c.txt"), "hello");
    fs::write(linux.path("d6/s6/f6"), "edited on linux").unwrap();
    fs::rename(linux.path("d7/s7"), linux.path("d8/s7 from d7")).unwrap();
    fs::remove_dir_all(linux.path("d9/s9")).unwrap();
    become_equal(&linux, &windows);
    assert_eq!(fs::read_to_string(linux.path("d2/s2/f2")).unwrap(), "file 2 and more");
    assert!(linux.path("moved/f4").exists() && linux.path("d3/s3/renamed").exists());
    assert!(windows.path("d8/s7 from d7/f7").exists() && !windows.path("d9/s9").exists());

    // While it does not run: ended in order, then killed.
    for (round, kills) in [false, true].into_iter().enumerate() {
        windows.wait_synced();
        if kills {
            windows.kill();
        } else {
            windows.ctrl_c();
        }
        windows.does(&[
            &format!("write {{meanwhile {round}.txt}}|written while it did not run"),
            &format!("append {{d2/s2/f52}}| {round}"),
            &format!("rename {{d2/s12/f{0}}}|{{d2/s12/g{0}}}", 12 + 50 * round),
            &format!("remove {{d2/s22/f{}}}", 22 + 50 * round),
        ]);
        fs::write(linux.path(format!("from linux {round}")), "x").unwrap();
        fs::remove_file(linux.path(format!("d3/s13/f{}", 13 + 50 * round))).unwrap();
        windows.watch();
        become_equal(&linux, &windows);
    }
    // Killed at work.
    for number in 0..100 {
        write(&linux.path(format!("many/{}/{number}", number % 4)), vec![number as u8; 20_000]);
    }
    until("the first of many", || windows.path("many").exists().then_some(()).ok_or_else(String::new));
    windows.kill();
    windows.watch();
    become_equal(&linux, &windows);
    windows.wait_synced();
    windows.ctrl_c();
}

#[test]
fn names_that_windows_cannot_hold_are_spelled_otherwise_there_and_come_back_as_they_were() {
    let world = World::new();
    let linux = world.mount("linux");
    let mut windows = Windows::new(&world, "windows");
    let long: PathBuf = ["long directory ".repeat(6).trim_end(); 4].iter().collect();
    assert!(windows.path(&long).as_os_str().len() > 300);
    let odd =
        ["a:b", "what?", "a*b<c>d|e", "say \"x\"", "back\\slash", "trailing dot.", "trailing space ", "CON", "nul.txt"];
    for name in odd {
        write(&linux.path("odd").join(name), name);
    }
    write(&linux.path("a:dir./x"), "in a directory");
    write(&linux.path(&long).join("end.txt"), "far away");
    windows.watch();
    become_equal(&linux, &windows);

    // What they were called before they were known there.
    let spelled = |name: &str| {
        let name = syncmount_common::Name::try_from(name).unwrap();
        String::from_utf8(to_local(&name, Platform::Windows).unwrap()).unwrap()
    };
    for name in odd {
        windows.does(&[&format!("append {{odd/{}}}| changed", spelled(name))]);
    }
    windows.does(&[
        &format!("write {{new{}}}|made on Windows", spelled("a:b")),
        &format!("append {{{}/end.txt}}| and back", long.display()),
        &format!("rename {{odd/{}}}|{{odd/plain}}", spelled("CON")),
    ]);
    become_equal(&linux, &windows);
    assert_eq!(fs::read_to_string(linux.path("odd/a:b")).unwrap(), "a:b changed");
    assert_eq!(fs::read_to_string(linux.path("newa:b")).unwrap(), "made on Windows");
    assert_eq!(fs::read_to_string(linux.path("odd/plain")).unwrap(), "CON changed");
    assert_eq!(fs::read_to_string(linux.path(&long).join("end.txt")).unwrap(), "far away and back");
}

#[test]
fn of_two_names_that_are_one_on_windows_the_second_gets_a_note_there() {
    let world = World::new();
    let linux = world.mount("linux");
    let mut windows = Windows::new(&world, "windows");
    write(&linux.path("Readme.txt"), "first");
    write(&linux.path("README.txt"), "second");
    windows.watch();
    let noted = |windows: &Windows| -> Option<(String, String)> {
        let names = fs::read_dir(&windows.folder).ok()?.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.to_lowercase().starts_with("readme")).collect();
        names.sort_by_key(|name| name.contains("(case clash"));
        let [plain, noted] = <[String; 2]>::try_from(names).ok()?;
        noted.contains("(case clash").then_some((plain, noted))
    };
    let (plain, noted) = until("both files", || {
        noted(&windows).ok_or_else(|| {
            format!("{:?}\n{}", fs::read_dir(&windows.folder).unwrap().collect::<Vec<_>>(), windows.log_tail())
        })
    });
    let other = if plain == "Readme.txt" { "README.txt" } else { "Readme.txt" };
    windows.does(&[&format!("append {{{noted}}}| and noted"), &format!("append {{{plain}}}| and plain")]);
    until("both edits", || {
        let (a, b) = (fs::read_to_string(linux.path(&plain)).unwrap(), fs::read_to_string(linux.path(other)).unwrap());
        let arrived = a.ends_with(" and plain") && b.ends_with(" and noted");
        arrived.then_some(()).ok_or_else(|| format!("{a:?} {b:?}\n{}", windows.log_tail()))
    });
    windows.wait_synced();
    let names = fs::read_dir(&linux.folder).unwrap().count();
    assert_eq!(names, 2, "nobody else has the note");
}

#[test]
fn a_file_that_a_program_keeps_to_itself_waits_and_the_others_go_on() {
    let world = World::new();
    let linux = world.mount("linux");
    let mut windows = Windows::new(&world, "windows");
    write(&linux.path("ledger.xls"), "old");
    write(&linux.path("script"), "#!/bin/sh\n");
    fs::set_permissions(linux.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    windows.watch();
    become_equal(&linux, &windows);

    let program = windows.holds("ledger.xls");
    fs::write(linux.path("ledger.xls"), "new").unwrap();
    write(&linux.path("other.txt"), "goes on");
    windows.does(&["append {script}|echo more"]);
    until("the other file", || fs::read_to_string(windows.path("other.txt")).map_err(|error| error.to_string()));
    until("the status to say it", || {
        let problems = windows.status().problems;
        let told =
            problems.iter().any(|problem| problem.kind == ProblemKind::Unapplied && problem.path == "ledger.xls");
        if told { Ok(()) } else { Err(format!("{problems:?}\n{}", windows.log_tail())) }
    });
    assert_eq!(fs::read_to_string(windows.path("ledger.xls")).unwrap(), "old");
    drop(program);
    become_equal(&linux, &windows);
    assert_eq!(fs::read_to_string(linux.path("script")).unwrap(), "#!/bin/sh\necho more");
    assert_eq!(fs::metadata(linux.path("script")).unwrap().permissions().mode() & 0o777, 0o755, "it stays executable");
}

#[test]
fn symlinks_that_cannot_be_made_are_listed_and_stay_where_they_can() {
    let world = World::new();
    let linux = world.mount("linux");
    let mut windows = Windows::new(&world, "windows");
    write(&linux.path("target"), "x");
    std::os::unix::fs::symlink("target", linux.path("link")).unwrap();
    windows.watch();
    until("the status to say it", || {
        let problems = windows.status().problems;
        let told = problems.iter().any(|problem| problem.path == "link" && problem.reason.contains("symlink"));
        if told && windows.path("target").exists() {
            Ok(())
        } else {
            Err(format!("{problems:?}\n{}", windows.log_tail()))
        }
    });
    windows.does(&["append {target}|y"]);
    until("the edit", || {
        let text = fs::read_to_string(linux.path("target")).unwrap();
        if text == "xy" { Ok(()) } else { Err(text) }
    });
    assert_eq!(fs::read_link(linux.path("link")).unwrap(), Path::new("target"));
}

#[test]
fn what_needs_a_mount_is_refused_and_a_second_process_too() {
    let world = World::new();
    let mut windows = Windows::new(&world, "windows");
    windows.watch();
    for (words, sentence) in
        [(&["--read-only"][..], "--read-only"), (&["--mode", "mount"], "cannot mount a folder on Windows")]
    {
        let said = windows.starts(words);
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.stderr.contains(sentence), "{said:?}");
    }
    let said = windows.starts(&["--mode", "watch"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("another syncmount process has"), "{said:?}");
    let stopped = windows.ask("umount", &[]);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    windows.has_ended();
}
