//! Removal status of this endpoint, combined from all replicas. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use kermode_protocol::removals::WatchRemovalResponse;

/// Limit on the number of called replicas. With more replicas the watch never finishes.
const MAX_REPLICAS: usize = 16;

/// Replica of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Replica {
    /// The replica that the Service selected.
    Any,
    /// The replica at this address.
    At(SocketAddr),
}

/// Consequence of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// These replicas are new and have to be called.
    Call(Vec<SocketAddr>),
    /// Proxies may still send requests to this endpoint.
    Pending {
        /// Number of proxies that have not acknowledged the removal, as far as replicas have reported.
        unacknowledged_by: u64,
    },
    /// No proxy starts another request.
    Finished {
        /// Longest time that a replica waited for its proxies.
        took: Duration,
        /// Number of replicas.
        replicas: usize,
    },
}

/// Latest response of each called replica.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    responses: BTreeMap<Replica, WatchRemovalResponse>,
    called: BTreeSet<SocketAddr>,
}

impl Replicas {
    /// Handles a response of a replica.
    pub(super) fn on_response(&mut self, replica: Replica, response: WatchRemovalResponse) -> Progress {
        self.responses.insert(replica, response);
        self.progress()
    }

    /// Handles the end of a call. The replica's latest response may be outdated, so it is dropped.
    pub(super) fn on_disconnected(&mut self, replica: Replica) -> Progress {
        self.responses.remove(&replica);
        self.progress()
    }

    fn progress(&mut self) -> Progress {
        let others = self.others();
        let allowed = MAX_REPLICAS.saturating_sub(self.called.len());
        let new: Vec<_> = others.difference(&self.called).copied().take(allowed).collect();
        if !new.is_empty() {
            self.called.extend(&new);
            return Progress::Call(new);
        }
        let replicas = || {
            let others = others.iter().copied().map(Replica::At);
            std::iter::once(Replica::Any).chain(others)
        };
        let took = replicas().try_fold(0, |longest, replica| {
            let response = self
                .responses
                .get(&replica)
                .filter(|response| response.is_finished())?;
            Some(response.took_ms.max(longest))
        });
        match took {
            Some(took) => Progress::Finished {
                took: Duration::from_millis(took),
                replicas: replicas().count(),
            },
            None => Progress::Pending {
                unacknowledged_by: self
                    .responses
                    .values()
                    .map(|response| response.unacknowledged_by)
                    .sum(),
            },
        }
    }

    /// Returns the addresses of the other replicas, as listed by the replica that the Service selected.
    fn others(&self) -> BTreeSet<SocketAddr> {
        let response = self.responses.get(&Replica::Any);
        let addresses = response.into_iter().flat_map(|response| &response.other_replicas);
        addresses.filter_map(|address| address.parse().ok()).collect()
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any replica"),
            Self::At(address) => write!(f, "replica {address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: &str = "10.0.0.2:5678";
    const C: &str = "10.0.0.3:5678";

    fn replica(address: &str) -> Replica {
        Replica::At(address.parse().unwrap())
    }

    fn pending(unacknowledged_by: u64, others: &[&str]) -> WatchRemovalResponse {
        WatchRemovalResponse {
            removed: true,
            unacknowledged_by,
            other_replicas: others.iter().copied().map(String::from).collect(),
            complete: true,
            ..WatchRemovalResponse::default()
        }
    }

    fn finished(took_ms: u64, others: &[&str]) -> WatchRemovalResponse {
        WatchRemovalResponse {
            took_ms,
            ..pending(0, others)
        }
    }

    #[test]
    fn single_replica_finishes_the_watch() {
        let mut replicas = Replicas::default();
        let progress = replicas.on_response(Replica::Any, pending(2, &[]));
        assert_eq!(progress, Progress::Pending { unacknowledged_by: 2 });
        let end = Progress::Finished {
            took: Duration::from_millis(7),
            replicas: 1,
        };
        assert_eq!(replicas.on_response(Replica::Any, finished(7, &[])), end);
    }

    #[test]
    fn watch_finishes_when_every_replica_has_finished() {
        let mut replicas = Replicas::default();
        let call = replicas.on_response(Replica::Any, finished(7, &[B, C]));
        assert_eq!(call, Progress::Call(vec![B.parse().unwrap(), C.parse().unwrap()]));
        let progress = replicas.on_response(replica(B), finished(9, &[]));
        assert_eq!(
            progress,
            Progress::Pending { unacknowledged_by: 0 },
            "C has not responded"
        );
        let progress = replicas.on_response(replica(C), pending(1, &[]));
        assert_eq!(progress, Progress::Pending { unacknowledged_by: 1 });
        let end = Progress::Finished {
            took: Duration::from_millis(9),
            replicas: 3,
        };
        assert_eq!(replicas.on_response(replica(C), finished(8, &[])), end);
    }

    #[test]
    fn watch_does_not_finish_while_proxies_may_be_unaccounted_for() {
        let mut replicas = Replicas::default();
        let incomplete = WatchRemovalResponse {
            complete: false,
            ..finished(7, &[])
        };
        let not_removed = WatchRemovalResponse {
            removed: false,
            ..finished(0, &[])
        };
        for response in [incomplete, not_removed] {
            let progress = replicas.on_response(Replica::Any, response);
            assert_eq!(progress, Progress::Pending { unacknowledged_by: 0 });
        }
    }

    #[test]
    fn disconnected_replica_is_waited_for_until_it_is_no_longer_listed() {
        let mut replicas = Replicas::default();
        replicas.on_response(Replica::Any, pending(2, &[B]));
        replicas.on_response(replica(B), finished(3, &[]));
        assert_eq!(
            replicas.on_disconnected(replica(B)),
            Progress::Pending { unacknowledged_by: 2 }
        );
        let progress = replicas.on_response(Replica::Any, finished(7, &[B]));
        assert_eq!(progress, Progress::Pending { unacknowledged_by: 0 });
        // After a reconnection the Service selects another replica.
        let end = replicas.on_response(Replica::Any, finished(7, &[]));
        assert!(matches!(end, Progress::Finished { replicas: 1, .. }), "{end:?}");
    }

    #[test]
    fn number_of_called_replicas_is_limited() {
        let many: Vec<String> = (0..20).map(|last| format!("10.0.1.{last}:5678")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut replicas = Replicas::default();
        let call = replicas.on_response(Replica::Any, finished(1, &many));
        assert!(matches!(call, Progress::Call(called) if called.len() == MAX_REPLICAS));
        for address in &many[..MAX_REPLICAS] {
            let progress = replicas.on_response(replica(address), finished(1, &[]));
            assert_eq!(progress, Progress::Pending { unacknowledged_by: 0 });
        }
    }
}
