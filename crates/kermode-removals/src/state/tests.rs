//! Tests of removals and acknowledgements. Each call gets the time as an argument, so the tests do not wait.

use super::*;

/// Durations that a call returns if it completes no removal.
const NOTHING_COMPLETED: Vec<Duration> = Vec::new();

struct Fixture {
    state: RemovalState,
    start: Instant,
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

impl Fixture {
    /// Creates a state in which `web` is an endpoint, and the proxies `a` and `b` have streams 1 and 2.
    fn new() -> Self {
        let mut fixture = Self {
            state: RemovalState::default(),
            start: Instant::now(),
        };
        fixture.add_endpoint("web");
        fixture.open_stream("a", 1);
        fixture.open_stream("b", 2);
        fixture
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    /// Opens a stream at second 0.
    fn open_stream(&mut self, proxy: &str, stream: u64) {
        let now = self.at(0);
        assert_eq!(
            self.state
                .open_stream(&key(proxy), &"default".into(), stream, now),
            NOTHING_COMPLETED
        );
    }

    fn add_endpoint(&mut self, proxy: &str) {
        self.state.add_endpoint(key(proxy), "default".into());
    }

    /// Starts a removal at second 0.
    fn remove_endpoint(&mut self, proxy: &str, sequence: u64) -> Vec<Duration> {
        let now = self.at(0);
        self.state.remove_endpoint(&key(proxy), sequence, now)
    }

    /// Acknowledges at second 1.
    fn acknowledge(&mut self, proxy: &str, stream: u64, sequence: u64) -> Vec<Duration> {
        let now = self.at(1);
        self.state.acknowledge(&key(proxy), stream, sequence, now)
    }

    fn status(&self) -> RemovalStatus {
        self.state.status(&key("web"))
    }
}

/// Durations that a call returns if it completes one removal, which took this number of seconds.
fn completed_after(seconds: u64) -> Vec<Duration> {
    vec![Duration::from_secs(seconds)]
}

#[test]
fn removal_completes_with_the_last_acknowledgement() {
    let mut fixture = Fixture::new();
    fixture.acknowledge("a", 1, 7);
    assert_eq!(fixture.status(), RemovalStatus::NotRemoved);
    assert_eq!(fixture.remove_endpoint("web", 8), NOTHING_COMPLETED);
    assert_eq!(fixture.status(), RemovalStatus::Pending { proxies: 2 });
    assert_eq!(fixture.acknowledge("a", 1, 8), NOTHING_COMPLETED);
    assert_eq!(fixture.status(), RemovalStatus::Pending { proxies: 1 });
    let (_, _, unacknowledged) = fixture.state.open_removals().next().expect("an open removal");
    assert_eq!(unacknowledged, [&key("b")]);
    assert_eq!(fixture.acknowledge("b", 2, 9), completed_after(1));
    let acknowledged = RemovalStatus::Acknowledged {
        after: Duration::from_secs(1),
    };
    assert_eq!(fixture.status(), acknowledged);
    assert_eq!(fixture.state.open_count(), 0);
}

#[test]
fn removal_completes_at_once_when_only_the_sidecar_of_the_endpoint_has_a_stream() {
    let mut state = RemovalState::default();
    let now = Instant::now();
    state.add_endpoint(key("web"), "default".into());
    state.open_stream(&key("web"), &"default".into(), 1, now);
    assert_eq!(state.remove_endpoint(&key("web"), 5, now), completed_after(0));
}

#[test]
fn proxies_of_another_mesh_do_not_have_to_acknowledge_a_removal() {
    let mut fixture = Fixture::new();
    fixture.state.add_endpoint(key("db"), "other".into());
    assert_eq!(fixture.remove_endpoint("db", 5), completed_after(0));
}

#[test]
fn removal_of_an_unknown_endpoint_is_ignored() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.remove_endpoint("unknown", 5), NOTHING_COMPLETED);
    assert_eq!(fixture.state.open_count(), 0);
}

#[test]
fn proxy_without_a_stream_counts_as_pending_until_it_reconnects_and_acknowledges() {
    let mut fixture = Fixture::new();
    fixture.acknowledge("a", 1, 9);
    let now = fixture.at(0);
    assert_eq!(fixture.state.close_stream(&key("b"), 2, now), NOTHING_COMPLETED);
    fixture.remove_endpoint("web", 8);
    assert_eq!(fixture.status(), RemovalStatus::Pending { proxies: 1 });
    fixture.open_stream("b", 3);
    assert_eq!(
        fixture.acknowledge("b", 2, 8),
        NOTHING_COMPLETED,
        "acknowledgements of the older stream must be ignored"
    );
    assert_eq!(fixture.acknowledge("b", 3, 8), completed_after(1));
}

#[test]
fn proxy_without_a_stream_expires_after_a_minute() {
    let mut fixture = Fixture::new();
    fixture.acknowledge("a", 1, 9);
    let (closed_at, before_timeout, at_timeout) = (fixture.at(0), fixture.at(59), fixture.at(60));
    fixture.state.close_stream(&key("b"), 2, closed_at);
    fixture.remove_endpoint("web", 8);
    assert_eq!(
        fixture.state.expire_disconnected_proxies(before_timeout),
        NOTHING_COMPLETED
    );
    assert_eq!(
        fixture.state.expire_disconnected_proxies(at_timeout),
        completed_after(60)
    );
    assert_eq!(
        fixture.state.proxies.len(),
        1,
        "the state of the expired proxy must be removed"
    );
}

#[test]
fn reconnected_proxy_does_not_expire() {
    let mut fixture = Fixture::new();
    let (closed_at, after_timeout) = (fixture.at(0), fixture.at(90));
    fixture.state.close_stream(&key("b"), 2, closed_at);
    fixture.open_stream("b", 3);
    fixture.remove_endpoint("web", 8);
    fixture.acknowledge("a", 1, 8);
    assert_eq!(
        fixture.state.expire_disconnected_proxies(after_timeout),
        NOTHING_COMPLETED
    );
    assert_eq!(fixture.status(), RemovalStatus::Pending { proxies: 1 });
}

#[test]
fn proxy_counts_as_pending_until_its_dataplane_is_deleted_and_its_stream_ends() {
    let mut fixture = Fixture::new();
    fixture.acknowledge("a", 1, 9);
    fixture.remove_endpoint("web", 8);
    let (deleted_at, closed_at) = (fixture.at(2), fixture.at(3));
    assert_eq!(
        fixture.state.delete_dataplane(&key("b"), deleted_at),
        NOTHING_COMPLETED,
        "the stream of the proxy is open"
    );
    assert_eq!(
        fixture.state.close_stream(&key("b"), 2, closed_at),
        completed_after(3)
    );

    // In the other order: the stream is closed first.
    let mut fixture = Fixture::new();
    fixture.acknowledge("a", 1, 9);
    fixture.remove_endpoint("web", 8);
    fixture.state.close_stream(&key("b"), 2, closed_at);
    assert_eq!(fixture.state.delete_dataplane(&key("b"), closed_at).len(), 1);
}

#[test]
fn endpoint_that_is_added_again_has_no_removal() {
    let mut fixture = Fixture::new();
    fixture.remove_endpoint("web", 8);
    fixture.add_endpoint("web");
    assert_eq!(fixture.status(), RemovalStatus::NotRemoved);
    assert_eq!(fixture.state.open_count(), 0);
    fixture.acknowledge("a", 1, 9);
    assert_eq!(fixture.acknowledge("b", 2, 9), NOTHING_COMPLETED);
}

#[test]
fn deleted_pods_leave_no_state() {
    let mut fixture = Fixture::new();
    fixture.remove_endpoint("web", 8);
    let now = fixture.at(2);
    fixture.state.delete_dataplane(&key("web"), now);
    fixture.acknowledge("a", 1, 8);
    assert_eq!(
        fixture.acknowledge("b", 2, 8),
        completed_after(1),
        "the duration of the completed removal must be returned although the Pod is deleted"
    );
    for (proxy, stream) in [("a", 1), ("b", 2)] {
        fixture.state.delete_dataplane(&key(proxy), now);
        fixture.state.close_stream(&key(proxy), stream, now);
    }
    let RemovalState {
        meshes,
        proxies,
        removals,
        endpoints,
        ..
    } = fixture.state;
    assert!(meshes.is_empty() && proxies.is_empty() && removals.is_empty() && endpoints.is_empty());
}

#[test]
fn removals_complete_in_the_order_of_their_sequence_numbers() {
    let mut fixture = Fixture::new();
    fixture.add_endpoint("api");
    fixture.remove_endpoint("web", 8);
    fixture.remove_endpoint("api", 9);
    fixture.acknowledge("a", 1, 9);
    assert_eq!(fixture.acknowledge("b", 2, 8), completed_after(1));
    assert_eq!(
        fixture.state.status(&key("api")),
        RemovalStatus::Pending { proxies: 1 }
    );
    assert_eq!(fixture.acknowledge("b", 2, 9), completed_after(1));
}

#[test]
fn query_does_not_count_as_a_published_removal_and_leaves_no_state() {
    let mut fixture = Fixture::new();
    // The query of the endpoint `completed_first` completes before its Dataplane is deleted. The query of the endpoint
    // `deleted_first` completes after the deletion.
    let (completed_first, now) = (key("completed_first"), fixture.at(0));
    assert_eq!(
        fixture
            .state
            .start_query(&completed_first, "default".into(), 3, now),
        NOTHING_COMPLETED
    );
    assert_eq!(
        fixture.state.status(&completed_first),
        RemovalStatus::Pending { proxies: 2 }
    );
    fixture.acknowledge("a", 1, 3);
    assert_eq!(
        fixture.acknowledge("b", 2, 3),
        NOTHING_COMPLETED,
        "no duration must be returned for a query"
    );
    let acknowledged = RemovalStatus::Acknowledged {
        after: Duration::from_secs(1),
    };
    assert_eq!(fixture.state.status(&completed_first), acknowledged);
    assert_eq!(
        fixture
            .state
            .start_query(&completed_first, "default".into(), 9, now),
        NOTHING_COMPLETED,
        "a second query of the same endpoint must have no effect"
    );
    assert_eq!(fixture.state.status(&completed_first), acknowledged);

    let deleted_first = key("deleted_first");
    fixture
        .state
        .start_query(&deleted_first, "default".into(), 4, now);
    assert_eq!(
        fixture.state.open_count(),
        0,
        "a query must not count as an open removal"
    );
    assert_eq!(fixture.state.open_removals().count(), 0);
    for proxy in [&completed_first, &deleted_first] {
        fixture.state.delete_dataplane(proxy, now);
    }
    assert!(
        !fixture.state.is_known_endpoint(&completed_first) && fixture.state.is_known_endpoint(&deleted_first)
    );
    fixture.acknowledge("a", 1, 4);
    fixture.acknowledge("b", 2, 4);
    assert!(!fixture.state.is_known_endpoint(&deleted_first) && fixture.state.incomplete_queries == 0);
}

#[test]
fn proxy_with_older_configuration_that_connects_after_the_completion_counts_as_pending() {
    let mut fixture = Fixture::new();
    fixture.remove_endpoint("web", 8);
    fixture.acknowledge("a", 1, 8);
    assert_eq!(fixture.acknowledge("b", 2, 8), completed_after(1));
    fixture.open_stream("c", 3);
    assert_eq!(fixture.status(), RemovalStatus::Pending { proxies: 1 });
    assert_eq!(fixture.acknowledge("c", 3, 7), NOTHING_COMPLETED);
    assert_eq!(fixture.status(), RemovalStatus::Pending { proxies: 1 });
    assert_eq!(
        fixture.acknowledge("c", 3, 8),
        NOTHING_COMPLETED,
        "a removal completes only once"
    );
    assert_eq!(
        fixture.status(),
        RemovalStatus::Acknowledged {
            after: Duration::from_secs(1)
        }
    );
}

#[test]
fn reconnect_timeout_starts_with_the_end_of_the_last_stream() {
    let mut fixture = Fixture::new();
    fixture.remove_endpoint("web", 8);
    fixture.acknowledge("b", 2, 8);
    fixture.state.close_stream(&key("a"), 1, fixture.at(0));
    fixture.open_stream("a", 3);
    fixture.state.close_stream(&key("a"), 3, fixture.at(50));
    assert_eq!(
        fixture.state.expire_disconnected_proxies(fixture.at(61)),
        NOTHING_COMPLETED
    );
    assert_eq!(fixture.status(), RemovalStatus::Pending { proxies: 1 });
    assert_eq!(
        fixture.state.expire_disconnected_proxies(fixture.at(110)),
        completed_after(110)
    );
}

#[test]
fn reconnects_leave_no_state_after_the_reconnect_timeout() {
    let mut fixture = Fixture::new();
    for second in 0..1_000 {
        let (stream, now) = (second + 10, fixture.at(second));
        fixture
            .state
            .open_stream(&key("a"), &"default".into(), stream, now);
        fixture.state.close_stream(&key("a"), stream, now);
    }
    let recent = usize::try_from(RECONNECT_TIMEOUT.as_secs()).unwrap();
    assert!(fixture.state.ended_streams.len() <= recent + 1);
}

#[test]
fn proxy_that_changes_its_mesh_has_acknowledged_nothing_in_the_new_mesh() {
    let mut fixture = Fixture::new();
    let now = fixture.at(0);
    fixture.state.add_endpoint(key("db"), "other".into());
    fixture.acknowledge("a", 1, 9);
    fixture.remove_endpoint("web", 8);
    // The removal in the earlier mesh no longer waits for the proxy.
    let completed = fixture.state.open_stream(&key("b"), &"other".into(), 3, now);
    assert_eq!(completed, completed_after(0));
    assert_eq!(fixture.remove_endpoint("db", 5), NOTHING_COMPLETED);
    assert_eq!(fixture.acknowledge("b", 3, 5), completed_after(1));
}

#[test]
fn end_of_an_older_stream_does_not_let_a_connected_proxy_expire() {
    let mut fixture = Fixture::new();
    fixture.acknowledge("a", 1, 9);
    fixture.remove_endpoint("web", 8);
    let (closed_at, later) = (fixture.at(1), fixture.at(120));
    fixture.open_stream("b", 3);
    fixture.state.close_stream(&key("b"), 2, closed_at);
    assert_eq!(
        fixture.state.expire_disconnected_proxies(later),
        NOTHING_COMPLETED
    );
    assert_eq!(fixture.status(), RemovalStatus::Pending { proxies: 1 });
}

#[test]
fn proxy_of_a_new_pod_with_the_name_of_a_deleted_one_may_reconnect() {
    let mut fixture = Fixture::new();
    fixture.acknowledge("a", 1, 9);
    let now = fixture.at(0);
    fixture.state.delete_dataplane(&key("b"), now);
    fixture.open_stream("b", 3);
    fixture.remove_endpoint("web", 8);
    assert_eq!(
        fixture.state.close_stream(&key("b"), 3, now),
        NOTHING_COMPLETED,
        "the Envoy of the new Pod keeps its configuration"
    );
    assert_eq!(fixture.status(), RemovalStatus::Pending { proxies: 1 });
}
