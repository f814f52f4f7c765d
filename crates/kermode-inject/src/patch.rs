//! Last stage: builds the JSON patch, a list of `add` and `replace` operations on the incoming Pod.

use std::collections::BTreeMap;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation};
use serde_json::{Value, json};

use crate::pod::{Missing, Pod};
use crate::probes::RewrittenProbe;

/// Collects the operations of a JSON patch.
#[derive(Debug)]
pub(crate) struct PatchBuilder {
    missing: Missing,
    operations: Vec<PatchOperation>,
}

// === impl PatchBuilder ===

impl PatchBuilder {
    pub(crate) fn new(pod: &Pod<'_>) -> Self {
        Self {
            missing: pod.missing,
            operations: Vec::new(),
        }
    }

    pub(crate) fn finish(self) -> Patch {
        Patch(self.operations)
    }

    /// Sets the annotations `new`. An annotation with the same value in `before` gets no operation.
    pub(crate) fn set_annotations(
        &mut self,
        before: &BTreeMap<String, String>,
        new: &BTreeMap<String, String>,
    ) {
        if self.missing.metadata {
            self.add(&["metadata"], json!({"annotations": new}));
        } else if self.missing.annotations {
            self.add(&["metadata", "annotations"], json!(new));
        } else {
            for (key, value) in new {
                if before.get(key) != Some(value) {
                    self.add(&["metadata", "annotations", key], value.as_str().into());
                }
            }
        }
    }

    /// Redirects probes to their virtual targets. Must be called before containers are inserted, because the probes
    /// have the container indices of the incoming Pod.
    pub(crate) fn redirect_probes(&mut self, probes: &[RewrittenProbe]) {
        for probe in probes {
            let index = probe.container_index.to_string();
            let http_get = ["spec", "containers", &index, probe.field, "httpGet"];
            let path_of = |name| [&http_get[..], &[name]].concat();
            self.replace(&path_of("port"), probe.target.port.into());
            let path = Value::from(probe.target.path.as_str());
            if probe.has_path {
                self.replace(&path_of("path"), path);
            } else {
                self.add(&path_of("path"), path);
            }
        }
    }

    /// Appends volumes.
    pub(crate) fn append_volumes(&mut self, volumes: Vec<Value>) {
        if volumes.is_empty() {
            return;
        }
        if self.missing.volumes {
            self.add(&["spec", "volumes"], Value::Array(volumes));
        } else {
            for volume in volumes {
                self.add(&["spec", "volumes", "-"], volume);
            }
        }
    }

    /// Inserts init containers in the given order: before the Pod's own if `first`, else after them.
    pub(crate) fn insert_init_containers(&mut self, containers: Vec<Value>, first: bool) {
        if containers.is_empty() {
            return;
        }
        if self.missing.init_containers {
            self.add(&["spec", "initContainers"], Value::Array(containers));
            return;
        }
        for (index, container) in containers.into_iter().enumerate() {
            let index = if first { index.to_string() } else { "-".to_owned() };
            self.add(&["spec", "initContainers", &index], container);
        }
    }

    /// Inserts a container before all others.
    pub(crate) fn insert_first_container(&mut self, container: Value) {
        self.add(&["spec", "containers", "0"], container);
    }

    fn add(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.operations
            .push(PatchOperation::Add(AddOperation { path, value }));
    }

    fn replace(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.operations
            .push(PatchOperation::Replace(ReplaceOperation { path, value }));
    }
}
