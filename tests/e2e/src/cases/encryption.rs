//! mTLS between sidecars, shown by Envoy's statistics, the certificate that the server saw, and a packet capture.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE, SERVER_SERVICE, SERVER_URL};
use crate::harness::capture::Capture;
use crate::harness::demo;
use crate::harness::envoy::Envoy;
use crate::harness::packet::Segment;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::ip;

/// Time limit of each condition.
const TIMEOUT: Duration = Duration::from_secs(30);
const CLIENT_IDENTITY: &str = "spiffe://default/client_e2e-mesh_svc";
const SERVER_IDENTITY: &str = "spiffe://default/server_e2e-mesh_svc_80";

/// Text that a capture contains only if traffic is not encrypted. The request carries the text in its path, and the
/// server repeats the text in the body of the response. The body is needed because HTTP/2 compresses headers.
const MARKER: &str = "readable-on-the-wire";

pub(super) async fn sidecars_use_mtls_and_the_server_sees_the_client_identity(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let envoy = Envoy::new(&fixture.cluster.kubectl, APP_NAMESPACE, &client, "client");
    let statistics = envoy.statistics("ssl").await?;
    let outgoing = statistics.sum(&format!("cluster.{SERVER_SERVICE}."), ".ssl.handshake");
    ensure!(
        outgoing > 0,
        "the client's Envoy made no TLS handshake with {SERVER_SERVICE}"
    );
    let mut incoming = 0;
    for server in fixture.ready_pods(APP_NAMESPACE, "server").await? {
        let name = server.metadata.name.as_deref().unwrap_or_default();
        let statistics = Envoy::new(&fixture.cluster.kubectl, APP_NAMESPACE, name, "server")
            .statistics("ssl")
            .await?;
        let handshakes = statistics.sum("listener.", ".ssl.handshake");
        ensure!(handshakes > 0, "the Envoy of server {name} made no TLS handshake");
        incoming += handshakes;
    }
    let response = fixture
        .client_counters()
        .await?
        .last_response
        .context("the client got no response")?;
    let header = response["headers"]["x-forwarded-client-cert"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        header.contains(&format!("URI={CLIENT_IDENTITY}")),
        "x-forwarded-client-cert does not contain URI={CLIENT_IDENTITY}: {header:?}"
    );
    ensure!(
        header.contains(&format!("By={SERVER_IDENTITY}")),
        "x-forwarded-client-cert does not contain By={SERVER_IDENTITY}: {header:?}"
    );
    Ok(format!(
        "handshakes: {outgoing} by the client, {incoming} by the servers"
    ))
}

pub(super) async fn traffic_between_pods_is_encrypted(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let observation = observe_requests(fixture).await?;
    ensure!(
        observation.readable.is_empty(),
        "segments of a request in the mesh were readable: {}",
        observation
            .readable
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    );
    ensure!(
        observation.encrypted > 0,
        "no encrypted data went from the client's Pod to a server's Pod"
    );
    ensure!(
        observation.unredirected == 0,
        "{} segments went from the client's Pod to the Service instead of the client's sidecar",
        observation.unredirected
    );
    Ok(format!(
        "{} encrypted and no readable segments in the mesh; {} readable segments outside of the mesh",
        observation.encrypted, observation.readable_outside
    ))
}

pub(super) async fn capture_without_mtls_shows_plain_text(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let disable_mtls = [
        "patch",
        "mesh",
        "default",
        "--type=json",
        "--patch=[{\"op\": \"remove\", \"path\": \"/spec/mtls\"}]",
    ];
    fixture.cluster.kubectl.run(&disable_mtls).await?;
    let before = fixture.client_counters().await?;
    let outcome = async {
        wait_for_client_identity(fixture, false).await?;
        observe_requests(fixture).await
    };
    let outcome = outcome.await;
    fixture.apply_strict_mesh().await?;
    wait_for_client_identity(fixture, true).await?;
    let observation = outcome?;
    let summary = fixture.client_counters().await?.since(&before).request_summary();
    ensure!(
        !observation.readable.is_empty(),
        "the capture contains no readable request without mTLS"
    );
    Ok(format!(
        "{} readable segments; {summary}",
        observation.readable.len()
    ))
}

/// Waits until the server sees an identity of the client, or, if `visible` is false, until the server sees no identity.
async fn wait_for_client_identity(fixture: &Fixture, visible: bool) -> Result<()> {
    let before = fixture.client_counters().await?;
    wait_for(
        "the sidecars to apply the change of the Mesh's mTLS",
        TIMEOUT,
        async || {
            let counters = fixture.client_counters().await?;
            let response = counters.last_response.clone().unwrap_or_default();
            let has_identity = response["headers"]["x-forwarded-client-cert"].as_str().is_some();
            Ok(done_if(has_identity == visible, (), || {
                format!(
                    "last response {response}; {}",
                    counters.since(&before).request_summary()
                )
            }))
        },
    )
    .await
}

/// TCP segments that were captured during a request in the mesh and a comparison request outside of the mesh.
struct Observation {
    /// Segments that contain the marker of the request in the mesh.
    readable: Vec<Segment>,
    /// Number of segments of encrypted data from the client's Pod to a server's Pod.
    encrypted: usize,
    /// Number of segments from the client's Pod to the port of the Service. There must be none, because these packets
    /// are redirected to the client's sidecar.
    unredirected: usize,
    /// Number of segments that contain the marker of the comparison request outside of the mesh.
    readable_outside: usize,
}

/// Captures the packets of one request in the mesh and of a comparison request outside of the mesh.
async fn observe_requests(fixture: &Fixture) -> Result<Observation> {
    let kubectl = &fixture.cluster.kubectl;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let client_ip = ip(&fixture.pods(APP_NAMESPACE).get(&client).await?)?.to_owned();
    let (mesh_marker, outside_marker) = (format!("{MARKER}-in-the-mesh"), format!("{MARKER}-outside"));

    let capture = Capture::start(&fixture.cluster).await?;
    let response = demo::get(
        kubectl,
        APP_NAMESPACE,
        &client,
        "client",
        &format!("{SERVER_URL}{mesh_marker}"),
    )
    .await?;
    ensure!(
        response.contains(&mesh_marker),
        "the server does not repeat the marker: {response}"
    );
    capture_request_outside(fixture, &capture, &outside_marker).await?;
    let segments = capture.end().await?;
    let servers: Vec<SocketAddrV4> = fixture
        .ready_pods(APP_NAMESPACE, "server")
        .await?
        .iter()
        .map(|pod| Ok(SocketAddrV4::new(ip(pod)?.parse()?, 8080)))
        .collect::<Result<_>>()?;
    let client_to_servers = segments.iter().filter(|segment| {
        segment.source.ip().to_string() == client_ip && servers.contains(&segment.destination)
    });
    let unredirected = segments
        .iter()
        .filter(|segment| segment.source.ip().to_string() == client_ip && segment.destination.port() == 80);
    Ok(Observation {
        unredirected: unredirected.count(),
        encrypted: client_to_servers.filter(|segment| segment.is_tls_data()).count(),
        readable: segments_with(&segments, &mesh_marker),
        readable_outside: segments_with(&segments, &outside_marker).len(),
    })
}

/// Sends a comparison request with a marker, outside of the mesh, until the capture contains it. The capture then also
/// contains all packets before this request.
pub(super) async fn capture_request_outside(
    fixture: &Fixture,
    capture: &Capture,
    marker: &str,
) -> Result<()> {
    let url = format!("http://server.{OUTSIDE_NAMESPACE}.svc/{marker}");
    wait_for(
        "the capture to contain the request outside of the mesh",
        TIMEOUT,
        async || {
            let outsider = fixture.ready_pod_name(OUTSIDE_NAMESPACE, "outsider").await?;
            let kubectl = &fixture.cluster.kubectl;
            let response = demo::get(kubectl, OUTSIDE_NAMESPACE, &outsider, "client", &url).await;
            let is_captured = !segments_with(&capture.segments_so_far()?, marker).is_empty();
            Ok(done_if(is_captured, (), || match response {
                Ok(_) => "the capture does not contain the request".to_owned(),
                Err(error) => format!("{error:#}"),
            }))
        },
    )
    .await
}

/// Returns the segments that contain a text.
pub(super) fn segments_with(segments: &[Segment], text: &str) -> Vec<Segment> {
    segments
        .iter()
        .filter(|segment| segment.contains_text(text))
        .cloned()
        .collect()
}
