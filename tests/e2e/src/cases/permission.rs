//! MeshTrafficPermissions: the server's sidecar allows or denies requests by the identity in the client's certificate.
//! The response to a denied request names the sidecar, the caller and the Mesh.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_URL, SYSTEM_NAMESPACE};
use crate::harness::demo;
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};

/// Timeout of each condition that the test waits for.
const TIMEOUT: Duration = Duration::from_secs(30);
const PERMISSION_NAME: &str = "e2e-deny-client";

/// Permission that denies the client's requests. The initial permission allows them, but this permission is more
/// specific and takes precedence.
const DENYING_PERMISSION: &str = "
apiVersion: kuma.io/v1alpha1
kind: MeshTrafficPermission
metadata:
  name: e2e-deny-client
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

pub(super) async fn server_sidecar_responds_403_to_a_client_without_permission_and_says_why(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    fixture.cluster.kubectl.apply(DENYING_PERMISSION).await?;
    let outcome = wait_until_all_servers_deny(fixture).await;
    let namespace_flag = format!("--namespace={SYSTEM_NAMESPACE}");
    fixture
        .cluster
        .kubectl
        .run(&[
            "delete",
            "meshtrafficpermission",
            PERMISSION_NAME,
            &namespace_flag,
        ])
        .await?;
    let note = outcome?;
    let before = fixture.client_counters().await?;
    wait_for("responses to the client", TIMEOUT, async || {
        let increase = fixture.client_counters().await?.since(&before);
        Ok(done_if(increase.succeeded >= 20, (), || {
            increase.request_summary()
        }))
    })
    .await?;
    Ok(note)
}

/// Waits until every server denies the client's requests, and checks that the servers' Envoys counted denied requests.
async fn wait_until_all_servers_deny(fixture: &Fixture) -> Result<Note> {
    // The sidecars of the servers apply the permission at different times. Until all have applied it, some requests
    // succeed or fail for another reason, and the count of denied requests starts again.
    let mut earlier = fixture.client_counters().await?;
    let increase = wait_for(
        "every server to deny the client's requests",
        TIMEOUT,
        async || {
            let now = fixture.client_counters().await?;
            let increase = now.since(&earlier);
            let denied = increase.by_failure.get("status 403").copied().unwrap_or_default();
            let only_denials = increase.succeeded == 0 && increase.failed == denied;
            if !only_denials {
                earlier = now;
            }
            let all_deny = denied >= 10 && only_denials;
            let failures = increase.request_summary();
            Ok(done_if(all_deny, increase, || failures))
        },
    )
    .await?;
    check_denial(fixture).await?;
    let mut denied_count = 0;
    for server in fixture.ready_pods(APP_NAMESPACE, "server").await? {
        let name = server.metadata.name.as_deref().unwrap_or_default();
        let statistics = Envoy::new(&fixture.cluster.kubectl, APP_NAMESPACE, name, "server")
            .statistics("rbac")
            .await?;
        denied_count += statistics.sum("", "rbac.denied");
    }
    ensure!(
        denied_count > 0,
        "no server's Envoy counted a denied request, although {}",
        increase.request_summary()
    );
    Ok(format!(
        "{}; the servers' Envoys counted {denied_count} denied requests",
        increase.request_summary()
    ))
}

/// Checks that the response to a denied request names the server's Pod, the client and the Mesh.
async fn check_denial(fixture: &Fixture) -> Result<()> {
    let kubectl = &fixture.cluster.kubectl;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let printed = demo::get_expecting_failure(kubectl, APP_NAMESPACE, &client, SERVER_URL).await?;
    ensure!(printed.starts_with("403 "), "the status is not 403: {printed}");
    for text in [
        "the sidecar of Pod e2e-mesh/server-",
        "spiffe://default/client_e2e-mesh_svc",
        "MeshTrafficPermission in Mesh default",
    ] {
        ensure!(
            printed.contains(text),
            "{text:?} is missing from the response: {printed}"
        );
    }
    Ok(())
}
