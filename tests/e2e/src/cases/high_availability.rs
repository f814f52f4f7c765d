//! Three replicas of the control plane, with one fault after the other. Requests never fail, and new Pods get responses as
//! soon as one replica is available.

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

use super::replicas;
use crate::harness::demo::{self, Counters};
use crate::harness::fault::{Severed, kill_program};
use crate::harness::runner::Note;
use crate::harness::wait::{Progress, done_if, wait_for};
use crate::pods::{ip, pod};
use crate::world::{APP, CONTROL_PLANE, SERVER_URL, SYSTEM, World};

pub(super) const REPLICAS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(45);
/// Number of servers in the manifest of the application.
const SERVERS: usize = 3;
/// Number of servers for the rebalancing test.
const MANY_SERVERS: usize = 12;
/// Number of sidecars that a replica may hold beyond its share.
const EXCESS: usize = 3;
/// Deadline of rebalancing: the set of replicas must be stable for a minute, then sidecars move.
const REBALANCING_DEADLINE: Duration = Duration::from_secs(110);
/// The API server's port on the node.
const API_PORT: u16 = 6443;
/// Port of the diagnostics server of a replica, which serves its readiness and metrics.
const DIAGNOSTICS: u16 = 5680;
/// Deadline of an election: twice the time within which another replica acquires an expired lease.
const ELECTION_DEADLINE: Duration = Duration::from_secs(30);
/// Deadline of the recovery. After an outage of ten minutes, the kubelet needs nearly two more minutes until it
/// lists its Pods.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(150);
/// Components that, in a usual cluster, exit when they cannot renew their leases. This cluster runs one instance of each
/// without election, so the test stops them itself. Otherwise they would mark the node as unreachable after the outage.
const CONTROLLERS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
/// Deadline of the detection of dead connections: replicas close them after 19 s, then the sidecar of a new Pod retries.
const DETECTION_DEADLINE: Duration = Duration::from_secs(40);

pub(super) async fn no_request_fails_when_replicas_are_killed_one_by_one_and_all_at_once(
    world: &World,
) -> Result<Note> {
    replicated(world).await?;
    let load = Load::begin(world).await?;
    let (leader, old) = leader(world).await?;
    kill_program(&leader, "kuma-cp")?;
    let after_leader = time_to_first_response(world, "after-leader").await?;
    let elected = wait_for("another leader", ELECTION_DEADLINE, async || {
        let holder = holder(world).await?;
        Ok(done_if(holder != old, holder.clone(), || {
            format!("the holder is {holder}")
        }))
    });
    elected.await?;
    let replicas = world.ready_pods(SYSTEM, CONTROL_PLANE).await?;
    let other = replicas.iter().find(|pod| pod.name_any() != leader.name_any());
    kill_program(other.context("another replica")?, "kuma-cp")?;
    let after_other = time_to_first_response(world, "after-other").await?;
    restored(world).await?;
    for replica in world.ready_pods(SYSTEM, CONTROL_PLANE).await? {
        kill_program(&replica, "kuma-cp")?;
    }
    let after_all = time_to_first_response(world, "after-all").await?;
    restored(world).await?;
    let connected = reconnected(world).await?;
    let load = load.end(world).await?;
    Ok(format!(
        "{load}; sidecars by replica at the end: {connected:?}; a new Pod got a response {after_leader:.1?} after the leader was killed, {after_other:.1?} after another replica was killed, {after_all:.1?} after all were killed"
    ))
}

pub(super) async fn added_replicas_get_their_share_of_sidecars(world: &World) -> Result<Note> {
    world.deployed().await?;
    let shared = rebalanced(world).await;
    replicas::scale(world, SERVERS).await?;
    shared
}

/// Connects many sidecars to one replica, then adds two replicas.
async fn rebalanced(world: &World) -> Result<Note> {
    scale(world, 1).await?;
    replicas::scale(world, MANY_SERVERS).await?;
    let load = Load::begin(world).await?;
    replicated(world).await?;
    let start = Instant::now();
    let counts = wait_for(
        "every replica to have its share",
        REBALANCING_DEADLINE,
        async || {
            let counts = reconnected(world).await?;
            let share = counts.iter().sum::<usize>().div_ceil(REPLICAS);
            let most = counts.iter().max().copied().unwrap_or_default();
            Ok(done_if(most <= share + EXCESS, counts.clone(), || {
                format!("{counts:?}")
            }))
        },
    )
    .await?;
    let took = start.elapsed();
    let load = load.end(world).await?;
    Ok(format!(
        "{load}; sidecars by replica after {took:.0?}: {counts:?}"
    ))
}

pub(super) async fn lease_from_the_far_future_does_not_block_the_election(world: &World) -> Result<Note> {
    replicated(world).await?;
    let leases = leases(world);
    // Simulates a dead node with a wrong clock. Replicas may write the Lease meanwhile, so the write is retried.
    let spec = json!({"spec": {
        "holderIdentity": "other-node",
        "renewTime": "2999-01-01T00:00:00.000000Z",
        "acquireTime": "2999-01-01T00:00:00.000000Z",
        "leaseDurationSeconds": i32::MAX,
        "leaseTransitions": 41,
    }});
    wait_for("other-node to hold the lease", DEADLINE, async || {
        leases
            .patch(LEASE, &PatchParams::default(), &Patch::Merge(&spec))
            .await?;
        let holder = holder(world).await?;
        Ok(done_if(holder == "other-node", (), || {
            format!("the holder is {holder}")
        }))
    })
    .await?;
    let start = Instant::now();
    let lease = wait_for("a replica to hold the lease", ELECTION_DEADLINE, async || {
        let spec = leases.get(LEASE).await?.spec.unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        Ok(done_if(holder.starts_with(CONTROL_PLANE), spec, || {
            format!("the holder is {holder}")
        }))
    })
    .await?;
    ensure!(lease.lease_transitions == Some(42), "{lease:?}");
    Ok(format!("a replica holds the lease after {:.1?}", start.elapsed()))
}

pub(super) async fn dead_connections_to_the_api_server_are_detected(world: &World) -> Result<Note> {
    replicated(world).await?;
    let load = Load::begin(world).await?;
    let replicas = world.ready_pods(SYSTEM, CONTROL_PLANE).await?;
    let (severed, count) = Severed::connections(&world.cluster, &replicas, API_PORT).await?;
    let detected = time_to_first_response_within(world, "after-silence", DETECTION_DEADLINE).await;
    severed.restore().await?;
    let detected = detected?;
    let load = load.end(world).await?;
    Ok(format!(
        "{load}; a new Pod got a response {detected:.1?} after {count} connections were severed"
    ))
}

pub(super) async fn no_request_fails_while_the_api_server_is_away(world: &World) -> Result<Note> {
    without(world, "kube-apiserver", world.config.outage, 1).await
}

pub(super) async fn no_request_fails_while_etcd_is_away(world: &World) -> Result<Note> {
    without(world, "etcd", world.config.outage / 3, 0).await
}

/// Stops a component for a while. Meanwhile some replicas and the Envoy of a separate client crash.
async fn without(world: &World, component: &str, outage: Duration, crashes: usize) -> Result<Note> {
    replicated(world).await?;
    let crash_client = CrashClient::begin(world).await?;
    let load = Load::begin(world).await?;
    let replicas = world.ready_pods(SYSTEM, CONTROL_PLANE).await?;
    let (killed, others) = replicas.split_at_checked(crashes).context("replicas")?;
    for component in [component].iter().chain(&CONTROLLERS) {
        world.cluster.stop_component(component).await?;
    }
    let outage_start = Instant::now();
    let meanwhile = async {
        for replica in killed {
            kill_program(replica, "kuma-cp")?;
        }
        kill_program(&crash_client.pod, "envoy")?;
        // Replicas serve their last state, so they stay ready for the whole outage.
        while outage_start.elapsed() < outage {
            for replica in others {
                ensure!(is_ready(replica).await?, "{} is not ready", replica.name_any());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    };
    let meanwhile = meanwhile.await;
    for component in [component].iter().chain(&CONTROLLERS) {
        world.cluster.start_component(component).await?;
    }
    meanwhile?;
    let worked = client(world, AFTER, RECOVERY_DEADLINE).await;
    let pod_start = world
        .pods(APP)
        .get(AFTER)
        .await?
        .status
        .and_then(|status| status.start_time);
    let pod_age = pod_start.map(|start| Timestamp::now().duration_since(start.0));
    remove(world, AFTER).await?;
    let (worked, pod_age) = (worked?, pod_age.context("the Pod has no start time")?.as_secs());
    restored(world).await?;
    for replica in killed {
        // A restarted replica must wait for the API server and not exit: the kubelet would delay each further restart
        // longer.
        let current = world.pods(SYSTEM).get(&replica.name_any()).await?;
        let restart_count = restarts(&current) - restarts(replica);
        ensure!(
            restart_count == 1,
            "{} was restarted {restart_count} times",
            replica.name_any()
        );
    }
    let crash_client = crash_client.end(world, outage).await?;
    let load = load.end(world).await?;
    Ok(format!(
        "{load} in {outage:?}; the client whose Envoy crashed: {crash_client}; a new Pod got a response {worked:.1?} \
         after its creation, {pod_age} s after the kubelet accepted it"
    ))
}

pub(super) async fn crashed_envoy_recovers_without_a_control_plane(world: &World) -> Result<Note> {
    replicated(world).await?;
    let crash_client = CrashClient::begin(world).await?;
    let load = Load::begin(world).await?;
    scale(world, 0).await?;
    wait_for("the control plane's Pods to be deleted", DEADLINE, async || {
        let remaining = world.pods(SYSTEM).list(&ListParams::default()).await?.items.len();
        Ok(done_if(remaining == 0, (), || format!("{remaining} Pods remain")))
    })
    .await?;
    let start = Instant::now();
    kill_program(&crash_client.pod, "envoy")?;
    let crashed = demo::counters(&world.cluster.kubectl, APP, CRASH_CLIENT).await?;
    let recovered = wait_for(
        "responses to the client whose Envoy crashed",
        DEADLINE,
        async || {
            let gained = crash_client.counters(world).await?.since(&crashed);
            Ok(done_if(gained.succeeded >= 20, start.elapsed(), || {
                gained.failures()
            }))
        },
    )
    .await;
    scale(world, REPLICAS).await?;
    restored(world).await?;
    let recovered = recovered?;
    time_to_first_response(world, "after-scale-up").await?;
    let crash_client = crash_client.end(world, Duration::ZERO).await?;
    let load = load.end(world).await?;
    Ok(format!(
        "{load}; the client whose Envoy crashed got 20 responses after {recovered:.1?}: {crash_client}"
    ))
}

// === replicas ===

/// Ensures that the application runs and three replicas are ready.
pub(super) async fn replicated(world: &World) -> Result<()> {
    world.deployed().await?;
    scale(world, REPLICAS).await?;
    restored(world).await?;
    wait_for("a leader", ELECTION_DEADLINE, async || {
        let holder = holder(world).await?;
        let pods = world.ready_pods(SYSTEM, CONTROL_PLANE).await?;
        let elected = pods.iter().any(|pod| holder.starts_with(&pod.name_any()));
        Ok(done_if(elected, (), || format!("the holder is {holder}")))
    })
    .await
}

async fn scale(world: &World, replicas: usize) -> Result<()> {
    let (namespace_flag, replicas) = (format!("--namespace={SYSTEM}"), format!("--replicas={replicas}"));
    let deployment = format!("deployment/{CONTROL_PLANE}");
    world
        .cluster
        .kubectl
        .run(&["scale", &deployment, &namespace_flag, &replicas])
        .await?;
    Ok(())
}

/// Waits until all replicas are ready.
async fn restored(world: &World) -> Result<()> {
    wait_for("all replicas", Duration::from_mins(1), async || {
        let ready = world.ready_pods(SYSTEM, CONTROL_PLANE).await?.len();
        Ok(done_if(ready == REPLICAS, (), || format!("{ready} ready")))
    })
    .await
}

const LEASE: &str = "kuma-cp-leader";

fn leases(world: &World) -> Api<Lease> {
    Api::namespaced(world.cluster.client.clone(), SYSTEM)
}

async fn holder(world: &World) -> Result<String> {
    let lease = leases(world).get(LEASE).await?;
    Ok(lease
        .spec
        .and_then(|spec| spec.holder_identity)
        .unwrap_or_default())
}

/// Returns the lease holder and its identity.
async fn leader(world: &World) -> Result<(Pod, String)> {
    let holder = holder(world).await?;
    let pods = world.ready_pods(SYSTEM, CONTROL_PLANE).await?;
    let leader = pods.into_iter().find(|pod| holder.starts_with(&pod.name_any()));
    Ok((
        leader.with_context(|| format!("the lease holder {holder} is not a ready replica"))?,
        holder,
    ))
}

/// Waits until all sidecars of the application are connected. Returns their number at each replica.
async fn reconnected(world: &World) -> Result<Vec<usize>> {
    let sidecars = world
        .dataplanes(APP)
        .list(&ListParams::default())
        .await?
        .items
        .len();
    wait_for("all sidecars to be connected", DEADLINE, async || {
        let mut counts = Vec::new();
        for replica in world.ready_pods(SYSTEM, CONTROL_PLANE).await? {
            let metrics = diagnostics(&replica, "/metrics").await?;
            let count = metrics
                .lines()
                .find_map(|line| line.strip_prefix("kuma_cp_xds_connected_proxies "));
            counts.push(
                count
                    .context("the replica has no metric of connected proxies")?
                    .trim()
                    .parse()?,
            );
        }
        let connected: usize = counts.iter().sum();
        Ok(done_if(connected == sidecars, counts, || {
            format!("{connected} of {sidecars} are connected")
        }))
    })
    .await
}

/// Whether a replica reports that it is ready.
async fn is_ready(replica: &Pod) -> Result<bool> {
    Ok(diagnostics(replica, "/ready").await?.starts_with("HTTP/1.1 200"))
}

/// Returns the response of a diagnostics endpoint of a replica.
async fn diagnostics(replica: &Pod, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((ip(replica)?, DIAGNOSTICS)).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: e2e\r\nconnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}

/// Returns the number of container restarts of a Pod.
fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}

// === traffic ===

/// Requests of the continuous client during a test.
struct Load {
    before: Counters,
    start: Instant,
}

impl Load {
    async fn begin(world: &World) -> Result<Self> {
        Ok(Self {
            before: world.counters().await?,
            start: Instant::now(),
        })
    }

    /// Checks that no request failed and that requests were made all the time.
    async fn end(self, world: &World) -> Result<String> {
        let gained = world.counters().await?.since(&self.before);
        ensure!(gained.failed == 0, "{}", gained.failures());
        // The client sends one request each 50 ms; the bound allows for a busy machine.
        let expected = self.start.elapsed().as_secs() * 10;
        ensure!(
            gained.succeeded >= expected,
            "{} responses, fewer than {expected}",
            gained.succeeded
        );
        Ok(gained.failures())
    }
}

const CRASH_CLIENT: &str = "crash-client";
const AFTER: &str = "after-outage";

/// Separate client, whose Envoy the test kills.
struct CrashClient {
    pod: Pod,
    before: Counters,
}

impl CrashClient {
    async fn begin(world: &World) -> Result<Self> {
        // The Pod exists if an earlier test failed.
        remove(world, CRASH_CLIENT).await?;
        client(world, CRASH_CLIENT, DEADLINE).await?;
        Ok(Self {
            pod: world.pods(APP).get(CRASH_CLIENT).await?,
            before: demo::counters(&world.cluster.kubectl, APP, CRASH_CLIENT).await?,
        })
    }

    async fn counters(&self, world: &World) -> Result<Counters> {
        demo::counters(&world.cluster.kubectl, APP, CRASH_CLIENT).await
    }

    /// Checks that the client got responses nearly all the time. Requests during the crash may fail.
    async fn end(self, world: &World, time: Duration) -> Result<String> {
        let gained = self.counters(world).await?.since(&self.before);
        remove(world, CRASH_CLIENT).await?;
        let expected = time.saturating_sub(Duration::from_secs(5)).as_secs() * 5;
        ensure!(
            gained.succeeded >= expected && gained.failed <= 50,
            "{}, {expected} responses expected",
            gained.failures()
        );
        Ok(gained.failures())
    }
}

/// Returns the time until a new Pod of the mesh gets responses.
async fn time_to_first_response(world: &World, name: &str) -> Result<Duration> {
    time_to_first_response_within(world, name, DEADLINE).await
}

async fn time_to_first_response_within(world: &World, name: &str, limit: Duration) -> Result<Duration> {
    let worked = client(world, name, limit).await;
    remove(world, name).await?;
    worked
}

/// Deletes a Pod, if it exists.
pub(super) async fn remove(world: &World, name: &str) -> Result<()> {
    let immediately = DeleteParams::default().grace_period(0);
    match world.pods(APP).delete(name, &immediately).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted.map(drop).with_context(|| format!("Pod {name}")),
    }
}

/// Creates a client and waits until it gets responses.
async fn client(world: &World, name: &str, limit: Duration) -> Result<Duration> {
    let start = Instant::now();
    let new = pod(world, APP, name, &["client", SERVER_URL, "--interval=100ms"])?;
    wait_for(&format!("Pod {name} to be admitted"), limit, async || {
        Ok(match world.pods(APP).create(&PostParams::default(), &new).await {
            Ok(_) => Progress::Done(()),
            Err(error) => Progress::NotYet(error.to_string()),
        })
    })
    .await?;
    wait_for(
        &format!("responses to Pod {name}"),
        limit.saturating_sub(start.elapsed()),
        async || {
            Ok(match demo::counters(&world.cluster.kubectl, APP, name).await {
                Ok(counters) => done_if(counters.succeeded > 0, start.elapsed(), || counters.failures()),
                Err(error) => Progress::NotYet(format!("{error:#}")),
            })
        },
    )
    .await
}
