//! A line between a device and the server: it counts, and it can be cut.

use parking_lot::Mutex;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// A TCP proxy in this process. It goes with the test.
pub struct Proxy {
    url: String,
    line: Arc<Line>,
}

struct Line {
    upstream: String,
    /// Bytes from the device to the server.
    sent: AtomicU64,
    /// Bytes from the server to the device.
    received: AtomicU64,
    /// The line breaks when this many were sent.
    breaks_at: AtomicU64,
    is_cut: AtomicBool,
    /// Both ends of every connection.
    connections: Mutex<Vec<TcpStream>>,
    ending: AtomicBool,
}

impl Proxy {
    /// A proxy before the server at `upstream`, which is `HOST:PORT`.
    pub fn new(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let line = Arc::new(Line {
            upstream: upstream.to_owned(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            breaks_at: AtomicU64::new(u64::MAX),
            is_cut: AtomicBool::new(false),
            connections: Mutex::default(),
            ending: AtomicBool::new(false),
        });
        let serving = line.clone();
        thread::spawn(move || serving.serve(&listener));
        Self { url, line }
    }

    /// What a device is told as its server.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Bytes that have gone from the device to the server, with everything around the contents.
    pub fn sent(&self) -> u64 {
        self.line.sent.load(Ordering::SeqCst)
    }

    /// Bytes that have come from the server, likewise.
    pub fn received(&self) -> u64 {
        self.line.received.load(Ordering::SeqCst)
    }

    /// Breaks all connections when `bytes` more were sent, and takes no new ones until [`Self::mend`].
    pub fn break_after(&self, bytes: u64) {
        self.line.breaks_at.store(self.sent() + bytes, Ordering::SeqCst);
    }

    /// Whether the line is broken.
    pub fn is_cut(&self) -> bool {
        self.line.is_cut.load(Ordering::SeqCst)
    }

    /// Takes connections again.
    pub fn mend(&self) {
        self.line.breaks_at.store(u64::MAX, Ordering::SeqCst);
        self.line.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.line.ending.store(true, Ordering::SeqCst);
        self.line.cut();
        // So that the thread that waits for connections looks again. If it has gone already, so much the better.
        drop(TcpStream::connect(self.url.trim_start_matches("http://")));
    }
}

impl Line {
    fn serve(self: Arc<Self>, listener: &TcpListener) {
        for device in listener.incoming() {
            if self.ending.load(Ordering::SeqCst) {
                return;
            }
            // Nobody behind it, or a broken line: the device sees its connection closed.
            let (Ok(device), false) = (device, self.is_cut.load(Ordering::SeqCst)) else { continue };
            if let Ok(server) = TcpStream::connect(&self.upstream)
                && let Err(error) = self.clone().join(&device, &server)
            {
                eprintln!("the proxy cannot carry a connection: {error}");
            }
        }
    }

    fn join(self: Arc<Self>, device: &TcpStream, server: &TcpStream) -> io::Result<()> {
        for end in [device, server] {
            end.set_nodelay(true)?;
            self.connections.lock().push(end.try_clone()?);
        }
        let there = (device.try_clone()?, server.try_clone()?);
        let back = (server.try_clone()?, device.try_clone()?);
        let line = self.clone();
        thread::spawn(move || carry(there.0, there.1, |count| line.count(count)));
        thread::spawn(move || carry(back.0, back.1, |count| _ = self.received.fetch_add(count, Ordering::SeqCst)));
        Ok(())
    }

    fn count(&self, bytes: u64) {
        let sent = self.sent.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if sent >= self.breaks_at.load(Ordering::SeqCst) {
            self.cut();
        }
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for end in self.connections.lock().drain(..) {
            // One that has ended already is as cut as it can be.
            drop(end.shutdown(Shutdown::Both));
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, mut count: impl FnMut(u64)) {
    let mut buf = vec![0; 64 * 1024];
    while let Ok(got) = from.read(&mut buf) {
        if got == 0 || to.write_all(&buf[..got]).is_err() {
            break;
        }
        count(got as u64);
    }
    // Whoever has closed already needs no word of it.
    drop(to.shutdown(Shutdown::Write));
}
