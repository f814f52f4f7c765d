//! Redirects pods that started without the plugin: before its installation, or while another component had removed it
//! from the network configuration. Such a pod waits in its init container `kuma-validation`
//! (docs/design.md#the-node-agent-repairs-pods).

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kermode_netfilter::{Nft, TrafficConfig, set_up};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::EventType;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use kuma_cni::decision::{PodSummary, is_excluded, skip_reason, summarize};
use nix::ifaddrs::getifaddrs;
use tokio::time::MissedTickBehavior;

use super::events::{self, Events};
use crate::namespace;

/// Time between two attempts to redirect a pod that waits.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Applies rules to pods that have none.
pub(super) struct Repairer {
    /// Folder with the network namespaces of pods.
    namespaces: PathBuf,
    /// Kubernetes namespaces whose pods get no rules.
    excluded: Vec<String>,
    nft: Nft,
    /// Pods of the node that are candidates, by UID.
    pods: HashMap<String, Entry>,
}

/// A pod, with the state of its repair.
struct Entry {
    candidate: Candidate,
    /// Whether the pod has rules.
    has_rules: bool,
    /// Note of the last reported problem.
    reported: Option<String>,
}

/// A pod whose rules are checked.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    reference: ObjectReference,
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

/// Text about a pod, for the log and an Event.
#[derive(Clone, Debug, PartialEq)]
struct Report {
    pod: ObjectReference,
    note: String,
    is_redirected: bool,
}

/// Checks the pods of a node, each new pod once it has an address, and pods without rules again. Ends with the runtime.
pub(super) async fn run(client: Client, node: String, mut repairer: Repairer, events: Arc<Events>) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut pods = watcher(Api::<Pod>::all(client), config).default_backoff().boxed();
    let mut retries = tokio::time::interval(RETRY_INTERVAL);
    retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let reports = tokio::select! {
            event = pods.try_next() => match event {
                Ok(Some(event)) => repairer.handle(event),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "Pods of this node not watched; the watch is repeated");
                    Vec::new()
                }
            },
            _ = retries.tick() => repairer.retry(),
        };
        for report in reports {
            report.publish(&events);
        }
    }
}

impl Repairer {
    /// Uses the network namespaces in a folder. Pods of the excluded Kubernetes namespaces get no rules.
    pub(super) fn new(namespaces: PathBuf, excluded: Vec<String>, nft: Nft) -> Self {
        Self {
            namespaces,
            excluded,
            nft,
            pods: HashMap::new(),
        }
    }

    fn handle(&mut self, event: Event<Pod>) -> Vec<Report> {
        match event {
            Event::Apply(pod) | Event::InitApply(pod) => self.see(pod).into_iter().collect(),
            Event::Delete(pod) => {
                self.forget(&pod);
                Vec::new()
            }
            // A list of all pods follows. Deletions since the last event are not reported.
            Event::Init => {
                self.pods.clear();
                Vec::new()
            }
            Event::InitDone => Vec::new(),
        }
    }

    fn forget(&mut self, pod: &Pod) {
        if let Some(uid) = &pod.metadata.uid {
            self.pods.remove(uid);
        }
    }

    /// Checks a pod at once if it is new or has got other addresses.
    fn see(&mut self, pod: Pod) -> Option<Report> {
        let uid = pod.metadata.uid.clone()?;
        let namespace = pod.metadata.namespace.as_deref();
        if namespace.is_some_and(|namespace| is_excluded(namespace, &self.excluded)) {
            return None;
        }
        let Some(candidate) = candidate(pod) else {
            self.pods.remove(&uid);
            return None;
        };
        if let Some(entry) = self.pods.get_mut(&uid)
            && entry.candidate.addresses == candidate.addresses
        {
            entry.candidate = candidate;
            return None;
        }
        let entry = self.pods.entry(uid).insert_entry(Entry::new(candidate));
        entry.into_mut().attempt(&self.namespaces, &self.nft, false)
    }

    /// Checks the pods that have no rules.
    fn retry(&mut self) -> Vec<Report> {
        let waiting = self.pods.values_mut().filter(|entry| !entry.has_rules);
        waiting
            .filter_map(|entry| entry.attempt(&self.namespaces, &self.nft, true))
            .collect()
    }
}

impl Entry {
    fn new(candidate: Candidate) -> Self {
        Self {
            candidate,
            has_rules: false,
            reported: None,
        }
    }

    /// Redirects the pod if it has no rules. Returns a report of a success and of a problem that was not reported yet.
    /// At the first attempt, the runtime may not have mounted the network namespace yet.
    fn attempt(&mut self, namespaces: &Path, nft: &Nft, is_retry: bool) -> Option<Report> {
        let outcome = repair(namespaces, &self.candidate, nft);
        self.has_rules = matches!(outcome, Ok(Outcome::HasRules | Outcome::Repaired));
        let problem = match outcome {
            Ok(Outcome::HasRules) => return None,
            Ok(Outcome::Repaired) => {
                let note = "the Pod started without the CNI plugin; kuma-cni has redirected its traffic";
                return Some(self.report(note, true));
            }
            Ok(Outcome::NoNamespace) if !is_retry => return None,
            Ok(Outcome::NoNamespace) => format!(
                "no network namespace in {} has the Pod's address",
                namespaces.display()
            ),
            Err(error) => error,
        };
        let report = self.report(
            &format!("the traffic of the Pod is not redirected: {problem}"),
            false,
        );
        if self.reported.as_ref() == Some(&report.note) {
            return None;
        }
        self.reported = Some(report.note.clone());
        Some(report)
    }

    fn report(&self, note: &str, is_redirected: bool) -> Report {
        Report {
            pod: self.candidate.reference.clone(),
            note: events::beginning(note).to_owned(),
            is_redirected,
        }
    }
}

impl Report {
    fn publish(self, events: &Events) {
        let (namespace, name, note) = (&self.pod.namespace, &self.pod.name, &self.note);
        let (type_, reason) = if self.is_redirected {
            tracing::info!(namespace, name, "{note}");
            (EventType::Normal, "TrafficRedirected")
        } else {
            tracing::error!(namespace, name, "{note}");
            (EventType::Warning, "TrafficNotRedirected")
        };
        events.about_pod(self.pod, type_, reason, &self.note);
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
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    let summary = summarize(pod);
    (!addresses.is_empty() && skip_reason(&summary).is_none()).then_some(Candidate {
        reference,
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
        let applied = set_up(&config, nft).map_err(|error| error.to_string())?;
        if let Some(warning) = applied.warning {
            let reference = &candidate.reference;
            tracing::warn!(
                namespace = reference.namespace,
                name = reference.name,
                "{warning}"
            );
        }
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
