//! The client against a server made of a socket and canned replies.

use super::*;
use parking_lot::Mutex;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use syncmount_common::Extent;
use syncmount_common::protocol::changes::{Ask, ChangesPage, Cursor, Device};
use syncmount_common::protocol::session::Session;
use syncmount_common::{DeviceId, Epoch, FolderId, OpId};

/// One request as it arrived.
#[derive(Clone, Debug)]
struct Request {
    line: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// Answers every request with what `answer` makes of it, and keeps the requests.
struct Server {
    url: ServerUrl,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/prefix", listener.local_addr().unwrap()).parse().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, requests) = (Arc::new(answer), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, requests) = (answer.clone(), requests.clone());
                std::thread::spawn(move || serve(stream, &*answer, &requests));
            }
        });
        Self { url, seen }
    }

    fn remote(&self) -> HttpRemote {
        HttpRemote::new(&self.url, "my folder/ä", "sekret").unwrap()
    }

    fn last(&self) -> Request {
        self.seen.lock().last().unwrap().clone()
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(&Request) -> Vec<u8>, seen: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(request) = read_request(&mut reader) {
        let reply = answer(&request);
        seen.lock().push(request);
        if reply.is_empty() || writer.write_all(&reply).is_err() {
            return;
        }
    }
}

fn read_request(mut from: &mut dyn BufRead) -> Option<Request> {
    let mut lines = (&mut from).lines().map_while(Result::ok);
    let line = lines.next()?;
    let headers = lines.take_while(|line| !line.is_empty()).collect();
    let mut request = Request { line, headers, body: Vec::new() };
    let len = request.header("content-length").map_or(0, |len| len.parse().unwrap());
    request.body.resize(len, 0);
    from.read_exact(&mut request.body).ok()?;
    Some(request)
}

fn reply(status: &str, media: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "HTTP/1.1 {status}\r\n{VERSION_HEADER}: {VERSION}\r\ncontent-type: {media}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    out.extend_from_slice(body);
    out
}

fn json(value: &impl Serialize) -> Vec<u8> {
    reply("200 OK", JSON, &serde_json::to_vec(value).unwrap())
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn epoch() -> Epoch {
    Epoch::from_bytes([1; 16])
}

fn page() -> ChangesPage {
    ChangesPage {
        folder: FolderId::from_bytes([2; 16]),
        cursor: Cursor { epoch: epoch(), seq: 9, tag: 0 },
        more: false,
        nodes: Vec::new(),
        devices: Vec::new(),
        own: None,
        wanted: Vec::new(),
        touched: Vec::new(),
        owners: None,
    }
}

fn batch() -> CommitRequest {
    CommitRequest {
        op_id: OpId::from_bytes([3; 16]),
        epoch: epoch(),
        device: Device { id: DeviceId::from_bytes([4; 16]), name: "laptop".to_owned() },
        session: None,
        known: None,
        contents: Vec::new(),
        changed: Vec::new(),
        concluded: false,
        times: Vec::new(),
        touched: Vec::new(),
        owners: Vec::new(),
        versions: Vec::new(),
        ops: Vec::new(),
    }
}

fn chunk(raw: &[u8]) -> (ChunkHash, Bytes) {
    (ChunkHash::of(raw), envelope::seal(raw).into())
}

fn framed(header: Option<&[u8]>, chunks: &[(ChunkHash, Bytes)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    if let Some(json) = header {
        frame::put_header(&mut out, json);
    }
    for (hash, envelope) in chunks {
        frame::put_chunk(&mut out, hash, envelope);
    }
    frame::put_end(&mut out);
    out.to_vec()
}

#[test]
fn a_request_names_the_folder_the_token_and_the_version() {
    let server = Server::start(|_| json(&page()));
    let remote = server.remote();
    let position = |seq| Some(Cursor { epoch: epoch(), seq, tag: 0 });
    let ask = Ask { since: position(7), known: position(8) };
    let session = Session { number: 3, nonce: 5, acknowledged: 7, unanswered: None };
    let speaker = Speaker { device: DeviceId::from_bytes([4; 16]), session };
    let changes = block_on(remote.changes(ask, Duration::from_secs(400), 0, Some(speaker))).unwrap();
    assert_eq!(changes, Changes { page: page(), chunks: Vec::new() });
    let request = server.last();
    let path = "GET /prefix/v1/folders/my%20folder%2F%C3%A4/changes?wait=55&inline=0&since=";
    assert!(request.line.starts_with(path), "{}", request.line);
    let asker = format!("&device={}&session=3%3A0000000000000005%3A7 ", speaker.device);
    assert!(request.line.contains(&asker), "{}", request.line);
    assert!(request.line.contains(&format!("&known={}%3A8%3A0", epoch())), "{}", request.line);
    assert_eq!(request.header("authorization"), Some("Bearer sekret"));
    assert_eq!(request.header(VERSION_HEADER), Some(VERSION));
    assert!(remote.traffic().received > 50);
    assert!(!format!("{remote:?}").contains("sekret"));
}

#[test]
fn small_contents_come_along_verified() {
    let good = chunk(b"hello");
    let lie = (ChunkHash::of(b"other"), good.1.clone());
    for (chunks, is_good) in [(vec![good.clone()], true), (vec![good, lie], false)] {
        let body = framed(Some(&serde_json::to_vec(&page()).unwrap()), &chunks);
        let server = Server::start(move |_| reply("200 OK", frame::CONTENT_TYPE, &body));
        match block_on(server.remote().changes(Ask::default(), Duration::ZERO, 1 << 20, None)) {
            Ok(changes) => assert!(is_good && changes.chunks == [(ChunkHash::of(b"hello"), b"hello".to_vec())]),
            Err(error) => assert!(!is_good && matches!(error, RemoteError::Corrupt(_)), "{error}"),
        }
        assert!(server.last().line.contains("inline=65536"), "{:?}", server.last().line);
    }
}

#[test]
fn what_the_server_takes_is_what_its_last_reply_says() {
    let named = Arc::new(Mutex::new(""));
    let told = named.clone();
    let server = Server::start(move |_| {
        let text = String::from_utf8(json(&page())).unwrap();
        text.replacen("\r\n", &format!("\r\n{}", *told.lock()), 1).into_bytes()
    });
    let remote = server.remote();
    let takes = |headers| {
        *named.lock() = headers;
        block_on(remote.changes(Ask::default(), Duration::ZERO, 0, None)).unwrap();
        (remote.takes_content_deltas(), remote.takes_chunk_deltas(), remote.gives_deltas())
    };
    assert!(!remote.takes_content_deltas() && !remote.takes_chunk_deltas() && !remote.gives_deltas());
    assert_eq!(takes("syncmount-features: content-deltas, chunk-deltas\r\n"), (true, true, false));
    assert_eq!(takes("syncmount-features: fetch-deltas\r\nsyncmount-features: more\r\n"), (false, false, true));
    assert_eq!(takes(""), (false, false, false), "an older server is there again");
    assert_eq!(
        server.last().header("syncmount-features"),
        Some("content-deltas, chunk-deltas, fetch-deltas, extra-fields, owners")
    );
}

#[test]
fn new_fields_of_a_page_are_ignored_if_the_server_allows_it() {
    let named = Arc::new(Mutex::new(""));
    let told = named.clone();
    let server = Server::start(move |_| {
        let mut body = serde_json::to_value(page()).unwrap();
        body["entries_changed"] = 7.into();
        let text = String::from_utf8(json(&body)).unwrap();
        text.replacen("\r\n", &format!("\r\n{}", *told.lock()), 1).into_bytes()
    });
    let remote = server.remote();
    let poll = || block_on(remote.changes(Ask::default(), Duration::ZERO, 0, None));
    let refused = poll().unwrap_err().to_string();
    assert!(refused.contains("unknown field `entries_changed`"), "{refused}");
    *named.lock() = "syncmount-features: of-tomorrow, extra-fields\r\n";
    assert_eq!(poll().unwrap().page, page());
}

#[test]
fn a_commit_is_json_alone_and_framed_with_chunks() {
    let done = Committed { first_seq: 5, last_seq: 6, tag: 7 };
    let server = Server::start(move |_| json(&done));
    let remote = server.remote();
    assert_eq!(block_on(remote.commit(&batch(), &[])).unwrap(), done);
    assert_eq!(server.last().header("content-type"), Some(JSON));
    assert_eq!(serde_json::from_slice::<CommitRequest>(&server.last().body).unwrap(), batch());
    let chunks = [chunk(b"abc"), chunk(&[9; 300_000])];
    assert_eq!(block_on(remote.commit(&batch(), &chunks)).unwrap(), done);
    assert_eq!(server.last().header("content-type"), Some(frame::CONTENT_TYPE));
    assert_eq!(server.last().body, framed(Some(&serde_json::to_vec(&batch()).unwrap()), &chunks));
    assert_eq!(remote.traffic().requests, server.seen.lock().len() as u64);
    assert_eq!(remote.traffic().sent, server.seen.lock().iter().map(|request| request.body.len() as u64).sum::<u64>());
}

#[test]
fn many_hashes_are_asked_for_in_parts() {
    let server = Server::start(|request| {
        let asked: ChunkList = serde_json::from_slice(&request.body).unwrap();
        assert!(asked.chunks.len() <= HASHES_MAX);
        json(&MissingReply { missing: asked.chunks[..1].to_vec() })
    });
    let chunks: Vec<_> = (0..HASHES_MAX as u32 + 5).map(|n| ChunkHash::of(&n.to_le_bytes())).collect();
    let missing = block_on(server.remote().missing(&chunks)).unwrap();
    assert_eq!(missing, [chunks[0], chunks[HASHES_MAX]]);
    assert_eq!(block_on(server.remote().missing(&[])).unwrap(), []);
    assert_eq!(server.seen.lock().len(), 2);
}

#[test]
fn batches_keep_within_the_limits_and_lose_nothing() {
    let blob = Bytes::from(vec![0; PUT_LEN_MAX / 3]);
    let chunks: Vec<_> = (0u8..8).map(|n| (ChunkHash::of(&[n]), blob.clone())).collect();
    let batches: Vec<_> = put_batches(&chunks, PUT_LEN_MAX).collect();
    assert_eq!(batches.iter().map(|batch| batch.len()).collect::<Vec<_>>(), [2, 2, 2, 2]);
    assert_eq!(batches.concat(), chunks);
    let tiny = vec![(ChunkHash::of(b""), Bytes::from_static(b"x")); HASHES_MAX + 1];
    assert_eq!(put_batches(&tiny, PUT_LEN_MAX).map(<[_]>::len).collect::<Vec<_>>(), [HASHES_MAX, 1]);
    assert_eq!(put_batches(&[], PUT_LEN_MAX).count(), 0);
}

#[test]
fn fetched_chunks_arrive_once_and_verified() {
    let chunks = [chunk(b"one"), chunk(&[5; 400_000])];
    let hashes = [chunks[0].0, chunks[1].0, chunks[0].0];
    let body = framed(None, &chunks);
    let server = Server::start(move |_| reply("200 OK", frame::CONTENT_TYPE, &body));
    let mut seen = Vec::new();
    let remote = server.remote();
    let mut sink = |hash, raw: Vec<u8>| {
        seen.push((hash, raw.len()));
        Ok(())
    };
    block_on(remote.fetch(&hashes, &mut sink)).unwrap();
    assert_eq!(seen, [(hashes[0], 3), (hashes[1], 400_000)]);
    let mut full = |_, _| Err(std::io::ErrorKind::StorageFull.into());
    assert!(matches!(block_on(remote.fetch(&hashes, &mut full)), Err(RemoteError::Local(_))));
}

#[test]
fn a_fetch_that_lacks_breaks_off_or_lies_is_an_error() {
    let chunks = [chunk(b"one"), chunk(b"two")];
    let hashes = [chunks[0].0, chunks[1].0];
    let whole = framed(None, &chunks);
    let cases = [
        (framed(None, &chunks[..1]), "lacks the chunk"),
        (whole[..whole.len() - 5].to_vec(), "cut short"),
        (whole[..whole.len() - 9].to_vec(), "cut short"),
        (framed(None, &[chunk(b"three")]), "nobody asked for"),
        (framed(None, &[(hashes[0], chunks[1].1.clone())]), "damaged data"),
    ];
    for (body, expected) in cases {
        let server = Server::start(move |_| reply("200 OK", frame::CONTENT_TYPE, &body));
        let error = block_on(server.remote().fetch(&hashes, &mut |_, _| Ok(()))).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// A server that gives differences, as far as it says.
fn giving(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> (Server, HttpRemote) {
    let server = Server::start(move |request| {
        let mut reply = answer(request);
        let at = reply.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        reply.splice(at..at, *b"syncmount-features: fetch-deltas\r\n");
        reply
    });
    let remote = server.remote();
    // What it answers is of no interest but for its head.
    drop(block_on(remote.folder()));
    assert!(remote.gives_deltas());
    (server, remote)
}

fn changed_noise() -> (Vec<u8>, Vec<u8>) {
    let beneath: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    let mut raw = beneath.clone();
    raw[50_000] ^= 1;
    (beneath, raw)
}

#[test]
fn a_difference_is_handed_on_only_to_the_chunk_that_was_named() {
    let (beneath, raw) = changed_noise();
    let (base, hash, plain) = (ChunkHash::of(&beneath), ChunkHash::of(&raw), chunk(b"plain"));
    let told = Bytes::from(envelope::seal_against(&base, &beneath, &raw).unwrap());
    let asked = [plain.0, hash];
    let alike = [Alike { chunk: hash, base }];
    let fetch = |remote: &HttpRemote, alike: &[Alike]| {
        let mut seen = Vec::new();
        let mut sink = |hash, _: Vec<u8>| {
            seen.push(hash);
            Ok(())
        };
        let told = block_on(remote.fetch_alike(&asked, alike, &mut sink));
        (told, seen)
    };
    let body = framed(None, &[plain.clone(), (hash, told.clone())]);
    let (server, remote) = giving(move |_| reply("200 OK", frame::CONTENT_TYPE, &body));
    let (got, seen) = fetch(&remote, &alike);
    assert_eq!(got.unwrap(), [Difference { alike: alike[0], envelope: told }]);
    assert_eq!(seen, [plain.0]);
    let sent: FetchList = serde_json::from_slice(&server.last().body).unwrap();
    assert_eq!(sent, FetchList { chunks: asked.to_vec(), alike: alike.to_vec() });
    let other = [Alike { chunk: hash, base: plain.0 }];
    for alike in [&[][..], &other] {
        assert!(matches!(fetch(&remote, alike).0, Err(RemoteError::Protocol(_))), "nobody can open that");
    }

    let whole = framed(None, &[plain, chunk(&raw)]);
    let older = Server::start(move |_| reply("200 OK", frame::CONTENT_TYPE, &whole));
    let (got, seen) = fetch(&older.remote(), &alike);
    assert_eq!((got.unwrap().len(), seen), (0, asked.to_vec()));
    serde_json::from_slice::<ChunkList>(&older.last().body).expect("it is asked as ever");
}

#[test]
fn differences_are_held_up_to_a_bound() {
    let base = ChunkHash::of(b"base");
    let long = envelope::seal_against(&base, &changed_noise().0, &changed_noise().1).unwrap();
    let long = Bytes::from([long, vec![0; 5 << 20]].concat());
    let hashes: Vec<_> = (0..4_u8).map(|n| ChunkHash::of(&[n])).collect();
    let body = framed(None, &hashes.iter().map(|hash| (*hash, long.clone())).collect::<Vec<_>>());
    let (_server, remote) = giving(move |_| reply("200 OK", frame::CONTENT_TYPE, &body));
    let alike: Vec<_> = hashes.iter().map(|chunk| Alike { chunk: *chunk, base }).collect();
    let error = block_on(remote.fetch_alike(&hashes, &alike, &mut |_, _| Ok(()))).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}

#[test]
fn a_manifest_that_comes_as_a_difference_is_checked_and_else_comes_as_a_whole() {
    let chunks = |changed: u32| {
        let extent = |n: u32| Extent::Chunk { hash: ChunkHash::of(&n.to_le_bytes()), len: 7 };
        Manifest::new((0..100).map(|n| extent(if n == 50 { changed } else { n })).collect()).unwrap()
    };
    let (base, target) = (chunks(50), chunks(777));
    let (hash, whole) = (target.content_hash(), target.encode());
    let good = delta::between(&base, &target).unwrap();
    let lie = delta::between(&base, &chunks(778)).unwrap();
    let no = br#"{"code":"bad_request","message":"no","retryable":false}"#.to_vec();
    for (status, media, told, requests) in [
        ("200 OK", delta::CONTENT_TYPE, good.clone(), 1),
        ("200 OK", "application/octet-stream", whole.clone(), 1),
        ("200 OK", delta::CONTENT_TYPE, lie, 2),
        ("200 OK", delta::CONTENT_TYPE, good[..9].to_vec(), 2),
        ("200 OK", "application/octet-stream", good, 2),
        ("400 Bad Request", JSON, no, 2),
    ] {
        let whole = whole.clone();
        let (server, remote) = giving(move |request| {
            if request.line.contains("?base=") {
                reply(status, media, &told)
            } else {
                reply("200 OK", "application/octet-stream", &whole)
            }
        });
        let before = server.seen.lock().len();
        assert_eq!(block_on(remote.manifest(&hash, Some(&base))).unwrap(), target);
        let seen = server.seen.lock()[before..].to_vec();
        assert_eq!(seen.len(), requests, "{status} {media}");
        assert!(
            seen[0].line.contains(&format!("/v1/contents/{hash}?base={} ", base.content_hash())),
            "{}",
            seen[0].line
        );
    }
    let older = Server::start(move |_| reply("200 OK", "application/octet-stream", &whole));
    assert_eq!(block_on(older.remote().manifest(&hash, Some(&base))).unwrap(), target);
    assert!(!older.last().line.contains("base="), "{}", older.last().line);
}

#[test]
fn a_part_is_whole_and_as_long_as_was_asked_and_an_older_server_gives_the_chunk() {
    let raw: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    let (name, part) = (ChunkHash::of(&raw), chunk(&raw[100..200]));
    let server = |body: Vec<u8>, media| Server::start(move |_| reply("200 OK", media, &body));
    let get = |server: &Server| block_on(server.remote().part(&name, 100..200));

    let good = server(framed(None, std::slice::from_ref(&part)), frame::CONTENT_TYPE);
    assert_eq!(get(&good).unwrap(), Part::Alone(raw[100..200].to_vec()));
    let asked = format!("/v1/chunks/{name}?from=100&len=100 ");
    assert!(good.last().line.contains(&asked), "{}", good.last().line);

    let older = server(envelope::seal(&raw), "application/octet-stream");
    assert_eq!(get(&older).unwrap(), Part::Whole(raw.clone()));

    let other = chunk(&raw[100..199]);
    let lie = [(other.0, part.1.clone())];
    for (body, media, expected) in [
        (framed(None, &[]), frame::CONTENT_TYPE, "lacks the part"),
        (framed(None, std::slice::from_ref(&other)), frame::CONTENT_TYPE, "another part"),
        (framed(None, &[part.clone(), other.clone()]), frame::CONTENT_TYPE, "another part"),
        (framed(None, &lie), frame::CONTENT_TYPE, "damaged data"),
        (framed(None, std::slice::from_ref(&part))[..60].to_vec(), frame::CONTENT_TYPE, "cut short"),
        (envelope::seal(&raw[1..]), "application/octet-stream", "damaged data"),
    ] {
        let error = get(&server(body, media)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_manifest_is_the_one_that_was_asked_for() {
    let manifest = Manifest::new(vec![Extent::Hole { len: 7 }]).unwrap();
    let (hash, bytes) = (manifest.content_hash(), manifest.encode());
    let server = Server::start(move |_| reply("200 OK", "application/octet-stream", &bytes));
    assert_eq!(block_on(server.remote().manifest(&hash, None)).unwrap(), manifest);
    let other = Manifest::default().content_hash();
    assert!(matches!(block_on(server.remote().manifest(&other, None)), Err(RemoteError::Corrupt(_))));
}

#[test]
fn errors_are_told_apart() {
    let body = br#"{"code":"not_found","message":"no","retryable":false}"#;
    let server = Server::start(move |_| reply("404 Not Found", JSON, body));
    let remote = server.remote();
    assert!(matches!(block_on(remote.folder()), Err(RemoteError::FolderNotFound)));
    assert!(matches!(block_on(remote.put(&[chunk(b"x")])), Err(RemoteError::NotFound)));
    let other = Server::start(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_vec());
    let error = block_on(other.remote().folder()).unwrap_err();
    assert!(error.to_string().ends_with("is not a syncmount server (it answers 200 OK)"), "{error}");
    let gone = Server::start(|_| Vec::new());
    assert!(matches!(block_on(gone.remote().folder()), Err(RemoteError::Unreachable(_))), "it may have been sent");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let free = HttpRemote::new(&format!("http://127.0.0.1:{port}").parse().unwrap(), "default", "sekret").unwrap();
    assert!(matches!(block_on(free.folder()), Err(RemoteError::NotConnected(_))), "it was not sent");
}

#[test]
fn nobody_listening_is_unreachable_and_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let error = block_on(HttpRemote::new(&url, "f", "t").unwrap().folder()).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(error.is_retryable());
}

#[test]
fn what_cannot_be_a_folder_or_a_token_is_refused() {
    let url: ServerUrl = "https://localhost".parse().unwrap();
    for folder in ["", ".", ".."] {
        assert!(matches!(HttpRemote::new(&url, folder, "t"), Err(SetupError::Folder(_))));
    }
    for token in ["", "a b", "a\nb", "ä"] {
        assert_eq!(HttpRemote::new(&url, "f", token).err(), Some(SetupError::Token), "{token:?}");
    }
}

fn told(content: Content) -> ChangesPage {
    let node = syncmount_common::Node {
        id: syncmount_common::NodeId::from_bytes([9; 16]),
        rev: 9,
        kind: syncmount_common::NodeKind::File,
        deleted: false,
        names: Vec::new(),
        attrs: syncmount_common::Attrs { mode: 0o644, mtime: syncmount_common::Timestamp(0) },
        xattrs: syncmount_common::Xattrs::default(),
        content: Some(content),
        target: None,
        author: DeviceId::from_bytes([4; 16]),
        content_rev: 9,
        content_author: DeviceId::from_bytes([4; 16]),
        changed: None,
    };
    ChangesPage { nodes: vec![node], ..page() }
}

#[test]
fn of_what_a_page_tells_of_contents_only_what_can_be_checked_is_taken() {
    let chunk = |bytes: &[u8]| Extent::Chunk { hash: ChunkHash::of(bytes), len: bytes.len() as u32 };
    let lie = Some(syncmount_common::FileHash::of(b"not these bytes"));
    let good = Content::of(Manifest::new(vec![chunk(b"a"), chunk(b"b")]).unwrap(), lie);
    let other = Manifest::new(vec![chunk(b"b"), chunk(b"a")]).unwrap().content_hash();
    let ask = |content: Content| {
        let server = Server::start(move |_| json(&told(content.clone())));
        block_on(server.remote().changes(Ask::default(), Duration::ZERO, 0, None))
    };
    let page = ask(good.clone()).unwrap().page;
    assert_eq!(page.nodes[0].content, Some(Content { sha256: None, ..good.clone() }));
    for bad in [Content { size: 3, ..good.clone() }, Content { hash: other, ..good }] {
        assert!(matches!(ask(bad), Err(RemoteError::Corrupt(_))));
    }
    let hole = |len| Content::of(Manifest::new(vec![Extent::Hole { len }]).unwrap(), None);
    let largest = syncmount_common::manifest::FILE_SIZE_MAX;
    let manifest = |content| ask(content).unwrap().page.nodes[0].content.clone().unwrap().manifest;
    assert!(manifest(hole(largest)).is_some() && manifest(hole(largest + 1)).is_none());
}

#[test]
fn a_manifest_of_more_than_a_file_may_have_is_refused() {
    let manifest = Manifest::new(vec![Extent::Hole { len: 1 << 53 }]).unwrap();
    let (hash, bytes) = (manifest.content_hash(), manifest.encode());
    let server = Server::start(move |_| reply("200 OK", "application/octet-stream", &bytes));
    assert!(matches!(block_on(server.remote().manifest(&hash, None)), Err(RemoteError::Corrupt(_))));
}

/// What a proxy answers that takes bodies of up to 100 KB; the rest is answered by a server that takes everything.
fn behind_proxy(request: &Request) -> Vec<u8> {
    if request.body.len() > 100_000 {
        return b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n".to_vec();
    }
    if request.line.contains("/commit") {
        return json(&Committed { first_seq: 1, last_seq: 1, tag: 1 });
    }
    if request.line.contains("/missing") {
        let list: ChunkList = serde_json::from_slice(&request.body).unwrap();
        return json(&MissingReply { missing: list.chunks });
    }
    json(&PutReply { received: 1, stored: 1 })
}

#[test]
fn requests_are_cut_until_they_pass_a_proxy_with_a_limit() {
    let server = Server::start(behind_proxy);
    let remote = server.remote();
    let noise = |seed: u32, len: u32| -> Vec<u8> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(next).collect()
    };
    let refused = || server.seen.lock().iter().filter(|request| request.body.len() > 100_000).count();
    let chunks: Vec<_> = (0..60).map(|seed| chunk(&noise(seed, 10_000))).collect();
    // A commit with them: they go before it, and then it passes.
    block_on(remote.commit(&batch(), &chunks)).unwrap();
    let puts = |line: &str| line.starts_with("POST") && line.contains("/v1/chunks ");
    let arrived = |seen: &[Request]| -> Vec<ChunkHash> {
        let taken = seen.iter().filter(|request| puts(&request.line) && request.body.len() <= 100_000);
        let mut hashes = Vec::new();
        for request in taken {
            let mut decoder = Decoder::default();
            decoder.push(&request.body);
            while let Some(Frame::Chunk(hash, _)) = decoder.next_frame().unwrap() {
                hashes.push(hash);
            }
        }
        hashes
    };
    let hashes: Vec<ChunkHash> = chunks.iter().map(|(hash, _)| *hash).collect();
    assert_eq!(arrived(&server.seen.lock()), hashes, "each once, in their order");
    assert!(server.last().line.contains("/commit") && server.last().body.len() < 10_000);
    let first = refused();
    assert!((1..8).contains(&first), "{first} refused");
    // What is known is not tried again, of whatever kind the request is.
    let many: Vec<ChunkHash> = (0..5000u32).map(|count| ChunkHash::of(&count.to_le_bytes())).collect();
    assert_eq!(block_on(remote.missing(&many)).unwrap(), many);
    block_on(remote.commit(&batch(), &chunks)).unwrap();
    assert_eq!(refused(), first);
    // One chunk cannot be cut: it is said what was refused, and not sent twice.
    let large = [chunk(&noise(99, 150_000))];
    for _ in 0..2 {
        let error = block_on(remote.put(&large)).unwrap_err();
        assert!(matches!(&error, RemoteError::TooLarge(why) if why.contains("bytes as too large")), "{error}");
    }
    assert!(refused() <= first + 1);
}

/// A proxy that ends the connection instead of saying why.
#[test]
fn requests_are_cut_if_the_connection_breaks_with_long_ones() {
    let server = Server::start(|request| if request.body.len() > 100_000 { Vec::new() } else { behind_proxy(request) });
    let remote = server.remote();
    let broken = || server.seen.lock().iter().filter(|request| request.body.len() > 100_000).count();
    let noise = |seed: u32| -> Vec<u8> {
        let bytes =
            (0..600u32).flat_map(|count| *ChunkHash::of(&[seed, count].map(u32::to_le_bytes).concat()).as_bytes());
        bytes.take(10_000).collect()
    };
    let chunks: Vec<_> = (0..60).map(|seed| chunk(&noise(seed))).collect();
    // The caller tries again, as after any connection that breaks.
    let tries = (1..10).find(|_| block_on(remote.put(&chunks)).is_ok());
    assert!(tries.is_some_and(|tries| tries <= 5), "{tries:?}");
    let first = broken();
    block_on(remote.commit(&batch(), &chunks)).unwrap();
    assert_eq!(broken(), first, "what has broken is not tried again at once");
    // What cannot be cut is an error of the connection, so that it is tried again.
    let large = [chunk(&(0..15).flat_map(noise).collect::<Vec<_>>())];
    for _ in 0..4 {
        assert!(matches!(block_on(remote.put(&large)), Err(RemoteError::Unreachable(_))));
    }
    block_on(remote.put(&chunks)).unwrap();
}
