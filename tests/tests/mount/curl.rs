//! The folder without a mount: curl alone, as the README shows it.

use std::fs;
use std::process::Command;
use syncmount_common::protocol::error::ErrorBody;
use syncmount_common::protocol::files::{FileInfo, Listing, Versions};
use syncmount_tests::support::*;

pub(super) struct Curl {
    url: String,
    auth: String,
}

impl Curl {
    pub(super) fn of(world: &World) -> Self {
        let server = world.server();
        let token = fs::read_to_string(server.token_file()).unwrap();
        Self { url: server.url(), auth: format!("Authorization: Bearer {}", token.trim()) }
    }

    /// Runs curl on a path of the folder: the status code and the body.
    fn ask(&self, options: &[&str], path: &str) -> (u16, String) {
        let url = format!("{}/v1/folders/default/files{path}", self.url);
        let words = ["-sS", "-w", "\n%{http_code}", "-H", self.auth.as_str()];
        let said = run(Command::new("curl").args(words).args(options).arg(url));
        let (body, code) = said.good().rsplit_once('\n').unwrap();
        (code.parse().unwrap(), body.to_owned())
    }

    #[track_caller]
    pub(super) fn good(&self, options: &[&str], path: &str) -> String {
        let (code, body) = self.ask(options, path);
        assert!((200..300).contains(&code), "{code}: {body}");
        body
    }

    #[track_caller]
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        serde_json::from_str(&self.good(&[], path)).unwrap()
    }

    #[track_caller]
    fn refused(&self, options: &[&str], path: &str, code: u16) {
        let (found, body) = self.ask(options, path);
        assert_eq!(found, code, "{body}");
        let error: ErrorBody = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert!(!format!("{error:?}").is_empty());
    }
}

#[test]
fn curl_alone_does_everything_and_the_mount_sees_it_and_the_reverse() {
    let mut dice = Dice::new("curl_alone_does_everything");
    let world = World::new();
    let a = world.mount("A");
    let curl = Curl::of(&world);
    let content = bytes(&mut dice, 1_500_000);
    let report = world.path("report.pdf");
    let local = report.to_str().unwrap();
    fs::write(&report, &content).unwrap();
    let seen = |name: &str, expected: &[u8]| {
        until(name, || match fs::read(a.path(name)) {
            Ok(found) if found == expected => Ok(()),
            other => Err(format!("{:?}", other.map(|found| found.len()))),
        });
    };

    // Upload, and only if there is none.
    curl.good(&["-T", local], "/docs/report.pdf");
    seen("docs/report.pdf", &content);
    curl.good(&["-T", local, "-H", "If-None-Match: *"], "/new.pdf");
    curl.refused(&["-T", local, "-H", "If-None-Match: *"], "/new.pdf", 412);
    curl.good(&["-X", "PUT"], "/docs/drafts?dir");
    until("the directory", || a.path("docs/drafts").is_dir().then_some(()).ok_or("not there".into()));

    // List and inform.
    let listing: Listing = curl.json("/docs");
    let names: Vec<String> = listing.entries.iter().map(|entry| entry.name.as_ref().unwrap().to_string()).collect();
    assert_eq!(names, ["drafts", "report.pdf"]);
    assert!(!listing.more);
    let info: FileInfo = curl.json("/docs/report.pdf?info");
    assert_eq!(info.size, 1_500_000);
    assert_eq!(info.sha256.unwrap().to_string(), sha256(&report).unwrap());

    // Download, and a part.
    let (whole, head) = (world.path("whole"), world.path("head.bin"));
    curl.good(&["-o", whole.to_str().unwrap()], "/docs/report.pdf");
    assert!(fs::read(&whole).unwrap() == content);
    curl.good(&["-r", "0-1023", "-o", head.to_str().unwrap()], "/docs/report.pdf");
    assert!(fs::read(&head).unwrap() == content[..1024]);

    // What the mount changes is what curl sees, with its earlier versions.
    fs::write(a.path("docs/report.pdf"), "second version").unwrap();
    a.wait_synced();
    assert_eq!(curl.good(&[], "/docs/report.pdf"), "second version");
    let versions: Versions = curl.json("/docs/report.pdf?versions");
    assert_eq!(versions.versions.iter().map(|version| version.size).collect::<Vec<_>>(), [14, 1_500_000]);
    let old = world.path("old.pdf");
    let path = format!("/docs/report.pdf?version={}", versions.versions[1].rev);
    curl.good(&["-o", old.to_str().unwrap()], &path);
    assert!(fs::read(&old).unwrap() == content);

    // Replace only what was seen.
    let info: FileInfo = curl.json("/docs/report.pdf?info");
    let seen_tag = format!("If-Match: \"{}\"", info.content.unwrap());
    curl.good(&["-T", local, "-H", &seen_tag], "/docs/report.pdf");
    curl.refused(&["-T", local, "-H", &seen_tag], "/docs/report.pdf", 412);
    seen("docs/report.pdf", &content);

    // Names that need encoding, both ways.
    fs::write(a.path("Größe & 100%?.txt"), "odd").unwrap();
    a.wait_synced();
    assert_eq!(curl.good(&[], "/Gr%C3%B6%C3%9Fe%20%26%20100%25%3F.txt"), "odd");

    // Delete.
    curl.refused(&["-X", "DELETE"], "/docs", 409);
    curl.good(&["-X", "DELETE"], "/new.pdf");
    until("the delete", || if a.path("new.pdf").exists() { Err("still there".into()) } else { Ok(()) });
    curl.good(&["-X", "DELETE"], "/docs?recursive");
    until("the delete", || if a.path("docs").exists() { Err("still there".into()) } else { Ok(()) });
    curl.refused(&[], "/docs/report.pdf", 404);
    fs::remove_file(a.path("Größe & 100%?.txt")).unwrap();
    a.wait_synced();
    assert_eq!(curl.json::<Listing>("/").entries, []);

    // Nothing without a token but the health.
    let wrong = Curl { url: curl.url.clone(), auth: "Authorization: Bearer wrong".into() };
    wrong.refused(&[], "/", 401);
    let health = run(Command::new("curl").args(["-sSf", &format!("{}/healthz", curl.url)]));
    assert_eq!(health.code, Some(0), "{health:?}");
}
