//! Tokens: who may use the server. A token is 256 random bits; only its SHA-256 is stored.

use super::{Result, Service, ServiceError};
use crate::meta::TokenRow;
use sha2::{Digest as _, Sha256};
use std::fmt;

const TOKEN_NAME_LEN_MAX: usize = 64;

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

    /// Revokes a token; every later request with it is refused.
    pub async fn revoke_token(&self, name: &str) -> Result<()> {
        let owned = name.to_owned();
        let removed = self.write(move |tx| Ok(tx.remove_token(&owned)?)).await?;
        let unknown = || ServiceError::NotFound(format!("there is no token named `{name}`"));
        removed.then_some(()).ok_or_else(unknown)
    }

    /// The token with this secret. Only digests are compared: how long that takes tells nothing about a secret.
    pub async fn token(&self, secret: &str) -> Result<Option<TokenRow>> {
        let hash = digest(secret);
        self.read(move |tx| Ok(tx.token(&hash)?)).await
    }
}

fn check_name(name: &str) -> Result<()> {
    let plain = !name.chars().any(char::is_control);
    if plain && (1..=TOKEN_NAME_LEN_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(ServiceError::Invalid(format!("a token's name has 1 to {TOKEN_NAME_LEN_MAX} bytes and no control characters")))
}
