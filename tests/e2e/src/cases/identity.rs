//! Identities of proxies: a CA rotation while requests are sent, and Pods that claim the identity of another proxy.

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

use crate::fixture::{APP_NAMESPACE, CONTROL_PLANE, DIAGNOSTICS_PORT, Fixture, SYSTEM_NAMESPACE};
use crate::harness::demo;
use crate::harness::envoy::Envoy;
use crate::harness::kubectl::PortForward;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{SIDECAR, is_ready};

/// Mesh whose certificates are valid for one minute, the shortest validity allowed. Once a new CA signs, proxies renew
/// their certificates within half of the validity, 30 s.
const SHORT_VALIDITY_MESH: &str = "
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
/// Page of Envoy's admin interface with its TLS secrets.
const SECRETS_URL: &str = "http://127.0.0.1:9901/config_dump?resource=dynamic_active_secrets";
/// Time limit until every sidecar has the current set of roots. After a test that disables mTLS, a sidecar without a
/// certificate may wait 10 s before it retries its request for one.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(45);
/// Time limit until every sidecar has a certificate of the new CA.
const RENEWAL_TIMEOUT: Duration = Duration::from_mins(1);

// === CA rotation ===

pub(super) async fn ca_rotation_fails_no_request(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    fixture
        .cluster
        .kubectl
        .apply_server_side(SHORT_VALIDITY_MESH)
        .await?;
    let outcome = check_rotation(fixture).await;
    fixture.apply_strict_mesh().await?;
    outcome
}

/// Times until the steps of a rotation were complete, each measured from the request for the rotation.
struct RotationTimes {
    /// Time until every sidecar trusts both roots.
    trusted: Duration,
    /// Time until every certificate is signed by the new CA.
    reissued: Duration,
    /// Time until no sidecar trusts the old root.
    finished: Duration,
}

/// Numbers of TLS handshakes that the Envoy of the client has made for outbound connections.
struct Handshakes {
    completed: u64,
    failed: u64,
}

async fn check_rotation(fixture: &Fixture) -> Result<Note> {
    let old_root = newest_root(fixture).await?;
    for (pod, secrets) in &sidecar_secrets(fixture).await? {
        ensure!(
            secrets.trusts_exactly(&[&old_root]),
            "before the rotation, {pod} must trust only the root of the mesh"
        );
    }
    let counters_before = fixture.client_counters().await?;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let envoy = Envoy::new(&fixture.cluster.kubectl, APP_NAMESPACE, &client, "client");
    let handshakes_before = handshakes(&envoy).await?;
    let times = rotate_ca(fixture, &old_root).await?;
    // Causes handshakes while only the new root is trusted.
    fixture.restart_deployment(APP_NAMESPACE, "server").await?;

    let increase = fixture.client_counters().await?.since(&counters_before);
    ensure!(increase.failed == 0, "{}", increase.request_summary());
    // This lower bound shows that the client sent requests during the whole rotation. Usually, it sends several times
    // as many requests.
    ensure!(
        increase.succeeded >= 5 * times.finished.as_secs(),
        "the client got only {} responses in {:?}",
        increase.succeeded,
        times.finished
    );
    let handshakes_after = handshakes(&envoy).await?;
    ensure!(
        handshakes_after.failed == handshakes_before.failed,
        "handshakes of the client's Envoy failed: {} after the rotation, {} before",
        handshakes_after.failed,
        handshakes_before.failed
    );
    ensure!(
        handshakes_after.completed > handshakes_before.completed,
        "the client's Envoy made no handshake during the rotation"
    );
    check_events(fixture).await?;
    Ok(format!(
        "{}; {} handshakes; both roots trusted after {:.1} s, \
         certificates re-issued after {:.0} s, old root removed after {:.0} s",
        increase.request_summary(),
        handshakes_after.completed - handshakes_before.completed,
        times.trusted.as_secs_f64(),
        times.reissued.as_secs_f64(),
        times.finished.as_secs_f64(),
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

/// Requests a rotation of the CA. Starts each step as soon as the one before is complete, instead of at its scheduled
/// time. While both roots are trusted, restarts the servers, so that handshakes are made with the new certificates.
async fn rotate_ca(fixture: &Fixture, old_root: &CertificateDer<'static>) -> Result<RotationTimes> {
    let start = std::time::Instant::now();
    let request = format!("kuma.io/rotate-ca={}", unix_seconds());
    fixture
        .cluster
        .kubectl
        .run(&["annotate", "mesh", "default", "--overwrite", &request])
        .await?;
    let new_root = wait_for("a new root", PROPAGATION_TIMEOUT, async || {
        let newest = newest_root(fixture).await?;
        Ok(done_if(newest != *old_root, newest, || {
            "the newest root is still the old one".to_owned()
        }))
    })
    .await?;
    let last_check_duration = wait_for_secrets(
        fixture,
        PROPAGATION_TIMEOUT,
        "every sidecar to trust both roots",
        |secrets| secrets.trusts_exactly(&[old_root, &new_root]),
    )
    .await?;
    // The duration of the last check is not counted, because a check takes long and most sidecars had both roots when
    // the last check began.
    let trusted = start.elapsed().saturating_sub(last_check_duration);
    start_step(fixture, "signs-from").await?;
    wait_for_secrets(
        fixture,
        RENEWAL_TIMEOUT,
        "every certificate to be signed by the new CA",
        |secrets| secrets.chains_to(&new_root) && !secrets.chains_to(old_root),
    )
    .await?;
    let reissued = start.elapsed();
    fixture.restart_deployment(APP_NAMESPACE, "server").await?;
    start_step(fixture, "predecessor-trusted-until").await?;
    wait_for_secrets(
        fixture,
        PROPAGATION_TIMEOUT,
        "every sidecar to trust only the new root",
        |secrets| secrets.trusts_exactly(&[&new_root]) && secrets.chains_to(&new_root),
    )
    .await?;
    Ok(RotationTimes {
        trusted,
        reissued,
        finished: start.elapsed(),
    })
}

async fn check_events(fixture: &Fixture) -> Result<()> {
    let events = fixture
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
        ensure!(
            events.contains(reason),
            "no Event about the Mesh has the reason {reason}: {events}"
        );
    }
    Ok(())
}

/// Starts a step of the rotation: sets the step's time, which is the entry `time_entry` of the Secret of the newest CA,
/// to the current time. Otherwise, the step would start only after the end of this test.
async fn start_step(fixture: &Fixture, time_entry: &str) -> Result<()> {
    let patch = json!({"stringData": {time_entry: unix_seconds().to_string()}}).to_string();
    let name = format!("secret/{}", newest_ca_secret(fixture).await?.name_any());
    let namespace_flag = format!("--namespace={SYSTEM_NAMESPACE}");
    let arguments = ["patch", &name, &namespace_flag, "--type=merge", "--patch", &patch];
    fixture.cluster.kubectl.run(&arguments).await.map(drop)
}

/// TLS secrets of a sidecar, read from the admin interface of its Envoy.
pub(super) struct SidecarSecrets {
    /// Roots that the sidecar trusts.
    roots: Vec<CertificateDer<'static>>,
    /// The sidecar's certificate, followed by intermediate certificates.
    chain: Vec<CertificateDer<'static>>,
}

impl SidecarSecrets {
    /// Reads the secrets of the sidecar of a Pod in the namespace of the application.
    pub(super) async fn read(fixture: &Fixture, pod: &str, container: &str) -> Result<Self> {
        let dump = demo::get(
            &fixture.cluster.kubectl,
            APP_NAMESPACE,
            pod,
            container,
            SECRETS_URL,
        )
        .await?;
        parse_secrets(&dump).with_context(|| pod.to_owned())
    }

    /// Whether the sidecar trusts exactly these roots.
    pub(super) fn trusts_exactly(&self, roots: &[&CertificateDer<'static>]) -> bool {
        self.roots.iter().collect::<Vec<_>>() == roots
    }

    /// Whether the sidecar's certificate is currently valid and signed by this root.
    pub(super) fn chains_to(&self, root: &CertificateDer<'static>) -> bool {
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

/// Waits until `holds` is true for the secrets of every sidecar of the application. Returns the duration of the last
/// check.
async fn wait_for_secrets(
    fixture: &Fixture,
    within: Duration,
    condition: &str,
    holds: impl Fn(&SidecarSecrets) -> bool,
) -> Result<Duration> {
    wait_for(condition, within, async || {
        let start = std::time::Instant::now();
        let sidecars = sidecar_secrets(fixture).await?;
        let pending: Vec<_> = sidecars
            .iter()
            .filter(|(_, secrets)| !holds(secrets))
            .map(|(pod, secrets)| format!("{pod} trusts {} roots", secrets.roots.len()))
            .collect();
        // A Pod whose secrets could not be read is missing from `sidecars`, so at least two sidecars are required.
        Ok(done_if(
            pending.is_empty() && sidecars.len() > 1,
            start.elapsed(),
            || format!("not yet true for {pending:?} of {} sidecars", sidecars.len()),
        ))
    })
    .await
}

/// Returns the secrets of the sidecars of the client and of the servers, by Pod name.
async fn sidecar_secrets(fixture: &Fixture) -> Result<BTreeMap<String, SidecarSecrets>> {
    let mut sidecars = BTreeMap::new();
    for app in ["client", "server"] {
        for pod in fixture.ready_pods(APP_NAMESPACE, app).await? {
            let name = pod.name_any();
            let dump = demo::get(&fixture.cluster.kubectl, APP_NAMESPACE, &name, app, SECRETS_URL).await;
            // The Pod may have been deleted since it was listed.
            let Ok(dump) = dump else { continue };
            sidecars.insert(name.clone(), parse_secrets(&dump).with_context(|| name)?);
        }
    }
    Ok(sidecars)
}

fn parse_secrets(dump: &str) -> Result<SidecarSecrets> {
    let dump: Value = serde_json::from_str(dump).context("cannot decode Envoy's secrets")?;
    let configs = dump["configs"].as_array().map_or(&[][..], Vec::as_slice);
    let certificates_at = |path: &str| -> Result<Vec<CertificateDer<'static>>> {
        let found = configs.iter().find_map(|config| config["secret"].pointer(path));
        let found = found.with_context(|| format!("{path} is missing from Envoy's secrets: {dump}"))?;
        let pem: ByteString = serde_json::from_value(found["inline_bytes"].clone())?;
        Ok(CertificateDer::pem_slice_iter(&pem.0).collect::<Result<_, _>>()?)
    };
    Ok(SidecarSecrets {
        roots: certificates_at("/validation_context/trusted_ca")?,
        chain: certificates_at("/tls_certificate/certificate_chain")?,
    })
}

/// Returns the certificate of the newest CA.
async fn newest_root(fixture: &Fixture) -> Result<CertificateDer<'static>> {
    let data = newest_ca_secret(fixture).await?.data.unwrap_or_default();
    let pem = data
        .get("certificate")
        .context("the Secret of the newest CA has no certificate")?;
    Ok(CertificateDer::from_pem_slice(&pem.0)?)
}

/// Returns the Secret of the newest CA, the one with the highest generation. The first CA of the mesh has generation 1;
/// each rotation creates the Secret of the next generation.
async fn newest_ca_secret(fixture: &Fixture) -> Result<Secret> {
    let secrets = Api::<Secret>::namespaced(fixture.cluster.client.clone(), SYSTEM_NAMESPACE);
    let generation = |secret: &Secret| match secret.name_any().as_str() {
        "default.ca-builtin-key-ca-1" => Some(1),
        name => name
            .strip_prefix("default.ca-builtin-rotation-ca-1.")?
            .parse::<u32>()
            .ok(),
    };
    let listed = secrets.list(&ListParams::default()).await?.items;
    let newest = listed
        .into_iter()
        .filter(|secret| generation(secret).is_some())
        .max_by_key(generation);
    newest.context("the mesh has no CA")
}

/// Returns the current Unix time in seconds.
fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

// === proxies with a false identity ===

/// Flag of `kubectl create token` for the audience of sidecars.
const SIDECAR_AUDIENCE: &str = "--audience=kuma-control-plane";
/// Path of the stolen token in the Pod of an impostor.
const STOLEN_TOKEN_PATH: &str = "/stolen/token";

/// Pod that runs kuma-dp with the name of another proxy.
struct Impostor {
    /// Name of the Pod, and of the Secret with the stolen token.
    name: &'static str,
    /// Name of the proxy that the impostor claims to be.
    claimed_proxy: String,
    /// Token that the Pod presents; `None` for the Pod's own token.
    stolen_token: Option<String>,
    /// Value of the label `reason` in the metric that counts the denial.
    reason: &'static str,
}

pub(super) async fn proxies_with_a_false_identity_get_no_certificate(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let target = format!("deployment/{CONTROL_PLANE}");
    let diagnostics = fixture
        .cluster
        .kubectl
        .port_forward(SYSTEM_NAMESPACE, &target, DIAGNOSTICS_PORT)
        .await?;
    let impostors = impostors(fixture).await?;
    let mut denials_before = BTreeMap::new();
    for impostor in &impostors {
        denials_before.insert(impostor.reason, denials(&diagnostics, impostor.reason).await?);
    }
    let outcome = check_denials(fixture, &diagnostics, &impostors, &denials_before).await;
    for impostor in &impostors {
        let immediately = DeleteParams::default().grace_period(0);
        fixture
            .pods(APP_NAMESPACE)
            .delete(impostor.name, &immediately)
            .await
            .ok();
    }
    let secrets = Api::<Secret>::namespaced(fixture.cluster.client.clone(), APP_NAMESPACE);
    for impostor in impostors
        .iter()
        .filter(|impostor| impostor.stolen_token.is_some())
    {
        secrets.delete(impostor.name, &DeleteParams::default()).await.ok();
    }
    outcome
}

async fn impostors(fixture: &Fixture) -> Result<Vec<Impostor>> {
    let servers = fixture.ready_pods(APP_NAMESPACE, "server").await?;
    let server = servers.first().context("no server is ready")?.name_any();
    let server_proxy = format!("{server}.{APP_NAMESPACE}");
    let create_token = async |arguments: &[&str]| {
        let namespace_flag = format!("--namespace={APP_NAMESPACE}");
        let mut command = vec!["create", "token", "default", &namespace_flag];
        command.extend(arguments);
        let token = fixture.cluster.kubectl.run(&command).await?;
        anyhow::Ok(Some(token.trim().to_owned()))
    };
    let bound_kind = "--bound-object-kind=Pod";
    let bound_name = |pod: &str| format!("--bound-object-name={pod}");
    // Creates a token that is bound to a Pod, and then deletes the Pod.
    let pod = pod_without_sidecar(fixture, "e2e-deleted")?;
    fixture
        .pods(APP_NAMESPACE)
        .create(&PostParams::default(), &pod)
        .await?;
    let deleted_pod_token = create_token(&[bound_kind, &bound_name("e2e-deleted"), SIDECAR_AUDIENCE]).await?;
    let immediately = DeleteParams::default().grace_period(0);
    fixture
        .pods(APP_NAMESPACE)
        .delete("e2e-deleted", &immediately)
        .await?;
    let impostor = |name, claimed_proxy: &str, stolen_token, reason| Impostor {
        name,
        claimed_proxy: claimed_proxy.to_owned(),
        stolen_token,
        reason,
    };
    // The token of `e2e-unbound` has the wrong audience as well, but the control plane first checks that a token is
    // bound to a Pod.
    Ok(vec![
        impostor("e2e-other-name", &server_proxy, None, "TokenOfOtherProxy"),
        impostor(
            "e2e-unbound",
            &server_proxy,
            create_token(&[]).await?,
            "TokenNotBound",
        ),
        impostor(
            "e2e-other-audience",
            &server_proxy,
            create_token(&[bound_kind, &bound_name(&server), "--audience=other"]).await?,
            "WrongAudience",
        ),
        impostor(
            "e2e-api-server-audience",
            &server_proxy,
            create_token(&[bound_kind, &bound_name(&server)]).await?,
            "WrongAudience",
        ),
        impostor(
            "e2e-token-of-deleted",
            &format!("e2e-deleted.{APP_NAMESPACE}"),
            deleted_pod_token,
            "InvalidToken",
        ),
    ])
}

/// Starts the impostors. Checks that each is denied a certificate with the expected reason. `denials_before`
/// contains the number of earlier denials by reason.
async fn check_denials(
    fixture: &Fixture,
    diagnostics: &PortForward,
    impostors: &[Impostor],
    denials_before: &BTreeMap<&str, u64>,
) -> Result<Note> {
    let sidecar = client_sidecar(fixture).await?;
    let secrets = Api::<Secret>::namespaced(fixture.cluster.client.clone(), APP_NAMESPACE);
    for impostor in impostors {
        if let Some(token) = &impostor.stolen_token {
            let secret = json!({"metadata": {"name": impostor.name}, "stringData": {"token": token}});
            secrets
                .create(&PostParams::default(), &serde_json::from_value(secret)?)
                .await?;
        }
        let pod = impostor_pod(impostor, &sidecar)?;
        fixture
            .pods(APP_NAMESPACE)
            .create(&PostParams::default(), &pod)
            .await?;
    }
    let mut notes = Vec::new();
    for impostor in impostors {
        let Impostor { name, reason, .. } = impostor;
        let message = wait_for(
            &format!("the denial of a certificate to {name}"),
            Duration::from_mins(1),
            async || {
                let log = fixture
                    .pods(APP_NAMESPACE)
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
        if let Some(token) = &impostor.stolen_token {
            let signature = token.rsplit('.').next().unwrap_or(token);
            ensure!(
                !message.contains(signature),
                "the log of {name} contains the stolen token"
            );
        }
        let denial_count = denials(diagnostics, reason).await?;
        ensure!(
            denial_count > denials_before.get(reason).copied().unwrap_or_default(),
            "{name}: no denial with reason {reason} was counted"
        );
        notes.push(format!("{reason} {denial_count}"));
    }
    check_control_plane_log(fixture, impostors).await?;
    Ok(notes.join(", "))
}

/// Checks that the control plane's log contains the reason of each denial, and no stolen token.
async fn check_control_plane_log(fixture: &Fixture, impostors: &[Impostor]) -> Result<()> {
    let mut log = String::new();
    for pod in fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await? {
        log += &fixture
            .pods(SYSTEM_NAMESPACE)
            .logs(&pod.name_any(), &LogParams::default())
            .await?;
    }
    for Impostor {
        name,
        reason,
        stolen_token,
        ..
    } in impostors
    {
        ensure!(
            log.contains(reason),
            "{name}: the log of the control plane does not contain {reason}"
        );
        if let Some(token) = stolen_token {
            let signature = token.rsplit('.').next().unwrap_or(token);
            ensure!(
                !log.contains(signature),
                "{name}: the log of the control plane contains the stolen token"
            );
        }
    }
    Ok(())
}

/// Returns the number of denials with a reason, from the control plane's metric.
async fn denials(diagnostics: &PortForward, reason: &str) -> Result<u64> {
    let text = diagnostics.get("/metrics").await?;
    let series = format!("kuma_cp_certificate_refusals_total{{reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series));
    Ok(value.map_or(Ok(0), |value| value.trim().parse())?)
}

/// Returns the sidecar container of the client.
async fn client_sidecar(fixture: &Fixture) -> Result<Value> {
    let pods = fixture
        .pods(APP_NAMESPACE)
        .list(&ListParams::default().labels("app=client"))
        .await?;
    let pod = pods
        .items
        .iter()
        .find(|pod| is_ready(pod))
        .context("no client is ready")?;
    let spec = pod.spec.as_ref().context("the Pod of the client has no spec")?;
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let found = containers.find(|container| container.name == SIDECAR);
    Ok(serde_json::to_value(found.context("the client has no sidecar")?)?)
}

/// Returns the Pod of an impostor. Its only container is a copy of `sidecar` with the proxy name and the token of the
/// impostor.
fn impostor_pod(impostor: &Impostor, sidecar: &Value) -> Result<Pod> {
    let mut environment: Vec<Value> = sidecar["env"].as_array().cloned().unwrap_or_default();
    let variables = ["KUMA_DATAPLANE_NAME", "KUMA_DATAPLANE_RUNTIME_TOKEN_PATH"];
    environment.retain(|variable| !variables.iter().any(|name| variable["name"] == *name));
    environment.push(json!({"name": variables[0], "value": impostor.claimed_proxy}));
    let own_token_path = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let path = if impostor.stolen_token.is_some() {
        STOLEN_TOKEN_PATH
    } else {
        own_token_path
    };
    environment.push(json!({"name": variables[1], "value": path}));
    let mut container = json!({
        "name": "impostor", "image": sidecar["image"], "args": sidecar["args"], "env": environment,
    });
    let mut spec = json!({"restartPolicy": "Never"});
    if impostor.stolen_token.is_some() {
        container["volumeMounts"] = json!([{"name": "stolen", "mountPath": "/stolen"}]);
        spec["volumes"] = json!([{"name": "stolen", "secret": {"secretName": impostor.name}}]);
    }
    spec["containers"] = json!([container]);
    // The control plane must not inject a sidecar as well.
    let labels = json!({"kuma.io/sidecar-injection": "disabled"});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": impostor.name, "labels": labels}, "spec": spec,
    }))?)
}

/// Returns a Pod that runs the demo server and opts out of injection.
fn pod_without_sidecar(fixture: &Fixture, name: &str) -> Result<Pod> {
    let image = fixture.cluster.image("kermode-demo")?;
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kuma.io/sidecar-injection": "disabled"}},
        "spec": {"containers": [{"name": "server", "image": image, "args": ["server"]}]},
    }))?)
}
