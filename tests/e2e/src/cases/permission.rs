//! MeshTrafficPermissions: the server's sidecar checks the identity in the client's certificate.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::world::{APP, SYSTEM, World};

const DEADLINE: Duration = Duration::from_secs(30);
const NAME: &str = "e2e-not-the-client";

/// Permission that takes precedence over the initial one, because it is more specific.
const DENIED: &str = "
apiVersion: kuma.io/v1alpha1
kind: MeshTrafficPermission
metadata:
  name: e2e-not-the-client
  namespace: kong-mesh-system
  labels:
    kuma.io/mesh: default
spec:
  targetRef:
    kind: MeshService
    name: server_e2e-mesh_svc_80
  from:
  - targetRef:
      kind: MeshService
      name: client_e2e-mesh_svc
    default:
      action: Deny
";

pub(super) async fn client_without_permission_is_rejected_by_the_server_sidecar(
    world: &World,
) -> Result<Note> {
    world.deployed().await?;
    world.cluster.kubectl.apply(DENIED).await?;
    let outcome = rejected_by_all_servers(world).await;
    let namespace_flag = format!("--namespace={SYSTEM}");
    world
        .cluster
        .kubectl
        .run(&["delete", "meshtrafficpermission", NAME, &namespace_flag])
        .await?;
    let note = outcome?;
    let before = world.counters().await?;
    wait_for("responses to the client", DEADLINE, async || {
        let gained = world.counters().await?.since(&before);
        Ok(done_if(gained.succeeded >= 20, (), || gained.failures()))
    })
    .await?;
    Ok(note)
}

async fn rejected_by_all_servers(world: &World) -> Result<Note> {
    // Servers apply the permission one after the other, so the count restarts after each response.
    let mut earlier = world.counters().await?;
    let gained = wait_for("every server to reject the client", DEADLINE, async || {
        let now = world.counters().await?;
        let gained = now.since(&earlier);
        if gained.succeeded > 0 {
            earlier = now;
        }
        let rejected = gained.failed >= 10 && gained.succeeded == 0;
        let failures = gained.failures();
        Ok(done_if(rejected, gained, || failures))
    })
    .await?;
    let mut denied = 0;
    for server in world.ready_pods(APP, "server").await? {
        let name = server.metadata.name.as_deref().unwrap_or_default();
        let statistics = Envoy::new(&world.cluster.kubectl, APP, name, "server")
            .statistics("rbac")
            .await?;
        denied += statistics.sum("", "rbac.denied");
    }
    ensure!(
        denied > 0,
        "no Envoy of a server counted a denied request, but {}",
        gained.failures()
    );
    Ok(format!("{}; Envoy counted {denied} denied", gained.failures()))
}
