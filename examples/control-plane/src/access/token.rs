//! Tokens: who may use the HTTP API, and for which fleets.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{Any, Row as _, Transaction};
use thiserror::Error;

use crate::access::audit::{self, Entry};
use crate::database::PATIENCE;
use crate::database::store::{Store, StoreError, within};

/// In place of a fleet's name: every fleet, and what belongs to none.
pub const ALL: &str = "*";

/// The longest name of a token.
pub const NAME_MAX: usize = 128;

/// What each token begins with, by which people and tools know it.
const PREFIX: &str = "dpt_";

/// How many random bytes it has: too many to be guessed, so a fast hash hides it.
const RANDOM: usize = 32;

/// Why a token was not made or revoked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The name cannot be one.
    #[error(
        "{0:?} cannot name a token; write up to {NAME_MAX} letters, digits, '-', '_', '.' and '@'"
    )]
    Name(String),
    /// There is one of this name.
    #[error("there is a token {0:?} already; revoke it first, or choose another name")]
    Taken(String),
    /// There is none of this name.
    #[error("there is no token {0:?}; deltaplane token list shows those that there are")]
    Absent(String),
    /// The system has no randomness.
    #[error("the system gives no randomness")]
    NoRandomness,
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What somebody may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::exhaustive_structs)] // whoever makes one says all of it
pub struct Rights {
    /// The fleets whose state may be read; [`ALL`] is every one.
    pub read: BTreeSet<String>,
    /// The fleets that may be written, and so read.
    pub write: BTreeSet<String>,
}

impl Rights {
    pub(crate) fn may_write(&self, fleet: &str) -> bool {
        self.write.contains(ALL) || self.write.contains(fleet)
    }

    pub(crate) fn may_read(&self, fleet: &str) -> bool {
        self.may_write(fleet) || self.read.contains(ALL) || self.read.contains(fleet)
    }
}

/// A token, without what proves that one has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Token {
    /// Unique.
    pub name: String,
    /// What it is good for.
    pub rights: Rights,
    /// In seconds since 1970.
    pub created_at: i64,
    /// In seconds since 1970, if it ends by itself.
    pub expires_at: Option<i64>,
}

impl Token {
    pub(crate) fn is_expired(&self) -> bool {
        self.expires_at.is_some_and(|end| end <= now())
    }
}

/// In seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What is stored of a token. To look a row up by it tells nothing by the time it takes.
pub(crate) fn hash(token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn random() -> Result<String, TokenError> {
    let mut bytes = [0; RANDOM];
    SystemRandom::new().fill(&mut bytes).map_err(|_| TokenError::NoRandomness)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

impl Store {
    /// Makes a token, and returns what nobody will ever be shown again.
    pub async fn create_token(
        &self,
        name: &str,
        rights: &Rights,
        lifetime: Option<Duration>,
    ) -> Result<String, TokenError> {
        if !is_name(name) {
            return Err(TokenError::Name(name.to_owned()));
        }
        let token = random()?;
        let (created, rights) = (now(), serde_json::json!(rights).to_string());
        let end = lifetime
            .map(|life| created.saturating_add(i64::try_from(life.as_secs()).unwrap_or(i64::MAX)));
        let hash = hash(&token);
        let write = async {
            let mut tx = self.begin_write().await?;
            if named(&mut tx, name).await?.is_some() {
                return Ok(false);
            }
            let sql = "INSERT INTO tokens (name, hash, rights, created_at, expires_at) \
                       VALUES ($1, $2, $3, $4, $5)";
            let query = sqlx::query(sql).bind(name.to_owned()).bind(hash).bind(rights);
            query.bind(created).bind(end).execute(&mut **tx).await?;
            audit::record(&mut tx, &Entry::of_command("token create", name)).await?;
            tx.commit().await?;
            Ok(true)
        };
        match within(PATIENCE, write).await? {
            true => Ok(token),
            false => Err(TokenError::Taken(name.to_owned())),
        }
    }

    /// All tokens, by name.
    pub async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let sql = "SELECT name, rights, created_at, expires_at FROM tokens ORDER BY name";
        within(PATIENCE, async {
            sqlx::query(sql).fetch_all(&self.pool).await?.iter().map(token).collect()
        })
        .await
    }

    /// From now on, nobody can use this token.
    pub async fn revoke_token(&self, name: &str) -> Result<(), TokenError> {
        let write = async {
            let mut tx = self.begin_write().await?;
            if named(&mut tx, name).await?.is_none() {
                return Ok(false);
            }
            let query = sqlx::query("DELETE FROM tokens WHERE name = $1").bind(name.to_owned());
            query.execute(&mut **tx).await?;
            audit::record(&mut tx, &Entry::of_command("token revoke", name)).await?;
            tx.commit().await?;
            Ok(true)
        };
        match within(PATIENCE, write).await? {
            true => Ok(()),
            false => Err(TokenError::Absent(name.to_owned())),
        }
    }

    /// The token that has this hash, if the database tells in time.
    pub(crate) async fn token(
        &self,
        hash: &str,
        patience: Duration,
    ) -> Result<Option<Token>, StoreError> {
        let sql = "SELECT name, rights, created_at, expires_at FROM tokens WHERE hash = $1";
        within(patience, async {
            let query = sqlx::query(sql).bind(hash.to_owned());
            query.fetch_optional(&self.pool).await?.as_ref().map(token).transpose()
        })
        .await
    }
}

async fn named(tx: &mut Transaction<'_, Any>, name: &str) -> Result<Option<AnyRow>, sqlx::Error> {
    let query = sqlx::query("SELECT name FROM tokens WHERE name = $1").bind(name.to_owned());
    query.fetch_optional(&mut **tx).await
}

fn token(row: &AnyRow) -> Result<Token, sqlx::Error> {
    let rights: String = row.try_get("rights")?;
    Ok(Token {
        name: row.try_get("name")?,
        // Who writes nonsense there has no rights by it.
        rights: serde_json::from_str(&rights).unwrap_or_default(),
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}
