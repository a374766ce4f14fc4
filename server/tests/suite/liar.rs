//! A client that lies: raw connections on loopback that speak as much of the protocol as they like, and no more.

use crate::client::Client;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Long enough for any answer that is meant to come.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Connects from an address of its own, with the token of a credential.
#[derive(Clone)]
pub struct Liar {
    to: SocketAddr,
    from: IpAddr,
    token: String,
}

impl Liar {
    /// From 127.0.0.2, with the token of `client`.
    pub fn new(client: &Client) -> Self {
        Self { to: client.address(), from: Ipv4Addr::new(127, 0, 0, 2).into(), token: client.token.clone() }
    }

    /// A connection on which nothing has been said.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.from, 0).into())?;
        socket.connect(self.to).await
    }

    /// A connection on which these bytes have been said.
    pub async fn say(&self, bytes: &[u8]) -> io::Result<TcpStream> {
        let mut stream = self.connect().await?;
        stream.write_all(bytes).await?;
        Ok(stream)
    }

    /// The head of a request with the token; `headers` end with a line break each.
    pub fn head(&self, line: &str, headers: &str) -> String {
        format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{headers}\r\n", self.token)
    }

    /// A request whose body may lack its end. What the server does not take of it is not sent.
    pub async fn begin(&self, line: &str, headers: &str, body: &[u8]) -> io::Result<TcpStream> {
        let mut stream = self.say(self.head(line, headers).as_bytes()).await?;
        // The server may refuse a body before it is there.
        drop(stream.write_all(body).await);
        Ok(stream)
    }

    /// A request with a whole body.
    pub async fn send(&self, line: &str, media: &str, body: &[u8]) -> io::Result<TcpStream> {
        let headers = format!("content-type: {media}\r\ncontent-length: {}\r\n", body.len());
        self.begin(line, &headers, body).await
    }

    /// So many of these requests at a time, each on a connection of its own, whose answers are not read.
    pub async fn crowd(&self, count: usize, line: &str, media: &str, body: &[u8]) -> Vec<TcpStream> {
        let all = (0..count).map(|_| self.send(line, media, body));
        futures::future::join_all(all).await.into_iter().filter_map(Result::ok).collect()
    }
}

/// The status of the answer that comes next; `None` if the connection ends without one.
pub async fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut head = Vec::new();
    let mut piece = [0; 512];
    while !head.windows(2).any(|end| end == b"\r\n") {
        match timeout(PATIENCE, stream.read(&mut piece)).await.expect("an answer in time") {
            Ok(0) | Err(_) => return None,
            Ok(len) => head.extend_from_slice(&piece[..len]),
        }
    }
    String::from_utf8_lossy(&head).split(' ').nth(1)?.parse().ok()
}

/// Whether the server closes the connection within a time, whatever it says before.
pub async fn is_closed_within(stream: &mut TcpStream, time: Duration) -> bool {
    let mut piece = [0; 4096];
    let ended = async {
        while let Ok(len) = stream.read(&mut piece).await
            && len > 0
        {}
    };
    timeout(time, ended).await.is_ok()
}
