//! mTLS between sidecars, shown by Envoy's statistics, the certificate that the server saw, and a packet capture.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::capture::Capture;
use crate::harness::demo;
use crate::harness::envoy::Envoy;
use crate::harness::packet::Segment;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::ip;
use crate::world::{APP, OUTSIDE, SERVER, SERVER_URL, World};

const DEADLINE: Duration = Duration::from_secs(30);
const CLIENT_IDENTITY: &str = "spiffe://default/client_e2e-mesh_svc";
const SERVER_IDENTITY: &str = "spiffe://default/server_e2e-mesh_svc_80";

/// Text that is readable on the wire without encryption. Requests carry it in the path and responses repeat it in the
/// body, because HTTP/2 compresses headers.
const MARKER: &str = "readable-on-the-wire";

pub(super) async fn sidecars_use_mtls_and_the_server_sees_the_client_identity(world: &World) -> Result<Note> {
    world.deployed().await?;
    let client = world.pod(APP, "client").await?;
    let envoy = Envoy::new(&world.cluster.kubectl, APP, &client, "client");
    let statistics = envoy.statistics("ssl").await?;
    let outgoing = statistics.sum(&format!("cluster.{SERVER}."), ".ssl.handshake");
    ensure!(
        outgoing > 0,
        "the client's Envoy made no TLS handshake with {SERVER}"
    );
    let mut incoming = 0;
    for server in world.ready_pods(APP, "server").await? {
        let name = server.metadata.name.as_deref().unwrap_or_default();
        let statistics = Envoy::new(&world.cluster.kubectl, APP, name, "server")
            .statistics("ssl")
            .await?;
        let handshakes = statistics.sum("listener.", ".ssl.handshake");
        ensure!(
            handshakes > 0,
            "the Envoy of {name} took part in no TLS handshake"
        );
        incoming += handshakes;
    }
    let response = world
        .counters()
        .await?
        .last_answer
        .context("the client got no response")?;
    let shown = response["headers"]["x-forwarded-client-cert"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        shown.contains(&format!("URI={CLIENT_IDENTITY}")),
        "x-forwarded-client-cert is {shown:?}"
    );
    ensure!(
        shown.contains(&format!("By={SERVER_IDENTITY}")),
        "x-forwarded-client-cert is {shown:?}"
    );
    Ok(format!(
        "handshakes: {outgoing} by the client, {incoming} by the servers"
    ))
}

pub(super) async fn traffic_between_pods_is_encrypted(world: &World) -> Result<Note> {
    world.deployed().await?;
    let observed = observe(world).await?;
    ensure!(
        observed.plain.is_empty(),
        "a request in the mesh was readable: {}",
        observed
            .plain
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    );
    ensure!(
        observed.encrypted > 0,
        "no encrypted data went from the client's Pod to a server's Pod"
    );
    ensure!(
        observed.unredirected == 0,
        "{} segments went from the client's Pod to the Service",
        observed.unredirected
    );
    Ok(format!(
        "{} encrypted segments between the Pods, none readable; {} readable outside of the mesh",
        observed.encrypted, observed.control
    ))
}

pub(super) async fn capture_without_mtls_shows_plain_text(world: &World) -> Result<Note> {
    world.deployed().await?;
    let off = [
        "patch",
        "mesh",
        "default",
        "--type=json",
        "--patch=[{\"op\": \"remove\", \"path\": \"/spec/mtls\"}]",
    ];
    world.cluster.kubectl.run(&off).await?;
    let before = world.counters().await?;
    let outcome = async {
        identity_shown(world, false).await?;
        observe(world).await
    };
    let outcome = outcome.await;
    world.strict().await?;
    identity_shown(world, true).await?;
    let observed = outcome?;
    let failures = world.counters().await?.since(&before).failures();
    ensure!(
        !observed.plain.is_empty(),
        "the capture contains no readable request without mTLS"
    );
    Ok(format!("{} readable segments; {failures}", observed.plain.len()))
}

/// Waits until the server sees, or does not see, the identity of the client.
async fn identity_shown(world: &World, shown: bool) -> Result<()> {
    let before = world.counters().await?;
    wait_for(
        "the Mesh's mTLS to change for running Pods",
        DEADLINE,
        async || {
            let counters = world.counters().await?;
            let response = counters.last_answer.clone().unwrap_or_default();
            let has_identity = response["headers"]["x-forwarded-client-cert"].as_str().is_some();
            Ok(done_if(has_identity == shown, (), || {
                format!("last response {response}; {}", counters.since(&before).failures())
            }))
        },
    )
    .await
}

/// Captured segments of a request in the mesh and of one outside of it.
struct Observation {
    /// Segments with the marker of the request in the mesh.
    plain: Vec<Segment>,
    /// Segments of encrypted data from the client's Pod to a server's Pod.
    encrypted: usize,
    /// Segments from the client's Pod to the Service's own port, which only the client's own sidecar should receive.
    unredirected: usize,
    /// Segments with the marker of the request outside of the mesh.
    control: usize,
}

async fn observe(world: &World) -> Result<Observation> {
    let kubectl = &world.cluster.kubectl;
    let client = world.pod(APP, "client").await?;
    let address = ip(&world.pods(APP).get(&client).await?)?.to_owned();
    let outsider = world.pod(OUTSIDE, "outsider").await?;
    let (inside, outside) = (format!("{MARKER}-in-the-mesh"), format!("{MARKER}-outside"));

    let capture = Capture::start(&world.cluster).await?;
    let response = demo::get(kubectl, APP, &client, "client", &format!("{SERVER_URL}{inside}")).await?;
    ensure!(
        response.contains(&inside),
        "the server does not repeat the marker: {response}"
    );
    // The control request comes second: once it is in the capture, all earlier packets are in the capture as well.
    demo::get(
        kubectl,
        OUTSIDE,
        &outsider,
        "client",
        &format!("http://server.{OUTSIDE}.svc/{outside}"),
    )
    .await?;
    wait_for(
        "the request outside of the mesh in the capture",
        DEADLINE,
        async || {
            let count = segments_with(&capture.so_far()?, &outside).len();
            Ok(done_if(count > 0, (), || {
                "the capture does not contain it".to_owned()
            }))
        },
    )
    .await?;
    let segments = capture.end().await?;
    let servers: Vec<SocketAddrV4> = world
        .ready_pods(APP, "server")
        .await?
        .iter()
        .map(|pod| Ok(SocketAddrV4::new(ip(pod)?.parse()?, 8080)))
        .collect::<Result<_>>()?;
    let between = segments.iter().filter(|segment| {
        segment.source.ip().to_string() == address && servers.contains(&segment.destination)
    });
    let unredirected = segments
        .iter()
        .filter(|segment| segment.source.ip().to_string() == address && segment.destination.port() == 80);
    Ok(Observation {
        unredirected: unredirected.count(),
        encrypted: between.filter(|segment| segment.is_tls_data()).count(),
        plain: segments_with(&segments, &inside),
        control: segments_with(&segments, &outside).len(),
    })
}

fn segments_with(segments: &[Segment], text: &str) -> Vec<Segment> {
    segments
        .iter()
        .filter(|segment| segment.shows(text))
        .cloned()
        .collect()
}
