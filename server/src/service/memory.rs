//! Memory that requests take: large bodies, chunks on their way out, pages and manifests share one budget of bytes.
//!
//! Owns how the budget is divided. A charge is taken before the bytes are, counts raw bytes, and goes where the bytes go:
//! it ends when they are freed. Each credential has a share that it cannot exceed. What is at most [`FREE_LEN`] long is
//! not counted; the number of requests bounds it.
//!
//! A quarter of the budget is for manifests, which a download holds while it waits for memory for its chunks. Beside that,
//! nothing waits for long while it holds a charge, so that waiting ends when those before have sent or received their
//! bytes; it ends after the patience anyway.

use super::{Result, ServiceError};
use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Bytes that are not counted.
pub const FREE_LEN: u64 = 64 * 1024;

/// What is counted, in bytes: the budget has at most 2^32 - 1 of them.
const UNIT: u64 = 1024;

/// How long a request that needs the whole budget waits before it looks again.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a request waits that holds other memory already.
const SOON: Duration = Duration::from_secs(5);

/// One part in so many is for manifests.
const MANIFESTS_PART: u32 = 4;

/// All the memory that requests may take together.
#[derive(Clone)]
pub struct Budget {
    bodies: Pool,
    manifests: Pool,
    oversize: Arc<Semaphore>,
    patience: Duration,
}

/// Memory for one purpose.
#[derive(Clone)]
struct Pool {
    all: Arc<Semaphore>,
    units: u32,
    share: u32,
}

/// The shares of one credential.
#[derive(Clone)]
pub struct Account {
    budget: Budget,
    bodies: Arc<Semaphore>,
    manifests: Arc<Semaphore>,
}

/// What one request may take, and what it holds until its reply is sent. The default counts nothing: it is for services
/// without clients.
#[derive(Clone, Default)]
pub struct Allowance(Option<Arc<Counted>>);

struct Counted {
    account: Account,
    /// Cancelled when the client goes away before it has its answer.
    gone: CancellationToken,
    held: Mutex<Vec<Charge>>,
}

/// A part of the budget. All clones are one; it is given back with the last of them.
#[derive(Clone, Default)]
pub struct Charge(Option<Arc<Permits>>);

struct Permits {
    units: u32,
    _all: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
    _oversize: Option<OwnedSemaphorePermit>,
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

fn busy() -> ServiceError {
    ServiceError::Busy("the memory for large requests is in use: try again in a moment".to_owned())
}

impl Budget {
    /// A budget of so many bytes, of which a credential may have `share`. A request waits for memory as long as `patience`.
    pub fn new(bytes: u64, share: u64, patience: Duration) -> Self {
        let units = units(bytes).clamp(MANIFESTS_PART, u32::MAX >> 3);
        let share = self::units(share).clamp(MANIFESTS_PART, units);
        let manifests = Pool::new(units / MANIFESTS_PART, share / MANIFESTS_PART);
        let bodies = Pool::new(units - manifests.units, share - manifests.share);
        Self { bodies, manifests, oversize: Arc::new(Semaphore::new(1)), patience }
    }

    /// The account of a credential.
    pub fn account(&self) -> Account {
        Account { budget: self.clone(), bodies: self.bodies.own(), manifests: self.manifests.own() }
    }
}

impl Pool {
    fn new(units: u32, share: u32) -> Self {
        Self { all: Arc::new(Semaphore::new(units as usize)), units, share }
    }

    fn own(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(self.share as usize))
    }

    /// Takes memory, at most the whole share, first of the share and then of all.
    async fn take(&self, own: &Arc<Semaphore>, wanted: u32, oversize: Option<OwnedSemaphorePermit>) -> Result<Charge> {
        let units = wanted.min(self.share);
        let own = Arc::clone(own).acquire_many_owned(units).await.map_err(|_| busy())?;
        let all = Arc::clone(&self.all).acquire_many_owned(units).await.map_err(|_| busy())?;
        Ok(Charge::of(Permits { units, _all: all, _own: Some(own), _oversize: oversize }))
    }
}

impl Account {
    /// What a request of this credential may take.
    pub fn allowance(&self) -> Allowance {
        let (account, gone, held) = (self.clone(), CancellationToken::new(), Mutex::default());
        Allowance(Some(Arc::new(Counted { account, gone, held })))
    }
}

impl Counted {
    async fn take(&self, wanted: u32, oversize: Option<OwnedSemaphorePermit>) -> Result<Charge> {
        let Account { budget, bodies, .. } = &self.account;
        self.in_time(budget.bodies.take(bodies, wanted, oversize)).await
    }

    /// Waits for memory no longer than the patience, nor for a client that has gone away.
    async fn in_time<T>(&self, waiting: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            taken = timeout(self.account.budget.patience, waiting) => taken.map_err(|_| busy())?,
            () = self.gone.cancelled() => Err(busy()),
        }
    }
}

impl Allowance {
    /// The client has gone away: what the request does goes on, but waits for no more memory.
    pub fn give_up(&self) {
        if let Some(counted) = &self.0 {
            counted.gone.cancel();
        }
    }

    /// Whether anything is counted.
    pub const fn counts(&self) -> bool {
        self.0.is_some()
    }

    /// Takes memory for so many bytes, at most the whole share. Fails if there is none in time.
    pub async fn charge(&self, bytes: u64) -> Result<Charge> {
        match &self.0 {
            Some(counted) if bytes > FREE_LEN => counted.take(units(bytes), None).await,
            Some(_) | None => Ok(Charge::default()),
        }
    }

    /// The same; it is given back when the reply has been sent.
    pub async fn hold(&self, bytes: u64) -> Result<()> {
        self.keep(self.charge(bytes).await?);
        Ok(())
    }

    /// Takes memory for manifests of so many bytes, at most the whole share. Fails if there is none in time.
    pub async fn charge_manifests(&self, bytes: u64) -> Result<Charge> {
        let Some(counted) = self.0.as_deref().filter(|_| bytes > FREE_LEN) else {
            return Ok(Charge::default());
        };
        let Account { budget, manifests, .. } = &counted.account;
        counted.in_time(budget.manifests.take(manifests, units(bytes), None)).await
    }

    /// The same for a request that may hold memory for its body, which others may wait for: so it does not wait long.
    pub async fn charge_manifests_soon(&self, bytes: u64) -> Result<Charge> {
        if !self.counts() {
            return Ok(Charge::default());
        }
        timeout(SOON, self.charge_manifests(bytes)).await.map_err(|_| busy())?
    }

    /// The same if there is some at once.
    pub fn try_charge_manifests(&self, bytes: u64) -> Option<Charge> {
        self.charge_manifests(bytes).now_or_never()?.ok()
    }

    /// Gives a charge back when the reply has been sent.
    pub fn keep(&self, charge: Charge) {
        if let Some(counted) = self.0.as_ref().filter(|_| charge.0.is_some()) {
            counted.held.lock().push(charge);
        }
    }

    /// Whether so many bytes are within the share of the credential.
    pub fn has(&self, bytes: u64) -> bool {
        self.0.as_ref().is_none_or(|counted| units(bytes) <= counted.account.budget.bodies.share)
    }

    /// Takes memory for a body of `len` bytes that is beyond the share once it is parsed. One such body is received at a
    /// time.
    pub async fn charge_oversize(&self, len: u64) -> Result<Charge> {
        let Some(counted) = &self.0 else { return Ok(Charge::default()) };
        let budget = &counted.account.budget;
        let turn = async { Arc::clone(&budget.oversize).acquire_owned().await.map_err(|_| busy()) };
        let turn = counted.in_time(turn).await?;
        counted.take(units(len), Some(turn)).await
    }

    /// Waits for what `charge` lacks of so many bytes, or of the whole budget if that is less, and holds it until the reply
    /// has been sent. Requests that need less do not queue behind this.
    pub async fn hold_rest(&self, charge: &Charge, bytes: u64) -> Result<()> {
        let Some(counted) = &self.0 else { return Ok(()) };
        let budget = &counted.account.budget;
        let wanted = units(bytes).min(budget.bodies.units);
        let missing = wanted.saturating_sub(charge.0.as_ref().map_or(0, |permits| permits.units));
        let end = Instant::now() + budget.patience;
        loop {
            if let Ok(all) = Arc::clone(&budget.bodies.all).try_acquire_many_owned(missing) {
                self.keep(Charge::of(Permits { units: missing, _all: all, _own: None, _oversize: None }));
                return Ok(());
            }
            if Instant::now() >= end || counted.gone.is_cancelled() {
                return Err(busy());
            }
            sleep(PAUSE).await;
        }
    }
}

impl Charge {
    fn of(permits: Permits) -> Self {
        Self(Some(Arc::new(permits)))
    }

    /// The same bytes, which have this charge until they are freed.
    pub fn on(&self, bytes: Bytes) -> Bytes {
        if self.0.is_none() {
            return bytes;
        }
        Bytes::from_owner(Charged { bytes, _charge: self.clone() })
    }
}

struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn budget() -> Budget {
        // Of these, 8 and 4 MiB are for bodies.
        Budget::new(32 * MIB / 3, 16 * MIB / 3, Duration::from_millis(50))
    }

    #[tokio::test]
    async fn a_credential_has_its_share_and_no_more() {
        let budget = budget();
        let (greedy, other) = (budget.account().allowance(), budget.account().allowance());
        let first = greedy.charge(3 * MIB).await.unwrap();
        assert!(matches!(greedy.charge(2 * MIB).await, Err(ServiceError::Busy(_))));
        other.charge(4 * MIB).await.unwrap();
        drop(first);
        greedy.charge(100 * MIB).await.unwrap();
        let third = budget.account().allowance();
        let held = [&greedy, &other].map(|allowance| allowance.charge(4 * MIB));
        let held = futures::future::join_all(held).await;
        assert!(held.iter().all(Result::is_ok));
        assert!(third.charge(MIB).await.is_err(), "the budget is used up");
        assert!(third.charge(FREE_LEN).await.is_ok(), "what is small is not counted");
    }

    #[tokio::test]
    async fn a_charge_ends_with_the_bytes_or_with_the_request() {
        let account = budget().account();
        let allowance = account.allowance();
        let charge = allowance.charge(4 * MIB).await.unwrap();
        let bytes = charge.on(Bytes::from_static(b"bytes"));
        drop(charge);
        let part = bytes.slice(1..3);
        drop(bytes);
        assert!(allowance.charge(MIB).await.is_err());
        drop(part);
        allowance.hold(4 * MIB).await.unwrap();
        assert!(allowance.charge(MIB).await.is_err());
        drop(allowance);
        assert!(account.allowance().charge(4 * MIB).await.is_ok());
    }

    #[tokio::test]
    async fn what_needs_more_than_its_share_waits_for_it_and_lets_others_pass() {
        let budget = budget();
        let (large, other) = (budget.account().allowance(), budget.account().allowance());
        let charge = large.charge_oversize(3 * MIB).await.unwrap();
        assert!(!large.has(5 * MIB) && large.has(4 * MIB));
        assert!(other.charge_oversize(MIB).await.is_err(), "one at a time");
        let theirs = other.charge(MIB).await.unwrap();
        assert!(large.hold_rest(&charge, 100 * MIB).await.is_err());
        large.hold_rest(&charge, 6 * MIB).await.unwrap();
        drop(large);
        let large = budget.account().allowance();
        other.charge(2 * MIB).await.unwrap();
        drop(theirs);
        large.hold_rest(&charge, 100 * MIB).await.unwrap();
        assert!(other.charge(MIB).await.is_err());
        drop((large, charge));
        assert!(other.charge(4 * MIB).await.is_ok());
    }

    #[tokio::test]
    async fn a_client_that_has_gone_away_waits_for_nothing() {
        let account = Budget::new(8 * MIB, 8 * MIB, Duration::from_secs(600)).account();
        let (first, second) = (account.allowance(), account.allowance());
        let _all = first.charge(8 * MIB).await.unwrap();
        let mut waits = Box::pin(second.charge(MIB));
        assert!(futures::poll!(&mut waits).is_pending());
        second.give_up();
        assert!(waits.await.is_err());
    }

    #[tokio::test]
    async fn without_an_account_nothing_is_counted() {
        let free = Allowance::default();
        assert!(free.charge(u64::MAX).await.is_ok() && free.has(u64::MAX) && free.hold(1 << 40).await.is_ok());
    }
}
