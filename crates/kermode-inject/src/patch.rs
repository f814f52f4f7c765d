//! Last stage: builds the `add` and `replace` operations on the incoming Pod. Fields that no operation names are not
//! touched, so unknown fields survive.

use std::collections::BTreeMap;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation};
use serde_json::{Value, json};

use crate::pod::{Missing, Pod};
use crate::probes::Rewritten;

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

    /// Sets annotations. An annotation that already has its value gets no operation.
    pub(crate) fn annotations(
        &mut self,
        before: &BTreeMap<String, String>,
        written: &BTreeMap<String, String>,
    ) {
        if self.missing.metadata {
            self.add(&["metadata"], json!({"annotations": written}));
        } else if self.missing.annotations {
            self.add(&["metadata", "annotations"], json!(written));
        } else {
            for (key, value) in written {
                if before.get(key) != Some(value) {
                    self.add(&["metadata", "annotations", key], value.as_str().into());
                }
            }
        }
    }

    /// Rewrites probes to their virtual targets. Must precede the insertion of containers, because indices are those of
    /// the incoming Pod.
    pub(crate) fn probes(&mut self, rewritten: &[Rewritten]) {
        for probe in rewritten {
            let container = probe.container.to_string();
            let http = ["spec", "containers", &container, probe.probe, "httpGet"];
            let at = |field| [&http[..], &[field]].concat();
            self.replace(&at("port"), probe.target.port.into());
            let path = Value::from(probe.target.path.as_str());
            if probe.has_path {
                self.replace(&at("path"), path);
            } else {
                self.add(&at("path"), path);
            }
        }
    }

    /// Appends volumes.
    pub(crate) fn volumes(&mut self, volumes: Vec<Value>) {
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

    /// Inserts init containers before (`first`) or after the Pod's own, in the given order.
    pub(crate) fn init_containers(&mut self, containers: Vec<Value>, first: bool) {
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
    pub(crate) fn first_container(&mut self, container: Value) {
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
