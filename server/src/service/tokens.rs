//! Tokens: who may use the server. A token is 256 random bits; only its SHA-256 is stored.

use super::{Result, Service, ServiceError};
use crate::meta::{ReadTx, TokenRow};
use futures::{Stream, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const TOKEN_NAME_LEN_MAX: usize = 64;

/// The token that may decide what others may not: the first one of a new server has this name.
pub const ADMIN_TOKEN: &str = "admin";

/// A token's secret. Shown once, when it is made; never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn new(random: &[u8; 32]) -> Self {
        Self(random.iter().fold(String::with_capacity(64), |text, byte| text + &format!("{byte:02x}")))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The token that a request came with, without its secret. Requests carry it from the API to the rules.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    name: Arc<str>,
    hash: [u8; 32],
}

impl Credential {
    /// The token's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({:?})", self.name)
    }
}

/// Whether a request may decide what ordinary tokens may not: it has the token `admin`, or is the server's own.
pub(super) fn is_operator(credential: Option<&Credential>) -> bool {
    credential.is_none_or(|credential| credential.name() == ADMIN_TOKEN)
}

/// Counts the moments at which tokens may have been revoked, so that a stream asks the store only after one of them.
#[derive(Default)]
pub(super) struct Revocations(AtomicU64);

/// No number of revocations.
const NOT_ASKED: u64 = u64::MAX;

/// An error if the token has been revoked since the request came. Without a credential, the request is the server's own.
pub(super) fn admit(tx: &dyn ReadTx, credential: Option<&Credential>) -> Result<()> {
    match credential {
        Some(credential) if tx.token(&credential.hash)?.is_none() => Err(ServiceError::Revoked),
        Some(_) | None => Ok(()),
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

impl Service {
    /// A fresh secret, which nobody accepts yet.
    pub fn new_token(&self) -> Token {
        Token::new(&self.0.environment.random())
    }

    /// Makes a secret valid under a name, which must be free.
    pub async fn enter_token(&self, name: &str, token: &Token) -> Result<()> {
        check_name(name)?;
        let (hash, now, owned) = (digest(token.reveal()), self.0.environment.now(), name.to_owned());
        let added = self.write(move |tx| Ok(tx.add_token(&owned, &hash, now)?)).await?;
        let taken = || ServiceError::PathConflict(format!("there is a token named `{name}` already: revoke it first"));
        added.then_some(()).ok_or_else(taken)
    }

    /// Makes a token. Its name must be free.
    pub async fn add_token(&self, name: &str) -> Result<Token> {
        let token = self.new_token();
        self.enter_token(name, &token).await?;
        Ok(token)
    }

    /// All tokens, without their secrets.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>> {
        self.read(|tx| Ok(tx.tokens()?)).await
    }

    /// Revokes a token; every later request with it is refused, and so is every poll and stream that goes on.
    pub async fn revoke_token(&self, name: &str) -> Result<()> {
        let owned = name.to_owned();
        let removed = self.write(move |tx| Ok(tx.remove_token(&owned)?)).await?;
        let unknown = || ServiceError::NotFound(format!("there is no token named `{name}`"));
        removed.then_some(()).ok_or_else(unknown)?;
        self.ask_tokens_again();
        Ok(())
    }

    /// Waits until another process, such as `token revoke` or `undo`, has changed the store, and wakes all held polls: each
    /// looks again at what is new and at its token.
    pub async fn follow_others(&self) {
        self.0.meta.changed_outside().await;
        self.ask_tokens_again();
    }

    fn ask_tokens_again(&self) {
        self.0.revocations.0.fetch_add(1, Ordering::AcqRel);
        self.0.wake.all();
    }

    /// The items as long as the token is valid that this service works for.
    pub(super) fn while_admitted<T: Send + 'static>(
        &self,
        items: impl Stream<Item = Result<T>> + Send + 'static,
    ) -> impl Stream<Item = Result<T>> + Send + 'static {
        let (service, asked) = (self.clone(), Arc::new(AtomicU64::new(NOT_ASKED)));
        items.and_then(move |item| {
            let (service, asked) = (service.clone(), Arc::clone(&asked));
            async move { service.admitted_since(&asked).await.map(|()| item) }
        })
    }

    /// Asks for the token if tokens may have been revoked since it was `asked` for.
    async fn admitted_since(&self, asked: &AtomicU64) -> Result<()> {
        let now = self.0.revocations.0.load(Ordering::Acquire);
        if asked.swap(now, Ordering::Relaxed) == now {
            return Ok(());
        }
        let credential = self.2.clone();
        self.read(move |tx| admit(tx, credential.as_ref())).await
    }

    /// The credential with this secret, if it is valid. Only digests are compared: how long that takes tells nothing about
    /// a secret.
    pub async fn credential(&self, secret: &str) -> Result<Option<Credential>> {
        let hash = digest(secret);
        let row = self.read(move |tx| Ok(tx.token(&hash)?)).await?;
        Ok(row.map(|row| Credential { name: row.name.into(), hash }))
    }

    /// The same service on behalf of a token: what it does counts for the token, and fails once the token is revoked.
    pub fn acting_for(&self, credential: Credential) -> Self {
        Self(Arc::clone(&self.0), self.1.clone(), Some(credential))
    }
}

fn check_name(name: &str) -> Result<()> {
    let plain = !name.chars().any(char::is_control);
    if plain && (1..=TOKEN_NAME_LEN_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(ServiceError::Invalid(format!("a token's name has 1 to {TOKEN_NAME_LEN_MAX} bytes and no control characters")))
}
