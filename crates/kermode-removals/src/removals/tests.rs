//! Tests of the reports that the watcher of a removal receives.

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

/// Replicas that have not changed within the reconnect timeout.
fn mk_stable_replicas() -> Replicas {
    Replicas {
        unchanged_since: Some(tokio::time::Instant::now() - RECONNECT_TIMEOUT),
        ..Replicas::default()
    }
}

#[tokio::test]
async fn watch_reports_a_removal_from_start_to_completion() {
    let removals = EndpointRemovals::default();
    let mesh = MeshName::from("default");
    removals.on_endpoint_added(web(), mesh.clone());
    let mut acknowledgements = removals.on_stream_opened(&client(), &mesh);
    let (_replicas, receiver) = watch::channel(mk_stable_replicas());
    let mut reports = std::pin::pin!(removals.watch(web(), Arc::new(|_| None), receiver));
    let mut status = async || reports.next().await.map(|report| report.status);

    assert_eq!(status().await, Some(RemovalStatus::NotRemoved));
    removals.on_endpoint_removed(&web(), |_| 8);
    assert_eq!(status().await, Some(RemovalStatus::Pending { proxies: 1 }));
    let open = removals.open_removals();
    assert_eq!(
        (open[0].unacknowledged_count, &open[0].examples),
        (1, &vec![client()])
    );
    assert_eq!(removals.inner.open.get(), 1);
    acknowledgements.acknowledge(Some(7));
    acknowledgements.acknowledge(Some(8));
    assert!(matches!(status().await, Some(RemovalStatus::Acknowledged { .. })));
    assert_eq!(removals.inner.open.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn report_covers_all_proxies_once_the_replicas_have_not_changed_for_a_minute() {
    let removals = EndpointRemovals::default();
    removals.on_endpoint_added(web(), "default".into());
    removals.on_endpoint_removed(&web(), |_| 1);
    let other: SocketAddr = "10.0.0.2:5678".parse().expect("an address");
    let mk_changed_replicas = |others: &[SocketAddr]| Replicas {
        others: others.into(),
        unchanged_since: Some(tokio::time::Instant::now()),
        ..Replicas::default()
    };
    let (replicas, receiver) = watch::channel(mk_changed_replicas(&[other]));
    let mut reports = std::pin::pin!(removals.watch(web(), Arc::new(|_| None), receiver));

    let first = reports.next().await.expect("a report");
    assert!(
        matches!(first.status, RemovalStatus::Acknowledged { .. }),
        "{first:?}"
    );
    assert!(
        !first.covers_all_proxies && *first.other_replicas == [other],
        "{first:?}"
    );
    let ended_at = tokio::time::Instant::now();
    replicas.send_replace(mk_changed_replicas(&[]));
    let second = reports.next().await.expect("a report");
    assert!(
        !second.covers_all_proxies && second.other_replicas.is_empty(),
        "{second:?}"
    );
    let third = reports.next().await.expect("a report");
    assert!(
        third.covers_all_proxies && ended_at.elapsed() >= RECONNECT_TIMEOUT,
        "{third:?}"
    );
}

#[tokio::test]
async fn query_of_an_unknown_endpoint_is_pending_until_proxies_acknowledge_the_published_sequence() {
    let removals = EndpointRemovals::default();
    let mesh = MeshName::from("default");
    let mut acknowledgements = removals.on_stream_opened(&client(), &mesh);
    acknowledgements.acknowledge(Some(7));
    let (_replicas, receiver) = watch::channel(mk_stable_replicas());
    let published = move |_: &ObjectKey| Some((mesh.clone(), 8));
    let mut reports = std::pin::pin!(removals.watch(web(), Arc::new(published), receiver));
    let mut status = async || reports.next().await.map(|report| report.status);

    assert_eq!(status().await, Some(RemovalStatus::Pending { proxies: 1 }));
    acknowledgements.acknowledge(Some(8));
    assert!(matches!(status().await, Some(RemovalStatus::Acknowledged { .. })));
    // Adding the endpoint ends the query.
    removals.on_endpoint_added(web(), "default".into());
    assert_eq!(removals.status(&web()), RemovalStatus::NotRemoved);
}
