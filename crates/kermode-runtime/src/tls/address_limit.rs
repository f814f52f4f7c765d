//! Limit on the connections from one address, so that one client cannot use all connections of the server. Unlike the
//! limits of `kermode-limit`, this limit logs the first rejected connection of an address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Limit on the open connections from each address, and the current number for each address. Cheap to clone. Addresses
/// without connections are removed.
#[derive(Clone, Debug)]
pub(super) struct AddressLimit {
    limit: usize,
    addresses: Arc<Mutex<HashMap<IpAddr, AddressState>>>,
}

#[derive(Debug, Default)]
struct AddressState {
    connections: usize,
    /// Whether a rejected connection was logged. Further rejections are not logged, so that a client cannot
    /// fill the log.
    is_rejection_logged: bool,
}

/// Permit for one connection, released when dropped.
#[derive(Debug)]
pub(super) struct AddressPermit {
    limit: AddressLimit,
    address: IpAddr,
}

impl AddressLimit {
    /// Creates a limit of `limit` connections from one address.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            addresses: Arc::default(),
        }
    }

    /// Acquires a permit. Returns `None` if the address is at its limit.
    pub(super) fn try_acquire(&self, address: IpAddr) -> Option<AddressPermit> {
        // A dual-stack socket reports IPv4 peers as mapped addresses.
        let address = address.to_canonical();
        let mut addresses = self.addresses.lock();
        let state = addresses.entry(address).or_default();
        if state.connections >= self.limit {
            if !std::mem::replace(&mut state.is_rejection_logged, true) {
                tracing::warn!(
                    %address,
                    limit = self.limit,
                    "too many connections from one address; further connections from it are closed"
                );
            }
            return None;
        }
        state.connections += 1;
        Some(AddressPermit {
            limit: self.clone(),
            address,
        })
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut addresses = self.limit.addresses.lock();
        if let Some(state) = addresses.get_mut(&self.address) {
            state.connections -= 1;
            if state.connections == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_an_address_are_limited_and_an_address_without_connections_is_removed() {
        let limit = AddressLimit::new(2);
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
        assert!(limit.addresses.lock().is_empty());
    }
}
