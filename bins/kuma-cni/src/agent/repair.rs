//! Redirects pods that started without the plugin: before its installation, or while another component had removed it
//! from the network configuration. Such a pod waits in its init container `kuma-validation`
//! (docs/design.md#the-node-agent-repairs-pods).

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kermode_netfilter::{Nft, TrafficConfig, set_up};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::EventType;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use nix::ifaddrs::getifaddrs;

use super::events::Events;
use crate::decision::{PodSummary, skip_reason, summarize};
use crate::namespace;

/// Applies rules to pods that have none.
pub(super) struct Repairer {
    /// Folder with the network namespaces of pods.
    namespaces: PathBuf,
    nft: Nft,
    events: Arc<Events>,
    /// Addresses with which each pod was checked, by UID.
    checked: HashMap<String, BTreeSet<IpAddr>>,
}

/// A pod whose rules are checked.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    reference: ObjectReference,
    uid: String,
    addresses: BTreeSet<IpAddr>,
    summary: PodSummary,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The pod has rules.
    HasRules,
    /// The pod had no rules and has rules now.
    Repaired,
    /// No network namespace has the pod's address.
    NoNamespace,
}

/// Checks the pods of a node, and each new pod once it has an address. Ends with the runtime.
pub(super) async fn run(client: Client, node: String, mut repairer: Repairer) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = watcher(Api::<Pod>::all(client), config).default_backoff().boxed();
    loop {
        match events.try_next().await {
            Ok(Some(Event::Apply(pod) | Event::InitApply(pod))) => repairer.check(pod),
            Ok(Some(Event::Delete(pod))) => repairer.forget(&pod),
            Ok(Some(Event::Init | Event::InitDone)) => {}
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "Pods of this node not watched; the watch is repeated"),
        }
    }
}

impl Repairer {
    /// Uses the network namespaces in a folder.
    pub(super) fn new(namespaces: PathBuf, nft: Nft, events: Arc<Events>) -> Self {
        Self {
            namespaces,
            nft,
            events,
            checked: HashMap::new(),
        }
    }

    fn forget(&mut self, pod: &Pod) {
        if let Some(uid) = &pod.metadata.uid {
            self.checked.remove(uid);
        }
    }

    fn check(&mut self, pod: Pod) {
        let Some(candidate) = candidate(pod) else {
            return;
        };
        if self.checked.get(&candidate.uid) == Some(&candidate.addresses) {
            return;
        }
        let reference = candidate.reference.clone();
        let (namespace, name) = (&reference.namespace, &reference.name);
        match repair(&self.namespaces, &candidate, &self.nft) {
            Ok(Outcome::HasRules) => {}
            Ok(Outcome::Repaired) => {
                let note = "the Pod started without the CNI plugin; kuma-cni has redirected its traffic";
                tracing::info!(namespace, name, "{note}");
                self.events
                    .about_pod(reference, EventType::Normal, "TrafficRedirected", note);
            }
            Ok(Outcome::NoNamespace) => {
                tracing::debug!(namespace, name, "no network namespace has the Pod's address");
                return;
            }
            Err(error) => {
                let note = format!("the traffic of the Pod is not redirected: {error}");
                tracing::error!(namespace, name, "{note}");
                self.events
                    .about_pod(reference, EventType::Warning, "TrafficNotRedirected", &note);
                return;
            }
        }
        self.checked.insert(candidate.uid, candidate.addresses);
    }
}

/// Returns the pod as a candidate if the plugin applies rules to such a pod, and the pod has an address and is pending. A
/// pod is pending until its init containers have ended. Rules would break the connections of a pod that runs without.
fn candidate(pod: Pod) -> Option<Candidate> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref()?;
    if spec.host_network == Some(true) || status.phase.as_deref() != Some("Pending") {
        return None;
    }
    let addresses: BTreeSet<IpAddr> = status
        .pod_ips
        .iter()
        .flatten()
        .filter_map(|address| address.ip.parse().ok())
        .collect();
    let uid = pod.metadata.uid.clone()?;
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: Some(uid.clone()),
        ..ObjectReference::default()
    };
    let summary = summarize(pod);
    (!addresses.is_empty() && skip_reason(&summary).is_none()).then_some(Candidate {
        reference,
        uid,
        addresses,
        summary,
    })
}

/// Applies the rules of a pod in its network namespace, unless the namespace has rules.
fn repair(namespaces: &Path, candidate: &Candidate, nft: &Nft) -> Result<Outcome, String> {
    let config =
        TrafficConfig::from_annotations(&candidate.summary.annotations).map_err(|error| error.to_string())?;
    let apply = || -> Result<Outcome, String> {
        if nft.has_rules().map_err(|error| error.to_string())? {
            return Ok(Outcome::HasRules);
        }
        set_up(&config, nft).map_err(|error| error.to_string())?;
        Ok(Outcome::Repaired)
    };
    let entries = fs::read_dir(namespaces).map_err(|error| format!("{}: {error}", namespaces.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        // A namespace that ends meanwhile cannot be entered, and is not the pod's.
        let outcome = namespace::run_in(&path, || has_address(&candidate.addresses).then(apply));
        if let Ok(Some(outcome)) = outcome {
            return outcome;
        }
    }
    Ok(Outcome::NoNamespace)
}

/// Returns whether an interface in the network namespace of the calling thread has one of the addresses.
fn has_address(addresses: &BTreeSet<IpAddr>) -> bool {
    let interfaces = getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .any(|address| addresses.contains(&address))
}

#[cfg(test)]
mod tests;
