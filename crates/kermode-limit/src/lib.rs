//! Limits on concurrency (streams and calls, of one proxy and of all) and on rates.
//!
//! A [`KeyedLimit`] bounds the number of permits per key and in total. Every permit counts until it is dropped. A
//! [`Permit`] is irrevocable. A [`RevocablePermit`] can be revoked: [`KeyedLimit::acquire_superseding`] supersedes it
//! at a limit, or [`KeyedLimit::evict_keys`] evicts it. Keys without permits take no memory. Limits on rates are in
//! [`rate`], and [`caller`] identifies callers before they are authenticated.

pub mod caller;
pub mod rate;

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Limit on the number of concurrent permits per key and in total. Cheap to clone; clones share the permits.
#[derive(Debug)]
pub struct KeyedLimit<K> {
    max_per_key: usize,
    max_total: usize,
    granted: Arc<Mutex<GrantedPermits<K>>>,
}

/// Permits that are not dropped yet.
#[derive(Debug)]
struct GrantedPermits<K> {
    /// Keys with permits that are neither dropped nor revoked.
    keys: HashMap<K, KeyPermits>,
    /// Number of all permits, including revoked ones that are not dropped yet.
    count: usize,
}

/// Permits of one key that are neither dropped nor revoked.
#[derive(Debug, Default)]
struct KeyPermits {
    /// Number of irrevocable permits.
    irrevocable: usize,
    /// Revocable permits, oldest first. Dropping the sender supersedes the permit; sending evicts it.
    revocable: VecDeque<oneshot::Sender<()>>,
}

/// Limit that prevented the grant of a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// The limit per key, with its value.
    PerKey(usize),
    /// The limit of all keys together, with its value.
    Total(usize),
}

/// The limit of all keys together was reached when a permit was requested. Contains the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TotalLimitReached(pub usize);

/// Reason why a permit was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// A newer permit of the same key replaced it.
    Superseded,
    /// [`KeyedLimit::evict_keys`] evicted its key.
    Evicted,
}

/// Irrevocable permit. Counts until it is dropped.
#[derive(Debug)]
pub struct Permit<K: Eq + Hash> {
    key: K,
    granted: Arc<Mutex<GrantedPermits<K>>>,
}

/// Permit that counts until it is dropped, even if it is revoked before. The holder awaits [`RevocablePermit::revoked`]
/// and then has to drop the permit.
#[derive(Debug)]
pub struct RevocablePermit<K: Eq + Hash> {
    key: K,
    granted: Arc<Mutex<GrantedPermits<K>>>,
    revoked: oneshot::Receiver<()>,
}

// === impl KeyedLimit ===

impl<K> Clone for KeyedLimit<K> {
    fn clone(&self) -> Self {
        Self {
            max_per_key: self.max_per_key,
            max_total: self.max_total,
            granted: self.granted.clone(),
        }
    }
}

impl<K: Clone + Eq + Hash> KeyedLimit<K> {
    /// Creates a limit of `max_per_key` permits of each type for each key, and of `max_total` permits for all keys. A
    /// limit of 0 counts as 1.
    pub fn new(max_per_key: usize, max_total: usize) -> Self {
        Self {
            max_per_key: max_per_key.max(1),
            max_total: max_total.max(1),
            granted: Arc::new(Mutex::new(GrantedPermits {
                keys: HashMap::new(),
                count: 0,
            })),
        }
    }

    /// Acquires an irrevocable permit. The limit per key applies to irrevocable permits alone.
    ///
    /// # Errors
    /// When the limit per key or the total limit is reached.
    pub fn try_acquire(&self, key: &K) -> Result<Permit<K>, LimitReached> {
        let mut granted = self.granted.lock();
        if granted.count >= self.max_total {
            return Err(LimitReached::Total(self.max_total));
        }
        if granted.keys.get(key).map_or(0, |permits| permits.irrevocable) >= self.max_per_key {
            return Err(LimitReached::PerKey(self.max_per_key));
        }
        granted.count += 1;
        granted.keys.entry(key.clone()).or_default().irrevocable += 1;
        Ok(Permit {
            key: key.clone(),
            granted: self.granted.clone(),
        })
    }

    /// Acquires a revocable permit. At the limit per key or the total limit, the key's oldest revocable permit is
    /// superseded: the connection of its holder may be broken, but not timed out yet. The limit per key applies to
    /// revocable permits alone, so a full key always has a permit to supersede.
    ///
    /// # Errors
    /// When the total limit is reached and the key has no revocable permit to supersede.
    pub fn acquire_superseding(&self, key: &K) -> Result<RevocablePermit<K>, TotalLimitReached> {
        let mut granted = self.granted.lock();
        let revocable_count = granted.keys.get(key).map_or(0, |permits| permits.revocable.len());
        let is_key_full = revocable_count >= self.max_per_key;
        let is_full = granted.count >= self.max_total;
        if is_full && revocable_count == 0 {
            return Err(TotalLimitReached(self.max_total));
        }
        granted.count += 1;
        let permits = granted.keys.entry(key.clone()).or_default();
        if is_full || is_key_full {
            permits.revocable.pop_front();
        }
        let (sender, revoked) = oneshot::channel();
        permits.revocable.push_back(sender);
        Ok(RevocablePermit {
            key: key.clone(),
            granted: self.granted.clone(),
            revoked,
        })
    }

    /// Returns the number of keys with permits that are not revoked.
    pub fn key_count(&self) -> usize {
        self.granted.lock().keys.len()
    }

    /// Returns the number of permits, including revoked ones that are not dropped yet.
    pub fn permit_count(&self) -> usize {
        self.granted.lock().count
    }

    /// Evicts all revocable permits of up to `count` keys, starting with a random key. Returns the number of evicted
    /// keys.
    pub fn evict_keys(&self, count: usize) -> usize {
        let mut granted = self.granted.lock();
        // Starts at a random key, so that the same keys are not evicted every time.
        let start = fastrand::usize(..=granted.keys.len());
        let before_start = granted.keys.iter().take(start);
        let from_start = granted.keys.iter().skip(start);
        let evictable = from_start
            .chain(before_start)
            .filter(|(_, permits)| !permits.revocable.is_empty());
        let chosen: Vec<_> = evictable.take(count).map(|(key, _)| key.clone()).collect();
        for key in &chosen {
            let evicted = granted
                .keys
                .get_mut(key)
                .map(|permits| std::mem::take(&mut permits.revocable));
            granted.remove_if_empty(key);
            for sender in evicted.into_iter().flatten() {
                // Sending fails only if the permit is being dropped.
                let _ = sender.send(());
            }
        }
        chosen.len()
    }
}

// === impl GrantedPermits ===

impl<K: Eq + Hash> GrantedPermits<K> {
    fn remove_if_empty(&mut self, key: &K) {
        if self.keys.get(key).is_some_and(KeyPermits::is_empty) {
            self.keys.remove(key);
        }
    }
}

// === impl KeyPermits ===

impl KeyPermits {
    fn is_empty(&self) -> bool {
        self.irrevocable == 0 && self.revocable.is_empty()
    }
}

// === impl Permit ===

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut granted = self.granted.lock();
        granted.count -= 1;
        if let Some(permits) = granted.keys.get_mut(&self.key) {
            permits.irrevocable -= 1;
        }
        granted.remove_if_empty(&self.key);
    }
}

// === impl RevocablePermit ===

impl<K: Eq + Hash> RevocablePermit<K> {
    /// Completes when the permit is revoked. The holder then has to drop the permit.
    pub async fn revoked(&mut self) -> Revoked {
        match (&mut self.revoked).await {
            Ok(()) => Revoked::Evicted,
            Err(_) => Revoked::Superseded,
        }
    }
}

impl<K: Eq + Hash> Drop for RevocablePermit<K> {
    fn drop(&mut self) {
        self.revoked.close();
        let mut granted = self.granted.lock();
        granted.count -= 1;
        if let Some(permits) = granted.keys.get_mut(&self.key) {
            permits.revocable.retain(|sender| !sender.is_closed());
        }
        granted.remove_if_empty(&self.key);
    }
}

#[cfg(test)]
mod tests;
