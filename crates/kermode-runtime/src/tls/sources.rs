//! Limit on the connections from one address, so that one client cannot use all connections of the server. Unlike
//! `kermode-limit`, it logs the first refused connection of an address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Number of open connections by address. Cheap to clone. Addresses without connections are removed.
#[derive(Clone, Debug)]
pub(super) struct SourceLimit {
    limit: usize,
    sources: Arc<Mutex<HashMap<IpAddr, Source>>>,
}

#[derive(Debug, Default)]
struct Source {
    connections: usize,
    /// Whether a refused connection was logged already. A client must not be able to fill the log.
    refusal_logged: bool,
}

/// Permit for one connection, released when dropped.
#[derive(Debug)]
pub(super) struct SourcePermit {
    limit: SourceLimit,
    address: IpAddr,
}

impl SourceLimit {
    /// Creates the limit, in connections from one address.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            sources: Arc::default(),
        }
    }

    /// Acquires a permit. Returns `None` if the address is at its limit.
    pub(super) fn try_acquire(&self, address: IpAddr) -> Option<SourcePermit> {
        // A dual-stack socket reports IPv4 peers as mapped addresses.
        let address = address.to_canonical();
        let mut sources = self.sources.lock();
        let source = sources.entry(address).or_default();
        if source.connections >= self.limit {
            if !std::mem::replace(&mut source.refusal_logged, true) {
                tracing::warn!(%address, limit = self.limit, "too many connections from one address, refusing more");
            }
            return None;
        }
        source.connections += 1;
        Some(SourcePermit {
            limit: self.clone(),
            address,
        })
    }
}

impl Drop for SourcePermit {
    fn drop(&mut self) {
        let mut sources = self.limit.sources.lock();
        if let Some(source) = sources.get_mut(&self.address) {
            source.connections -= 1;
            if source.connections == 0 {
                sources.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_limited_and_removed_with_its_last_connection() {
        let limit = SourceLimit::new(2);
        let address: IpAddr = [10, 0, 0, 1].into();
        let first = limit.try_acquire(address).expect("a permit");
        let second = limit.try_acquire("::ffff:10.0.0.1".parse().expect("an address"));
        assert!(second.is_some());
        assert!(limit.try_acquire(address).is_none());
        assert!(
            limit.try_acquire([10, 0, 0, 2].into()).is_some(),
            "another address"
        );
        drop(first);
        assert!(limit.try_acquire(address).is_some());
        drop(second);
        assert!(limit.sources.lock().is_empty());
    }
}
