//! Ports that need no further report. Pure: the clock is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kermode_limit::rate::{Rate, TokenBucket};

/// Maximum number of remembered ports. At the limit, the oldest port is forgotten.
const MAX_PORTS: usize = 64;
/// Maximum rate of new ports. A Pod has few ports, but a scan of ports connects to all 65,535.
const NEW_PORT_RATE: Rate = Rate {
    burst: 10.0,
    per_second: 1.0 / 60.0,
};

/// Time for which a port is remembered. By default, the API server keeps an Event for an hour.
const MEMORY: Duration = Duration::from_hours(1);

/// Closed ports that were logged, and whose report is sent or queued.
#[derive(Debug)]
pub(super) struct KnownPorts {
    /// The ports, oldest first, with the time when they were remembered.
    ports: VecDeque<(u16, Instant)>,
    rate: TokenBucket,
}

impl KnownPorts {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            ports: VecDeque::new(),
            rate: TokenBucket::new(NEW_PORT_RATE, now),
        }
    }

    /// Remembers a port. Returns whether the port is new. A port above the rate is neither remembered nor new, so that
    /// a later connection can be the first one.
    pub(super) fn insert(&mut self, port: u16, now: Instant) -> bool {
        let is_old =
            |(_, remembered_at): &(u16, Instant)| now.saturating_duration_since(*remembered_at) >= MEMORY;
        while self.ports.pop_front_if(|entry| is_old(entry)).is_some() {}
        let is_known = self.ports.iter().any(|(known, _)| *known == port);
        if is_known || !self.rate.try_take(now) {
            return false;
        }
        if self.ports.len() == MAX_PORTS {
            self.ports.pop_front();
        }
        self.ports.push_back((port, now));
        true
    }

    /// Forgets a port, so that the next connection to the port counts as the first one.
    pub(super) fn forget(&mut self, port: u16) {
        self.ports.retain(|(known, _)| *known != port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_new_once_until_it_is_forgotten() {
        let now = Instant::now();
        let mut known = KnownPorts::new(now);
        assert!(known.insert(8081, now));
        assert!(!known.insert(8081, now));
        assert!(known.insert(8082, now));
        known.forget(8081);
        assert!(known.insert(8081, now));
        assert!(!known.insert(8082, now));
    }

    #[test]
    fn port_is_new_again_after_an_hour() {
        let start = Instant::now();
        let mut known = KnownPorts::new(start);
        assert!(known.insert(8081, start));
        assert!(!known.insert(8081, start + MEMORY / 2));
        assert!(known.insert(8081, start + MEMORY));
        assert_eq!(known.ports.len(), 1);
    }

    #[test]
    fn scan_of_all_ports_is_limited_in_rate_and_memory_and_hides_no_other_port_for_long() {
        let start = Instant::now();
        let mut known = KnownPorts::new(start);
        let new_count = (1..=u16::MAX).filter(|port| known.insert(*port, start)).count();
        assert_eq!(new_count, 10);
        let mut now = start;
        for port in 1000..2000 {
            now += Duration::from_mins(2);
            assert!(known.insert(port, now));
            assert!(known.ports.len() <= MAX_PORTS);
        }
        assert!(known.insert(8081, now + Duration::from_mins(2)));
    }
}
