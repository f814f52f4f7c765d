//! A client that behaves as Envoy does towards its management server, and watches over what it is told.
//!
//! Bodies are text: `eds:1`, `static:1` for clusters, `1` for endpoints, `c0,c1/r0:1` for listeners (clusters, then an
//! optional route). A body that ends in `!` is refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kermode_envoy::ResourceKind::{self, Cluster, Endpoints, Listener, Route};
use prost::Message;

use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, Status};

type Bodies = BTreeMap<String, String>;

#[derive(Default)]
pub(super) struct Envoy {
    /// What is in effect.
    pub(super) applied: HashMap<ResourceKind, Bodies>,
    /// Name and version of what was accepted, as a new stream is told.
    versions: HashMap<ResourceKind, BTreeMap<String, String>>,
    /// Subscribed names.
    pub(super) names: HashMap<ResourceKind, BTreeSet<String>>,
    /// Names whose last version was refused.
    pub(super) refused: BTreeSet<(ResourceKind, String)>,
    /// Clusters that wait for endpoints.
    pub(super) warming: BTreeSet<String>,
    /// Whether listeners have been asked for.
    pub(super) listening: bool,
    /// Names told to be missing since they were asked for.
    pub(super) missing: BTreeSet<(ResourceKind, String)>,
}

impl Envoy {
    pub(super) fn applied(&self, kind: ResourceKind) -> Bodies {
        self.applied.get(&kind).cloned().unwrap_or_default()
    }

    /// The first requests of a stream.
    pub(super) fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        // What Envoy applied of a response that it refused it does not mention to the next server. No server can
        // know, so this is not looked at: as if only what it mentions were there.
        self.applied = self.versions.clone();
        let mut requests = vec![self.first(Cluster)];
        if self.names.get(&Endpoints).is_some_and(|names| !names.is_empty()) {
            requests.push(self.first(Endpoints));
        }
        if self.listening {
            requests.push(self.first(Listener));
        }
        if self.names.get(&Route).is_some_and(|names| !names.is_empty()) {
            requests.push(self.first(Route));
        }
        requests
    }

    fn first(&self, kind: ResourceKind) -> DeltaDiscoveryRequest {
        let mut subscribe: Vec<String> = self.names.get(&kind).into_iter().flatten().cloned().collect();
        if kind == Cluster && !subscribe.is_empty() {
            subscribe.push("*".into());
        }
        DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: subscribe,
            initial_resource_versions: self.versions.get(&kind).into_iter().flatten().map(own).collect(),
            ..Default::default()
        }
    }

    /// Asks for a cluster by name, as on-demand discovery does.
    pub(super) fn ask(&mut self, name: &str) -> Vec<DeltaDiscoveryRequest> {
        if !self.names.entry(Cluster).or_default().insert(name.into()) {
            return Vec::new();
        }
        vec![subscribe(Cluster, [name.to_owned()], [])]
    }

    /// Takes that back.
    pub(super) fn unask(&mut self, name: &str) -> Vec<DeltaDiscoveryRequest> {
        if !self.names.entry(Cluster).or_default().remove(name) {
            return Vec::new();
        }
        self.missing.remove(&(Cluster, name.to_owned()));
        vec![subscribe(Cluster, [], [name.to_owned()])]
    }

    /// Takes a response; returns the requests it leads to, the answer last.
    pub(super) fn receive(&mut self, response: &DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryRequest> {
        let kind = ResourceKind::from_type_url(&response.type_url).expect("a kind we know");
        let resources: Vec<(String, String, String)> = response.resources.iter().map(read).collect();
        // What it has unsubscribed from meanwhile it accepts and forgets.
        let names = self.names.get(&kind).cloned().unwrap_or_default();
        let wanted = |name: &String| matches!(kind, Cluster | Listener) || names.contains(name);
        let mut seen = BTreeSet::new();
        for name in resources
            .iter()
            .map(|(name, ..)| name)
            .chain(&response.removed_resources)
        {
            assert!(seen.insert(name), "{name} is in one response twice");
        }
        let bad: Vec<&String> = resources
            .iter()
            .filter(|(_, _, body)| body.ends_with('!'))
            .map(|(name, ..)| name)
            .collect();
        let refused = !bad.is_empty();
        for (name, version, body) in resources.iter().filter(|(name, ..)| wanted(name)) {
            // Endpoints and routes are all or nothing, of clusters and listeners the good ones count.
            let counts = !refused || (matches!(kind, Cluster | Listener) && !body.ends_with('!'));
            if counts {
                self.apply(kind, name, body);
            }
            if !refused {
                self.versions
                    .entry(kind)
                    .or_default()
                    .insert(name.clone(), version.clone());
                self.refused.remove(&(kind, name.clone()));
                self.missing.remove(&(kind, name.clone()));
            }
        }
        for name in bad {
            self.refused.insert((kind, name.clone()));
        }
        if !refused || matches!(kind, Cluster | Listener) {
            for name in response.removed_resources.iter().filter(|name| wanted(name)) {
                self.remove(kind, name);
            }
        }
        self.check_references();
        let mut requests = self.follow();
        requests.push(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: refused.then(|| Status {
                code: 13,
                message: "refused".into(),
            }),
            ..Default::default()
        });
        if kind == Cluster && !self.listening {
            self.listening = true;
            requests.push(self.first(Listener));
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
        if self.names.get(&kind).is_some_and(|names| names.contains(name)) {
            self.missing.insert((kind, name.to_owned()));
        }
        // Without endpoints, a waiting cluster goes on with those it has.
        if matches!(kind, Cluster | Endpoints) {
            self.warming.remove(name);
        }
        let had = self.applied.entry(kind).or_default().remove(name).is_some();
        if had {
            // What it never had, since it refused it, its listeners lack as before.
            self.refused.remove(&(kind, name.to_owned()));
        }
    }

    /// Subscribes to the endpoints of new clusters and the routes of new listeners, and from those of gone ones. A
    /// cluster that changed does not ask again.
    fn follow(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let clusters = self.applied(Cluster);
        let eds = clusters
            .iter()
            .filter(|(_, body)| body.starts_with("eds"))
            .map(|(name, _)| name.clone());
        let routes = self
            .applied(Listener)
            .into_values()
            .filter_map(|body| route_of(&body));
        let wanted = [
            (Endpoints, eds.collect::<BTreeSet<_>>()),
            (Route, routes.collect()),
        ];
        let mut requests = Vec::new();
        for (kind, wanted) in wanted {
            let names = self.names.entry(kind).or_default();
            let added: Vec<String> = wanted.difference(names).cloned().collect();
            let dropped: Vec<String> = names.difference(&wanted).cloned().collect();
            *names = wanted;
            for name in &dropped {
                self.versions.entry(kind).or_default().remove(name);
                self.applied.entry(kind).or_default().remove(name);
                self.refused.remove(&(kind, name.clone()));
                self.missing.remove(&(kind, name.clone()));
            }
            if !added.is_empty() || !dropped.is_empty() {
                requests.push(subscribe(kind, added, dropped));
            }
        }
        requests
    }

    /// Every listener's clusters are there, unless one of them was refused.
    fn check_references(&self) {
        let clusters = self.applied(Cluster);
        for (listener, body) in self.applied(Listener) {
            if self.refused.contains(&(Listener, listener.clone())) {
                continue;
            }
            for cluster in clusters_of(&body) {
                assert!(
                    clusters.contains_key(&cluster) || self.refused.contains(&(Cluster, cluster.clone())),
                    "{listener} ({body}) refers to {cluster}, which is not there"
                );
            }
        }
    }
}

fn own((name, version): (&String, &String)) -> (String, String) {
    (name.clone(), version.clone())
}

fn subscribe(
    kind: ResourceKind,
    names: impl IntoIterator<Item = String>,
    dropped: impl IntoIterator<Item = String>,
) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_subscribe: names.into_iter().collect(),
        resource_names_unsubscribe: dropped.into_iter().collect(),
        ..Default::default()
    }
}

/// Name, version and body of a resource.
pub(super) fn read(encoded: &bytes::Bytes) -> (String, String, String) {
    let resource = Resource::decode(encoded.clone()).expect("a resource");
    let body = resource.resource.expect("a body").value;
    (
        resource.name,
        resource.version,
        String::from_utf8(body.to_vec()).expect("text"),
    )
}

fn clusters_of(listener: &str) -> Vec<String> {
    let references = listener.split([':', '/']).next().unwrap_or_default();
    references
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn route_of(listener: &str) -> Option<String> {
    let (_, rest) = listener.split_once('/')?;
    Some(rest.split(':').next()?.to_owned())
}
