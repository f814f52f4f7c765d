//! Suite `pod-to-dataplane`, and the cases about Dataplanes in the suite `page-examples`. Objects are converted to
//! facts (the fields that Kermode keeps of an object), and facts to a Dataplane.

mod outbounds;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use kermode_inject::settings::SidecarMode;
use kermode_inject::{Context, Namespace, Settings, inject};
use kermode_k8s::convert::facts::{IntermediateFacts, OwnerRef, PodFacts, ServiceFacts};
use kermode_k8s::convert::{
    ConvertError, ConvertSettings, Converted, convert, dataplane_object, selecting_services, top_workload,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::suite::{Outcome, Runner};

/// Runner of the suite.
pub(crate) struct PodToDataplane;

/// Runner of the Dataplane examples of Kuma's manual page "Data plane on Kubernetes".
pub(crate) struct ManualPageDataplanes;

impl Runner for PodToDataplane {
    fn suite(&self) -> &'static str {
        "pod-to-dataplane"
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        match case.kind() {
            "convert" => run_convert(case),
            "inbound-tags" => run_inbound_tags(case),
            "protocol-tag" => run_protocol_tag(case),
            "serviceless-name" => run_serviceless_name(case),
            "probe-rewrite" => run_probe_rewrite(case),
            "error" => run_error(case),
            other => bail!("unknown kind {other:?}"),
        }
    }
}

impl Runner for ManualPageDataplanes {
    fn suite(&self) -> &'static str {
        "page-examples"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["inbounds-unordered", "annotation-list", "outbounds"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        match case.kind() {
            "inbounds-unordered" => run_inbounds_unordered(case),
            "annotation-list" => run_annotation_list(case),
            "outbounds" => outbounds::run(case),
            other => bail!("unknown kind {other:?}"),
        }
    }
}

// === inputs of the conversion ===

/// Inputs of the conversion to a Dataplane: facts of the objects of a case, and settings.
struct ConvertInputs {
    pod: PodFacts,
    services: Vec<ServiceFacts>,
    /// ReplicaSets that may own the Pod.
    intermediates: Vec<IntermediateFacts>,
    settings: ConvertSettings,
}

/// Decodes an object. Values of labels and annotations that are not strings in the corpus become strings.
pub(crate) fn decode<T: DeserializeOwned>(object: &Value) -> Result<T> {
    let mut object = object.clone();
    for field in ["/metadata/labels", "/metadata/annotations"] {
        let members = object.pointer_mut(field).and_then(Value::as_object_mut);
        for value in members.into_iter().flat_map(|members| members.values_mut()) {
            if !value.is_string() {
                *value = json!(value.to_string());
            }
        }
    }
    serde_json::from_value(object).context("cannot decode an object of the case")
}

impl ConvertInputs {
    /// Decodes the objects and settings of a case.
    fn decode(pod: &Value, services: &[Value], replica_sets: &[Value], zone: &Value) -> Result<Self> {
        let services = services
            .iter()
            .map(|service| Ok(ServiceFacts::from(&decode::<Service>(service)?)));
        let intermediates = replica_sets
            .iter()
            .map(|replica_set| Ok(IntermediateFacts::from(&decode::<ReplicaSet>(replica_set)?)));
        Ok(Self {
            pod: PodFacts::from(&decode::<Pod>(pod)?),
            services: services.collect::<Result<_>>()?,
            intermediates: intermediates.collect::<Result<_>>()?,
            settings: ConvertSettings {
                zone: zone.as_str().map(Into::into),
            },
        })
    }

    /// Reads the objects from the files that the case names.
    fn from_files(case: &Case<'_>) -> Result<Self> {
        let (services, replica_sets) = (case.documents("servicesForPod")?, case.documents("replicaSets")?);
        Self::decode(
            &case.document("pod")?,
            &services,
            &replica_sets,
            case.at("/settings/zone"),
        )
    }

    /// Returns the top-level workload that owns the Pod.
    fn workload(&self) -> Option<OwnerRef> {
        top_workload(&self.pod, |id| {
            self.intermediates.iter().find(|facts| facts.id == *id)
        })
    }

    /// Makes the Dataplane with all Services of the case, as if each of them selected the Pod.
    fn convert_with_all_services(&self) -> Result<Option<Converted>, ConvertError> {
        self.convert_with(&self.services.iter().collect::<Vec<_>>())
    }

    /// Makes the Dataplane with the Services of the case that select the Pod.
    fn convert_with_selecting_services(&self) -> Result<Option<Converted>, ConvertError> {
        self.convert_with(&selecting_services(&self.services, &self.pod))
    }

    fn convert_with(&self, services: &[&ServiceFacts]) -> Result<Option<Converted>, ConvertError> {
        let workload = self.workload();
        let namespace = None;
        convert(&self.pod, services, namespace, workload.as_ref(), &self.settings)
    }
}

fn dataplane_json(converted: Result<Option<Converted>, ConvertError>) -> Result<Value> {
    let converted = converted?.context("the Pod of the case gets no Dataplane")?;
    // The UID of the Pod is not compared.
    let pod_uid = "";
    Ok(serde_json::to_value(dataplane_object(
        &converted.dataplane,
        pod_uid,
    ))?)
}

// === comparison ===

/// Returns the mesh and the spec of a Dataplane, normalized for the comparison. Values that Kuma's proto3 JSON omits
/// become explicit: `health: {}` means unready, an absent `health` means ready, and a gateway without a type is
/// delegated. The `state` of an inbound is removed, because Kuma 2.1 does not have this field.
pub(crate) fn comparable(dataplane: &Value) -> Value {
    let mut spec = dataplane["spec"].clone();
    if let Some(inbounds) = spec
        .pointer_mut("/networking/inbound")
        .and_then(Value::as_array_mut)
    {
        inbounds.iter_mut().for_each(make_health_explicit);
    }
    if let Some(gateway) = spec.pointer_mut("/networking/gateway") {
        let gateway_type = gateway["type"].as_str().unwrap_or("DELEGATED").to_owned();
        gateway["type"] = json!(gateway_type);
    }
    json!({"mesh": dataplane["mesh"], "spec": spec})
}

fn make_health_explicit(inbound: &mut Value) {
    if let Some(members) = inbound.as_object_mut() {
        members.remove("state");
        let health = members.remove("health");
        let ready = health.is_none_or(|health| health["ready"] == true);
        members.insert("ready".to_owned(), json!(ready));
    }
}

fn inbounds_of(dataplane: &Value) -> Vec<Value> {
    let dataplane = comparable(dataplane);
    let inbounds = dataplane
        .pointer("/spec/networking/inbound")
        .and_then(Value::as_array);
    inbounds.cloned().unwrap_or_default()
}

// === kinds of cases ===

fn run_convert(case: &Case<'_>) -> Result<Outcome> {
    if ["zone-ingress", "zone-egress"].contains(&case.at("/feature").as_str().unwrap_or_default()) {
        return Ok(Outcome::Skipped(
            "Kermode has no zone ingress and no zone egress".to_owned(),
        ));
    }
    Ok(Outcome::Compared {
        expected: comparable(&case.document("expected")?),
        actual: comparable(&dataplane_json(
            ConvertInputs::from_files(case)?.convert_with_all_services(),
        )?),
    })
}

fn run_inbound_tags(case: &Case<'_>) -> Result<Outcome> {
    let mut pod = case.at("/inputs/pod").clone();
    pod["status"] = json!({"podIP": "192.0.2.1"});
    let services = [case.at("/inputs/service").clone()];
    let dataplane = dataplane_json(
        ConvertInputs::decode(&pod, &services, &[], case.at("/inputs/zone"))?.convert_with_all_services(),
    )?;
    let port_index: usize = case.decode("/inputs/portIndex")?;
    Ok(Outcome::Compared {
        expected: case.at("/expected").clone(),
        actual: dataplane["spec"]["networking"]["inbound"][port_index]["tags"].clone(),
    })
}

fn run_protocol_tag(case: &Case<'_>) -> Result<Outcome> {
    let (port, protocol) = (case.at("/inputs/port"), case.at("/inputs/appProtocol"));
    let pod = json!({"status": {"podIP": "192.0.2.1"}});
    let service = json!({
        "metadata": {"annotations": case.at("/inputs/serviceAnnotations")},
        "spec": {"ports": [{"port": port, "appProtocol": protocol}]},
    });
    let dataplane = dataplane_json(
        ConvertInputs::decode(&pod, &[service], &[], &Value::Null)?.convert_with_all_services(),
    )?;
    Ok(Outcome::Compared {
        expected: case.at("/expected").clone(),
        actual: dataplane["spec"]["networking"]["inbound"][0]["tags"]["kuma.io/protocol"].clone(),
    })
}

fn run_serviceless_name(case: &Case<'_>) -> Result<Outcome> {
    let inputs = ConvertInputs::from_files(case)?;
    let dataplane = dataplane_json(inputs.convert_with_all_services())?;
    let service = &dataplane["spec"]["networking"]["inbound"][0]["tags"]["kuma.io/service"];
    let suffix = format!("_{}_svc", inputs.pod.key.namespace);
    let name = service.as_str().and_then(|service| service.strip_suffix(&suffix));
    let kind = inputs
        .workload()
        .map_or_else(|| "Pod".into(), |workload| workload.kind);
    Ok(Outcome::Compared {
        expected: case.at("/expected").clone(),
        actual: json!({"name": name, "kind": *kind}),
    })
}

fn run_probe_rewrite(case: &Case<'_>) -> Result<Outcome> {
    let port: u16 = case.decode("/inputs/port")?;
    let path: String = case.decode("/inputs/path")?;
    let virtual_port: u16 = case.decode("/inputs/virtualPort")?;
    let actual = match case.at("/inputs/direction").as_str() {
        Some("to-virtual") => virtual_probe(port, &path, virtual_port)?,
        Some("to-real") => application_target(port, &path, virtual_port)?,
        other => bail!("unknown direction {other:?}"),
    };
    Ok(Outcome::Compared {
        expected: expected_result_or_error(case, &actual),
        actual,
    })
}

/// Returns port and path of an application's probe after injection.
fn virtual_probe(port: u16, path: &str, virtual_port: u16) -> Result<Value> {
    let mut pod = json!({
        "metadata": {"labels": {"kuma.io/sidecar-injection": "enabled"}},
        "spec": {"containers": [{"name": "app", "livenessProbe": {"httpGet": {"port": port, "path": path}}}]},
    });
    let settings = Settings {
        virtual_probes_port: virtual_port,
        sidecar_mode: SidecarMode::Native,
        native_sidecars_supported: true,
        ..Settings::default()
    };
    let context = Context {
        namespace: Namespace {
            name: "demo",
            labels: &BTreeMap::new(),
            annotations: &BTreeMap::new(),
        },
        control_plane_url: "https://kuma-control-plane:5678",
        control_plane_ca_pem: "CA",
        mesh_exists: &|_| true,
        container_patch: &|_| None,
        oldest_node: None,
    };
    let injection = match inject(&pod, &settings, &context) {
        Ok(kermode_inject::Outcome::Injected(injection)) => injection,
        Ok(kermode_inject::Outcome::Skipped(reason)) => bail!("the Pod is skipped: {reason:?}"),
        Err(denial) => return Ok(json!({"error": denial.to_string()})),
    };
    json_patch::patch(&mut pod, &injection.patch)?;
    let probe = &pod["spec"]["containers"][0]["livenessProbe"]["httpGet"];
    Ok(json!({"port": probe["port"], "path": probe["path"]}))
}

/// Returns the port and path of the application to which the Dataplane maps a virtual probe. `port` and `path` are
/// those of the virtual probe.
fn application_target(port: u16, path: &str, virtual_port: u16) -> Result<Value> {
    let pod = json!({
        "metadata": {"annotations": {
            "kuma.io/virtual-probes": "enabled",
            "kuma.io/virtual-probes-port": virtual_port.to_string(),
        }},
        "spec": {"containers": [{"name": "app", "livenessProbe": {"httpGet": {"port": port, "path": path}}}]},
        "status": {"podIP": "192.0.2.1"},
    });
    let dataplane =
        dataplane_json(ConvertInputs::decode(&pod, &[], &[], &Value::Null)?.convert_with_all_services())?;
    let probe = &dataplane["spec"]["probes"]["endpoints"][0];
    Ok(json!({"port": probe["inboundPort"], "path": probe["inboundPath"]}))
}

fn run_error(case: &Case<'_>) -> Result<Outcome> {
    let services: Vec<Value> = case.decode("/inputs/services")?;
    let inputs = ConvertInputs::decode(case.at("/inputs/pod"), &services, &[], &Value::Null)?;
    let actual = match inputs.convert_with_all_services() {
        Ok(_) => json!("no error"),
        Err(error) => json!({"error": error.to_string()}),
    };
    Ok(Outcome::Compared {
        expected: expected_result_or_error(case, &actual),
        actual,
    })
}

/// Returns the expected result. If the case expects an error, this result is `{"error": text}`. Kermode may append a
/// remedy to an error. Therefore, `text` is the actual text if the actual text starts with the expected text.
fn expected_result_or_error(case: &Case<'_>, actual: &Value) -> Value {
    let Some(expected_text) = case.at("/expectedError/exact").as_str() else {
        return case.at("/expected").clone();
    };
    let error = actual["error"].as_str().unwrap_or_default();
    json!({"error": if error.starts_with(expected_text) { error } else { expected_text }})
}

/// Compares inbounds in any order.
fn run_inbounds_unordered(case: &Case<'_>) -> Result<Outcome> {
    let services: Vec<Value> = case.decode("/inputs/services")?;
    let inputs = ConvertInputs::decode(case.at("/inputs/pod"), &services, &[], case.at("/inputs/zone"))?;
    let dataplane = dataplane_json(inputs.convert_with_selecting_services())?;
    let expected = json!({"spec": {"networking": {"inbound": case.at("/expected/inbounds")}}});
    Ok(Outcome::Compared {
        expected: sorted(inbounds_of(&expected)),
        actual: sorted(inbounds_of(&dataplane)),
    })
}

fn sorted(mut values: Vec<Value>) -> Value {
    values.sort_by_cached_key(ToString::to_string);
    Value::Array(values)
}

fn run_annotation_list(case: &Case<'_>) -> Result<Outcome> {
    let mut annotations = case.at("/inputs").clone();
    annotations["kuma.io/transparent-proxying"] = json!("enabled");
    annotations["kuma.io/transparent-proxying-inbound-port"] = json!("15006");
    annotations["kuma.io/transparent-proxying-outbound-port"] = json!("15001");
    let pod = json!({"metadata": {"annotations": annotations}, "status": {"podIP": "192.0.2.1"}});
    let dataplane =
        dataplane_json(ConvertInputs::decode(&pod, &[], &[], &Value::Null)?.convert_with_all_services())?;
    let list = &dataplane["spec"]["networking"]["transparentProxying"]["directAccessServices"];
    Ok(Outcome::Compared {
        expected: case.at("/expected").clone(),
        actual: json!({"directAccessServices": list}),
    })
}
