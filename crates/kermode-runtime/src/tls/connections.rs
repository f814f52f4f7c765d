//! Open connections of a server, and the choice of the connection that is closed for a new one.
//!
//! Every Pod can open connections. Before its first request, a connection of the API server or of a proxy cannot be
//! distinguished from a connection of another client. At a limit, the server therefore does not refuse a new connection
//! if it can close another one: an idle connection of the address with the most idle connections. Clients that open as
//! many connections as possible thus mostly displace their own connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::metrics::LimitCounters;

/// Minimum interval between warnings about reached limits, so that a client cannot fill the log.
const WARN_INTERVAL: Duration = Duration::from_mins(1);

/// Open connections of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    /// Limit on all connections.
    limit: usize,
    /// Limit on the connections of one address.
    limit_per_address: usize,
    counters: LimitCounters,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Connections by number.
    open: HashMap<u64, Connection>,
    /// Counts of each address that has a connection.
    addresses: HashMap<IpAddr, Counts>,
    /// Last number of an ascending sequence. A connection gets its own number when it opens, and a number for
    /// `idle_since` when it becomes idle.
    last_number: u64,
    last_warning: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    address: IpAddr,
    /// Number of requests in progress.
    active_requests: usize,
    /// Number that was assigned when the connection last became idle.
    idle_since: u64,
    /// Notified when the connection has to be closed.
    close_requested: Arc<Notify>,
}

/// Numbers of connections of an address.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    total: usize,
    /// Connections without a request in progress.
    idle: usize,
}

/// An open connection. Dropping this value removes the connection from [`Connections`].
#[derive(Debug)]
pub(super) struct OpenConnection {
    handle: ConnectionHandle,
    close_requested: Arc<Notify>,
}

/// Handle by which the protocol of a connection reports requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ConnectionHandle {
    connections: Connections,
    number: u64,
}

/// A request in progress. Dropping this value records the end of the request.
#[derive(Debug)]
pub struct ActiveRequest(ConnectionHandle);

// === impl Connections ===

impl Connections {
    /// Creates the connections of a server that has none yet.
    pub(super) fn new(limit: usize, limit_per_address: usize, counters: LimitCounters) -> Self {
        Self {
            limit,
            limit_per_address,
            counters,
            state: Arc::default(),
        }
    }

    /// Adds a connection from an address. At a limit, closes another connection for it. Returns `None` if no connection
    /// can be closed:
    /// - At the limit of the address, every connection of the address serves a request.
    /// - At the limit on all connections, every connection serves a request, and no address has at least two
    ///   connections more than this address.
    pub(super) fn try_open(&self, address: IpAddr) -> Option<OpenConnection> {
        // A dual-stack socket reports IPv4 peers as mapped addresses.
        let address = address.to_canonical();
        let mut state = self.state.lock();
        let own_count = state.addresses.get(&address).map_or(0, |counts| counts.total);
        if own_count >= self.limit_per_address || state.open.len() >= self.limit {
            let to_close = if own_count >= self.limit_per_address {
                state.longest_idle_of(address)
            } else {
                state.connection_to_close(own_count)
            };
            state.warn_about_limit(address, to_close.is_none(), self);
            let Some(to_close) = to_close else {
                self.counters.refused.inc();
                return None;
            };
            state.close(to_close);
            self.counters.closed.inc();
        }
        let number = state.next_number();
        let close_requested = Arc::<Notify>::default();
        state.open.insert(
            number,
            Connection {
                address,
                active_requests: 0,
                idle_since: number,
                close_requested: close_requested.clone(),
            },
        );
        let counts = state.addresses.entry(address).or_default();
        counts.total += 1;
        counts.idle += 1;
        drop(state);
        let handle = ConnectionHandle {
            connections: self.clone(),
            number,
        };
        Some(OpenConnection {
            handle,
            close_requested,
        })
    }

    /// Closes all connections.
    pub(super) fn close_all(&self) {
        let mut state = self.state.lock();
        let numbers: Vec<u64> = state.open.keys().copied().collect();
        for number in numbers {
            state.close(number);
        }
    }
}

// === impl State ===

impl State {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Returns the connection to close for a new connection of an address that has `own_count` connections.
    ///
    /// This is the longest idle connection of the address with the most idle connections. If no connection is idle, it
    /// is the oldest connection of the address with the most connections. Returns `None` if the address with the most
    /// connections would then have fewer connections than the address of the new connection.
    fn connection_to_close(&self, own_count: usize) -> Option<u64> {
        let most_idle = self.addresses.iter().max_by_key(|(_, counts)| counts.idle)?;
        if most_idle.1.idle > 0 {
            return self.longest_idle_of(*most_idle.0);
        }
        let (address, counts) = self.addresses.iter().max_by_key(|(_, counts)| counts.total)?;
        if counts.total <= own_count + 1 {
            return None;
        }
        let of_address = self
            .open
            .iter()
            .filter(|(_, connection)| connection.address == *address);
        of_address.map(|(number, _)| *number).min()
    }

    /// Returns the connection of an address that has been idle for the longest time.
    fn longest_idle_of(&self, address: IpAddr) -> Option<u64> {
        let idle = self
            .open
            .iter()
            .filter(|(_, connection)| connection.address == address && connection.active_requests == 0);
        idle.min_by_key(|(_, connection)| connection.idle_since)
            .map(|(number, _)| *number)
    }

    fn close(&mut self, number: u64) {
        if let Some(connection) = self.remove(number) {
            connection.close_requested.notify_one();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.open.remove(&number)?;
        if let Some(counts) = self.addresses.get_mut(&connection.address) {
            counts.total -= 1;
            counts.idle -= usize::from(connection.active_requests == 0);
            if counts.total == 0 {
                self.addresses.remove(&connection.address);
            }
        }
        Some(connection)
    }

    fn warn_about_limit(&mut self, address: IpAddr, is_refused: bool, connections: &Connections) {
        let now = Instant::now();
        let is_recent = |last| now.duration_since(last) < WARN_INTERVAL;
        if self.last_warning.is_some_and(is_recent) {
            return;
        }
        self.last_warning = Some(now);
        tracing::warn!(
            %address,
            limit = connections.limit,
            limit_per_address = connections.limit_per_address,
            is_refused,
            "limit on connections reached: a new connection takes the place of another one, or is refused"
        );
    }
}

// === impl OpenConnection ===

impl OpenConnection {
    /// Returns the handle for the connection's protocol.
    pub(super) fn handle(&self) -> ConnectionHandle {
        self.handle.clone()
    }

    /// Completes when the connection has to be closed.
    pub(super) async fn close_requested(&self) {
        self.close_requested.notified().await;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.handle.connections.state.lock().remove(self.handle.number);
    }
}

// === impl ConnectionHandle ===

impl ConnectionHandle {
    /// Counts a request that is in progress until the returned value is dropped.
    pub(super) fn start_request(&self) -> ActiveRequest {
        self.start_endless_request();
        ActiveRequest(self.clone())
    }

    /// Counts a request that is in progress until the connection ends, unless [`Self::end_request`] is called.
    pub(super) fn start_endless_request(&self) {
        let mut state = self.connections.state.lock();
        let Some(connection) = state.open.get_mut(&self.number) else {
            return;
        };
        connection.active_requests += 1;
        if connection.active_requests == 1 {
            let address = connection.address;
            if let Some(counts) = state.addresses.get_mut(&address) {
                counts.idle -= 1;
            }
        }
    }

    fn end_request(&self) {
        let mut state = self.connections.state.lock();
        let idle_since = state.next_number();
        let Some(connection) = state.open.get_mut(&self.number) else {
            return;
        };
        connection.active_requests -= 1;
        if connection.active_requests == 0 {
            connection.idle_since = idle_since;
            let address = connection.address;
            if let Some(counts) = state.addresses.get_mut(&address) {
                counts.idle += 1;
            }
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.end_request();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_connections(limit: usize, limit_per_address: usize) -> Connections {
        Connections::new(limit, limit_per_address, LimitCounters::default())
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn is_closed(connection: &OpenConnection) -> bool {
        let state = connection.handle.connections.state.lock();
        !state.open.contains_key(&connection.handle.number)
    }

    fn open(connections: &Connections, last: u8) -> OpenConnection {
        connections
            .try_open(address(last))
            .expect("a connection to close")
    }

    #[test]
    fn new_connection_displaces_the_longest_idle_one_of_the_address_with_the_most_idle_ones() {
        let connections = mk_connections(4, 4);
        let single = open(&connections, 1);
        let many: Vec<_> = (0..3).map(|_| open(&connections, 2)).collect();
        // After a request, `many[0]` has been idle for the shortest time.
        drop(many[0].handle().start_request());
        let newcomer = open(&connections, 3);
        assert_eq!(
            many.iter().map(is_closed).collect::<Vec<_>>(),
            [false, true, false]
        );
        assert!(!is_closed(&single) && !is_closed(&newcomer));
    }

    #[test]
    fn connection_with_a_request_is_closed_only_for_an_address_with_fewer_connections() {
        let connections = mk_connections(3, 3);
        let busy: Vec<_> = (0..3).map(|_| open(&connections, 1)).collect();
        let requests: Vec<_> = busy
            .iter()
            .map(|connection| connection.handle().start_request())
            .collect();
        let second = open(&connections, 2);
        second.handle().start_endless_request();
        assert!(is_closed(&busy[0]) && !is_closed(&busy[1]));
        assert!(
            connections.try_open(address(2)).is_none(),
            "address 2 would have more connections than address 1"
        );
        assert!(connections.try_open(address(1)).is_none(), "no idle connection");
        drop(requests);
        let third = open(&connections, 1);
        assert!(is_closed(&busy[1]) && !is_closed(&busy[2]) && !is_closed(&third));
        let counters = &connections.counters;
        assert_eq!((counters.closed.get(), counters.refused.get()), (2, 2));
    }

    #[test]
    fn longest_idle_connection_of_an_address_at_its_limit_is_closed() {
        let connections = mk_connections(8, 2);
        let other = open(&connections, 2);
        let first = open(&connections, 1);
        let second = open(&connections, 1);
        let mapped = connections.try_open("::ffff:10.0.0.1".parse().expect("an address"));
        assert!(mapped.is_some());
        assert!(is_closed(&first) && !is_closed(&second) && !is_closed(&other));
        drop((other, first, second, mapped));
        let state = connections.state.lock();
        assert!(state.addresses.is_empty() && state.open.is_empty());
    }
}
