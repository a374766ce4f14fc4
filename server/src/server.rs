//! A whole server in this process: data directory, socket, background work, and an orderly end.

use crate::api::{self, State};
use crate::config::Config;
use crate::data::{Data, DataError, is_in_use};
use crate::descriptors;
use crate::service::{Service, ServiceError};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Small chunks stay where they are for so long after a failed move.
const FLUSH_PAUSE: Duration = Duration::from_secs(30);

/// Why a server does not start or does not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The address is taken, forbidden or unknown.
    #[error("cannot listen on {listen}: {source}; choose another address with --listen")]
    Listen {
        /// What was asked for.
        listen: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Other machines can reach the address, where tokens and files would travel unencrypted.
    #[error(
        "other machines can reach {listen} over plain HTTP, which shows tokens and files to everyone on the way: listen on \
         127.0.0.1 behind a proxy that adds TLS, or say --behind-proxy if such a proxy stands before this address, or \
         --insecure-http if the network can be trusted"
    )]
    InTheOpen {
        /// What was asked for.
        listen: String,
    },
    /// The stores did not close.
    #[error("the data did not close cleanly: {0}")]
    Close(ServiceError),
    /// The task that ran the server died.
    #[error("the server panicked")]
    Panicked,
}

/// A server that listens but does not answer yet.
pub struct Server {
    data: Data,
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
}

impl Server {
    /// Takes the data directory and the address.
    pub async fn open(config: Config) -> Result<Self, ServerError> {
        let refused = |source| ServerError::Listen { listen: config.listen.clone(), source };
        let listener = TcpListener::bind(&config.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let is_open = is_in_the_open(address, &config);
        if is_open && !is_in_use(&config.data) {
            return Err(ServerError::InTheOpen { listen: config.listen });
        }
        let data = Data::take(&config.data).await?;
        if is_open {
            if !data.may_listen_in_the_open(address.ip()).await? {
                return Err(ServerError::InTheOpen { listen: config.listen });
            }
            tracing::warn!(%address, "other machines can reach this address over plain HTTP, which shows tokens and files to \
                everyone on the way: listen on 127.0.0.1 behind a proxy that adds TLS, or say --behind-proxy or --insecure-http");
        }
        data.end_upgrade().await?;
        data.service.set_hold_rule(config.hold);
        data.service.set_reserve(config.reserve);
        let service = data.service.clone();
        let laid = tokio::task::spawn_blocking(move || service.lay_ballast()).await;
        if let Err(error) = laid.map_err(|_| ServerError::Panicked)? {
            tracing::warn!(%error, "no room could be set aside for the day on which the disk is full");
        }
        Ok(Self { data, listener, address, config })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file with the first token.
    pub fn admin_token(&self) -> &Path {
        &self.data.admin_token
    }

    /// The service behind the socket.
    pub const fn service(&self) -> &Service {
        &self.data.service
    }

    /// Serves until `stop` ends, then finishes what is running and closes the stores.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), ServerError> {
        let Self { data, listener, config, .. } = self;
        let service = data.service.clone();
        let stopping = CancellationToken::new();
        let mut limits = config.limits;
        limits.connections_max = limits.connections_max.min(descriptors::connections_max());
        let state = State::new(service.clone(), limits, stopping.clone());
        let tidy = tokio::spawn(keep_tidy(service.clone(), stopping.clone()));
        let informed = tokio::spawn(keep_informed(service.clone(), stopping.clone()));
        api::serve(listener, state, stop).await;
        stopping.cancel();
        tidy.await.map_err(|_| ServerError::Panicked)?;
        informed.await.map_err(|_| ServerError::Panicked)?;
        let closed = tokio::task::spawn_blocking(move || service.close()).await;
        drop(data);
        closed.map_err(|_| ServerError::Panicked)?.map_err(ServerError::Close)
    }

    /// Serves in the background.
    pub fn spawn(self) -> Running {
        let (address, service, stop) = (self.address, self.data.service.clone(), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        Running { address, service, stop, task: tokio::spawn(self.run(stopped)) }
    }
}

/// A server in the background of this process.
pub struct Running {
    address: SocketAddr,
    service: Service,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The service behind the socket.
    pub const fn service(&self) -> &Service {
        &self.service
    }

    /// Stops it and waits for its end.
    pub async fn stop(self) -> Result<(), ServerError> {
        self.stop.cancel();
        self.task.await.map_err(|_| ServerError::Panicked)?
    }
}

/// Moves small chunks into packs whenever enough have come together. A move that has begun is finished.
async fn keep_tidy(service: Service, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = service.small_chunks_due() => (),
        }
        match service.flush_small_chunks().await {
            Ok(moved) => tracing::debug!(moved, "small chunks moved into a pack"),
            Err(error) => {
                tracing::error!(%error, "small chunks could not be moved into a pack; they stay where they are");
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(FLUSH_PAUSE) => (),
                }
            }
        }
    }
}

/// Tells held polls and streams what commands beside the server do: tokens that are revoked, folders that go back.
async fn keep_informed(service: Service, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = service.follow_others() => (),
        }
    }
}

/// Refuses a new server at an address that other machines reach, before anything is made. An address that cannot be resolved is
/// refused where the server listens.
pub(crate) fn refuse_in_the_open(config: &Config) -> Result<(), ServerError> {
    let mut addresses = config.listen.to_socket_addrs().into_iter().flatten();
    if addresses.any(|address| is_in_the_open(address, config)) && !is_in_use(&config.data) {
        return Err(ServerError::InTheOpen { listen: config.listen.clone() });
    }
    Ok(())
}

/// Whether other machines can reach the address, and nothing was said about that.
fn is_in_the_open(address: SocketAddr, config: &Config) -> bool {
    !address.ip().to_canonical().is_loopback() && !config.behind_proxy && !config.insecure_http
}
