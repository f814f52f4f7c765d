//! Last stage: builds the JSON patch, a list of operations on the incoming Pod. An operation that replaces a list keeps
//! the unknown fields of its items.

use std::collections::BTreeMap;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use kermode_model::ProbeProtocol;
use serde_json::{Value, json};

use crate::pod::{Missing, Pod};
use crate::probes::{Change, RewrittenProbe};
use crate::stop::SleepHook;
use crate::volumes::VolumeChanges;

/// Lists and maps of a Pod that injection changes: the parent's key, and the key in the parent.
const CHANGED_FIELDS: [(&str, &str); 5] = [
    ("metadata", "annotations"),
    ("spec", "containers"),
    ("spec", "initContainers"),
    ("spec", "volumes"),
    ("spec", "imagePullSecrets"),
];

/// Returns the patch that turns the Pod `before` into the Pod `after`. They differ only in [`CHANGED_FIELDS`]. A
/// changed list is replaced as a whole, with the JSON of its unchanged items.
pub(crate) fn difference(before: &Value, after: &Value) -> Patch {
    let mut operations = Vec::new();
    for (parent, key) in CHANGED_FIELDS {
        let value = |pod: &Value| pod.get(parent)?.get(key).cloned();
        let (old, new) = (value(before), value(after));
        let path = PointerBuf::from_tokens([parent, key]);
        match new {
            // Unlike `replace`, `add` needs no present value.
            Some(value) if old.as_ref() != Some(&value) => {
                operations.push(PatchOperation::Add(AddOperation { path, value }));
            }
            None if old.is_some() => operations.push(PatchOperation::Remove(RemoveOperation { path })),
            _ => {}
        }
    }
    Patch(operations)
}

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

    /// Redirects probes and hooks to the virtual probes port, or restores them. Must be called before containers are
    /// inserted, because [`RewrittenProbe::pointer`] contains the index of the container in the incoming Pod.
    pub(crate) fn change_probes(&mut self, probes: &[RewrittenProbe]) {
        for probe in probes {
            let path_in_probe = |names: &[&'static str]| -> Vec<&str> {
                let pointer = probe.pointer.iter().map(String::as_str);
                pointer.chain(names.iter().copied()).collect()
            };
            let (port, path) = (Value::from(probe.port), Value::from(probe.path.as_str()));
            match probe.change {
                Change::HttpGet {
                    has_path,
                    has_https_scheme,
                } => {
                    self.replace(&path_in_probe(&["httpGet", "port"]), port);
                    if has_path {
                        self.replace(&path_in_probe(&["httpGet", "path"]), path);
                    } else {
                        self.add(&path_in_probe(&["httpGet", "path"]), path);
                    }
                    if has_https_scheme {
                        self.replace(&path_in_probe(&["httpGet", "scheme"]), "HTTP".into());
                    }
                }
                Change::OtherHandler(name) => {
                    self.remove(&path_in_probe(&[name]));
                    self.add(&path_in_probe(&["httpGet"]), json!({"path": path, "port": port}));
                }
                Change::Restored(protocol @ (ProbeProtocol::Http | ProbeProtocol::Https)) => {
                    self.replace(&path_in_probe(&["httpGet", "port"]), port);
                    self.replace(&path_in_probe(&["httpGet", "path"]), path);
                    if protocol == ProbeProtocol::Https {
                        self.add(&path_in_probe(&["httpGet", "scheme"]), "HTTPS".into());
                    }
                }
                Change::Restored(ProbeProtocol::Tcp) => {
                    self.remove(&path_in_probe(&["httpGet"]));
                    self.add(&path_in_probe(&["tcpSocket"]), json!({"port": port}));
                }
                Change::Restored(ProbeProtocol::Grpc) => {
                    self.remove(&path_in_probe(&["httpGet"]));
                    self.add(&path_in_probe(&["grpc"]), json!({"port": port, "service": path}));
                }
            }
        }
    }

    /// Adds preStop hooks. Must be called before containers are inserted, like [`Self::change_probes`].
    pub(crate) fn add_sleep_hooks(&mut self, hooks: &[SleepHook]) {
        for hook in hooks {
            let index = hook.container.to_string();
            let pre_stop = json!({"sleep": {"seconds": hook.seconds}});
            if hook.has_lifecycle {
                self.add(&["spec", "containers", &index, "lifecycle", "preStop"], pre_stop);
            } else {
                let lifecycle = json!({"preStop": pre_stop});
                self.add(&["spec", "containers", &index, "lifecycle"], lifecycle);
            }
        }
    }

    /// Removes an annotation, which must exist.
    pub(crate) fn remove_annotation(&mut self, key: &str) {
        self.remove(&["metadata", "annotations", key]);
    }

    /// Replaces, removes and appends volumes.
    pub(crate) fn change_volumes(&mut self, changes: VolumeChanges) {
        for (index, volume) in changes.replaced {
            self.replace(&["spec", "volumes", &index.to_string()], volume);
        }
        // The last volume is removed first, so that the indices of the others remain valid.
        for index in changes.removed.iter().rev() {
            self.remove(&["spec", "volumes", &index.to_string()]);
        }
        let volumes = changes.added;
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

    /// Appends the image pull Secrets of `names`, except those that the Pod lists already (`present_names`).
    pub(crate) fn append_image_pull_secrets(&mut self, present_names: &[&str], names: &[String]) {
        let mut secrets: Vec<Value> = Vec::new();
        for name in names {
            let secret = json!({"name": name});
            if !present_names.contains(&name.as_str()) && !secrets.contains(&secret) {
                secrets.push(secret);
            }
        }
        if secrets.is_empty() {
            return;
        }
        if self.missing.image_pull_secrets {
            self.add(&["spec", "imagePullSecrets"], Value::Array(secrets));
            return;
        }
        for secret in secrets {
            self.add(&["spec", "imagePullSecrets", "-"], secret);
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

    fn remove(&mut self, path: &[&str]) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.operations
            .push(PatchOperation::Remove(RemoveOperation { path }));
    }

    fn replace(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.operations
            .push(PatchOperation::Replace(ReplaceOperation { path, value }));
    }
}
