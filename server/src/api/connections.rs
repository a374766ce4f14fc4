//! Sockets: accepts connections, serves them, and ends them gracefully. They speak HTTP/1.1.

use super::limits::Pace;
use super::{Limits, State, router};
use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// A request's head: the request line and all headers. Long paths of 255-byte names need room.
const HEAD_LEN_MAX: usize = 64 * 1024;

const HEADERS_MAX: usize = 100;

/// How long to wait when no connection can be accepted, for example because all file descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until `stop` ends; then answers held polls, lets running requests finish, and returns.
pub async fn serve(listener: TcpListener, state: State, stop: impl Future<Output = ()>) {
    let limits = Arc::clone(&state.limits);
    let stopping = state.stopping.clone();
    let places = Places::new(&limits);
    let (app, builder, graceful) = (router(state), builder(&limits), GracefulShutdown::new());
    let mut stop = pin!(stop);
    loop {
        let (stream, place) = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut stop => break,
        };
        serve_one(stream, place, &app, &builder, &graceful, &limits);
    }
    drop(listener);
    stopping.cancel();
    if tokio::time::timeout(limits.stop_time, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish in time and are cut off");
    }
}

/// The next connection that may stay. A further one of an address that has its part already is closed at once.
async fn accept(listener: &TcpListener, places: &Arc<Places>) -> (TcpStream, Place) {
    // The semaphore is never closed; without a permit the connection would only go uncounted.
    let permit = Arc::clone(&places.all).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match places.of(peer.ip()) {
                Some(own) => return (stream, Place { _all: permit, _own: own }),
                None => tracing::debug!(%peer, "the address has as many connections as one may have"),
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Places for connections: so many in all, and half of them for each address.
struct Places {
    all: Arc<Semaphore>,
    own_max: usize,
    proxies: Vec<IpAddr>,
    own: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place.
struct Place {
    _all: Option<OwnedSemaphorePermit>,
    _own: OwnPlace,
}

struct OwnPlace {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    fn new(limits: &Limits) -> Arc<Self> {
        let all = Arc::new(Semaphore::new(limits.connections_max));
        let proxies = limits.proxies.iter().map(|proxy| proxy.to_canonical()).collect();
        Arc::new(Self { all, own_max: limits.connections_max.div_ceil(2), proxies, own: Mutex::default() })
    }

    /// A place for one more connection of an address; `None` if it has its part. Of IPv6 a network of 64 bits, which is what
    /// one customer has, counts as one address.
    fn of(self: &Arc<Self>, address: IpAddr) -> Option<OwnPlace> {
        let address = address.to_canonical();
        let own_max = if self.proxies.contains(&address) { usize::MAX } else { self.own_max };
        let address = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() >> 64 << 64)),
        };
        let mut own = self.own.lock();
        let count = own.entry(address).or_default();
        if *count >= own_max {
            return None;
        }
        *count += 1;
        drop(own);
        Some(OwnPlace { places: Arc::clone(self), address })
    }
}

impl Drop for OwnPlace {
    fn drop(&mut self) {
        let mut own = self.places.own.lock();
        if let Some(count) = own.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                own.remove(&self.address);
            }
        }
    }
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_LEN_MAX)
        .max_buf_size(HEAD_LEN_MAX);
    builder
}

fn serve_one(
    stream: TcpStream,
    place: Place,
    app: &Router,
    builder: &Builder,
    graceful: &GracefulShutdown,
    limits: &Limits,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set");
    }
    let io = TokioIo::new(Patient::new(stream, limits));
    let service = TowerToHyperService::new(app.clone());
    let connection = graceful.watch(builder.serve_connection(io, service));
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
        drop(place);
    });
}

/// A stream that gives up when its peer sends nothing at first, or takes bytes too slowly: a reply must not be held for ever.
struct Patient {
    stream: TcpStream,
    /// Runs until the first byte has come.
    first: Option<Pin<Box<Sleep>>>,
    pace: Pace,
    /// Since when the peer takes no bytes, and until when that may go on.
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Patient {
    fn new(stream: TcpStream, limits: &Limits) -> Self {
        let first = Some(Box::pin(tokio::time::sleep(limits.first_time)));
        Self { stream, first, pace: Pace::new(limits.body_rate, limits.stall_time, 0), stalled: None }
    }

    fn watch(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &progress {
            Poll::Ready(Ok(bytes)) => {
                let waited = self.stalled.take().map_or(Duration::ZERO, |(since, _)| since.elapsed());
                self.pace.moved(*bytes as u64, waited);
                return progress;
            }
            Poll::Ready(Err(_)) => return progress,
            Poll::Pending => (),
        }
        let left = self.pace.left();
        let begin = || (Instant::now(), Box::pin(tokio::time::sleep(left)));
        let (_, end) = self.stalled.get_or_insert_with(begin);
        ready!(end.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let progress = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(first) = &mut self.first else { return progress };
        match progress {
            Poll::Ready(_) => {
                if buf.filled().len() > before {
                    self.first = None;
                }
                progress
            }
            Poll::Pending => {
                ready!(first.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_half_of_the_connections_and_a_proxy_all() {
        let proxy = "10.0.0.1".parse().unwrap();
        let places = Places::new(&Limits { connections_max: 4, proxies: vec![proxy], ..Limits::default() });
        let of = |address: &str| places.of(address.parse().unwrap());
        let first = (of("10.0.0.2"), of("::ffff:10.0.0.2"));
        assert!(first.0.is_some() && first.1.is_some() && of("10.0.0.2").is_none());
        let six = (of("2001:db8::1"), of("2001:db8::2"));
        assert!(six.0.is_some() && six.1.is_some() && of("2001:db8::3").is_none() && of("2001:db8:0:1::3").is_some());
        let all: Vec<_> = (0..9).map(|_| of("10.0.0.1")).collect();
        assert!(all.iter().all(Option::is_some));
        drop(first.0);
        assert!(of("10.0.0.2").is_some());
        drop((first.1, six, all));
        assert!(places.own.lock().is_empty(), "what has no connection is forgotten");
    }
}
