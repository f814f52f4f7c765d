//! The corpus (`tests/corpus`) against a real API server: the server accepts each object as it is, each injected Pod,
//! and the Dataplanes, all as dry runs.

use kermode_corpus::{Corpus, FEATURE, FIELD, annotation, lost_by_injection, name};
use kermode_inject::settings::SidecarMode;
use kermode_inject::{Outcome, Settings, SkipReason};
use serde_json::{Value, json};

use crate::cluster::{dataplanes, indexed, inject_into};
use crate::fixture::Fixture;

/// Annotation of a mirror Pod, which has no service account.
const MIRROR_POD: &str = "kubernetes.io/config.mirror";
/// Query of a request that creates nothing and rejects unknown fields.
const DRY_RUN: &str = "dryRun=All&fieldValidation=Strict";

/// Creates the Namespaces of the corpus and the RuntimeClass that its Pods name, unless they exist.
async fn create_namespaces(fixture: &Fixture, corpus: &Corpus) {
    let runtime_class = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "corpus-sandbox"},
        "handler": "sandbox", "overhead": {"podFixed": {"cpu": "250m", "memory": "120Mi"}},
    });
    let created = corpus
        .namespaces
        .iter()
        .map(|namespace| ("/api/v1/namespaces", namespace));
    for (path, object) in created.chain([("/apis/node.k8s.io/v1/runtimeclasses", &runtime_class)]) {
        if let Err(error) = fixture.create(path, object).await {
            assert!(error.contains("already exists"), "{}: {error}", name(object));
        }
    }
}

/// Returns the path of a request that creates an object.
fn path(api: &str, resource: &str, object: &Value) -> String {
    let namespace = object["metadata"]["namespace"].as_str().expect("a namespace");
    format!("/{api}/namespaces/{namespace}/{resource}?{DRY_RUN}")
}

fn pod_path(pod: &Value) -> String {
    path("api/v1", "pods", pod)
}

/// Returns a Pod with its service account, as it is after the admission of the API server's plugin, which does not run
/// in this cluster.
fn with_service_account(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if annotation(&pod, MIRROR_POD).is_none() && pod["spec"].get("serviceAccountName").is_none() {
        pod["spec"]["serviceAccountName"] = "default".into();
    }
    pod
}

/// Returns a Pod without the fields that the API server sets anew at each creation.
fn without_generated_fields(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let object = pod.as_object_mut().expect("a Pod");
    object.remove("status");
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    metadata.retain(|key, _| !["creationTimestamp", "managedFields", "name", "uid"].contains(&key.as_str()));
    pod
}

/// Returns the settings of all placements.
fn all_settings() -> Vec<Settings> {
    let mut all = Vec::new();
    for sidecar_mode in [SidecarMode::Native, SidecarMode::Classic] {
        for cni_enabled in [false, true] {
            all.push(Settings {
                sidecar_mode,
                cni_enabled,
                native_sidecars_supported: true,
                image_pull_secrets: vec!["corpus.credentials".to_owned(), "registry".to_owned()],
                ..Settings::default()
            });
        }
    }
    all
}

/// Injects a Pod as the API server shows it to the webhook, and creates the result. Returns the problems, and whether
/// the Pod was injected. The API server may reject the Pod because of Pod Security if injection has warned of it.
async fn create_injected(
    fixture: &Fixture,
    pod: &Value,
    settings: &Settings,
    namespace: &Value,
) -> (Vec<String>, bool) {
    let Ok(Outcome::Injected(injection)) = inject_into(namespace, pod, settings) else {
        return (Vec::new(), false);
    };
    let mut injected = pod.clone();
    json_patch::patch(&mut injected, &injection.patch).expect("the patch applies");
    let stored = match fixture.create(&pod_path(pod), &injected).await {
        Ok(stored) => stored,
        Err(error) => {
            let mut warnings = injection.warnings.iter();
            let is_explained =
                error.contains("PodSecurity") && warnings.any(|warning| warning.contains("Pod Security"));
            return (if is_explained { Vec::new() } else { vec![error] }, true);
        }
    };
    let mut problems = lost_by_injection(&without_generated_fields(pod), &without_generated_fields(&stored));
    let again = inject_into(namespace, &stored, settings);
    if again != Ok(Outcome::Skipped(SkipReason::AlreadyInjected)) {
        problems.push(format!("a second injection gives {again:?}"));
    }
    (problems, true)
}

#[tokio::test]
async fn pods_of_the_corpus_are_accepted_before_and_after_injection_and_lose_nothing() {
    let fixture = Fixture::start("pods").await;
    let corpus = Corpus::read().unwrap();
    create_namespaces(&fixture, &corpus).await;
    let (mut failures, mut injected) = (Vec::new(), 0);
    let pods = corpus
        .pods
        .iter()
        .filter(|pod| annotation(pod, FEATURE).is_none());
    for pod in pods.map(with_service_account) {
        let namespace = corpus.namespace_of(&pod).expect("the Namespace of the Pod");
        let stored = match fixture.create(&pod_path(&pod), &pod).await {
            Ok(stored) => stored,
            Err(error) => {
                failures.push(format!("{}: {error}", name(&pod)));
                continue;
            }
        };
        for settings in all_settings() {
            let (problems, is_injected) = create_injected(&fixture, &stored, &settings, namespace).await;
            injected += u32::from(is_injected);
            let mode = (settings.sidecar_mode, settings.cni_enabled);
            failures.extend(
                problems
                    .iter()
                    .map(|problem| format!("{} {mode:?}: {problem}", name(&pod))),
            );
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(injected >= 300, "only {injected} injections");
}

#[tokio::test]
async fn services_meshes_and_dataplanes_of_the_corpus_are_accepted() {
    let fixture = Fixture::start("services").await;
    let corpus = Corpus::read().unwrap();
    create_namespaces(&fixture, &corpus).await;
    let mut failures = Vec::new();
    for service in &corpus.services {
        if let Err(error) = fixture
            .create(&path("api/v1", "services", service), service)
            .await
        {
            failures.push(format!("{}: {error}", name(service)));
        }
    }
    let valid = corpus
        .meshes
        .iter()
        .filter(|mesh| annotation(mesh, FIELD).is_none());
    for mesh in valid {
        let path = format!("/apis/kuma.io/v1alpha1/meshes?{DRY_RUN}");
        if let Err(error) = fixture.create(&path, mesh).await {
            failures.push(format!("{}: {error}", name(mesh)));
        }
    }
    for dataplane in dataplanes(&indexed(&corpus).0).values() {
        let path = path("apis/kuma.io/v1alpha1", "dataplanes", dataplane);
        if let Err(error) = fixture.create(&path, dataplane).await {
            failures.push(format!("{}: {error}", name(dataplane)));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
