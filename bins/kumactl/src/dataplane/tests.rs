//! Tests of the Dataplanes and explanations of `kumactl dataplane`.

use kermode_explain::dataplanes_text;
use kermode_k8s::offline::PodOutcome;

use super::{DataplaneArgs, convert_pods};
use kermode_manifests::documents;

const POD: &str = "\
kind: Pod
metadata:
  name: web-0
  labels: {app: web, empty: '', kuma.io/sidecar-injection: enabled}
  annotations: {kuma.io/sidecar-injected: 'true'}
spec:
  containers: [{name: app, ports: [{name: http, containerPort: 8080}]}, {name: kuma-sidecar}]
status: {podIP: 10.0.0.1}
";

/// Services: `web` selects the Pod, `db` does not, the others are ignored. A ConfigMap is ignored, too.
const SERVICES: &str = "\
kind: List
items:
- kind: Service
  metadata: {name: web}
  spec:
    selector: {app: web}
    ports: [{port: 80, targetPort: http, appProtocol: http}, {port: 81, targetPort: admin}]
- kind: Service
  metadata: {name: db}
  spec: {selector: {app: db}, ports: [{port: 5432}]}
- kind: Service
  metadata: {name: outside}
  spec: {type: ExternalName, selector: {app: web}, ports: [{port: 1}]}
- kind: Service
  metadata: {name: quiet, annotations: {kuma.io/ignore: enabled}}
  spec: {selector: {app: web}, ports: [{port: 1}]}
- {kind: ConfigMap, metadata: {name: other}}
";

fn convert(texts: &[&str]) -> Vec<PodOutcome> {
    let args = DataplaneArgs {
        file: Vec::new(),
        namespace: "shop".to_owned(),
        zone: Some("east".to_owned()),
        explain: false,
    };
    let objects: Vec<_> = texts
        .iter()
        .flat_map(|text| documents::objects(&documents::parse(text).expect("YAML")))
        .collect();
    convert_pods(&objects, &args).expect("objects that can be decoded")
}

#[test]
fn pod_yields_the_dataplane_that_the_control_plane_would_write() {
    let outcomes = convert(&[POD, SERVICES]);
    let dataplane = outcomes[0].dataplane.as_ref().expect("a Dataplane");
    assert_eq!(dataplane["kind"], "Dataplane");
    assert_eq!(dataplane["metadata"]["namespace"], "shop");
    assert_eq!(
        dataplane["metadata"]["labels"]["kuma.io/service"],
        "web_shop_svc_80"
    );
    let inbounds = &dataplane["spec"]["networking"]["inbound"];
    assert_eq!(inbounds.as_array().map(Vec::len), Some(1));
    assert_eq!(inbounds[0]["port"], 8080);
}

#[test]
fn every_tag_is_explained_with_its_value() {
    let outcomes = convert(&[POD, SERVICES]);
    let dataplane = outcomes[0].dataplane.as_ref().expect("a Dataplane");
    let tags = dataplane["spec"]["networking"]["inbound"][0]["tags"]
        .as_object()
        .expect("tags");
    let explained = &outcomes[0].explanation.inbounds[0].tags;
    let explained: Vec<(&str, &str)> = explained
        .iter()
        .map(|(key, value, _)| (&**key, &**value))
        .collect();
    let written: Vec<(&str, &str)> = tags
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str().expect("text")))
        .collect();
    assert_eq!(explained, written);
}

#[test]
fn explanation_names_the_source_of_every_part() {
    let text = dataplanes_text(&convert(&[POD, SERVICES]));
    let expected = "\
Pod shop/web-0: Dataplane in mesh default
  Service db does not select the Pod: label app of the Pod is web, not db
  Service outside is ignored: its type is ExternalName
  Service quiet is ignored: it has the annotation kuma.io/ignore
  Service web selects the Pod
  inbound 8080: port 80 of Service web, whose target http is a port of container app
    of unknown health, which counts as ready: the Pod has no status of its containers
    app: web  # label of the Pod
    empty:   # label of the Pod
    k8s.kuma.io/namespace: shop  # the Pod's namespace
    k8s.kuma.io/service-name: web  # name of the Service
    k8s.kuma.io/service-port: 80  # port of the Service
    kuma.io/protocol: http  # appProtocol or annotation of the Service
    kuma.io/service: web_shop_svc_80  # name, namespace and port of the Service
    kuma.io/zone: east  # zone of the control plane
  port 81 of Service web yields no inbound: no container has a TCP port named admin
  label kuma.io/sidecar-injection does not become a tag: keys that contain kuma.io/ never become tags
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("warning: Port 81 of Service shop/web"), "{text}");
}

#[test]
fn service_less_pod_is_named_after_its_workload() {
    let pod_with_owner = POD.replace(
        "  name: web-0",
        "  name: web-0\n  ownerReferences: [{kind: ReplicaSet, name: web-5d8, apiVersion: apps/v1, uid: u, controller: true}]",
    );
    let replica_set = "{kind: ReplicaSet, metadata: {name: web-5d8, ownerReferences: \
                       [{kind: Deployment, name: web, apiVersion: apps/v1, uid: u, controller: true}]}}";
    let text = dataplanes_text(&convert(&[&pod_with_owner, replica_set]));
    assert!(
        text.contains("inbound 49151: no Service gives the Pod an inbound"),
        "{text}"
    );
    assert!(
        text.contains("kuma.io/service: web_shop_svc  # workload"),
        "{text}"
    );
}

#[test]
fn pod_without_sidecar_has_no_dataplane_and_pod_without_address_has_a_placeholder() {
    let pod_without_sidecar = POD.replace("'true'", "'false'");
    let text = dataplanes_text(&convert(&[&pod_without_sidecar]));
    assert!(text.contains("no Dataplane: it has no sidecar"), "{text}");
    let without_address = POD.replace("status: {podIP: 10.0.0.1}", "");
    let outcomes = convert(&[&without_address]);
    let dataplane = outcomes[0].dataplane.as_ref().expect("a Dataplane");
    assert_eq!(dataplane["spec"]["networking"]["address"], "192.0.2.1");
    assert!(outcomes[0].has_placeholder_address);
}

#[test]
fn error_of_a_pod_names_the_field() {
    let pod_with_invalid_annotation =
        POD.replace("annotations: {", "annotations: {kuma.io/gateway: sometimes, ");
    let text = dataplanes_text(&convert(&[&pod_with_invalid_annotation]));
    assert!(
        text.contains(
            "metadata.annotations[\"kuma.io/gateway\"]: invalid delegated gateway type 'sometimes'"
        ),
        "{text}"
    );
}
