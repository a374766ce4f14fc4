//! Servers that answer with errors, or with nothing, for ever: no client asks them again and again without a pause, and what was
//! written meanwhile arrives when they come to their senses.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;
use syncmount_common::protocol::{VERSION, VERSION_HEADER};
use syncmount_tests::support::*;

use axum::http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// Requests that a client may send to one folder in a minute in which all answers are of one kind.
const REQUESTS_MAX: u64 = 60;

type Lie = Box<dyn FnMut(&Asked, &mut Answer) + Send>;

/// One kind of answer.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    lie: fn() -> Lie,
    /// When what has failed is tried again at the latest.
    again: Again,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Again {
    Soon,
    InAMinute,
    /// Later than this test can wait for.
    Later,
}

const fn kind(name: &'static str, lie: fn() -> Lie) -> Kind {
    Kind { name, lie, again: Again::Soon }
}

const fn slow(kind: Kind) -> Kind {
    Kind { again: Again::InAMinute, ..kind }
}

/// An error as a server tells it.
fn error(answer: &mut Answer, status: StatusCode, code: &str, details: &Value) {
    let body = json!({"code": code, "message": "as the test wants it", "retryable": true, "details": details});
    answer.body = serde_json::to_vec(&body).unwrap();
    answer.status = status;
    answer.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers.insert(VERSION_HEADER, HeaderValue::from_static(VERSION));
}

/// A reply that is none of a server's.
fn stranger(answer: &mut Answer, status: StatusCode) {
    answer.headers.clear();
    answer.status = status;
    answer.body = b"<html>please log in</html>".to_vec();
}

fn always(lie: fn(&mut Answer)) -> Lie {
    Box::new(move |_, answer| lie(answer))
}

fn to_polls(lie: fn(&mut Answer)) -> Lie {
    Box::new(move |asked, answer| {
        if asked.is_changes() {
            lie(answer);
        }
    })
}

fn to_commits(lie: fn(&mut Answer)) -> Lie {
    Box::new(move |asked, answer| {
        if asked.is_commit() {
            lie(answer);
        }
    })
}

/// To whatever has a body.
fn to_posts(lie: fn(&mut Answer)) -> Lie {
    Box::new(move |asked, answer| {
        if asked.method == "POST" {
            lie(answer);
        }
    })
}

/// To what asks for bytes.
fn to_fetches(lie: fn(&mut Answer)) -> Lie {
    Box::new(move |asked, answer| {
        if asked.path.ends_with("/fetch") || asked.path.contains("/chunks/") || asked.path.contains("/contents/") {
            lie(answer);
        }
    })
}

/// Pages that bring nothing, and that end where they begin.
fn nothing_new(more: bool) -> Lie {
    Box::new(move |asked, answer| {
        let since = asked.parameter("since").map(|since| since.replace("%3A", ":"));
        if asked.is_changes()
            && answer.status.is_success()
            && let Some(since) = since
        {
            answer.edit_json(|page| {
                page["nodes"] = json!([]);
                page["cursor"] = json!(since);
                page["more"] = json!(more);
            });
        }
    })
}

const KINDS: &[Kind] = &[
    kind("busy", || always(|answer| error(answer, StatusCode::SERVICE_UNAVAILABLE, "busy", &Value::Null))),
    kind("internal", || always(|answer| error(answer, StatusCode::INTERNAL_SERVER_ERROR, "internal", &Value::Null))),
    kind("revoked", || always(|answer| error(answer, StatusCode::UNAUTHORIZED, "unauthorized", &Value::Null))),
    kind("no-folder", || always(|answer| error(answer, StatusCode::NOT_FOUND, "not_found", &Value::Null))),
    slow(kind("full", || {
        to_posts(|answer| error(answer, StatusCode::INSUFFICIENT_STORAGE, "insufficient_storage", &Value::Null))
    })),
    slow(kind("proxy-limit", || to_posts(|answer| stranger(answer, StatusCode::PAYLOAD_TOO_LARGE)))),
    slow(kind("too-large", || {
        to_posts(|answer| error(answer, StatusCode::PAYLOAD_TOO_LARGE, "too_large", &Value::Null))
    })),
    kind("gateway", || always(|answer| stranger(answer, StatusCode::BAD_GATEWAY))),
    kind("login-page", || always(|answer| stranger(answer, StatusCode::OK))),
    kind("login-page-for-posts", || to_posts(|answer| stranger(answer, StatusCode::OK))),
    kind("resync", || to_polls(|answer| error(answer, StatusCode::GONE, "resync", &Value::Null))),
    kind("resync-of-commits", || to_commits(|answer| error(answer, StatusCode::GONE, "resync", &Value::Null))),
    kind("superseded", || to_polls(|answer| error(answer, StatusCode::CONFLICT, "superseded", &Value::Null))),
    kind("superseded-commits", || to_commits(|answer| error(answer, StatusCode::CONFLICT, "superseded", &Value::Null))),
    kind("conflict", || {
        to_commits(|answer| error(answer, StatusCode::CONFLICT, "conflict", &json!({"conflicts": []})))
    }),
    slow(kind("missing", || {
        to_commits(|answer| error(answer, StatusCode::CONFLICT, "missing", &json!({"chunks": [], "contents": []})))
    })),
    Kind {
        again: Again::Later,
        ..kind("invalid", || {
            to_commits(|answer| error(answer, StatusCode::UNPROCESSABLE_ENTITY, "invalid", &Value::Null))
        })
    },
    Kind {
        again: Again::Later,
        ..kind("internal-for-posts", || {
            to_posts(|answer| error(answer, StatusCode::INTERNAL_SERVER_ERROR, "internal", &Value::Null))
        })
    },
    kind("empty-at-once", || nothing_new(false)),
    kind("more-for-ever", || nothing_new(true)),
    kind("no-json", || always(|answer| answer.body = b"{".to_vec())),
    kind("cut-short", || to_fetches(|answer| answer.body.truncate(answer.body.len() / 2))),
    kind("damaged", || {
        to_fetches(|answer| {
            let middle = answer.body.len() / 2;
            answer.body.iter_mut().skip(middle).take(8).for_each(|byte| *byte ^= 0x55);
        })
    }),
    kind("not-there", || to_fetches(|answer| error(answer, StatusCode::NOT_FOUND, "not_found", &Value::Null))),
    kind("others-not-there", || {
        let other = json!({"chunks": ["0000000000000000000000000000000000000000000000000000000000000000"]});
        Box::new(move |asked, answer| {
            if asked.path.ends_with("/fetch") || asked.path.contains("/chunks/") {
                error(answer, StatusCode::NOT_FOUND, "not_found", &other);
            }
        })
    }),
    kind("faults-of-fetches", || {
        to_fetches(|answer| error(answer, StatusCode::INTERNAL_SERVER_ERROR, "internal", &Value::Null))
    }),
];

struct Case {
    kind: &'static Kind,
    liar: Liar,
    device: Device,
    folder: String,
}

impl Case {
    fn begin(world: &World, kind: &'static Kind, is_watched: bool) -> Self {
        let folder = format!("{}-{}", kind.name, if is_watched { "watch" } else { "mount" });
        world.server().command(&["folder", "add", &folder]);
        put(world, &folder, "old", &bytes_of(1, 3_000_000));
        let (liar, device) = world.device_behind_liar(&folder);
        let device = device.with(&["--folder", &folder]);
        let device = if is_watched { device.watched() } else { device };
        device.mount();
        device.wait_synced();
        fs::write(device.path("removed later"), "1").unwrap();
        fs::create_dir(device.path("d")).unwrap();
        device.wait_synced();
        Self { kind, liar, device, folder }
    }

    /// Every kind of work that needs the server.
    fn work(&self, world: &World) {
        self.liar.answer_polls_at_once();
        self.liar.lie((self.kind.lie)());
        for count in 0..20 {
            fs::write(self.device.path(format!("small {count}")), bytes_of(count, 3000)).unwrap();
        }
        fs::write(self.device.path("d/large"), bytes_of(99, 2_000_000)).unwrap();
        fs::remove_file(self.device.path("removed later")).unwrap();
        fs::rename(self.device.path("d"), self.device.path("e")).unwrap();
        put(world, &self.folder, "new", &bytes_of(2, 2_000_000));
        let old = self.device.path("old");
        // It may end in an error, and it may have to be waited for.
        thread::spawn(move || fs::read(old).map(drop));
    }

    fn name(&self) -> &str {
        &self.folder
    }
}

fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
    bytes(&mut Dice::fixed(seed), len)
}

/// Puts a file into a folder of the server, past all liars.
#[track_caller]
fn put(world: &World, folder: &str, name: &str, bytes: &[u8]) {
    let from = world.path("body");
    fs::write(&from, bytes).unwrap();
    let server = world.server();
    let token = fs::read_to_string(server.token_file()).unwrap();
    let said = run(Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--upload-file"])
        .arg(&from)
        .args(["--header", &format!("Authorization: Bearer {}", token.trim())])
        .arg(format!("{}/v1/folders/{folder}/files/{name}", server.url())));
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn no_answer_makes_a_client_ask_without_a_pause() {
    // Every day a few kinds, and those that are over soon.
    let (step, seconds, max, again) = sized((3, 15, 40, Again::Soon), (1, 60, REQUESTS_MAX, Again::InAMinute));
    let chosen = std::env::var("SYNCMOUNT_ANSWERS").ok();
    let is_chosen = |kind: &&Kind| chosen.as_ref().is_none_or(|names| names.split(',').any(|name| name == kind.name));
    let kinds = KINDS.iter().step_by(step).filter(is_chosen);
    let world = World::lasting(Duration::from_secs(400));
    let cases: Vec<Case> =
        kinds.flat_map(|kind| [false, true].map(|is_watched| Case::begin(&world, kind, is_watched))).collect();
    for case in &cases {
        case.work(&world);
    }
    let before: Vec<u64> = cases.iter().map(|case| case.liar.asked()).collect();
    thread::sleep(Duration::from_secs(seconds));
    let asked: Vec<(&str, u64)> =
        cases.iter().zip(before).map(|(case, before)| (case.name(), case.liar.asked() - before)).collect();
    println!("requests in {seconds} s: {asked:?}");
    let loud: Vec<_> = asked.iter().filter(|(_, count)| *count > max).collect();
    assert!(loud.is_empty(), "more than {max} requests in {seconds} s: {loud:?}");
    for case in &cases {
        case.liar.be_honest();
    }
    for case in cases.iter().filter(|case| case.kind.again <= again) {
        let read =
            |name: &str| fs::read(case.device.path(name)).map_err(|error| format!("{}: {name}: {error}", case.name()));
        until("all to be sent", || match case.device.status() {
            status if status.connected && status.pending_files + status.pending_nodes == 0 => Ok(()),
            status => Err(format!("{}: {status:?}", case.name())),
        });
        until("the bytes of the server", || {
            let (new, old) = (read("new")?, read("old")?);
            let is_right = new == bytes_of(2, 2_000_000) && old == bytes_of(1, 3_000_000);
            if is_right { Ok(()) } else { Err(format!("{}: other bytes", case.name())) }
        });
        assert_eq!(read("e/large"), Ok(bytes_of(99, 2_000_000)));
        // In a history that the server says is another one nothing that is absent here was removed.
        let is_removed = read("removed later").is_err();
        assert!(is_removed || case.kind.name.starts_with("resync"), "{}: what was removed is back", case.name());
    }
}

#[test]
fn a_commit_that_landed_is_not_taken_for_refused_when_the_server_is_full_by_then() {
    let world = World::new();
    let (liar, a) = world.device_behind_liar("A");
    a.mount();
    let b = world.watch("B");
    fs::write(a.path("before"), "1").unwrap();
    a.wait_synced();
    // The first commit arrives and its answer does not; from then on the server says that it has no room for bytes.
    let mut is_first = true;
    liar.lie(move |asked, answer| {
        if asked.is_commit() && std::mem::take(&mut is_first) {
            stranger(answer, StatusCode::BAD_GATEWAY);
        } else if asked.method == "POST" && asked.is_framed {
            error(answer, StatusCode::INSUFFICIENT_STORAGE, "insufficient_storage", &Value::Null);
        }
    });
    fs::write(a.path("new"), "2").unwrap();
    a.wait_synced();
    let status = a.status();
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    until("the file at B", || fs::read(b.path("new")).map(drop).map_err(|error| error.to_string()));
    assert_equal(&a.folder, &b.folder, DirTimes::Ignored);
}
