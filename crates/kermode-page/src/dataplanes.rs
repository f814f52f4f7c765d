//! The list of Dataplanes: rows, filter, paging and changes since a revision. Pure.
//!
//! The rows are sorted by namespace and name. A cursor is the name of the last row of a page, so a page continues at the
//! same place after rows were added or removed. Each row has the number of the snapshot that changed it last, so an
//! update contains only the rows that changed since the client's revision.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use kermode_model::{Dataplane, MeshName, ObjectKey, ServiceName};
use kermode_status::ProxySummary;
use serde::{Deserialize, Serialize};

/// Number of rows of a page if the client asks for no number.
const DEFAULT_LIMIT: usize = 50;
/// Maximum number of rows of a page. Bounds the size of a response.
const MAX_LIMIT: usize = 200;
/// Maximum number of services that a row names. Bounds the size of a row.
const MAX_SERVICES: usize = 8;

/// State of a proxy's configuration, from the worst to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SyncState {
    /// Envoy rejects the current version of a resource.
    Rejected,
    /// The proxy has no stream to this replica. It may have one to another replica.
    NotConnected,
    /// The proxy has not acknowledged everything that was sent.
    Pending,
    /// The proxy has acknowledged everything that was sent.
    Synchronised,
}

/// One Dataplane in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Namespace of the Pod.
    pub namespace: Arc<str>,
    /// Name of the Pod.
    pub name: Arc<str>,
    /// Mesh of the proxy.
    pub mesh: MeshName,
    /// First IP of the Pod.
    pub address: String,
    /// Services of the inbounds or of the gateway; the first [`MAX_SERVICES`].
    pub services: Vec<ServiceName>,
    /// Whether the Pod is a gateway.
    pub gateway: bool,
    /// Number of inbounds.
    pub inbounds: usize,
    /// Number of inbounds that may receive traffic.
    pub ready: usize,
    /// State of the configuration.
    pub state: SyncState,
}

/// A row of a snapshot, with what the row was made of.
#[derive(Clone, Debug)]
pub struct Entry {
    dataplane: Arc<Dataplane>,
    row: Arc<Row>,
    /// Text in lower case that the filter searches.
    search_text: Arc<str>,
    /// Number of the snapshot that changed the row last.
    changed_in: u64,
}

/// All Dataplanes at one time, sorted by namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Number of the snapshot, which grows with each change.
    pub number: u64,
    entries: Vec<Entry>,
}

/// Query parameters of the list.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ListQuery {
    /// Mesh of the Dataplanes; all if empty.
    #[serde(default)]
    pub mesh: String,
    /// Namespace of the Dataplanes; all if empty.
    #[serde(default)]
    pub namespace: String,
    /// Part of the name, service or address, in any case; all if empty.
    #[serde(default)]
    pub text: String,
    /// State of the Dataplanes; all if absent.
    pub state: Option<SyncState>,
    /// Name (`namespace/name`) after which the page starts; the first page if empty.
    #[serde(default)]
    pub after: String,
    /// Number of rows.
    pub limit: Option<usize>,
}

/// Rows of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct List {
    /// Number of Dataplanes.
    pub total: usize,
    /// Number of Dataplanes that match the filter.
    pub matching: usize,
    /// Number of Dataplanes that match the filter without its state, by state.
    pub states: BTreeMap<SyncState, usize>,
    /// Names (`namespace/name`) of the rows of the page, in their order.
    pub names: Vec<String>,
    /// Rows of the page that changed since the client's revision; all if the client sent none.
    pub rows: Vec<Arc<Row>>,
    /// Cursor of the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

// === impl SyncState ===

impl SyncState {
    /// Returns the state of a proxy; `None` for a proxy that is not connected to the replica.
    pub fn of(proxy: Option<&ProxySummary>) -> Self {
        match proxy {
            None => Self::NotConnected,
            Some(proxy) if proxy.rejected_resources > 0 => Self::Rejected,
            Some(proxy) if proxy.sent == 0 || proxy.acknowledged < proxy.sent => Self::Pending,
            Some(_) => Self::Synchronised,
        }
    }
}

// === impl Row ===

impl Row {
    fn new(dataplane: &Dataplane, state: SyncState) -> Self {
        let inbounds = || {
            dataplane
                .inbounds
                .iter()
                .filter(|inbound| !inbound.is_placeholder())
        };
        let mut services = dataplane.services();
        services.truncate(MAX_SERVICES);
        Self {
            namespace: dataplane.key.namespace.clone(),
            name: dataplane.key.name.clone(),
            mesh: dataplane.mesh.clone(),
            address: dataplane.address.to_string(),
            services,
            gateway: dataplane.gateway.is_some(),
            inbounds: inbounds().count(),
            ready: inbounds().filter(|inbound| inbound.is_ready()).count(),
            state,
        }
    }

    fn search_text(&self) -> String {
        let mut text = format!("{}/{} {}", self.namespace, self.name, self.address);
        for service in &self.services {
            // Writing to a String cannot fail.
            let _ = write!(text, " {service}");
        }
        text.to_lowercase()
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Returns the next snapshot. The number grows if a row was added, changed or removed. Unchanged rows are shared with
    /// the previous snapshot.
    #[must_use]
    pub fn next(
        &self,
        mut dataplanes: Vec<Arc<Dataplane>>,
        proxy: impl Fn(&ObjectKey) -> Option<ProxySummary>,
    ) -> Self {
        dataplanes.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        let next_number = self.number + 1;
        let mut has_changed = dataplanes.len() != self.entries.len();
        let mut previous = self.entries.iter().peekable();
        let mut entries = Vec::with_capacity(dataplanes.len());
        for dataplane in dataplanes {
            // Removed Dataplanes. A removal changes the number of Dataplanes, unless another one was added, which is a change, too.
            while previous
                .next_if(|entry| entry.dataplane.key < dataplane.key)
                .is_some()
            {}
            let old = previous.next_if(|entry| entry.dataplane.key == dataplane.key);
            let state = SyncState::of(proxy(&dataplane.key).as_ref());
            let entry = Entry::new(dataplane, state, old, next_number);
            has_changed |= entry.changed_in == next_number;
            entries.push(entry);
        }
        let number = if has_changed { next_number } else { self.number };
        Self { number, entries }
    }

    /// Number of Dataplanes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no Dataplanes.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns a page of the list. With `since`, the rows contain only those that changed after this snapshot.
    pub fn list(&self, query: &ListQuery, since: Option<u64>) -> List {
        let limit = query.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
        let text = query.text.to_lowercase();
        let after = query.after.split_once('/');
        let mut list = List {
            total: self.entries.len(),
            matching: 0,
            states: BTreeMap::new(),
            names: Vec::new(),
            rows: Vec::new(),
            next: None,
        };
        for entry in self.entries.iter().filter(|entry| entry.matches(query, &text)) {
            let row = &entry.row;
            *list.states.entry(row.state).or_default() += 1;
            if query.state.is_some_and(|state| state != row.state) {
                continue;
            }
            list.matching += 1;
            if after.is_some_and(|after| (&*row.namespace, &*row.name) <= after) {
                continue;
            }
            if list.names.len() == limit {
                list.next = list.names.last().cloned();
                continue;
            }
            list.names.push(format!("{}/{}", row.namespace, row.name));
            if since.is_none_or(|since| entry.changed_in > since) {
                list.rows.push(row.clone());
            }
        }
        list
    }

    /// Returns the names of all meshes and namespaces with a Dataplane, for the choices of the filter.
    pub fn meshes_and_namespaces(&self) -> (Vec<MeshName>, Vec<Arc<str>>) {
        let mut meshes: Vec<_> = self.entries.iter().map(|entry| entry.row.mesh.clone()).collect();
        meshes.sort_unstable();
        meshes.dedup();
        let mut namespaces: Vec<_> = self
            .entries
            .iter()
            .map(|entry| entry.row.namespace.clone())
            .collect();
        // The rows are sorted by namespace.
        namespaces.dedup();
        (meshes, namespaces)
    }
}

// === impl Entry ===

impl Entry {
    fn new(dataplane: Arc<Dataplane>, state: SyncState, old: Option<&Self>, number: u64) -> Self {
        let is_same_dataplane =
            |old: &&Self| Arc::ptr_eq(&old.dataplane, &dataplane) && old.row.state == state;
        if let Some(old) = old.filter(is_same_dataplane) {
            return old.clone();
        }
        let row = Row::new(&dataplane, state);
        // A change of the Dataplane that the row does not show, such as a tag, is no change of the row.
        match old.filter(|old| *old.row == row) {
            Some(old) => Self {
                dataplane,
                ..old.clone()
            },
            None => Self {
                dataplane,
                search_text: row.search_text().into(),
                row: Arc::new(row),
                changed_in: number,
            },
        }
    }

    /// Whether the row matches the filter except for its state. `text` is in lower case.
    fn matches(&self, query: &ListQuery, text: &str) -> bool {
        let row = &self.row;
        (query.mesh.is_empty() || query.mesh == row.mesh.as_str())
            && (query.namespace.is_empty() || query.namespace == *row.namespace)
            && (text.is_empty() || self.search_text.contains(text))
    }
}

#[cfg(test)]
pub(crate) mod tests;
