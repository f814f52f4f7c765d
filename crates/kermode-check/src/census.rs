//! Counts of Pods and Dataplanes. Each object is added once and not kept, so large clusters need little memory.

use std::collections::{BTreeMap, BTreeSet};

use kermode_crds::condition::{CONFIGURATION_ACCEPTED, CONNECTED};
use kermode_explain::{Decision, PodReviewer, condition, name_of, reason_and_message, text};
use kermode_manifests::ManifestError;
use serde_json::Value;

/// Names of objects by Namespace, with an explanation of the first one.
pub(crate) type Group = BTreeMap<String, Members>;

/// Objects of one Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// Names in the order of the API server.
    pub(crate) names: Vec<String>,
    /// Explanation of the first object; may be empty.
    pub(crate) example: String,
}

/// Namespace and name of an object.
type Key = (String, String);

/// Pods and Dataplanes of the mesh.
#[derive(Debug, Default)]
pub struct Census {
    /// Number of Pods that have not ended.
    pub(crate) pods: usize,
    /// Number of these Pods with a sidecar.
    pub(crate) injected: usize,
    /// Number of Dataplanes.
    pub(crate) dataplane_count: usize,
    pub(crate) not_injected: Group,
    pub(crate) denied: Group,
    pub(crate) outdated: Group,
    pub(crate) disconnected: Group,
    pub(crate) rejecting: Group,
    /// Names of sidecars by the version that they report.
    pub(crate) versions: BTreeMap<String, Vec<String>>,
    /// Pods with a sidecar and an IP.
    expected_dataplanes: BTreeSet<Key>,
    /// Pods that have ended, whose sidecars disconnect.
    ended: BTreeSet<Key>,
    dataplanes: BTreeSet<Key>,
}

// === impl Census ===

impl Census {
    /// Adds a Pod. Pods are added before Dataplanes.
    ///
    /// # Errors
    /// If the Pod cannot be decoded.
    pub fn add_pod(&mut self, reviewer: &PodReviewer<'_>, pod: &Value) -> Result<(), ManifestError> {
        let review = reviewer.review(pod)?;
        if review.is_ending {
            self.ended.insert(key(pod));
            return Ok(());
        }
        self.pods += 1;
        let is_injected = review.state.injected == Some(true);
        if is_injected {
            self.injected += 1;
            if !text(pod, "/status/podIP").is_empty() {
                self.expected_dataplanes.insert(key(pod));
            }
        }
        if review.state.decision == Decision::Injected && !is_injected {
            add(&mut self.not_injected, pod, &review.state.reason);
        }
        if let Some(denial) = &review.denial {
            add(&mut self.denied, pod, denial);
        }
        if let Some(difference) = review.differences.first() {
            add(&mut self.outdated, pod, difference);
        }
        Ok(())
    }

    /// Adds a Dataplane.
    pub fn add_dataplane(&mut self, dataplane: &Value) {
        let key = key(dataplane);
        self.dataplane_count += 1;
        let is_running = !self.ended.contains(&key);
        let is_false =
            |kind: &str| condition(dataplane, kind).filter(|condition| condition["status"] == "False");
        if let Some(connected) = is_false(CONNECTED).filter(|_| is_running) {
            add(&mut self.disconnected, dataplane, &reason_and_message(connected));
        }
        if let Some(accepted) = is_false(CONFIGURATION_ACCEPTED) {
            add(&mut self.rejecting, dataplane, &reason_and_message(accepted));
        }
        let version = text(dataplane, "/status/sidecar/version");
        if is_running && !version.is_empty() {
            let sidecars = self.versions.entry(version.to_owned()).or_default();
            sidecars.push(format!("{}/{}", key.0, key.1));
        }
        self.dataplanes.insert(key);
    }

    /// Returns the Pods that should have a Dataplane and have none.
    pub(crate) fn without_dataplane(&self) -> Group {
        let mut group = Group::new();
        for (namespace, name) in self.expected_dataplanes.difference(&self.dataplanes) {
            group
                .entry(namespace.clone())
                .or_default()
                .names
                .push(name.clone());
        }
        group
    }
}

fn key(object: &Value) -> Key {
    let namespace = text(object, "/metadata/namespace");
    (namespace.to_owned(), name_of(object).to_owned())
}

fn add(group: &mut Group, object: &Value, example: &str) {
    let (namespace, name) = key(object);
    let members = group.entry(namespace).or_default();
    if members.names.is_empty() {
        example.clone_into(&mut members.example);
    }
    members.names.push(name);
}
