//! Restart of the kubelet and containerd. The programs of the sidecars run on, so no request fails while the kubelet and
//! containerd are down.
//!
//! Up to Kubernetes 1.34, a restarted kubelet reports each container with probes as not ready until it has probed the
//! container (<https://github.com/kubernetes/kubernetes/issues/100277>, changed in Kubernetes 1.35). The servers of this
//! cluster run on one node, and only their native sidecars have probes, so all servers in the mesh may be reported as not
//! ready at the same time. They stay endpoints nevertheless.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use nix::unistd::Pid;

use super::balancing::scale_outside_servers;
use super::crashes::restarts;
use super::high_availability::{ensure_three_replicas, time_to_first_response};
use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE, SERVER_SERVICE};
use crate::harness::demo::{self, Counters};
use crate::harness::envoy::Envoy;
use crate::harness::fault::process_of;
use crate::harness::host;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{create_until_ready, demo_pod, is_ready};

/// Time limit of each wait.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Components that the test stops, in this order. It starts them in the reverse order, because the kubelet needs
/// containerd.
const COMPONENTS: [&str; 2] = ["kubelet", "containerd"];
/// Number of requests of each client while the components are down: three seconds of requests. The control plane of
/// Kubernetes marks a node as not ready after 50 s.
const REQUESTS_WHILE_DOWN: u64 = 60;
/// Number of servers, in the mesh and outside of it.
const SERVERS: usize = 3;
/// Pod outside of the mesh that calls the servers outside of the mesh.
const PLAIN_CLIENT: &str = "plain-client";
/// URL of the servers outside of the mesh.
const PLAIN_URL: &str = "http://server.e2e-outside.svc/";

pub(super) async fn no_request_fails_while_the_kubelet_and_containerd_restart(
    fixture: &Fixture,
) -> Result<Note> {
    ensure_three_replicas(fixture).await?;
    scale_outside_servers(fixture, SERVERS).await?;
    let outcome = check_restart(fixture).boxed_local().await;
    let plain = fixture.pods(OUTSIDE_NAMESPACE);
    if plain.get_opt(PLAIN_CLIENT).await?.is_some() {
        let immediately = DeleteParams::default().grace_period(0);
        plain.delete(PLAIN_CLIENT, &immediately).await?;
    }
    scale_outside_servers(fixture, 1).await?;
    outcome
}

async fn check_restart(fixture: &Fixture) -> Result<Note> {
    let arguments = ["client", PLAIN_URL, "--interval=50ms"];
    let client = demo_pod(fixture, OUTSIDE_NAMESPACE, PLAIN_CLIENT, &arguments)?;
    let client = create_until_ready(fixture, &client, TIMEOUT).await?;
    let plain = Application::observe(fixture, client).await?;
    let clients = fixture.ready_pods(APP_NAMESPACE, "client").await?;
    let client = clients.into_iter().next().context("no client is ready")?;
    let mesh = Application::observe(fixture, client).await?;
    let envoys = mesh.envoys()?;
    let without_endpoint = mesh.requests_without_endpoint(fixture).await?;

    for component in COMPONENTS {
        fixture.cluster.stop_component(component).await?;
    }
    let served = tokio::try_join!(mesh.wait_until_served(fixture), plain.wait_until_served(fixture));
    let restart = async {
        for component in COMPONENTS.iter().rev() {
            fixture.cluster.start_component(component).await?;
        }
        let time_to_response = time_to_first_response(fixture, "after-kubelet").await?;
        Ok((time_to_response, mesh.increase(fixture).await?))
    };
    let in_mesh = watch_readiness(fixture.pods(APP_NAMESPACE), restart.boxed_local()).boxed_local();
    let watched = watch_readiness(fixture.pods(OUTSIDE_NAMESPACE), in_mesh).boxed_local();
    let (((time_to_response, requests), readiness), plain_readiness) = watched.await?;
    served.context("while the kubelet and containerd are down")?;

    mesh.check_containers(fixture).await?;
    // Envoy ends with its agent, so the agents were not restarted either.
    ensure!(mesh.envoys()? == envoys, "an Envoy was restarted");
    let without_endpoint = mesh.requests_without_endpoint(fixture).await? - without_endpoint;
    ensure!(
        requests.failed == 0,
        "{}, Envoy had no endpoint for {without_endpoint} requests, and {readiness}",
        requests.request_summary()
    );
    Ok(format!(
        "{}, {readiness}; without the mesh {}, {plain_readiness}; a new Pod got a response {time_to_response:.1?} after \
         its creation",
        requests.request_summary(),
        plain.increase(fixture).await?.request_summary()
    ))
}

/// A client that calls servers continuously, and the servers in its namespace.
struct Application {
    client: Pod,
    servers: Vec<Pod>,
    /// Counters of the client at the start of the observation.
    before: Counters,
}

impl Application {
    /// Starts the observation of the servers of a namespace and of a client, which gets responses.
    async fn observe(fixture: &Fixture, client: Pod) -> Result<Self> {
        let namespace = client.namespace().unwrap_or_default();
        let servers = fixture.ready_pods(&namespace, "server").await?;
        ensure!(
            servers.len() == SERVERS,
            "{} of {SERVERS} servers of {namespace} are ready",
            servers.len()
        );
        let before = wait_for("a response to the client", TIMEOUT, async || {
            let counters = counters(fixture, &client).await?;
            let text = counters.request_summary();
            Ok(done_if(counters.succeeded > 0, counters, || text))
        })
        .await?;
        Ok(Self {
            client,
            servers,
            before,
        })
    }

    /// Returns the requests of the client since the start of the observation.
    async fn increase(&self, fixture: &Fixture) -> Result<Counters> {
        Ok(counters(fixture, &self.client).await?.since(&self.before))
    }

    /// Waits until the client has got [`REQUESTS_WHILE_DOWN`] more responses, and checks that no request has failed.
    async fn wait_until_served(&self, fixture: &Fixture) -> Result<()> {
        let start = self.increase(fixture).await?;
        wait_for("responses to the client", TIMEOUT, async || {
            let increase = self.increase(fixture).await?;
            let name = self.client.name_any();
            ensure!(
                increase.failed == 0,
                "client {name}: {}",
                increase.request_summary()
            );
            let is_served = increase.succeeded >= start.succeeded + REQUESTS_WHILE_DOWN;
            Ok(done_if(is_served, (), || increase.request_summary()))
        })
        .await
    }

    /// Returns the processes of Envoy in all Pods.
    fn envoys(&self) -> Result<Vec<Pid>> {
        let pods = self.servers.iter().chain([&self.client]);
        pods.map(|pod| process_of(pod, "envoy")).collect()
    }

    /// Returns the number of requests for which the client's Envoy had no endpoint.
    async fn requests_without_endpoint(&self, fixture: &Fixture) -> Result<u64> {
        let name = self.client.name_any();
        let envoy = Envoy::new(&fixture.cluster.kubectl, APP_NAMESPACE, &name, "client");
        let statistics = envoy.statistics("upstream_cx_none_healthy").await?;
        let prefix = format!("cluster.{SERVER_SERVICE}");
        Ok(statistics.sum(&prefix, ".upstream_cx_none_healthy"))
    }

    /// Checks that no container has been restarted.
    async fn check_containers(&self, fixture: &Fixture) -> Result<()> {
        for pod in self.servers.iter().chain([&self.client]) {
            let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
            let current = fixture.pods(&namespace).get(&name).await?;
            ensure!(
                restarts(&current) == restarts(pod),
                "containers of {name} were restarted: {:?}",
                restarts(&current)
            );
        }
        Ok(())
    }
}

/// Reads the counters of a client in the network namespace of its Pod. kubectl would need the kubelet.
async fn counters(fixture: &Fixture, client: &Pod) -> Result<Counters> {
    let process = process_of(client, "kermode-demo")?;
    let program = fixture.config.checkout.release_binary("kermode-demo");
    let output = host::in_network_of(process, &program.to_string_lossy())
        .args(["get", demo::COUNTERS_URL])
        .output()
        .await
        .context("nsenter cannot be started")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kermode-demo get: {errors}");
    Counters::parse(demo::printed_body(&String::from_utf8(output.stdout)?)?)
}

/// How the readiness of servers changed, as the kubelet reports it.
#[derive(Debug)]
struct Readiness {
    /// Whether each server is ready, by name.
    servers: BTreeMap<String, bool>,
    /// Start of the current gap: the time in which no server is ready.
    gap_start: Option<Instant>,
    /// Total length of the ended gaps.
    total: Duration,
}

/// Watches the servers of a namespace until `during` completes. Returns its value.
async fn watch_readiness<T>(
    pods: Api<Pod>,
    mut during: LocalBoxFuture<'_, Result<T>>,
) -> Result<(T, Readiness)> {
    let listed = pods.list(&ListParams::default().labels("app=server")).await?;
    let version = listed.metadata.resource_version.unwrap_or_default();
    let mut readiness = Readiness {
        servers: listed
            .items
            .iter()
            .map(|pod| (pod.name_any(), is_ready(pod)))
            .collect(),
        gap_start: None,
        total: Duration::ZERO,
    };
    let selected = WatchParams::default().labels("app=server");
    let mut events = pin!(pods.watch(&selected, &version).await?);
    loop {
        tokio::select! {
            // An event that has arrived counts, even if `during` has completed as well.
            biased;
            event = events.next() => match event {
                Some(Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod))) => {
                    readiness.update(&pod.name_any(), is_ready(&pod));
                }
                Some(Ok(WatchEvent::Deleted(pod))) => readiness.update(&pod.name_any(), false),
                other => bail!("the watch of the servers has ended: {other:?}"),
            },
            value = &mut during => return Ok((value?, readiness)),
        }
    }
}

impl Readiness {
    fn update(&mut self, server: &str, is_ready: bool) {
        self.servers.insert(server.to_owned(), is_ready);
        let is_any_ready = self.servers.values().any(|is_ready| *is_ready);
        match self.gap_start {
            None if !is_any_ready => {
                self.gap_start = Some(Instant::now());
            }
            Some(start) if is_any_ready => {
                self.total += start.elapsed();
                self.gap_start = None;
            }
            _ => {}
        }
    }
}

impl std::fmt::Display for Readiness {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "the kubelet reported no server as ready for {:.1?}",
            self.total
        )
    }
}
