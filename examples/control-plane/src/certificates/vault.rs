//! What is secret is stored encrypted, by a key that is not in the database.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use thiserror::Error;

/// How many bytes a key has.
const KEY_LEN: usize = 32;

/// Why a key is none.
#[derive(Debug, Error)]
#[error("is not base64 of {KEY_LEN} bytes; make one by `openssl rand -base64 {KEY_LEN}`")]
pub struct KeyError;

/// Why something secret cannot be stored, or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VaultError {
    /// There is no key.
    #[error(
        "cannot be stored, since the server has no key to encrypt it with; start it with \
         --secret-key-file (SECRET_KEY_FILE) or SECRET_KEY"
    )]
    NoKey,
    /// It was encrypted with another key, or for another name, or is no such thing.
    #[error("was not encrypted with the key that the server has now, for this name")]
    OtherKey,
    /// The system has no randomness.
    #[error("cannot be encrypted: the system gives no randomness")]
    NoRandomness,
}

/// Encrypts and decrypts, if it has a key. Clones share it.
#[derive(Clone, Default)]
pub struct Vault(Option<Arc<LessSafeKey>>);

impl Vault {
    /// A vault with a key in base64.
    pub fn new(key: &str) -> Result<Vault, KeyError> {
        let key = STANDARD.decode(key.trim()).map_err(|_| KeyError)?;
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| KeyError)?;
        Ok(Vault(Some(Arc::new(LessSafeKey::new(key)))))
    }

    /// Encrypts a text for a name; under another name it cannot be read.
    pub(crate) fn seal(&self, name: &str, text: &str) -> Result<String, VaultError> {
        let key = self.0.as_ref().ok_or(VaultError::NoKey)?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| VaultError::NoRandomness)?;
        let mut sealed = text.as_bytes().to_vec();
        let once = Nonce::assume_unique_for_key(nonce);
        let done = key.seal_in_place_append_tag(once, Aad::from(name), &mut sealed);
        done.map_err(|_| VaultError::NoRandomness)?;
        Ok(STANDARD.encode([&nonce[..], &sealed].concat()))
    }

    /// Decrypts what was encrypted for this name.
    pub(crate) fn open(&self, name: &str, sealed: &str) -> Result<String, VaultError> {
        let key = self.0.as_ref().ok_or(VaultError::NoKey)?;
        let bytes = STANDARD.decode(sealed).map_err(|_| VaultError::OtherKey)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN).ok_or(VaultError::OtherKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| VaultError::OtherKey)?;
        let mut sealed = sealed.to_vec();
        let opened = key.open_in_place(nonce, Aad::from(name), &mut sealed);
        let opened = opened.map_err(|_| VaultError::OtherKey)?;
        String::from_utf8(opened.to_vec()).map_err(|_| VaultError::OtherKey)
    }
}

/// Whether there is a key, and never which.
impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Vault(a key)" } else { "Vault(no key)" })
    }
}
