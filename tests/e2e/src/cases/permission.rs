//! MeshTrafficPermissions: the identity in the client's certificate decides.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{until, when};
use crate::world::{APP, SYSTEM, World};

const SOON: Duration = Duration::from_secs(30);
const NAME: &str = "e2e-not-the-client";

/// Permission that is more specific than the initial one and therefore decides.
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
    let outcome = refused(world).await;
    let here = format!("--namespace={SYSTEM}");
    world
        .cluster
        .kubectl
        .run(&["delete", "meshtrafficpermission", NAME, &here])
        .await?;
    let note = outcome?;
    let before = world.counters().await?;
    until("answers to the client", SOON, async || {
        let gained = world.counters().await?.since(&before);
        Ok(when(gained.succeeded >= 20, (), || gained.failures()))
    })
    .await?;
    Ok(note)
}

async fn refused(world: &World) -> Result<Note> {
    // Servers apply the permission one by one: restart the count after each response.
    let mut earlier = world.counters().await?;
    let gained = until("the client to be refused by every server", SOON, async || {
        let now = world.counters().await?;
        let gained = now.since(&earlier);
        if gained.succeeded > 0 {
            earlier = now;
        }
        let refused = gained.failed >= 10 && gained.succeeded == 0;
        let failures = gained.failures();
        Ok(when(refused, gained, || failures))
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
        "no server's Envoy counted a denied request, yet {}",
        gained.failures()
    );
    Ok(format!("{}; Envoy counted {denied} denied", gained.failures()))
}
