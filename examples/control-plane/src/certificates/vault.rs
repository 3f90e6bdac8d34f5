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

/// Why keys are none.
#[derive(Debug, Error)]
#[error(
    "is not, in each line, base64 of {KEY_LEN} bytes; make one by `openssl rand -base64 {KEY_LEN}`"
)]
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
    #[error("was not encrypted with a key that the server has now, for this name")]
    OtherKey,
    /// The system has no randomness.
    #[error("cannot be encrypted: the system gives no randomness")]
    NoRandomness,
}

/// Encrypts by its first key, if it has one, and decrypts by any. Clones share them.
#[derive(Clone, Default)]
pub struct Vault(Arc<[LessSafeKey]>);

impl Vault {
    /// A vault with a key in base64; or several, each in a line of its own.
    pub fn new(keys: &str) -> Result<Vault, KeyError> {
        let key = |line: &str| {
            let key = STANDARD.decode(line.trim()).map_err(|_| KeyError)?;
            let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| KeyError)?;
            Ok(LessSafeKey::new(key))
        };
        let keys = keys.trim().lines().map(key).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(KeyError) } else { Ok(Vault(keys.into())) }
    }

    /// Encrypts a text for a name; under another name it cannot be read.
    pub(crate) fn seal(&self, name: &str, text: &str) -> Result<String, VaultError> {
        let key = self.0.first().ok_or(VaultError::NoKey)?;
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
        if self.0.is_empty() {
            return Err(VaultError::NoKey);
        }
        let bytes = STANDARD.decode(sealed).map_err(|_| VaultError::OtherKey)?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN).ok_or(VaultError::OtherKey)?;
        let opened = self.0.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut sealed = sealed.to_vec();
            let opened = key.open_in_place(nonce, Aad::from(name), &mut sealed).ok()?;
            String::from_utf8(opened.to_vec()).ok()
        });
        opened.ok_or(VaultError::OtherKey)
    }
}

/// How many keys there are, and never which.
impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({} keys)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const NEW: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

    #[test]
    fn a_key_is_replaced_by_another() {
        let [old, both, new] =
            [OLD, &format!("{NEW}\n{OLD}\n"), NEW].map(|keys| Vault::new(keys).unwrap());
        let before = old.seal("name", "text").unwrap();
        assert_eq!(both.open("name", &before).unwrap(), "text");
        assert!(matches!(new.open("name", &before), Err(VaultError::OtherKey)));
        let after = both.seal("name", "text").unwrap();
        assert_eq!(new.open("name", &after).unwrap(), "text");
        assert!(matches!(old.open("name", &after), Err(VaultError::OtherKey)));
        assert!(matches!(both.open("other", &before), Err(VaultError::OtherKey)));
        assert_eq!(format!("{both:?}"), "Vault(2 keys)");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for keys in ["", " \n", "c2hvcnQ=", &format!("{OLD}\nnone"), &format!("{OLD}{NEW}")] {
            assert!(Vault::new(keys).is_err(), "{keys:?}");
        }
        assert!(matches!(Vault::default().seal("name", "text"), Err(VaultError::NoKey)));
        assert!(matches!(Vault::default().open("name", ""), Err(VaultError::NoKey)));
    }
}
