//! Conversion of the objects of the corpus (`tests/corpus`): each Pod, after its injection, becomes a valid Dataplane
//! with the labels of the Pod and with an inbound or a warning for each Service that selects it. The order of the
//! objects makes no difference. Each Mesh is accepted, or rejected for the field that its annotation names.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic fails the test"
)]

mod cluster;

use std::collections::BTreeMap;

use kermode_corpus::{Corpus, FIELD, WITHOUT_INBOUND, annotation, name};
use kermode_crds::{Mesh, validate};
use kermode_k8s::convert::ConvertWarning;
use kermode_k8s::index::{DataplaneChange, Index};
use serde_json::{Map, Value};

use crate::cluster::{apply, dataplanes, decode, indexed};

/// Part of the keys of labels that do not become tags.
const RESERVED_KEY_PART: &str = "kuma.io/";

/// Returns the namespace and name of an object.
fn key(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().expect("text").to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

/// Returns the tags of each inbound of a Dataplane, or of its gateway.
fn tags(dataplane: &Value) -> Vec<&Map<String, Value>> {
    let networking = &dataplane["spec"]["networking"];
    let inbounds = networking["inbound"].as_array().map_or(&[][..], Vec::as_slice);
    let owners = inbounds.iter().chain(networking.get("gateway"));
    owners
        .map(|owner| owner["tags"].as_object().expect("tags"))
        .collect()
}

#[test]
fn each_injected_pod_becomes_a_valid_dataplane_with_the_labels_of_the_pod() {
    let corpus = Corpus::read().unwrap();
    let (index, pods) = indexed(&corpus);
    let errors: Vec<_> = index.conversion_errors().collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let dataplanes = dataplanes(&index);
    assert_eq!(dataplanes.len(), pods.len());
    for pod in &pods {
        let dataplane = &dataplanes[&key(pod)];
        let problems = validate::dataplane(dataplane, |mesh| mesh == "default");
        assert!(problems.is_empty(), "{}: {problems:?}", name(pod));
        let labels = pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        // The only tag of a gateway that is named after its workload is its name.
        let is_copied = |tags: &&Map<String, Value>| !tags.contains_key("kuma.io/service-name");
        for tags in tags(dataplane).into_iter().filter(is_copied) {
            for (key, value) in labels.iter().filter(|(key, _)| !key.contains(RESERVED_KEY_PART)) {
                assert_eq!(tags.get(key), Some(value), "{}: {key}", name(pod));
            }
        }
    }
}

/// Whether the selector of a Service matches a Pod.
fn selects(service: &Value, pod: &Value) -> bool {
    let Some(selector) = service["spec"]["selector"].as_object() else {
        return false;
    };
    let labels = &pod["metadata"]["labels"];
    service["metadata"]["namespace"] == pod["metadata"]["namespace"]
        && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Returns the warnings that a Service yields no inbound for a Pod, by the Pod and the Service.
fn services_without_inbound(index: &Index) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for problem in index.problems() {
        let DataplaneChange::Upsert {
            dataplane, warnings, ..
        } = problem
        else {
            panic!("{problem:?}");
        };
        for warning in warnings.iter() {
            if let ConvertWarning::ServiceWithoutInbound { service, .. } = warning {
                found.insert(
                    (dataplane.key.to_string(), service.to_string()),
                    warning.to_string(),
                );
            }
        }
    }
    found
}

#[test]
fn each_service_gives_an_inbound_to_each_of_its_pods_or_a_warning() {
    let corpus = Corpus::read().unwrap();
    let (index, pods) = indexed(&corpus);
    let (dataplanes, warnings) = (dataplanes(&index), services_without_inbound(&index));
    let mut selected = 0;
    for service in &corpus.services {
        let is_gateway = |pod: &&Value| annotation(pod, "kuma.io/gateway").is_some();
        let service_pods = pods
            .iter()
            .filter(|pod| selects(service, pod) && !is_gateway(pod));
        for pod in service_pods {
            selected += 1;
            let tags = tags(&dataplanes[&key(pod)]);
            let has_inbound = tags
                .iter()
                .any(|tags| tags.get("k8s.kuma.io/service-name") == Some(&service["metadata"]["name"]));
            let context = format!("{} for {}", name(service), name(pod));
            let warning = warnings.get(&(key(pod), key(service))).map_or("", String::as_str);
            match annotation(service, WITHOUT_INBOUND) {
                Some("ignored") => assert!(!has_inbound && warning.is_empty(), "{context}: {warning:?}"),
                Some(reason) => assert!(!has_inbound && warning.contains(reason), "{context}: {warning:?}"),
                // A Pod may lack the named ports of a Service that other Pods have.
                None if has_inbound => assert_eq!(warning, "", "{context}"),
                None => assert!(
                    warning.contains("no container declares a TCP port named"),
                    "{context}"
                ),
            }
        }
    }
    assert!(selected >= 40, "only {selected} Pods of Services");
}

#[test]
fn order_and_repetition_of_the_objects_make_no_difference() {
    let corpus = Corpus::read().unwrap();
    let (mut index, pods) = indexed(&corpus);
    let expected = dataplanes(&index);
    let mut objects: Vec<&Value> = corpus
        .namespaces
        .iter()
        .chain(&corpus.services)
        .chain(&pods)
        .collect();
    for object in &objects {
        assert!(
            !apply(&mut index, object),
            "{} changes something again",
            name(object)
        );
    }
    for seed in 0..10 {
        fastrand::Rng::with_seed(seed).shuffle(&mut objects);
        let mut index = Index::default();
        for object in &objects {
            apply(&mut index, object);
        }
        assert_eq!(dataplanes(&index), expected, "seed {seed}");
    }
}

#[test]
fn each_mesh_is_accepted_or_rejected_for_its_field() {
    let corpus = Corpus::read().unwrap();
    assert!(corpus.meshes.len() >= 15);
    for mesh in &corpus.meshes {
        let problems = validate::mesh(mesh);
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
        let expected: Vec<&str> = annotation(mesh, FIELD).into_iter().collect();
        assert_eq!(fields, expected, "{}: {problems:?}", name(mesh));
        assert!(
            problems.iter().all(|problem| problem.message.len() > 15),
            "{problems:?}"
        );
        if problems.is_empty() {
            kermode_model::Mesh::try_from(&decode::<Mesh>(mesh)).expect("a valid Mesh");
        }
    }
}
