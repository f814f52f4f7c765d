//! Pods that the admission webhook denies, with a denial that names the problem and the remedy; and admissions while
//! other Pods hold connections to the webhook.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};

use crate::fixture::{
    APP_NAMESPACE, CONTROL_PLANE, DIAGNOSTICS_PORT, Fixture, OUTSIDE_NAMESPACE, SYSTEM_NAMESPACE,
};
use crate::harness::fault::process_of;
use crate::harness::idle_connections::IdleConnections;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{check_injection_in_dry_run, demo_pod, is_ready};

pub(super) async fn denial_of_an_invalid_injection_label_names_key_and_value(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let mut pod = demo_pod(fixture, APP_NAMESPACE, "wrong-label", &["server"])?;
    pod.labels_mut()
        .insert("kuma.io/sidecar-injection".to_owned(), "perhaps".to_owned());
    check_denial(
        fixture,
        &pod,
        &["kuma.io/sidecar-injection", "perhaps", "enabled"],
    )
    .await
}

pub(super) async fn denial_of_an_unknown_mesh_names_the_mesh(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let mut pod = demo_pod(fixture, APP_NAMESPACE, "wrong-mesh", &["server"])?;
    pod.annotations_mut()
        .insert("kuma.io/mesh".to_owned(), "no-such-mesh".to_owned());
    check_denial(fixture, &pod, &["Mesh", "no-such-mesh", "kuma.io/mesh"]).await
}

/// Creates a Pod and checks that its denial contains all of these texts.
async fn check_denial(fixture: &Fixture, pod: &Pod, expected_texts: &[&str]) -> Result<Note> {
    match fixture
        .pods(APP_NAMESPACE)
        .create(&PostParams::default(), pod)
        .await
    {
        Ok(pod) => {
            let name = pod.name_any();
            fixture
                .pods(APP_NAMESPACE)
                .delete(&name, &DeleteParams::default())
                .await?;
            anyhow::bail!("Pod {name} was admitted, although it is invalid")
        }
        Err(kube::Error::Api(status)) => {
            for text in expected_texts {
                ensure!(
                    status.message.contains(text),
                    "{text:?} is missing from the denial: {}",
                    status.message
                );
            }
            Ok(String::new())
        }
        Err(error) => Err(error.into()),
    }
}

/// Number of Pods that hold connections to the webhook.
const HOSTILE_PODS: usize = 8;
/// Number of connections that each of these Pods tries to hold. A replica serves 2,048 connections to its webhooks, and
/// a quarter of them to one address, so eight Pods ask for twice as many as there are.
const CONNECTIONS: usize = 600;
/// Number of Pods that are admitted meanwhile.
const ADMITTED_PODS: usize = 100;
/// Time limit of an admission. The API server waits 10 s for the webhook.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn pods_are_admitted_while_other_pods_hold_all_connections_to_the_webhook(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let pods = fixture.pods(OUTSIDE_NAMESPACE);
    let names: Vec<String> = (0..HOSTILE_PODS)
        .map(|number| format!("hostile-{number}"))
        .collect();
    for name in &names {
        let pod = demo_pod(fixture, OUTSIDE_NAMESPACE, name, &["server"])?;
        pods.create(&PostParams::default(), &pod).await?;
    }
    let outcome = check_admissions_under_attack(fixture, &names).await;
    for name in &names {
        pods.delete(name, &DeleteParams::default().grace_period(0))
            .await?;
    }
    outcome
}

async fn check_admissions_under_attack(fixture: &Fixture, hostile_pods: &[String]) -> Result<Note> {
    let services = Api::<Service>::namespaced(fixture.cluster.client.clone(), SYSTEM_NAMESPACE);
    let service = services.get(CONTROL_PLANE).await?;
    let ip = service.spec.and_then(|spec| spec.cluster_ip);
    let webhook = SocketAddr::new(ip.context("the Service has no ClusterIP")?.parse()?, 443);
    let mut attacks = Vec::new();
    for name in hostile_pods {
        let pods = fixture.pods(OUTSIDE_NAMESPACE);
        let pod = wait_for(
            "the hostile Pods to be ready",
            Duration::from_mins(1),
            async || {
                let pod = pods.get(name).await?;
                Ok(done_if(is_ready(&pod), pod.clone(), || {
                    format!("{name} is not ready")
                }))
            },
        )
        .await?;
        attacks.push(IdleConnections::hold(
            process_of(&pod, "kermode-demo")?,
            webhook,
            CONNECTIONS,
        )?);
    }
    wait_for_attack(&attacks).await?;
    // The new replica has no connection of the API server yet, so the API server must get one during the attack.
    fixture
        .restart_deployment(SYSTEM_NAMESPACE, CONTROL_PLANE)
        .await?;
    wait_for_attack(&attacks).await?;
    let slowest = admit_pods(fixture).await?;
    let held: usize = attacks.iter().map(IdleConnections::open).sum();
    let closed: usize = attacks.iter().map(IdleConnections::closed).sum();
    ensure!(
        limited_connections(fixture).await? > 0,
        "the attack has not reached the limit on connections"
    );
    Ok(format!(
        "{ADMITTED_PODS} Pods were admitted, the slowest within {slowest:.1?}, while {HOSTILE_PODS} Pods held {held} \
         connections; {closed} of theirs were closed"
    ))
}

/// Waits until the Pods hold as many connections as they get: the server closes connections to make room for others.
async fn wait_for_attack(attacks: &[IdleConnections]) -> Result<()> {
    let count = |number: fn(&IdleConnections) -> usize| attacks.iter().map(number).sum::<usize>();
    let closed_before = count(IdleConnections::closed);
    wait_for(
        "the hostile Pods to hold all connections",
        Duration::from_mins(1),
        async || {
            let (open, closed) = (count(IdleConnections::open), count(IdleConnections::closed));
            let done = open > 1500 && closed > closed_before + 500;
            Ok(done_if(done, (), || {
                format!("{open} connections are open, {closed} were closed")
            }))
        },
    )
    .await
}

/// Creates Pods in a dry run, which also calls the webhook, and checks that each gets a sidecar. Returns the duration of
/// the slowest admission.
async fn admit_pods(fixture: &Fixture) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    for number in 0..ADMITTED_PODS {
        let start = Instant::now();
        tokio::time::timeout(ADMISSION_TIMEOUT, check_injection_in_dry_run(fixture))
            .await
            .with_context(|| format!("Pod {number} was not admitted within {ADMISSION_TIMEOUT:?}"))??;
        slowest = slowest.max(start.elapsed());
    }
    Ok(slowest)
}

/// Returns the number of connections to the webhooks that a limit has affected, as the metrics of the replica show it.
async fn limited_connections(fixture: &Fixture) -> Result<u64> {
    let target = format!("deployment/{CONTROL_PLANE}");
    let diagnostics = fixture
        .cluster
        .kubectl
        .port_forward(SYSTEM_NAMESPACE, &target, DIAGNOSTICS_PORT)
        .await?;
    let text = diagnostics.get("/metrics").await?;
    let series = text
        .lines()
        .filter(|line| line.starts_with("kuma_cp_connections_limited_total{") && line.contains("webhooks"));
    let values = series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(values.sum())
}
