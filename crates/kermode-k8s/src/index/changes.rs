//! What one write to the index changed.

use std::sync::Arc;

use kermode_model::view::Touched;
use kermode_model::{Dataplane, ObjectKey};

use crate::convert::{ConvertError, ConvertWarning};

/// What one write to the index changed. Empty when it changed nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// What has to be generated anew, sorted, each once.
    pub touched: Vec<Touched>,
    /// What has to be written back, or told, about Dataplanes.
    pub dataplanes: Vec<DataplaneChange>,
    /// Dataplanes whose application has just ended for good and whose sidecar has to be told to quit.
    pub completed: Vec<Arc<Dataplane>>,
}

/// One Dataplane that is no longer as it was.
#[derive(Clone, Debug, PartialEq)]
pub enum DataplaneChange {
    /// It is to be created or replaced.
    Upsert {
        /// The Dataplane; it has the key of its Pod.
        dataplane: Arc<Dataplane>,
        /// The Pod that owns it.
        pod_uid: Arc<str>,
        /// What to tell on the Pod, unless it has been told already.
        warnings: Arc<[ConvertWarning]>,
    },
    /// There is to be none any more.
    Delete(ObjectKey),
    /// It cannot be made. An earlier one stays in force.
    Failed {
        /// Namespace and name of the Pod.
        key: ObjectKey,
        /// The Pod.
        pod_uid: Arc<str>,
        /// Why.
        error: ConvertError,
    },
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.dataplanes.is_empty() && self.completed.is_empty()
    }

    /// Adds later changes to these.
    pub fn extend(&mut self, later: Self) {
        self.touched.extend(later.touched);
        self.dataplanes.extend(later.dataplanes);
        self.completed.extend(later.completed);
        self.settle();
    }

    pub(super) fn of_view(touched: Vec<Touched>) -> Self {
        Self {
            touched,
            ..Self::default()
        }
        .settled()
    }

    pub(super) fn settled(mut self) -> Self {
        self.settle();
        self
    }

    fn settle(&mut self) {
        self.touched.sort_unstable();
        self.touched.dedup();
    }
}

/// Who a proxy may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodIdentity<'i> {
    /// The service account its Pod runs as.
    pub service_account: &'i str,
    /// The Pod.
    pub uid: &'i str,
}

/// A Dataplane as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desired<'i> {
    /// The Dataplane.
    pub dataplane: &'i Arc<Dataplane>,
    /// The Pod that owns it.
    pub pod_uid: &'i Arc<str>,
}
