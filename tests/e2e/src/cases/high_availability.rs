//! Three replicas of the control plane: rebalancing, and faults such as killed replicas, a wrong Lease, dead
//! connections, or an outage of the API server or of etcd. No request of the application's client fails, and new Pods
//! get responses once one replica is available.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::outage::{scale_control_plane, wait_for_no_replica};
use super::server_changes;
use crate::fixture::{
    APP_NAMESPACE, CONTROL_PLANE, DIAGNOSTICS_PORT, Fixture, SERVER_SERVICE, SERVER_URL, SYSTEM_NAMESPACE,
};
use crate::harness::demo::{self, Counters};
use crate::harness::fault::{SeveredConnections, kill_program};
use crate::harness::runner::Note;
use crate::harness::wait::{Progress, done_if, wait_for};
use crate::pods::{demo_pod, ip};

/// Number of replicas of the control plane in these tests.
pub(super) const REPLICAS: usize = 3;
/// Time limit of a wait for which no other constant is defined.
const TIMEOUT: Duration = Duration::from_secs(45);
/// Number of servers in the manifest of the application.
const SERVERS: usize = 3;
/// Number of servers for the rebalancing test.
const MANY_SERVERS: usize = 12;
/// Number of sidecars that a replica may hold beyond its share without rebalancing.
const TOLERATED_EXCESS: usize = 3;
/// Time limit of rebalancing. Sidecars move only after the set of replicas has been stable for a minute.
const REBALANCING_TIMEOUT: Duration = Duration::from_secs(110);
/// The API server's port on the node.
const API_PORT: u16 = 6443;
/// Time limit of an election: twice the duration of the Lease.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of the recovery from an outage of the API server. After an outage of ten minutes, the kubelet needs
/// nearly two more minutes until it lists its Pods.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(150);
/// Components of Kubernetes that are stopped for an outage, besides the component that the test is about. In this
/// cluster, they run without leader election, so they would survive the outage and then mark the node as unreachable.
const ALSO_STOPPED: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
/// Time limit of the first response to a Pod that is created after the connections of the replicas were severed.
/// Replicas close dead connections after 19 s; then the sidecar of the Pod retries.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(40);

pub(super) async fn no_request_fails_when_replicas_are_killed_one_by_one_and_all_at_once(
    fixture: &Fixture,
) -> Result<Note> {
    ensure_three_replicas(fixture).await?;
    let requests = ClientRequests::begin(fixture).await?;
    let (leader, old_holder) = leader(fixture).await?;
    kill_program(&leader, "kuma-cp")?;
    let time_to_response_after_leader_kill = time_to_first_response(fixture, "after-leader").await?;
    let election = wait_for("another leader", ELECTION_TIMEOUT, async || {
        let holder = lease_holder(fixture).await?;
        Ok(done_if(holder != old_holder, holder.clone(), || {
            format!("the lease holder is {holder}")
        }))
    });
    election.await?;
    let replicas = fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
    let other_replica = replicas.iter().find(|pod| pod.name_any() != leader.name_any());
    kill_program(other_replica.context("no other replica is ready")?, "kuma-cp")?;
    let time_to_response_after_other_kill = time_to_first_response(fixture, "after-other").await?;
    wait_for_all_replicas(fixture).await?;
    for replica in fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await? {
        kill_program(&replica, "kuma-cp")?;
    }
    let time_to_response_after_total_kill = time_to_first_response(fixture, "after-all").await?;
    wait_for_all_replicas(fixture).await?;
    let counts = wait_for_connected_sidecars(fixture).await?;
    let request_summary = requests.end(fixture).await?;
    Ok(format!(
        "{request_summary}; sidecars by replica at the end: {counts:?}; a new Pod got a response \
         {time_to_response_after_leader_kill:.1?} after the leader was killed, \
         {time_to_response_after_other_kill:.1?} after another replica was killed, \
         {time_to_response_after_total_kill:.1?} after all were killed"
    ))
}

pub(super) async fn added_replicas_get_their_share_of_sidecars(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let outcome = check_rebalancing(fixture).await;
    server_changes::scale_servers(fixture, SERVERS).await?;
    outcome
}

/// Connects many sidecars to one replica, adds two replicas, and waits until no replica holds too many sidecars.
async fn check_rebalancing(fixture: &Fixture) -> Result<Note> {
    scale_control_plane(fixture, 1).await?;
    server_changes::scale_servers(fixture, MANY_SERVERS).await?;
    let requests = ClientRequests::begin(fixture).await?;
    ensure_three_replicas(fixture).await?;
    let start = Instant::now();
    let counts = wait_for(
        "every replica to hold at most its share of sidecars plus the tolerated excess",
        REBALANCING_TIMEOUT,
        async || {
            let counts = wait_for_connected_sidecars(fixture).await?;
            let share = counts.iter().sum::<usize>().div_ceil(REPLICAS);
            let highest_count = counts.iter().max().copied().unwrap_or_default();
            Ok(done_if(
                highest_count <= share + TOLERATED_EXCESS,
                counts.clone(),
                || format!("{counts:?}"),
            ))
        },
    )
    .await?;
    let rebalancing_time = start.elapsed();
    let request_summary = requests.end(fixture).await?;
    Ok(format!(
        "{request_summary}; sidecars by replica after {rebalancing_time:.0?}: {counts:?}"
    ))
}

pub(super) async fn lease_from_the_far_future_does_not_block_the_election(fixture: &Fixture) -> Result<Note> {
    ensure_three_replicas(fixture).await?;
    let leases = leases(fixture);
    // Simulates a leader that died on a node with a wrong clock. A replica may overwrite the Lease, so the patch is
    // repeated until the Lease has this holder.
    let patch = json!({"spec": {
        "holderIdentity": "dead-replica",
        "renewTime": "2999-01-01T00:00:00.000000Z",
        "acquireTime": "2999-01-01T00:00:00.000000Z",
        "leaseDurationSeconds": i32::MAX,
        "leaseTransitions": 41,
    }});
    wait_for("dead-replica to hold the lease", TIMEOUT, async || {
        leases
            .patch(LEASE, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        let holder = lease_holder(fixture).await?;
        Ok(done_if(holder == "dead-replica", (), || {
            format!("the lease holder is {holder}")
        }))
    })
    .await?;
    let start = Instant::now();
    let elected_spec = wait_for("a replica to hold the lease", ELECTION_TIMEOUT, async || {
        let spec = leases.get(LEASE).await?.spec.unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        Ok(done_if(holder.starts_with(CONTROL_PLANE), spec, || {
            format!("the lease holder is {holder}")
        }))
    })
    .await?;
    ensure!(
        elected_spec.lease_transitions == Some(42),
        "the election must increase leaseTransitions from 41 to 42: {elected_spec:?}"
    );
    Ok(format!("a replica holds the lease after {:.1?}", start.elapsed()))
}

pub(super) async fn dead_connections_to_the_api_server_are_detected(fixture: &Fixture) -> Result<Note> {
    ensure_three_replicas(fixture).await?;
    let requests = ClientRequests::begin(fixture).await?;
    let replicas = fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
    let (severed, connection_count) =
        SeveredConnections::sever(&fixture.cluster, &replicas, API_PORT).await?;
    let time_to_response = time_to_first_response_within(fixture, "after-severing", DETECTION_TIMEOUT).await;
    severed.restore().await?;
    let time_to_response = time_to_response?;
    let request_summary = requests.end(fixture).await?;
    Ok(format!(
        "{request_summary}; a new Pod got a response {time_to_response:.1?} after {connection_count} connections \
         were severed"
    ))
}

pub(super) async fn no_request_fails_while_the_api_server_is_down(fixture: &Fixture) -> Result<Note> {
    check_outage(fixture, "kube-apiserver", fixture.config.outage, 1).await
}

pub(super) async fn no_request_fails_while_etcd_is_down(fixture: &Fixture) -> Result<Note> {
    check_outage(fixture, "etcd", fixture.config.outage / 3, 0).await
}

/// Stops the component `stopped`, and [`ALSO_STOPPED`], for the duration `outage`. When the outage begins, kills
/// `killed_count` replicas and the Envoy of a [`CrashClient`].
async fn check_outage(
    fixture: &Fixture,
    stopped: &str,
    outage: Duration,
    killed_count: usize,
) -> Result<Note> {
    ensure_three_replicas(fixture).await?;
    let crash_client = CrashClient::begin(fixture).await?;
    let requests = ClientRequests::begin(fixture).await?;
    let replicas = fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
    let (killed, others) = replicas
        .split_at_checked(killed_count)
        .context("fewer replicas are ready than the test kills")?;
    for component in [stopped].iter().chain(&ALSO_STOPPED) {
        fixture.cluster.stop_component(component).await?;
    }
    let outage_start = Instant::now();
    let during_outage = async {
        for replica in killed {
            kill_program(replica, "kuma-cp")?;
        }
        kill_program(&crash_client.pod, "envoy")?;
        // Replicas serve their last state, so they stay ready for the whole outage.
        while outage_start.elapsed() < outage {
            for replica in others {
                ensure!(
                    reports_ready(replica).await?,
                    "replica {} did not stay ready during the outage",
                    replica.name_any()
                );
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    };
    let outcome = during_outage.await;
    for component in [stopped].iter().chain(&ALSO_STOPPED) {
        fixture.cluster.start_component(component).await?;
    }
    outcome?;
    let client = mk_client(fixture, CLIENT_AFTER_OUTAGE)?;
    let time_to_response = start_client(fixture, &client, RECOVERY_TIMEOUT).await;
    let accepted_at = fixture
        .pods(APP_NAMESPACE)
        .get(CLIENT_AFTER_OUTAGE)
        .await?
        .status
        .and_then(|status| status.start_time);
    let time_since_acceptance = accepted_at.map(|time| Timestamp::now().duration_since(time.0));
    delete_pod(fixture, CLIENT_AFTER_OUTAGE).await?;
    let time_to_response = time_to_response?;
    let seconds_since_acceptance = time_since_acceptance
        .with_context(|| format!("Pod {CLIENT_AFTER_OUTAGE} has no start time"))?
        .as_secs();
    wait_for_all_replicas(fixture).await?;
    for replica in killed {
        // The restarted replica must wait for the API server. If it exited, the kubelet would restart
        // it with a growing backoff.
        let current = fixture.pods(SYSTEM_NAMESPACE).get(&replica.name_any()).await?;
        let new_restarts = restart_count(&current) - restart_count(replica);
        ensure!(
            new_restarts == 1,
            "replica {} was restarted {new_restarts} times instead of once",
            replica.name_any()
        );
    }
    let crash_client_summary = crash_client.end(fixture, outage).await?;
    let request_summary = requests.end(fixture).await?;
    Ok(format!(
        "{request_summary}, with an outage of {outage:?}; the client whose Envoy crashed: {crash_client_summary}; \
         a new Pod got a response {time_to_response:.1?} after its creation, {seconds_since_acceptance} s after the \
         kubelet accepted it"
    ))
}

pub(super) async fn crashed_envoy_recovers_without_a_control_plane(fixture: &Fixture) -> Result<Note> {
    ensure_three_replicas(fixture).await?;
    let crash_client = CrashClient::begin(fixture).await?;
    crash_client.call_on_demand(fixture).await?;
    let requests = ClientRequests::begin(fixture).await?;
    scale_control_plane(fixture, 0).await?;
    wait_for_no_replica(fixture).await?;
    let crash_time = Instant::now();
    kill_program(&crash_client.pod, "envoy")?;
    let counters_at_crash = crash_client.counters(fixture).await?;
    let recovery_time = wait_for(
        "responses to the client whose Envoy crashed",
        TIMEOUT,
        async || {
            let increase = crash_client.counters(fixture).await?.since(&counters_at_crash);
            Ok(done_if(increase.succeeded >= 20, crash_time.elapsed(), || {
                increase.request_summary()
            }))
        },
    )
    .await;
    let called = crash_client.call_on_demand(fixture).await;
    scale_control_plane(fixture, REPLICAS).await?;
    wait_for_all_replicas(fixture).await?;
    let recovery_time = recovery_time?;
    called.context("calls without a control plane after the crash")?;
    time_to_first_response(fixture, "after-scale-up").await?;
    let crash_client_summary = crash_client.end(fixture, Duration::ZERO).await?;
    let request_summary = requests.end(fixture).await?;
    Ok(format!(
        "{request_summary}; the client whose Envoy crashed got 20 responses after {recovery_time:.1?}; \
         its requests: {crash_client_summary}"
    ))
}

// === replicas ===

/// Ensures that the application runs, that three replicas are ready, and that one of them is the leader.
pub(super) async fn ensure_three_replicas(fixture: &Fixture) -> Result<()> {
    fixture.ensure_application().await?;
    scale_control_plane(fixture, REPLICAS).await?;
    wait_for_all_replicas(fixture).await?;
    wait_for("a leader", ELECTION_TIMEOUT, async || {
        let holder = lease_holder(fixture).await?;
        let pods = fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
        let leader_exists = pods.iter().any(|pod| holder.starts_with(&pod.name_any()));
        Ok(done_if(leader_exists, (), || {
            format!("the lease holder is {holder}")
        }))
    })
    .await
}

/// Waits until all replicas are ready.
pub(super) async fn wait_for_all_replicas(fixture: &Fixture) -> Result<()> {
    wait_for("all replicas to be ready", Duration::from_mins(1), async || {
        let ready = fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await?.len();
        Ok(done_if(ready == REPLICAS, (), || {
            format!("{ready} of {REPLICAS} are ready")
        }))
    })
    .await
}

/// Name of the Lease by which replicas elect their leader.
const LEASE: &str = "kuma-cp-leader";

fn leases(fixture: &Fixture) -> Api<Lease> {
    Api::namespaced(fixture.cluster.client.clone(), SYSTEM_NAMESPACE)
}

/// Returns the identity of the lease holder. The identity of a replica begins with the name of its Pod.
async fn lease_holder(fixture: &Fixture) -> Result<String> {
    let lease = leases(fixture).get(LEASE).await?;
    Ok(lease
        .spec
        .and_then(|spec| spec.holder_identity)
        .unwrap_or_default())
}

/// Returns the Pod of the leader, and the identity of the leader in the Lease.
async fn leader(fixture: &Fixture) -> Result<(Pod, String)> {
    let holder = lease_holder(fixture).await?;
    let pods = fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
    let leader = pods.into_iter().find(|pod| holder.starts_with(&pod.name_any()));
    Ok((
        leader.with_context(|| format!("the lease holder {holder} is none of the ready replicas"))?,
        holder,
    ))
}

/// Waits until all sidecars of the application are connected to replicas. Returns the number of sidecars that are
/// connected to each replica.
async fn wait_for_connected_sidecars(fixture: &Fixture) -> Result<Vec<usize>> {
    let sidecar_count = fixture
        .dataplanes(APP_NAMESPACE)
        .list(&ListParams::default())
        .await?
        .items
        .len();
    wait_for("all sidecars to be connected", TIMEOUT, async || {
        let mut counts = Vec::new();
        for replica in fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await? {
            let metrics = diagnostics(&replica, "/metrics").await?;
            let count = metrics
                .lines()
                .find_map(|line| line.strip_prefix("kuma_cp_xds_connected_proxies "));
            counts.push(
                count
                    .with_context(|| {
                        format!(
                            "replica {} has no metric of connected proxies",
                            replica.name_any()
                        )
                    })?
                    .trim()
                    .parse()?,
            );
        }
        let connected: usize = counts.iter().sum();
        Ok(done_if(connected == sidecar_count, counts, || {
            format!("{connected} of {sidecar_count} are connected")
        }))
    })
    .await
}

/// Whether a replica reports that it is ready.
async fn reports_ready(replica: &Pod) -> Result<bool> {
    Ok(diagnostics(replica, "/ready").await?.starts_with("HTTP/1.1 200"))
}

/// Returns the response of a diagnostics endpoint of a replica.
async fn diagnostics(replica: &Pod, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((ip(replica)?, DIAGNOSTICS_PORT)).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: e2e\r\nconnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}

/// Returns the number of container restarts of a Pod.
fn restart_count(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}

// === traffic ===

/// Requests of the application's client during a test. The client sends requests at a fixed interval.
struct ClientRequests {
    before: Counters,
    start: Instant,
}

impl ClientRequests {
    async fn begin(fixture: &Fixture) -> Result<Self> {
        Ok(Self {
            before: fixture.client_counters().await?,
            start: Instant::now(),
        })
    }

    /// Checks that no request has failed since `begin`, and that the client never stopped sending. Returns a summary.
    async fn end(self, fixture: &Fixture) -> Result<String> {
        let increase = fixture.client_counters().await?.since(&self.before);
        ensure!(increase.failed == 0, "{}", increase.request_summary());
        // The client sends 20 requests per second. Half as many are enough, because the machine may be busy.
        let expected = self.start.elapsed().as_secs() * 10;
        ensure!(
            increase.succeeded >= expected,
            "the client got {} responses, fewer than {expected}",
            increase.succeeded
        );
        Ok(increase.request_summary())
    }
}

/// Name of a [`CrashClient`].
const CRASH_CLIENT: &str = "crash-client";
/// Name of the client that a test creates after an outage.
const CLIENT_AFTER_OUTAGE: &str = "after-outage";

/// Client whose Envoy a test kills. It is separate from the application's client, whose requests must not fail.
struct CrashClient {
    pod: Pod,
    /// URLs for which Envoy requests clusters on demand: of a server's IP, and of the virtual IP of the servers.
    on_demand_urls: [String; 2],
    before: Counters,
}

impl CrashClient {
    async fn begin(fixture: &Fixture) -> Result<Self> {
        // The Pod may remain from an earlier test that failed.
        delete_pod(fixture, CRASH_CLIENT).await?;
        let mut pod = mk_client(fixture, CRASH_CLIENT)?;
        pod.annotations_mut()
            .insert("kuma.io/direct-access-services".to_owned(), "*".to_owned());
        start_client(fixture, &pod, TIMEOUT).await?;
        let servers = fixture.ready_pods(APP_NAMESPACE, "server").await?;
        let server = servers.first().context("no server is ready")?;
        Ok(Self {
            pod: fixture.pods(APP_NAMESPACE).get(CRASH_CLIENT).await?,
            on_demand_urls: [
                format!("http://{}:8080/", ip(server)?),
                format!("http://{SERVER_SERVICE}.mesh/"),
            ],
            before: demo::counters(&fixture.cluster.kubectl, APP_NAMESPACE, CRASH_CLIENT).await?,
        })
    }

    async fn counters(&self, fixture: &Fixture) -> Result<Counters> {
        demo::counters(&fixture.cluster.kubectl, APP_NAMESPACE, CRASH_CLIENT).await
    }

    /// Calls the servers at the addresses whose clusters are on demand. The mesh is STRICT, so a response shows that
    /// Envoy has the cluster: without it, the connection would be plain text or closed.
    async fn call_on_demand(&self, fixture: &Fixture) -> Result<()> {
        for url in &self.on_demand_urls {
            let called = demo::get(
                &fixture.cluster.kubectl,
                APP_NAMESPACE,
                CRASH_CLIENT,
                "client",
                url,
            );
            called.await.with_context(|| format!("request to {url}"))?;
        }
        Ok(())
    }

    /// Checks that the client got at least 5 responses for each second of `outage` except the first 5 s, and that at
    /// most 50 requests failed. Deletes the client.
    async fn end(self, fixture: &Fixture, outage: Duration) -> Result<String> {
        let increase = self.counters(fixture).await?.since(&self.before);
        delete_pod(fixture, CRASH_CLIENT).await?;
        let expected = outage.saturating_sub(Duration::from_secs(5)).as_secs() * 5;
        ensure!(
            increase.succeeded >= expected && increase.failed <= 50,
            "{}, but at least {expected} responses and at most 50 failures were expected",
            increase.request_summary()
        );
        Ok(increase.request_summary())
    }
}

/// Creates a client, waits until it gets responses, and deletes it. Returns the time until the first response.
pub(super) async fn time_to_first_response(fixture: &Fixture, name: &str) -> Result<Duration> {
    time_to_first_response_within(fixture, name, TIMEOUT).await
}

async fn time_to_first_response_within(fixture: &Fixture, name: &str, timeout: Duration) -> Result<Duration> {
    let time_to_response = start_client(fixture, &mk_client(fixture, name)?, timeout).await;
    delete_pod(fixture, name).await?;
    time_to_response
}

/// Deletes a Pod of the application's namespace, if it exists.
pub(super) async fn delete_pod(fixture: &Fixture, name: &str) -> Result<()> {
    let immediately = DeleteParams::default().grace_period(0);
    match fixture.pods(APP_NAMESPACE).delete(name, &immediately).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted
            .map(drop)
            .with_context(|| format!("cannot delete Pod {name}")),
    }
}

/// Returns the Pod of a client that calls the servers continuously.
fn mk_client(fixture: &Fixture, name: &str) -> Result<Pod> {
    let arguments = ["client", SERVER_URL, "--interval=100ms"];
    demo_pod(fixture, APP_NAMESPACE, name, &arguments)
}

/// Creates a client and waits until it gets responses. Returns the time until the first response.
async fn start_client(fixture: &Fixture, client: &Pod, timeout: Duration) -> Result<Duration> {
    let start = Instant::now();
    let name = &client.name_any();
    wait_for(&format!("Pod {name} to be admitted"), timeout, async || {
        Ok(
            match fixture
                .pods(APP_NAMESPACE)
                .create(&PostParams::default(), client)
                .await
            {
                Ok(_) => Progress::Done(()),
                Err(error) => Progress::NotYet(error.to_string()),
            },
        )
    })
    .await?;
    wait_for(
        &format!("responses to Pod {name}"),
        timeout.saturating_sub(start.elapsed()),
        async || {
            Ok(
                match demo::counters(&fixture.cluster.kubectl, APP_NAMESPACE, name).await {
                    Ok(counters) => done_if(counters.succeeded > 0, start.elapsed(), || {
                        counters.request_summary()
                    }),
                    Err(error) => Progress::NotYet(format!("{error:#}")),
                },
            )
        },
    )
    .await
}
