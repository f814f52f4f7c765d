//! Changes caused by a write to the index: touched parts of the mesh view, and Dataplanes to write.

use std::sync::Arc;

use kermode_model::view::Touched;
use kermode_model::{Dataplane, ObjectKey};

use crate::convert::{ConvertError, ConvertWarning};

/// Changes caused by one write to the index, or several. Empty when nothing changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Parts of the mesh view whose Envoy resources have to be generated again, sorted, each once.
    pub touched: Vec<Touched>,
    /// Dataplanes to write, and warnings about Pods to report.
    pub dataplanes: Vec<DataplaneChange>,
    /// Dataplanes whose application has finished, so that their sidecar has to quit.
    pub completed: Vec<Arc<Dataplane>>,
}

/// A change of one Dataplane.
#[derive(Clone, Debug, PartialEq)]
pub enum DataplaneChange {
    /// The Dataplane has to be created or replaced.
    Upsert {
        /// The Dataplane, with the key of its Pod.
        dataplane: Arc<Dataplane>,
        /// UID of the Pod that owns it.
        pod_uid: Arc<str>,
        /// Warnings to report on the Pod; empty if the same ones were reported before.
        warnings: Arc<[ConvertWarning]>,
    },
    /// The Dataplane has to be deleted.
    Delete(ObjectKey),
    /// The Pod cannot be converted. Its last valid Dataplane stays in use.
    Failed {
        /// Namespace and name of the Pod.
        key: ObjectKey,
        /// UID of the Pod.
        pod_uid: Arc<str>,
        /// Reason.
        error: ConvertError,
    },
}

impl Changes {
    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.dataplanes.is_empty() && self.completed.is_empty()
    }

    /// Appends later changes.
    pub fn extend(&mut self, later: Self) {
        self.touched.extend(later.touched);
        self.dataplanes.extend(later.dataplanes);
        self.completed.extend(later.completed);
        self.sort();
    }

    pub(super) fn of_view(touched: Vec<Touched>) -> Self {
        Self {
            touched,
            ..Self::default()
        }
        .sorted()
    }

    pub(super) fn sorted(mut self) -> Self {
        self.sort();
        self
    }

    fn sort(&mut self) {
        self.touched.sort_unstable();
        self.touched.dedup();
    }
}

/// Attributes of a Pod that authenticate its proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodIdentity<'i> {
    /// Service account of the Pod.
    pub service_account: &'i str,
    /// UID of the Pod.
    pub uid: &'i str,
}

/// A Dataplane as it has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desired<'i> {
    /// The Dataplane.
    pub dataplane: &'i Arc<Dataplane>,
    /// UID of the Pod that owns it.
    pub pod_uid: &'i Arc<str>,
}
