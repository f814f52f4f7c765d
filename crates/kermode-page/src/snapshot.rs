//! The current snapshot of the Dataplanes and the current graphs, made when a client asks and the last one is too old.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kermode_model::MeshName;
use parking_lot::Mutex;

use crate::Sources;
use crate::dataplanes::Snapshot;
use crate::graph::{Graph, GraphInput};

/// Age up to which a snapshot or graph is used again. Many clients therefore cost one of them in this time.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Maximum number of graphs that are kept. Bounds the memory, since a client may name meshes that do not exist.
const MAX_GRAPHS: usize = 16;

/// Cache of the snapshot.
pub(crate) struct Snapshots {
    /// Distinguishes the revisions of this process from those of another replica or of an earlier process.
    epoch: u64,
    current: Mutex<(Option<Instant>, Arc<Snapshot>)>,
}

impl Snapshots {
    pub(crate) fn new() -> Self {
        Self {
            epoch: fastrand::u64(..),
            current: Mutex::default(),
        }
    }

    /// Returns a snapshot that is at most [`MAX_AGE`] old. Concurrent callers wait for one new snapshot. The engine
    /// waits only while references to the Dataplanes are copied.
    pub(crate) fn current(&self, sources: &Sources) -> Arc<Snapshot> {
        let mut current = self.current.lock();
        let (made_at, snapshot) = &mut *current;
        if made_at.is_none_or(|made_at| made_at.elapsed() >= MAX_AGE) {
            let dataplanes = sources.copy_from_view(|view| view.dataplanes().cloned().collect());
            let summaries = sources.proxies.summaries();
            *snapshot = Arc::new(snapshot.next(dataplanes, |key| summaries.get(key).copied()));
            *made_at = Some(Instant::now());
        }
        snapshot.clone()
    }

    /// Returns the revision of a snapshot, as clients send it back.
    pub(crate) fn revision(&self, snapshot: &Snapshot) -> String {
        format!("{:016x}-{}", self.epoch, snapshot.number)
    }

    /// Returns the number of the snapshot of a revision; `None` for a revision of another process.
    pub(crate) fn number(&self, revision: &str) -> Option<u64> {
        let (epoch, number) = revision.split_once('-')?;
        let is_own = u64::from_str_radix(epoch, 16) == Ok(self.epoch);
        number.parse().ok().filter(|_| is_own)
    }
}

/// Cache of the graphs, by mesh.
#[derive(Default)]
pub(crate) struct Graphs(Mutex<BTreeMap<MeshName, (Instant, Arc<Graph>)>>);

impl Graphs {
    /// Returns a graph that is at most [`MAX_AGE`] old. Concurrent callers wait for one new graph.
    pub(crate) fn current(&self, sources: &Sources, mesh: &MeshName) -> Option<Arc<Graph>> {
        let mut graphs = self.0.lock();
        graphs.retain(|_, (made_at, _)| made_at.elapsed() < MAX_AGE);
        if let Some((_, graph)) = graphs.get(mesh) {
            return Some(graph.clone());
        }
        let input = sources.copy_from_view(|view| Some(GraphInput::new(view, mesh)))?;
        let graph = Arc::new(Graph::from(input));
        if graphs.len() < MAX_GRAPHS {
            graphs.insert(mesh.clone(), (Instant::now(), graph.clone()));
        }
        Some(graph)
    }
}
