//! Results of reads and writes of the index: changes, identities of Pods, and desired Dataplanes.

use std::sync::Arc;

use kermode_model::view::Touched;
use kermode_model::{Dataplane, ObjectKey};

use crate::convert::{ConvertError, ConvertWarning};

/// Changes caused by one or several writes to the index. Empty when nothing changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Parts of the mesh view whose Envoy resources must be regenerated, sorted and without duplicates.
    pub touched: Vec<Touched>,
    /// Dataplanes to write or delete, and errors and warnings about Pods to report.
    pub dataplanes: Vec<DataplaneChange>,
    /// Dataplanes of Pods whose application has finished and whose sidecar must quit.
    pub sidecars_to_quit: Vec<Arc<Dataplane>>,
}

/// A change of one Dataplane, or the error of its Pod's conversion.
#[derive(Clone, Debug, PartialEq)]
pub enum DataplaneChange {
    /// The Dataplane must be created or replaced.
    Upsert {
        /// The Dataplane. It has the key of its Pod.
        dataplane: Arc<Dataplane>,
        /// UID of the Pod that owns the Dataplane.
        pod_uid: Arc<str>,
        /// Warnings to report on the Pod; empty if the same warnings have already been reported.
        warnings: Arc<[ConvertWarning]>,
    },
    /// The Dataplane must be deleted.
    Delete(ObjectKey),
    /// The Pod cannot be converted. Its last valid Dataplane, if any, stays in use, with the Pod's current address and
    /// health.
    Failed {
        /// Namespace and name of the Pod.
        key: ObjectKey,
        /// UID of the Pod.
        pod_uid: Arc<str>,
        /// Error of the conversion.
        error: ConvertError,
    },
}

impl Changes {
    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.dataplanes.is_empty() && self.sidecars_to_quit.is_empty()
    }

    /// Appends later changes. `touched` stays sorted and without duplicates.
    pub fn extend(&mut self, later: Self) {
        self.touched.extend(later.touched);
        self.dataplanes.extend(later.dataplanes);
        self.sidecars_to_quit.extend(later.sidecars_to_quit);
        self.sort_touched();
    }

    /// Returns the changes of a write that affects only the mesh view.
    pub(super) fn of_view(touched: Vec<Touched>) -> Self {
        Self {
            touched,
            ..Self::default()
        }
        .with_sorted_touched()
    }

    /// Sorts `touched` and removes duplicates.
    pub(super) fn with_sorted_touched(mut self) -> Self {
        self.sort_touched();
        self
    }

    fn sort_touched(&mut self) {
        self.touched.sort_unstable();
        self.touched.dedup();
    }
}

/// Attributes of a Pod that identify its proxy in authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodIdentity<'i> {
    /// Service account of the Pod.
    pub service_account: &'i str,
    /// UID of the Pod.
    pub uid: &'i str,
}

/// The Dataplane that must exist for a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredDataplane<'i> {
    /// The Dataplane.
    pub dataplane: &'i Arc<Dataplane>,
    /// UID of the Pod that owns the Dataplane.
    pub pod_uid: &'i Arc<str>,
}
