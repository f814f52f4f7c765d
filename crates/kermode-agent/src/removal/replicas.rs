//! Status of the removal of this sidecar's endpoint, combined from the responses of all replicas. No IO.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use kermode_protocol::removals::WatchRemovalResponse;

/// Limit on the number of replicas that are called by address. If the control plane has more, the watch never finishes.
const MAX_REPLICAS: usize = 16;

/// Replica of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Replica {
    /// The replica that the Service selected.
    SelectedByService,
    /// The replica at this address.
    At(SocketAddr),
}

/// Progress of the watch after a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Newly listed replicas, which have to be called.
    Call(Vec<SocketAddr>),
    /// Proxies may still send requests to this endpoint.
    Pending {
        /// Number of proxies that have not acknowledged the removal, as far as replicas have reported.
        unacknowledged_by: u64,
    },
    /// Every proxy has acknowledged the removal: no proxy starts another request to this endpoint.
    Finished {
        /// Time from the publication of the removal to its last acknowledgement: the longest of the times that
        /// the replicas reported.
        took: Duration,
        /// Number of replicas that responded.
        replica_count: usize,
    },
}

/// Replicas that are called, with the latest response of each.
#[derive(Debug, Default)]
pub(super) struct CalledReplicas {
    responses: BTreeMap<Replica, WatchRemovalResponse>,
    /// Addresses of the replicas that were called, besides [`Replica::SelectedByService`].
    called: BTreeSet<SocketAddr>,
}

impl CalledReplicas {
    /// Handles a response of a replica.
    pub(super) fn on_response(&mut self, replica: Replica, response: WatchRemovalResponse) -> Progress {
        self.responses.insert(replica, response);
        self.progress()
    }

    /// Handles the end of a call. Drops the replica's latest response, which may be outdated.
    pub(super) fn on_disconnected(&mut self, replica: Replica) -> Progress {
        self.responses.remove(&replica);
        self.progress()
    }

    /// Returns the progress. Counts newly listed replicas as called.
    fn progress(&mut self) -> Progress {
        let others = self.others();
        let remaining = MAX_REPLICAS.saturating_sub(self.called.len());
        let new: Vec<_> = others.difference(&self.called).copied().take(remaining).collect();
        if !new.is_empty() {
            self.called.extend(&new);
            return Progress::Call(new);
        }
        let is_list_complete = self.is_list_complete(&others);
        let others = others.into_iter().map(Replica::At);
        let replicas = std::iter::once(Replica::SelectedByService).chain(others);
        // `None` unless all replicas have finished.
        let durations: Option<Vec<Duration>> = replicas.map(|replica| self.duration(replica)).collect();
        match durations.filter(|_| is_list_complete) {
            Some(durations) => Progress::Finished {
                took: durations.iter().copied().max().unwrap_or_default(),
                replica_count: durations.len(),
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

    /// Returns how long a replica's proxies took to acknowledge the removal, or `None` if the replica has not finished.
    fn duration(&self, replica: Replica) -> Option<Duration> {
        let response = self.responses.get(&replica)?;
        response
            .is_complete()
            .then(|| Duration::from_millis(response.took_ms))
    }

    /// Returns the addresses of the other replicas, as listed by the replica that the Service selected.
    fn others(&self) -> BTreeSet<SocketAddr> {
        let response = self.responses.get(&Replica::SelectedByService);
        let addresses = response.into_iter().flat_map(|response| &response.other_replicas);
        addresses.filter_map(|address| address.parse().ok()).collect()
    }

    /// Returns whether every address that a replica has listed is valid and in `others`. One more address is allowed:
    /// the replica that the Service selected does not list itself, but the others list it.
    fn is_list_complete(&self, others: &BTreeSet<SocketAddr>) -> bool {
        let addresses = self
            .responses
            .values()
            .flat_map(|response| &response.other_replicas);
        let listed: Result<BTreeSet<SocketAddr>, _> = addresses.map(|address| address.parse()).collect();
        listed.is_ok_and(|listed| listed.difference(others).count() <= 1)
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SelectedByService => f.write_str("replica selected by the Service"),
            Self::At(address) => write!(f, "replica {address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address of the replica that the Service selected.
    const A: &str = "10.0.0.1:5678";
    /// Address of another replica.
    const B: &str = "10.0.0.2:5678";
    /// Address of a third replica.
    const C: &str = "10.0.0.3:5678";

    fn replica(address: &str) -> Replica {
        Replica::At(address.parse().unwrap())
    }

    fn mk_pending(unacknowledged_by: u64, others: &[&str]) -> WatchRemovalResponse {
        WatchRemovalResponse {
            removed: true,
            unacknowledged_by,
            other_replicas: others.iter().copied().map(String::from).collect(),
            covers_all_proxies: true,
            ..WatchRemovalResponse::default()
        }
    }

    fn mk_finished(took_ms: u64, others: &[&str]) -> WatchRemovalResponse {
        WatchRemovalResponse {
            took_ms,
            ..mk_pending(0, others)
        }
    }

    #[test]
    fn single_replica_finishes_the_watch() {
        let mut replicas = CalledReplicas::default();
        let progress = replicas.on_response(Replica::SelectedByService, mk_pending(2, &[]));
        assert_eq!(progress, Progress::Pending { unacknowledged_by: 2 });
        let end = Progress::Finished {
            took: Duration::from_millis(7),
            replica_count: 1,
        };
        assert_eq!(
            replicas.on_response(Replica::SelectedByService, mk_finished(7, &[])),
            end
        );
    }

    #[test]
    fn watch_finishes_when_every_replica_has_finished() {
        let mut replicas = CalledReplicas::default();
        let call = replicas.on_response(Replica::SelectedByService, mk_finished(7, &[B, C]));
        assert_eq!(call, Progress::Call(vec![B.parse().unwrap(), C.parse().unwrap()]));
        let progress = replicas.on_response(replica(B), mk_finished(9, &[]));
        assert_eq!(
            progress,
            Progress::Pending { unacknowledged_by: 0 },
            "C has not responded"
        );
        let progress = replicas.on_response(replica(C), mk_pending(1, &[]));
        assert_eq!(progress, Progress::Pending { unacknowledged_by: 1 });
        let end = Progress::Finished {
            took: Duration::from_millis(9),
            replica_count: 3,
        };
        assert_eq!(replicas.on_response(replica(C), mk_finished(8, &[])), end);
    }

    #[test]
    fn report_without_all_proxies_and_report_before_the_removal_do_not_finish_the_watch() {
        let mut replicas = CalledReplicas::default();
        let without_all_proxies = WatchRemovalResponse {
            covers_all_proxies: false,
            ..mk_finished(7, &[])
        };
        let before_removal = WatchRemovalResponse {
            removed: false,
            ..mk_finished(0, &[])
        };
        for response in [without_all_proxies, before_removal] {
            let progress = replicas.on_response(Replica::SelectedByService, response);
            assert_eq!(progress, Progress::Pending { unacknowledged_by: 0 });
        }
    }

    #[test]
    fn watch_waits_for_a_disconnected_replica_while_it_is_listed() {
        let mut replicas = CalledReplicas::default();
        replicas.on_response(Replica::SelectedByService, mk_pending(2, &[B]));
        replicas.on_response(replica(B), mk_finished(3, &[]));
        assert_eq!(
            replicas.on_disconnected(replica(B)),
            Progress::Pending { unacknowledged_by: 2 }
        );
        let progress = replicas.on_response(Replica::SelectedByService, mk_finished(7, &[B]));
        assert_eq!(progress, Progress::Pending { unacknowledged_by: 0 });
        // After a reconnection the Service selects another replica, which does not list B.
        let end = replicas.on_response(Replica::SelectedByService, mk_finished(7, &[]));
        assert!(
            matches!(end, Progress::Finished { replica_count: 1, .. }),
            "{end:?}"
        );
    }

    #[test]
    fn invalid_address_keeps_the_watch_from_finishing() {
        let mut replicas = CalledReplicas::default();
        let progress = replicas.on_response(Replica::SelectedByService, mk_finished(7, &["kuma-cp:5678"]));
        assert_eq!(progress, Progress::Pending { unacknowledged_by: 0 });
    }

    #[test]
    fn replica_that_only_another_replica_lists_keeps_the_watch_from_finishing() {
        let mut replicas = CalledReplicas::default();
        replicas.on_response(Replica::SelectedByService, mk_finished(7, &[B]));
        let progress = replicas.on_response(replica(B), mk_finished(9, &[A, C]));
        assert_eq!(progress, Progress::Pending { unacknowledged_by: 0 });
        let end = replicas.on_response(replica(B), mk_finished(9, &[A]));
        assert!(
            matches!(end, Progress::Finished { replica_count: 2, .. }),
            "{end:?}"
        );
    }

    #[test]
    fn number_of_called_replicas_is_limited() {
        let addresses: Vec<String> = (0..20).map(|last| format!("10.0.1.{last}:5678")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let mut replicas = CalledReplicas::default();
        let call = replicas.on_response(Replica::SelectedByService, mk_finished(1, &addresses));
        assert!(matches!(call, Progress::Call(called) if called.len() == MAX_REPLICAS));
        for address in &addresses[..MAX_REPLICAS] {
            let progress = replicas.on_response(replica(address), mk_finished(1, &[]));
            assert_eq!(progress, Progress::Pending { unacknowledged_by: 0 });
        }
    }
}
