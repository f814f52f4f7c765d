//! Model of Envoy as a client of the ADS server. The model checks the responses that it receives.
//!
//! Bodies are text: `eds:1` or `static:1` for clusters, `1` for endpoints and routes, `c0,c1/r0:1` for listeners
//! (clusters, then an optional route). The number is a revision, which makes two bodies of a resource differ. Envoy
//! rejects a body that ends in `!`.
//!
//! A subscribed name stays subscribed after a response has listed the name in `removed_resources`: Envoy does not
//! request the name again, but accepts the resource if a later response contains it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kermode_envoy::ResourceKind::{self, Cluster, Endpoints, Listener, Route};
use prost::Message;

use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, Status};

/// Bodies of resources by name.
type Bodies = BTreeMap<String, String>;

/// The modelled Envoy.
#[derive(Default)]
pub(super) struct Envoy {
    /// Bodies of the resources that Envoy uses.
    pub(super) applied: HashMap<ResourceKind, Bodies>,
    /// Versions of accepted resources by name. Envoy reports them on a new stream. In these tests, the version of a
    /// resource equals its body.
    versions: HashMap<ResourceKind, BTreeMap<String, String>>,
    /// Names that Envoy is subscribed to, without the wildcard.
    pub(super) subscribed: HashMap<ResourceKind, BTreeSet<String>>,
    /// Resources that were invalid in a response, and have been neither in an accepted response nor removed since. A
    /// removal counts only if the resource was applied before.
    pub(super) rejected: BTreeSet<(ResourceKind, String)>,
    /// Clusters that wait for their endpoints.
    pub(super) warming: BTreeSet<String>,
    /// Whether Envoy has requested listeners.
    pub(super) has_requested_listeners: bool,
    /// Subscribed names that a response listed in `removed_resources`.
    pub(super) missing: BTreeSet<(ResourceKind, String)>,
}

impl Envoy {
    /// Returns the bodies of the resources of a kind that Envoy uses.
    pub(super) fn applied(&self, kind: ResourceKind) -> Bodies {
        self.applied.get(&kind).cloned().unwrap_or_default()
    }

    /// Opens a new stream. Returns its first requests.
    pub(super) fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        // On a new stream, Envoy does not report the parts of a rejected response that it applied, so the server does
        // not know these parts. The model drops them: only the accepted versions, which equal the bodies, remain.
        self.applied = self.versions.clone();
        let mut requests = vec![self.first_request(Cluster)];
        if self
            .subscribed
            .get(&Endpoints)
            .is_some_and(|names| !names.is_empty())
        {
            requests.push(self.first_request(Endpoints));
        }
        if self.has_requested_listeners {
            requests.push(self.first_request(Listener));
        }
        if self.subscribed.get(&Route).is_some_and(|names| !names.is_empty()) {
            requests.push(self.first_request(Route));
        }
        requests
    }

    /// Returns the first request for a kind, which reports the accepted resources. A first request for clusters or
    /// listeners without names is a wildcard subscription. With names, the wildcard has to be named, too.
    fn first_request(&self, kind: ResourceKind) -> DeltaDiscoveryRequest {
        let mut subscribe: Vec<String> = self
            .subscribed
            .get(&kind)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        if kind == Cluster && !subscribe.is_empty() {
            subscribe.push("*".into());
        }
        DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: subscribe,
            initial_resource_versions: self
                .versions
                .get(&kind)
                .into_iter()
                .flatten()
                .map(|(name, version)| (name.clone(), version.clone()))
                .collect(),
            ..Default::default()
        }
    }

    /// Subscribes to a cluster by name, as on-demand discovery does.
    pub(super) fn subscribe_cluster(&mut self, name: &str) -> Vec<DeltaDiscoveryRequest> {
        if !self.subscribed.entry(Cluster).or_default().insert(name.into()) {
            return Vec::new();
        }
        vec![subscription_change(Cluster, [name.to_owned()], [])]
    }

    /// Unsubscribes from a cluster.
    pub(super) fn unsubscribe_cluster(&mut self, name: &str) -> Vec<DeltaDiscoveryRequest> {
        if !self.subscribed.entry(Cluster).or_default().remove(name) {
            return Vec::new();
        }
        self.missing.remove(&(Cluster, name.to_owned()));
        vec![subscription_change(Cluster, [], [name.to_owned()])]
    }

    /// Handles a response. Returns the requests that Envoy sends in reaction: subscription changes, then the ACK or
    /// NACK. After the first response with clusters, the first request for listeners follows.
    pub(super) fn receive(&mut self, response: &DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryRequest> {
        let kind = ResourceKind::from_type_url(&response.type_url).expect("a served kind");
        let resources: Vec<(String, String, String)> = response.resources.iter().map(decode).collect();
        // Envoy ACKs, but does not keep, endpoints and routes from which it has unsubscribed meanwhile.
        let subscribed = self.subscribed.get(&kind).cloned().unwrap_or_default();
        let is_kept = |name: &String| matches!(kind, Cluster | Listener) || subscribed.contains(name);
        let mut seen = BTreeSet::new();
        for name in resources
            .iter()
            .map(|(name, ..)| name)
            .chain(&response.removed_resources)
        {
            assert!(seen.insert(name), "a response contains {name} twice");
        }
        let invalid_names: Vec<&String> = resources
            .iter()
            .filter(|(_, _, body)| body.ends_with('!'))
            .map(|(name, ..)| name)
            .collect();
        let is_rejected = !invalid_names.is_empty();
        for (name, version, body) in resources.iter().filter(|(name, ..)| is_kept(name)) {
            // Envoy applies endpoints and routes only if the whole response is valid. Envoy applies every valid cluster
            // and listener, even of a rejected response.
            let is_applied = !is_rejected || (matches!(kind, Cluster | Listener) && !body.ends_with('!'));
            if is_applied {
                self.apply(kind, name, body);
            }
            if !is_rejected {
                self.versions
                    .entry(kind)
                    .or_default()
                    .insert(name.clone(), version.clone());
                self.rejected.remove(&(kind, name.clone()));
                self.missing.remove(&(kind, name.clone()));
            }
        }
        for name in invalid_names {
            self.rejected.insert((kind, name.clone()));
        }
        if !is_rejected || matches!(kind, Cluster | Listener) {
            for name in response.removed_resources.iter().filter(|name| is_kept(name)) {
                self.remove(kind, name);
            }
        }
        self.check_references();
        let mut requests = self.update_subscriptions();
        requests.push(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: is_rejected.then(|| Status {
                code: 13,
                message: "rejected".into(),
            }),
            ..Default::default()
        });
        if kind == Cluster && !self.has_requested_listeners {
            self.has_requested_listeners = true;
            requests.push(self.first_request(Listener));
        }
        requests
    }

    fn apply(&mut self, kind: ResourceKind, name: &str, body: &str) {
        self.applied
            .entry(kind)
            .or_default()
            .insert(name.to_owned(), body.to_owned());
        match kind {
            Cluster if body.starts_with("eds") => {
                self.warming.insert(name.to_owned());
            }
            Cluster | Endpoints => {
                self.warming.remove(name);
            }
            _ => {}
        }
    }

    fn remove(&mut self, kind: ResourceKind, name: &str) {
        self.versions.entry(kind).or_default().remove(name);
        if self
            .subscribed
            .get(&kind)
            .is_some_and(|names| names.contains(name))
        {
            self.missing.insert((kind, name.to_owned()));
        }
        // The removal of a warming cluster's endpoints ends the warming: the cluster continues with the endpoints that
        // it has.
        if matches!(kind, Cluster | Endpoints) {
            self.warming.remove(name);
        }
        let was_applied = self.applied.entry(kind).or_default().remove(name).is_some();
        if was_applied {
            // The rejection of a cluster that was never applied is kept, because listeners may still refer to the
            // cluster.
            self.rejected.remove(&(kind, name.to_owned()));
        }
    }

    /// Subscribes to the endpoints of new clusters and the routes of new listeners, and unsubscribes from the endpoints
    /// of removed clusters and the routes of removed listeners. Envoy does not subscribe again to the endpoints of a
    /// changed cluster.
    fn update_subscriptions(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let clusters = self.applied(Cluster);
        let eds_clusters = clusters
            .iter()
            .filter(|(_, body)| body.starts_with("eds"))
            .map(|(name, _)| name.clone());
        let routes = self
            .applied(Listener)
            .into_values()
            .filter_map(|body| route_of(&body));
        let wanted = [
            (Endpoints, eds_clusters.collect::<BTreeSet<_>>()),
            (Route, routes.collect()),
        ];
        let mut requests = Vec::new();
        for (kind, wanted) in wanted {
            let names = self.subscribed.entry(kind).or_default();
            let added: Vec<String> = wanted.difference(names).cloned().collect();
            let dropped: Vec<String> = names.difference(&wanted).cloned().collect();
            *names = wanted;
            for name in &dropped {
                self.versions.entry(kind).or_default().remove(name);
                self.applied.entry(kind).or_default().remove(name);
                self.rejected.remove(&(kind, name.clone()));
                self.missing.remove(&(kind, name.clone()));
            }
            if !added.is_empty() || !dropped.is_empty() {
                requests.push(subscription_change(kind, added, dropped));
            }
        }
        requests
    }

    /// Checks that every cluster to which an applied listener refers exists or was rejected. A listener whose newest
    /// body was rejected is not checked.
    fn check_references(&self) {
        let clusters = self.applied(Cluster);
        for (listener, body) in self.applied(Listener) {
            if self.rejected.contains(&(Listener, listener.clone())) {
                continue;
            }
            for cluster in clusters_of(&body) {
                assert!(
                    clusters.contains_key(&cluster) || self.rejected.contains(&(Cluster, cluster.clone())),
                    "{listener} ({body}) refers to {cluster}, which does not exist"
                );
            }
        }
    }
}

fn subscription_change(
    kind: ResourceKind,
    added: impl IntoIterator<Item = String>,
    dropped: impl IntoIterator<Item = String>,
) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_subscribe: added.into_iter().collect(),
        resource_names_unsubscribe: dropped.into_iter().collect(),
        ..Default::default()
    }
}

/// Returns the name, version and body of an encoded resource.
pub(super) fn decode(encoded: &bytes::Bytes) -> (String, String, String) {
    let resource = Resource::decode(encoded.clone()).expect("a resource");
    let body = resource.resource.expect("a body").value;
    (
        resource.name,
        resource.version,
        String::from_utf8(body.to_vec()).expect("text"),
    )
}

/// Returns the clusters that the body of a listener refers to.
fn clusters_of(listener_body: &str) -> Vec<String> {
    let references = listener_body.split([':', '/']).next().unwrap_or_default();
    references
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Returns the route that the body of a listener refers to.
fn route_of(listener_body: &str) -> Option<String> {
    let (_, rest) = listener_body.split_once('/')?;
    Some(rest.split(':').next()?.to_owned())
}
