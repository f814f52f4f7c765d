//! Redirects pods that started without the plugin: before its installation, or while another component had removed it
//! from the network configuration. Such a pod waits in its init container `kuma-validation`
//! (docs/design.md#the-node-agent-repairs-pods).

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
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
use tokio::time::{Interval, MissedTickBehavior};

use super::events::{self, Events};
use super::sandboxes::{Sandbox, Sandboxes};
use crate::namespace;

/// Time between two attempts to redirect a pod that waits.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two searches for new networks of pods.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

/// Applies rules to pods that have none.
pub(super) struct Repairer {
    /// Networks of pods.
    sandboxes: Sandboxes,
    /// Kubernetes namespaces whose pods get no rules.
    excluded: Vec<String>,
    nft: Nft,
    /// Pods of the node that may get rules, by UID.
    pods: HashMap<String, Entry>,
}

/// A pod, with the state of its repair.
struct Entry {
    candidate: Candidate,
    /// Whether the pod has rules.
    has_rules: bool,
    /// Network that the container runtime has recorded, if its rules were checked.
    checked: Option<Sandbox>,
    /// Note of the last reported problem.
    reported: Option<String>,
}

/// A pod that may get rules.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    reference: ObjectReference,
    /// Addresses in the pod's status.
    addresses: BTreeSet<IpAddr>,
    /// Whether the status says that the init containers have not ended.
    is_pending: bool,
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
    /// The pod has no network yet, or its init containers have ended.
    NotWaiting,
}

/// Text about a pod, for the log and an Event.
#[derive(Clone, Debug, PartialEq)]
struct Report {
    pod: ObjectReference,
    note: String,
    is_redirected: bool,
}

/// Checks the pods of a node, each new pod once it has a network, and pods without rules again. Ends with the runtime.
pub(super) async fn run(client: Client, node: String, mut repairer: Repairer, events: Arc<Events>) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut pods = watcher(Api::<Pod>::all(client), config).default_backoff().boxed();
    let mut retries = interval(RETRY_INTERVAL);
    let mut searches = interval(SEARCH_INTERVAL);
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
            _ = searches.tick() => repairer.search(),
            _ = retries.tick() => repairer.retry(),
        };
        for report in reports {
            report.publish(&events);
        }
    }
}

fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Repairer {
    /// Reads the records of the container runtime. Pods of the excluded Kubernetes namespaces get no rules.
    pub(super) fn new(mut sandboxes: Sandboxes, excluded: Vec<String>, nft: Nft) -> Self {
        sandboxes.refresh();
        Self {
            sandboxes,
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

    /// Checks a pod at once if it is new, has got other addresses, or has become pending.
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
            && entry.candidate.is_pending == candidate.is_pending
        {
            entry.candidate = candidate;
            return None;
        }
        let entry = self.pods.entry(uid).insert_entry(Entry::new(candidate));
        entry.into_mut().attempt(&self.sandboxes, &self.nft, false)
    }

    /// Checks the pods whose network is new.
    fn search(&mut self) -> Vec<Report> {
        self.sandboxes.refresh();
        let mut reports = Vec::new();
        for entry in self.pods.values_mut() {
            let sandbox = entry.candidate.new_sandbox(&self.sandboxes);
            if sandbox.is_some() && sandbox != entry.checked {
                reports.extend(entry.attempt(&self.sandboxes, &self.nft, false));
            }
        }
        reports
    }

    /// Checks the pods that have no rules.
    fn retry(&mut self) -> Vec<Report> {
        let waiting = self.pods.values_mut().filter(|entry| !entry.has_rules);
        waiting
            .filter_map(|entry| entry.attempt(&self.sandboxes, &self.nft, true))
            .collect()
    }
}

impl Entry {
    fn new(candidate: Candidate) -> Self {
        Self {
            candidate,
            has_rules: false,
            checked: None,
            reported: None,
        }
    }

    /// Redirects the pod if it has no rules. Returns a report of a success and of a problem that was not reported yet.
    /// At the first attempt, the runtime may not have mounted the network namespace yet.
    fn attempt(&mut self, sandboxes: &Sandboxes, nft: &Nft, is_retry: bool) -> Option<Report> {
        self.checked = self.candidate.new_sandbox(sandboxes);
        let outcome = repair(sandboxes, &self.candidate, nft);
        self.has_rules = matches!(outcome, Ok(Outcome::HasRules | Outcome::Repaired));
        let problem = match outcome {
            Ok(Outcome::HasRules | Outcome::NotWaiting) => return None,
            Ok(Outcome::Repaired) => {
                let note = "the Pod started without the CNI plugin; kuma-cni has redirected its traffic";
                return Some(self.report(note, true));
            }
            Ok(Outcome::NoNamespace) if !is_retry => return None,
            Ok(Outcome::NoNamespace) => format!(
                "no network namespace in {} has the Pod's address",
                sandboxes.namespaces().display()
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

// === impl Candidate ===

impl Candidate {
    /// Returns the network that the container runtime has recorded for the pod. Returns `None` if the pod may run in this
    /// network: its rules would break connections. The status of a pod that runs has the addresses of its network. A
    /// status with other addresses is that of a former network, which ended with a reboot of the node, for example. A
    /// status without addresses says nothing about the network.
    fn new_sandbox(&self, sandboxes: &Sandboxes) -> Option<Sandbox> {
        let uid = self.reference.uid.as_deref()?;
        let is_former =
            |sandbox: &Sandbox| !self.addresses.is_empty() && sandbox.addresses.is_disjoint(&self.addresses);
        let is_new = |sandbox: &Sandbox| self.is_pending || is_former(sandbox);
        sandboxes.get(uid).filter(is_new)
    }
}

/// Returns the pod as a candidate if the plugin applies rules to such a pod, and the pod has not ended. A pod is pending
/// until its init containers have ended.
fn candidate(pod: Pod) -> Option<Candidate> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref()?;
    let phase = status.phase.as_deref()?;
    if spec.host_network == Some(true) || !matches!(phase, "Pending" | "Running") {
        return None;
    }
    let is_pending = phase == "Pending";
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
    skip_reason(&summary).is_none().then_some(Candidate {
        reference,
        addresses,
        is_pending,
        summary,
    })
}

/// Applies the rules of a pod in its network namespace, unless the namespace has rules. If the container runtime keeps no
/// records, the namespace is that with the address in the pod's status. Otherwise, the address of a pod without a record is
/// that of its former network, and may belong to another pod now.
fn repair(sandboxes: &Sandboxes, candidate: &Candidate, nft: &Nft) -> Result<Outcome, String> {
    let (namespaces, addresses) = match candidate.new_sandbox(sandboxes) {
        Some(sandbox) => (vec![sandbox.namespace], sandbox.addresses),
        None if candidate.is_pending && !candidate.addresses.is_empty() && !sandboxes.are_recorded() => {
            let folder = sandboxes.namespaces();
            let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            let paths = entries.flatten().map(|entry| entry.path()).collect();
            (paths, candidate.addresses.clone())
        }
        None => return Ok(Outcome::NotWaiting),
    };
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
    for path in namespaces {
        // A namespace that ends meanwhile cannot be entered, and is not the pod's.
        let outcome = namespace::run_in(&path, || has_address(&addresses).then(apply));
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
