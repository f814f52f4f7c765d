//! Containers inside a Pod, as of Docker-in-Docker: their connections leave the Pod, and go through the sidecar if an
//! annotation names their network.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};

use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE};
use crate::harness::inner_network::{BRIDGE, CIDR, InnerContainer};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{demo_pod, is_ready};

/// Pod whose inner container bypasses the sidecar.
const BYPASSING: &str = "builder";
/// Pod with the annotation. Its inner container uses the sidecar.
const REDIRECTED: &str = "builder-in-mesh";

pub(super) async fn inner_container_reaches_the_outside_and_with_an_annotation_also_the_mesh(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let pods = fixture.pods(APP_NAMESPACE);
    for name in [BYPASSING, REDIRECTED] {
        let mut pod = demo_pod(fixture, APP_NAMESPACE, name, &["server"])?;
        if name == REDIRECTED {
            let network = format!("{BRIDGE}:{CIDR}");
            pod.annotations_mut()
                .insert("traffic.kuma.io/virtual-networks".to_owned(), network);
        }
        pods.create(&PostParams::default(), &pod).await?;
    }
    let outcome = async {
        let in_mesh = cluster_ip_url(fixture, APP_NAMESPACE).await?;
        let outside = cluster_ip_url(fixture, OUTSIDE_NAMESPACE).await?;
        // A server in the mesh has mTLS STRICT. It rejects a connection that bypasses the sidecar.
        let response = "\"pod\":\"server-";
        check(
            fixture,
            BYPASSING,
            &[(&outside, response), (&in_mesh, "failed: ")],
        )
        .await?;
        // The server repeats the identity of the client, which is the identity of the Pod.
        let identity = format!("URI=spiffe://default/{REDIRECTED}_{APP_NAMESPACE}_svc;");
        check(
            fixture,
            REDIRECTED,
            &[(&outside, response), (&in_mesh, &identity)],
        )
        .await
    };
    let outcome = outcome.await;
    for name in [BYPASSING, REDIRECTED] {
        pods.delete(name, &DeleteParams::default()).await?;
    }
    outcome.map(|()| String::new())
}

/// Makes requests from an inner container of a Pod. Checks that the result of the request to each URL contains a text.
async fn check(fixture: &Fixture, pod: &str, requests: &[(&str, &str)]) -> Result<()> {
    let pods = fixture.pods(APP_NAMESPACE);
    let pod = wait_for(
        &format!("Pod {pod} to be ready"),
        Duration::from_mins(1),
        async || {
            let pod = pods.get(pod).await?;
            Ok(done_if(is_ready(&pod), pod.clone(), || {
                format!("{:?}", pod.status)
            }))
        },
    )
    .await?;
    let container = InnerContainer::start(&pod, "kermode-demo").await?;
    let demo_program = fixture.config.checkout.release_binary("kermode-demo");
    for (url, expected) in requests {
        let result = container.get(&demo_program, url).await?;
        ensure!(
            result.contains(expected),
            "request of a container inside Pod {} to {url}: {expected:?} is missing from {result}",
            pod.name_any()
        );
    }
    Ok(())
}

/// Returns the URL of the Service `server` of a namespace, with the ClusterIP.
async fn cluster_ip_url(fixture: &Fixture, namespace: &str) -> Result<String> {
    let services =
        Api::<k8s_openapi::api::core::v1::Service>::namespaced(fixture.cluster.client.clone(), namespace);
    let spec = services
        .get("server")
        .await?
        .spec
        .context("the Service has no spec")?;
    let ip = spec.cluster_ip.context("the Service has no ClusterIP")?;
    Ok(format!("http://{ip}/"))
}
