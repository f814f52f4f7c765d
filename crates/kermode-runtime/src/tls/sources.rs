//! Limit on the connections from one address, so that one client cannot use all connections of the server.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Number of open connections by address. Cheap to clone. Addresses without connections are removed.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    limit: usize,
    open: Arc<Mutex<HashMap<IpAddr, Source>>>,
}

#[derive(Debug, Default)]
struct Source {
    open: usize,
    /// Whether a refused connection was logged already. A client must not be able to fill the log.
    told: bool,
}

/// Slot of one connection, released when dropped.
#[derive(Debug)]
pub(super) struct Place {
    sources: Sources,
    address: IpAddr,
}

impl Sources {
    /// Creates the limit, in connections from one address.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            open: Arc::default(),
        }
    }

    /// Takes a slot. Returns `None` if the address is at its limit.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Place> {
        // A dual-stack socket reports IPv4 peers as mapped addresses.
        let address = address.to_canonical();
        let mut open = self.open();
        let source = open.entry(address).or_default();
        if source.open >= self.limit {
            if !std::mem::replace(&mut source.told, true) {
                tracing::warn!(%address, limit = self.limit, "too many connections from one address, refusing more");
            }
            return None;
        }
        source.open += 1;
        Some(Place {
            sources: self.clone(),
            address,
        })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, Source>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.sources.open();
        if let Some(source) = open.get_mut(&self.address) {
            source.open -= 1;
            if source.open == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_is_forgotten_with_its_last_connection() {
        let sources = Sources::new(2);
        let address: IpAddr = [10, 0, 0, 1].into();
        let first = sources.admit(address).expect("a place");
        let second = sources.admit("::ffff:10.0.0.1".parse().expect("an address"));
        assert!(second.is_some());
        assert!(sources.admit(address).is_none());
        assert!(sources.admit([10, 0, 0, 2].into()).is_some(), "another address");
        drop(first);
        assert!(sources.admit(address).is_some());
        drop(second);
        assert!(sources.open().is_empty());
    }
}
