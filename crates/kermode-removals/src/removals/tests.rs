//! Tests of the reports on a removal that [`EndpointRemovals::watch`] returns.

use std::net::SocketAddr;

use futures::StreamExt as _;

use super::*;
use crate::replicas::RECONNECT_TIMEOUT;

/// The endpoint that the tests remove.
fn web() -> ObjectKey {
    ObjectKey::new("shop", "web")
}

/// A proxy whose configuration contains the endpoint.
fn client() -> ObjectKey {
    ObjectKey::new("shop", "a")
}

/// Returns a state of the replicas for which [`Replicas::are_stable`] is true.
fn mk_stable_replicas() -> Replicas {
    Replicas {
        unchanged_since: Some(tokio::time::Instant::now() - RECONNECT_TIMEOUT),
        ..Replicas::default()
    }
}

/// Returns the number of open removals that the metrics have.
fn open_count(removals: &EndpointRemovals) -> i64 {
    let mut registry = Registry::default();
    removals.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix("xds_endpoint_removals_open "));
    values
        .next()
        .and_then(|value| value.parse().ok())
        .expect("a metric")
}

#[tokio::test]
async fn watch_reports_a_removal_from_start_to_completion() {
    let removals = EndpointRemovals::default();
    let mesh = MeshName::from("default");
    removals.on_endpoint_added(web(), mesh.clone());
    let mut acknowledgements = removals.on_stream_opened(&client(), &mesh);
    let (_replicas_sender, replicas) = watch::channel(mk_stable_replicas());
    let mut reports = std::pin::pin!(removals.watch(web(), Arc::new(|_| None), replicas));
    let mut next_status = async || reports.next().await.map(|report| report.status);

    assert_eq!(next_status().await, Some(RemovalStatus::NotRemoved));
    // The removal is published with the sequence number 8.
    removals.on_endpoint_removed(&web(), |_| 8);
    assert_eq!(next_status().await, Some(RemovalStatus::Pending { proxies: 1 }));
    let open_removals = removals.open_removals();
    assert_eq!(
        (open_removals[0].unacknowledged_count, &open_removals[0].examples),
        (1, &vec![client()])
    );
    assert_eq!(open_count(&removals), 1);
    acknowledgements.acknowledge(Some(7));
    acknowledgements.acknowledge(Some(8));
    assert!(matches!(
        next_status().await,
        Some(RemovalStatus::Acknowledged { .. })
    ));
    assert_eq!(open_count(&removals), 0);
}

#[test]
fn removal_by_the_deletion_of_a_dataplane_is_forgotten_once_acknowledged() {
    let removals = EndpointRemovals::default();
    let mesh = MeshName::from("default");
    removals.on_endpoint_added(web(), mesh.clone());
    let mut acknowledgements = removals.on_stream_opened(&client(), &mesh);
    removals.on_dataplane_deleted(&web(), |_| 8);
    assert_eq!(removals.status(&web()), RemovalStatus::Pending { proxies: 1 });
    acknowledgements.acknowledge(Some(8));
    assert_eq!(removals.status(&web()), RemovalStatus::NotRemoved);
}

#[tokio::test(start_paused = true)]
async fn report_covers_all_proxies_a_minute_after_the_last_change_of_the_replicas() {
    let removals = EndpointRemovals::default();
    removals.on_endpoint_added(web(), "default".into());
    removals.on_endpoint_removed(&web(), |_| 1);
    let other: SocketAddr = "10.0.0.2:5678".parse().expect("an address");
    let mk_just_changed_replicas = |others: &[SocketAddr]| Replicas {
        others: others.into(),
        unchanged_since: Some(tokio::time::Instant::now()),
        ..Replicas::default()
    };
    let (replicas_sender, replicas) = watch::channel(mk_just_changed_replicas(&[other]));
    let mut reports = std::pin::pin!(removals.watch(web(), Arc::new(|_| None), replicas));

    let first = reports.next().await.expect("a report");
    assert!(
        matches!(first.status, RemovalStatus::Acknowledged { .. }),
        "{first:?}"
    );
    assert!(
        !first.covers_all_proxies && *first.other_replicas == [other],
        "{first:?}"
    );
    let other_ended_at = tokio::time::Instant::now();
    replicas_sender.send_replace(mk_just_changed_replicas(&[]));
    let second = reports.next().await.expect("a report");
    assert!(
        !second.covers_all_proxies && second.other_replicas.is_empty(),
        "{second:?}"
    );
    let third = reports.next().await.expect("a report");
    assert!(
        third.covers_all_proxies && other_ended_at.elapsed() >= RECONNECT_TIMEOUT,
        "{third:?}"
    );
}

#[tokio::test]
async fn query_of_an_unknown_endpoint_is_pending_until_proxies_acknowledge_the_published_sequence() {
    let removals = EndpointRemovals::default();
    let mesh = MeshName::from("default");
    let mut acknowledgements = removals.on_stream_opened(&client(), &mesh);
    acknowledgements.acknowledge(Some(7));
    let (_replicas_sender, replicas) = watch::channel(mk_stable_replicas());
    let published_sequence = move |_: &ObjectKey| Some((mesh.clone(), 8));
    let mut reports = std::pin::pin!(removals.watch(web(), Arc::new(published_sequence), replicas));
    let mut next_status = async || reports.next().await.map(|report| report.status);

    assert_eq!(next_status().await, Some(RemovalStatus::Pending { proxies: 1 }));
    acknowledgements.acknowledge(Some(8));
    assert!(matches!(
        next_status().await,
        Some(RemovalStatus::Acknowledged { .. })
    ));
    // Adding the endpoint discards the query.
    removals.on_endpoint_added(web(), "default".into());
    assert_eq!(removals.status(&web()), RemovalStatus::NotRemoved);
}
