//! Identities of proxies: a CA rotation under traffic, and proxies that claim a false identity.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use kube::{Api, ResourceExt};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};

use crate::harness::demo;
use crate::harness::envoy::Envoy;
use crate::harness::kubectl::Forward;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{SIDECAR, is_ready};
use crate::world::{APP, CONTROL_PLANE, SYSTEM, World};

/// Mesh whose certificates live for one minute, the shortest lifetime. After a change of the signing CA, they are renewed
/// within half of it.
const SHORT_LIFETIME: &str = "
apiVersion: kuma.io/v1alpha1
kind: Mesh
metadata:
  name: default
spec:
  mtls:
    enabledBackend: ca-1
    backends:
    - name: ca-1
      type: builtin
      mode: STRICT
      dpCert:
        rotation:
          expiration: 1m
";
/// Deadline of the propagation of a new root to every sidecar, which takes a watch event and a response on a stream. A
/// sidecar that saw the mesh without mTLS, in an earlier test, retries within 30 s.
const PROPAGATION_DEADLINE: Duration = Duration::from_secs(45);
/// Deadline of a rotation step.
const STEP: Duration = Duration::from_mins(1);

// === CA rotation ===

pub(super) async fn ca_rotation_fails_no_request(world: &World) -> Result<Note> {
    world.deployed().await?;
    world.cluster.kubectl.apply_over(SHORT_LIFETIME).await?;
    let outcome = rotate(world).await;
    world.strict().await?;
    outcome
}

/// Times from the request for a rotation to the end of its steps.
struct Rotation {
    /// Every sidecar trusts both roots.
    trusted: Duration,
    /// Every certificate is signed by the new CA.
    reissued: Duration,
    /// No sidecar trusts the old root.
    finished: Duration,
}

/// Handshakes that the client's Envoy made as a TLS client.
struct Handshakes {
    completed: u64,
    failed: u64,
}

async fn rotate(world: &World) -> Result<Note> {
    let old = newest_root(world).await?;
    for (pod, secrets) in &sidecar_secrets(world).await? {
        ensure!(
            secrets.trusts(&[&old]),
            "{pod} trusts other roots than that of the mesh at the start"
        );
    }
    let before = world.counters().await?;
    let client = world.pod(APP, "client").await?;
    let envoy = Envoy::new(&world.cluster.kubectl, APP, &client, "client");
    let first = handshakes(&envoy).await?;
    let rotation = replace_ca(world, &old).await?;
    world.restart(APP, "server").await?;

    let gained = world.counters().await?.since(&before);
    ensure!(gained.failed == 0, "{}", gained.failures());
    // The client makes several times as many requests. This bound shows that it made requests during the whole rotation.
    ensure!(
        gained.succeeded >= 5 * rotation.finished.as_secs(),
        "only {} requests were made in {:?}",
        gained.succeeded,
        rotation.finished
    );
    let last = handshakes(&envoy).await?;
    ensure!(
        last.failed == first.failed,
        "the client's Envoy counted {} failed handshakes, {} before",
        last.failed,
        first.failed
    );
    ensure!(last.completed > first.completed, "there were no handshakes");
    check_events(world).await?;
    Ok(format!(
        "{} in {} handshakes; both roots trusted after {:.1} s, re-issued after {:.0} s, old root removed after {:.0} s",
        gained.failures(),
        last.completed - first.completed,
        rotation.trusted.as_secs_f64(),
        rotation.reissued.as_secs_f64(),
        rotation.finished.as_secs_f64(),
    ))
}

async fn handshakes(envoy: &Envoy<'_>) -> Result<Handshakes> {
    let statistics = envoy.statistics("ssl").await?;
    Ok(Handshakes {
        completed: statistics.sum("cluster.", ".ssl.handshake"),
        failed: statistics.sum("cluster.", ".ssl.fail_verify_error")
            + statistics.sum("cluster.", ".ssl.connection_error"),
    })
}

/// Requests a rotation and starts each of its steps early. The servers restart between two steps, so that new
/// handshakes are made with the certificates of that step.
async fn replace_ca(world: &World, old: &CertificateDer<'static>) -> Result<Rotation> {
    let start = std::time::Instant::now();
    let request = format!("kuma.io/rotate-ca={}", seconds());
    world
        .cluster
        .kubectl
        .run(&["annotate", "mesh", "default", "--overwrite", &request])
        .await?;
    let new = wait_for("a new root", PROPAGATION_DEADLINE, async || {
        let newest = newest_root(world).await?;
        Ok(done_if(newest != *old, newest, || {
            "the old root is the newest".to_owned()
        }))
    })
    .await?;
    let last_check = reached(
        world,
        PROPAGATION_DEADLINE,
        "every sidecar to trust both roots",
        |secrets| secrets.trusts(&[old, &new]),
    )
    .await?;
    let trusted = start.elapsed().saturating_sub(last_check);
    run_now(world, &["signs-from"]).await?;
    reached(
        world,
        STEP,
        "every certificate to be signed by the new CA",
        |secrets| secrets.chains_to(&new) && !secrets.chains_to(old),
    )
    .await?;
    let reissued = start.elapsed();
    world.restart(APP, "server").await?;
    run_now(world, &["predecessor-trusted-until"]).await?;
    reached(
        world,
        PROPAGATION_DEADLINE,
        "every sidecar to trust only the new root",
        |secrets| secrets.trusts(&[&new]) && secrets.chains_to(&new),
    )
    .await?;
    Ok(Rotation {
        trusted,
        reissued,
        finished: start.elapsed(),
    })
}

async fn check_events(world: &World) -> Result<()> {
    let events = world
        .cluster
        .kubectl
        .run(&[
            "get",
            "events",
            "--namespace=default",
            "--output=jsonpath={.items[*].reason}",
        ])
        .await?;
    for reason in ["CARotationStarted", "CARotationSigning", "CARotationFinished"] {
        ensure!(events.contains(reason), "no Event {reason} on the Mesh: {events}");
    }
    Ok(())
}

/// Sets the times of steps to now, as an operator can once every proxy is ready for them. By default a step waits longer
/// than the lifetime of a certificate.
async fn run_now(world: &World, steps: &[&str]) -> Result<()> {
    let times: BTreeMap<_, _> = steps.iter().map(|step| (*step, seconds().to_string())).collect();
    let patch = json!({"stringData": times}).to_string();
    let name = format!("secret/{}", newest(world).await?.name_any());
    let namespace_flag = format!("--namespace={SYSTEM}");
    let arguments = ["patch", &name, &namespace_flag, "--type=merge", "--patch", &patch];
    world.cluster.kubectl.run(&arguments).await.map(drop)
}

/// TLS secrets of a sidecar, from the admin interface of its Envoy.
struct SidecarSecrets {
    roots: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
}

impl SidecarSecrets {
    fn trusts(&self, roots: &[&CertificateDer<'static>]) -> bool {
        self.roots.iter().collect::<Vec<_>>() == roots
    }

    /// Whether the certificate is valid now and signed by the root.
    fn chains_to(&self, root: &CertificateDer<'static>) -> bool {
        let mut store = RootCertStore::empty();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verified = || {
            store.add(root.clone()).ok()?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
            let (leaf, rest) = self.chain.split_first()?;
            let verifier = verifier.build().ok()?;
            verifier
                .verify_client_cert(leaf, rest, UnixTime::since_unix_epoch(now))
                .ok()
        };
        verified().is_some()
    }
}

/// Waits until the secrets of all sidecars of the application fulfil the condition. Returns the duration of the last
/// check.
async fn reached(
    world: &World,
    within: Duration,
    condition: &str,
    holds: impl Fn(&SidecarSecrets) -> bool,
) -> Result<Duration> {
    wait_for(condition, within, async || {
        let start = std::time::Instant::now();
        let sidecars = sidecar_secrets(world).await?;
        let missing: Vec<_> = sidecars
            .iter()
            .filter(|(_, secrets)| !holds(secrets))
            .map(|(pod, secrets)| format!("{pod} trusts {} roots", secrets.roots.len()))
            .collect();
        Ok(done_if(
            missing.is_empty() && sidecars.len() > 1,
            start.elapsed(),
            || format!("not yet: {missing:?} of {} sidecars", sidecars.len()),
        ))
    })
    .await
}

/// Returns the secrets of the sidecars of the client and of the servers, by Pod name.
async fn sidecar_secrets(world: &World) -> Result<BTreeMap<String, SidecarSecrets>> {
    let mut sidecars = BTreeMap::new();
    for app in ["client", "server"] {
        for pod in world.ready_pods(APP, app).await? {
            let name = pod.name_any();
            let url = "http://127.0.0.1:9901/config_dump?resource=dynamic_active_secrets";
            let dump = demo::get(&world.cluster.kubectl, APP, &name, app, url).await;
            // The Pod may have been deleted since it was listed.
            let Ok(dump) = dump else { continue };
            sidecars.insert(name.clone(), parse_secrets(&dump).with_context(|| name)?);
        }
    }
    Ok(sidecars)
}

fn parse_secrets(dump: &str) -> Result<SidecarSecrets> {
    let dump: Value = serde_json::from_str(dump).context("Envoy's secrets")?;
    let configs = dump["configs"].as_array().map_or(&[][..], Vec::as_slice);
    let find = |path: &str| -> Result<Vec<CertificateDer<'static>>> {
        let found = configs.iter().find_map(|config| config["secret"].pointer(path));
        let found = found.with_context(|| format!("no {path} in {dump}"))?;
        let pem: ByteString = serde_json::from_value(found["inline_bytes"].clone())?;
        Ok(CertificateDer::pem_slice_iter(&pem.0).collect::<Result<_, _>>()?)
    };
    Ok(SidecarSecrets {
        roots: find("/validation_context/trusted_ca")?,
        chain: find("/tls_certificate/certificate_chain")?,
    })
}

/// Returns the root of the newest CA.
async fn newest_root(world: &World) -> Result<CertificateDer<'static>> {
    let data = newest(world).await?.data.unwrap_or_default();
    let pem = data.get("certificate").context("the Secret has no certificate")?;
    Ok(CertificateDer::from_pem_slice(&pem.0)?)
}

/// Returns the Secret of the newest CA.
async fn newest(world: &World) -> Result<Secret> {
    let secrets = Api::<Secret>::namespaced(world.cluster.client.clone(), SYSTEM);
    let number = |secret: &Secret| match secret.name_any().as_str() {
        "default.ca-builtin-key-ca-1" => Some(1),
        name => name
            .strip_prefix("default.ca-builtin-rotation-ca-1.")?
            .parse::<u32>()
            .ok(),
    };
    let listed = secrets.list(&ListParams::default()).await?.items;
    let newest = listed
        .into_iter()
        .filter(|secret| number(secret).is_some())
        .max_by_key(number);
    newest.context("the mesh has no CA")
}

fn seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

// === hostile proxies ===

/// Path of a stolen token in a hostile Pod.
const STOLEN: &str = "/stolen/token";

/// Pod that runs kuma-dp with a name and a token of its choice.
struct Impostor {
    name: &'static str,
    /// Name of the proxy that it claims to be.
    claims: String,
    /// Stolen token; by default the Pod uses its own.
    token: Option<String>,
    /// Reason label of the metric that counts the denial.
    reason: &'static str,
}

pub(super) async fn proxies_with_a_false_identity_get_no_certificate(world: &World) -> Result<Note> {
    world.deployed().await?;
    let target = format!("deployment/{CONTROL_PLANE}");
    let diagnostics = world.cluster.kubectl.forward(SYSTEM, &target, 5680).await?;
    let impostors = impostors(world).await?;
    let mut before = BTreeMap::new();
    for impostor in &impostors {
        before.insert(impostor.reason, denials(&diagnostics, impostor.reason).await?);
    }
    let outcome = attempt(world, &diagnostics, &impostors, &before).await;
    for impostor in &impostors {
        let immediately = DeleteParams::default().grace_period(0);
        world.pods(APP).delete(impostor.name, &immediately).await.ok();
    }
    let secrets = Api::<Secret>::namespaced(world.cluster.client.clone(), APP);
    for impostor in impostors.iter().filter(|impostor| impostor.token.is_some()) {
        secrets.delete(impostor.name, &DeleteParams::default()).await.ok();
    }
    outcome
}

async fn impostors(world: &World) -> Result<Vec<Impostor>> {
    let servers = world.ready_pods(APP, "server").await?;
    let victim = format!(
        "{}.{APP}",
        servers.first().context("no server is ready")?.name_any()
    );
    let server = servers.first().context("no server is ready")?.name_any();
    let token = async |arguments: &[&str]| {
        let namespace_flag = format!("--namespace={APP}");
        let mut command = vec!["create", "token", "default", &namespace_flag];
        command.extend(arguments);
        let token = world.cluster.kubectl.run(&command).await?;
        anyhow::Ok(Some(token.trim().to_owned()))
    };
    let bound = ["--bound-object-kind=Pod", "--bound-object-name"];
    let bound_to = |pod: &str| format!("{}={pod}", bound[1]);
    // Token of a deleted Pod.
    let deleted = sleeper(world, "e2e-deleted")?;
    world.pods(APP).create(&PostParams::default(), &deleted).await?;
    let deleted_pod_token = token(&[bound[0], &bound_to("e2e-deleted")]).await?;
    let immediately = DeleteParams::default().grace_period(0);
    world.pods(APP).delete("e2e-deleted", &immediately).await?;
    let impostor = |name, claims: &str, token, reason| Impostor {
        name,
        claims: claims.to_owned(),
        token,
        reason,
    };
    Ok(vec![
        impostor("e2e-other-name", &victim, None, "TokenOfAnother"),
        impostor("e2e-unbound", &victim, token(&[]).await?, "TokenNotBound"),
        impostor(
            "e2e-other-audience",
            &victim,
            token(&[bound[0], &bound_to(&server), "--audience=other"]).await?,
            "InvalidToken",
        ),
        impostor(
            "e2e-token-of-deleted",
            &format!("e2e-deleted.{APP}"),
            deleted_pod_token,
            "InvalidToken",
        ),
    ])
}

async fn attempt(
    world: &World,
    diagnostics: &Forward,
    impostors: &[Impostor],
    before: &BTreeMap<&str, u64>,
) -> Result<Note> {
    let sidecar = sidecar(world).await?;
    let secrets = Api::<Secret>::namespaced(world.cluster.client.clone(), APP);
    for impostor in impostors {
        if let Some(token) = &impostor.token {
            let secret = json!({"metadata": {"name": impostor.name}, "stringData": {"token": token}});
            secrets
                .create(&PostParams::default(), &serde_json::from_value(secret)?)
                .await?;
        }
        let pod = pod(impostor, &sidecar)?;
        world.pods(APP).create(&PostParams::default(), &pod).await?;
    }
    let mut notes = Vec::new();
    for impostor in impostors {
        let Impostor { name, reason, .. } = impostor;
        let message = wait_for(
            &format!("the denial of a certificate to {name}"),
            Duration::from_mins(1),
            async || {
                let log = world
                    .pods(APP)
                    .logs(name, &LogParams::default())
                    .await
                    .unwrap_or_default();
                ensure!(
                    !log.contains("certificate issued"),
                    "{name} got a certificate:\n{log}"
                );
                let line = log
                    .lines()
                    .find(|line| line.contains("certificate was not issued"));
                Ok(done_if(
                    line.is_some(),
                    line.unwrap_or_default().to_owned(),
                    || log.clone(),
                ))
            },
        )
        .await?;
        if let Some(token) = &impostor.token {
            let signature = token.rsplit('.').next().unwrap_or(token);
            ensure!(
                !message.contains(signature),
                "the log of {name} contains its token"
            );
        }
        let counted = denials(diagnostics, reason).await?;
        ensure!(
            counted > before.get(reason).copied().unwrap_or_default(),
            "{name}: no denial with reason {reason} was counted"
        );
        notes.push(format!("{reason} {counted}"));
    }
    logged(world, impostors).await?;
    Ok(notes.join(", "))
}

/// Checks that the control plane's log names each attempt and contains no token.
async fn logged(world: &World, impostors: &[Impostor]) -> Result<()> {
    let mut log = String::new();
    for pod in world.ready_pods(SYSTEM, CONTROL_PLANE).await? {
        log += &world
            .pods(SYSTEM)
            .logs(&pod.name_any(), &LogParams::default())
            .await?;
    }
    for Impostor {
        name, reason, token, ..
    } in impostors
    {
        ensure!(
            log.contains(reason),
            "{name}: the log of the control plane does not contain {reason}"
        );
        if let Some(token) = token {
            let signature = token.rsplit('.').next().unwrap_or(token);
            ensure!(
                !log.contains(signature),
                "{name}: the log of the control plane contains the token"
            );
        }
    }
    Ok(())
}

async fn denials(diagnostics: &Forward, reason: &str) -> Result<u64> {
    let text = diagnostics.get("/metrics").await?;
    let labels = format!("kuma_cp_certificate_refusals_total{{reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&labels));
    Ok(value.map_or(Ok(0), |value| value.trim().parse())?)
}

/// Returns the sidecar container of the client.
async fn sidecar(world: &World) -> Result<Value> {
    let pods = world
        .pods(APP)
        .list(&ListParams::default().labels("app=client"))
        .await?;
    let pod = pods
        .items
        .iter()
        .find(|pod| is_ready(pod))
        .context("no client is ready")?;
    let spec = pod.spec.as_ref().context("the Pod has no spec")?;
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let found = containers.find(|container| container.name == SIDECAR);
    Ok(serde_json::to_value(found.context("the client has no sidecar")?)?)
}

fn pod(impostor: &Impostor, sidecar: &Value) -> Result<Pod> {
    let mut environment: Vec<Value> = sidecar["env"].as_array().cloned().unwrap_or_default();
    let replaced = ["KUMA_DATAPLANE_NAME", "KUMA_DATAPLANE_RUNTIME_TOKEN_PATH"];
    environment.retain(|variable| !replaced.iter().any(|name| variable["name"] == *name));
    environment.push(json!({"name": replaced[0], "value": impostor.claims}));
    let own = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let path = if impostor.token.is_some() { STOLEN } else { own };
    environment.push(json!({"name": replaced[1], "value": path}));
    let mut container = json!({
        "name": "impostor", "image": sidecar["image"], "args": sidecar["args"], "env": environment,
    });
    let mut spec = json!({"restartPolicy": "Never"});
    if impostor.token.is_some() {
        container["volumeMounts"] = json!([{"name": "stolen", "mountPath": "/stolen"}]);
        spec["volumes"] = json!([{"name": "stolen", "secret": {"secretName": impostor.name}}]);
    }
    spec["containers"] = json!([container]);
    // Impostors get no sidecar of their own.
    let labels = json!({"kuma.io/sidecar-injection": "disabled"});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": impostor.name, "labels": labels}, "spec": spec,
    }))?)
}

fn sleeper(world: &World, name: &str) -> Result<Pod> {
    let image = world.cluster.image("kermode-demo")?;
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kuma.io/sidecar-injection": "disabled"}},
        "spec": {"containers": [{"name": "server", "image": image, "args": ["server"]}]},
    }))?)
}
