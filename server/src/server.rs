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

/// How long a survey that failed waits.
const SURVEY_PAUSE: Duration = Duration::from_secs(60);

/// A survey waits for so long for more that is lost.
const SURVEY_GATHER: Duration = Duration::from_secs(1);

/// Between two looks for what given-up uploads have left; also before the first, so that a store that was set back hears of
/// what devices have committed since.
const SWEEP_PAUSE: Duration = Duration::from_secs(3600);

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
        let surveying = tokio::spawn(keep_surveying(service.clone(), stopping.clone()));
        let sweeping = tokio::spawn(keep_sweeping(service.clone(), stopping.clone()));
        api::serve(listener, state, stop).await;
        stopping.cancel();
        tidy.await.map_err(|_| ServerError::Panicked)?;
        for task in [informed, surveying, sweeping] {
            task.await.map_err(|_| ServerError::Panicked)?;
        }
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

/// Looks for the contents that lack lost chunks, those that an earlier run or a repair has left first.
async fn keep_surveying(service: Service, stopping: CancellationToken) {
    loop {
        let surveyed = tokio::select! {
            () = stopping.cancelled() => return,
            surveyed = service.survey_losses() => surveyed,
        };
        let pause = match surveyed {
            Ok(0) => None,
            Ok(count) => {
                tracing::warn!(count, "chunks are lost: devices that have their bytes are asked for them");
                None
            }
            Err(error) => {
                tracing::error!(%error, "the contents that lack lost chunks could not be looked for");
                Some(SURVEY_PAUSE)
            }
        };
        tokio::select! {
            () = stopping.cancelled() => return,
            () = service.survey_due(), if pause.is_none() => (),
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => (),
        }
        // What is damaged is seldom alone.
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(SURVEY_GATHER) => (),
        }
    }
}

/// Drops what was uploaded and never used, now and then.
async fn keep_sweeping(service: Service, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(SWEEP_PAUSE) => (),
        }
        let swept = tokio::select! {
            () = stopping.cancelled() => return,
            swept = service.drop_given_up() => swept,
        };
        match swept {
            Ok(0) => {}
            Ok(packs) => tracing::info!(packs, "what uploads had left that were given up is removed"),
            Err(error) => tracing::error!(%error, "what given-up uploads have left could not be removed"),
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
