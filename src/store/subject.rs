//! The key under which numbers are known where the number itself must not be kept: lists of who must not be sent to.
//!
//! It is kept apart from the data (Data Protection (General) Regulations, reg. 33(d): identification keys separately): whoever has a
//! copy of the store alone cannot try all numbers. Lost, no entry can be matched any more, so a store that has entries is not
//! opened without it.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::domain::suppression::Subject;

/// Octets of the key.
const KEY: usize = 32;
/// What the check value is made of.
const CHECK: &[u8] = b"smsconnect number key";

/// See the module's description.
#[derive(Clone)]
pub struct SubjectKey(hmac::Key);

impl fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubjectKey(***)")
    }
}

impl SubjectKey {
    /// From its octets.
    #[must_use]
    pub fn new(key: &[u8]) -> SubjectKey {
        SubjectKey(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Reads a key file of 64 hexadecimal digits; one that is not there is made, for its owner alone to read.
    ///
    /// # Errors
    /// It cannot be read or made; the text names it.
    pub fn load_or_create(path: &Path) -> Result<SubjectKey, String> {
        let told = |e: &dyn fmt::Display| format!("key of numbers {}: {e}", path.display());
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let octets = unhex(text.trim()).filter(|k| k.len() == KEY);
                let octets = octets.ok_or_else(|| told(&"is no key of 64 hexadecimal digits"))?;
                Ok(SubjectKey::new(&octets))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => create(path).map_err(|e| told(&e)),
            Err(e) => Err(told(&e)),
        }
    }

    /// A number in E.164 digits as entries know it.
    #[must_use]
    pub fn subject(&self, digits: &[u8]) -> Subject {
        let tag = hmac::sign(&self.0, digits);
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// Tells one key from another without telling anything about it.
    #[must_use]
    pub fn check(&self) -> Subject {
        self.subject(CHECK)
    }
}

fn create(path: &Path) -> std::io::Result<SubjectKey> {
    let mut key = [0u8; KEY];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| std::io::Error::other("the system gives no random numbers"))?;
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
    }
    // Whole or not at all: half a key after a power cut would be another key.
    let part = path.with_extension("part");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
    writeln!(file, "{hex}")?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(SubjectKey::new(&key))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys").join("numbers.key");
        let first = SubjectKey::load_or_create(&path).unwrap();
        let again = SubjectKey::load_or_create(&path).unwrap();
        assert_eq!(first.subject(b"254712345678"), again.subject(b"254712345678"));
        assert_ne!(first.subject(b"254712345678"), first.subject(b"254712345679"));
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&dir.path().join("keys"))), (0o600, 0o700));
        let other = SubjectKey::load_or_create(&dir.path().join("other.key")).unwrap();
        assert_ne!(first.check(), other.check());
    }

    #[test]
    fn a_damaged_key_is_told_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers.key");
        std::fs::write(&path, "abc").unwrap();
        assert!(SubjectKey::load_or_create(&path).unwrap_err().contains("64"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");
    }
}
