//! One Pod in the index: its facts and the Dataplane converted from them.

use std::sync::Arc;

use kermode_model::view::MeshView;
use kermode_model::{Dataplane, ObjectKey};

use super::changes::{Changes, DataplaneChange};
use crate::convert::facts::PodFacts;
use crate::convert::{self, ConvertError, ConvertWarning, Converted, completion};

/// One injected Pod.
#[derive(Debug)]
pub(super) struct PodEntry {
    pub(super) facts: PodFacts,
    /// Last valid Dataplane; `None` if the Pod must not have a Dataplane, or if no conversion has succeeded yet.
    pub(super) current: Option<CurrentDataplane>,
    /// Error of the last conversion, if it failed.
    pub(super) error: Option<ConvertError>,
    /// Whether [`Changes::sidecars_to_quit`] has already reported the Pod.
    is_quit_reported: bool,
}

/// Last valid Dataplane of a Pod, which the control plane serves and the leader writes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CurrentDataplane {
    pub(super) dataplane: Arc<Dataplane>,
    pub(super) pod_uid: Arc<str>,
    pub(super) warnings: Arc<[ConvertWarning]>,
}

// === impl PodEntry ===

impl PodEntry {
    pub(super) fn new(facts: PodFacts) -> Self {
        Self {
            facts,
            current: None,
            error: None,
            is_quit_reported: false,
        }
    }

    /// Replaces the facts. A new Pod with the name of an earlier one gets reports of its own, even if they equal those
    /// about the earlier Pod.
    pub(super) fn replace_facts(&mut self, facts: PodFacts) {
        if self.facts.uid != facts.uid {
            self.error = None;
            self.is_quit_reported = false;
        }
        self.facts = facts;
    }

    pub(super) fn key(&self) -> &ObjectKey {
        &self.facts.key
    }

    /// Applies the result of a conversion to the entry and the view, and appends the changes. `Ok(None)` means that the
    /// Pod must not have a Dataplane.
    ///
    /// A Pod that cannot be converted keeps its last valid Dataplane, but the address and the health are updated, so
    /// that a terminating Pod with an invalid annotation is no longer an endpoint. A new Pod does not get the Dataplane
    /// of an earlier Pod of the same name. If the IP of the Pod belongs to another Pod now, the inbounds are unready,
    /// and the Pod has no endpoints.
    pub(super) fn apply_result(
        &mut self,
        result: Result<Option<Converted>, ConvertError>,
        is_ip_taken: bool,
        view: &mut MeshView,
        changes: &mut Changes,
    ) {
        let (mut converted, error) = match result {
            Ok(converted) => (converted, None),
            Err(error) => (self.last_valid(), Some(error)),
        };
        if let Some(converted) = converted.as_mut().filter(|_| is_ip_taken) {
            for inbound in &mut converted.dataplane.inbounds {
                inbound.ready = Some(false);
            }
        }
        self.set_dataplane(converted, is_ip_taken, view, changes);
        if let Some(error) = &error
            && self.error.as_ref() != Some(error)
        {
            changes.dataplanes.push(DataplaneChange::Failed {
                key: self.key().clone(),
                pod_uid: self.facts.uid.clone(),
                error: error.clone(),
            });
        }
        self.error = error;
        self.report_quit(changes);
    }

    /// Current error and warnings of the Pod, as the changes that report them.
    pub(super) fn problems(&self) -> impl Iterator<Item = DataplaneChange> {
        let failed = self.error.as_ref().map(|error| DataplaneChange::Failed {
            key: self.key().clone(),
            pod_uid: self.facts.uid.clone(),
            error: error.clone(),
        });
        let current = self.current.as_ref();
        let with_warnings = current.filter(|current| !current.warnings.is_empty());
        let warned = with_warnings.map(|current| DataplaneChange::Upsert {
            dataplane: current.dataplane.clone(),
            pod_uid: current.pod_uid.clone(),
            warnings: current.warnings.clone(),
        });
        failed.into_iter().chain(warned)
    }

    /// Returns the last valid Dataplane with the Pod's current address and health; `None` if the Dataplane belongs to
    /// an earlier Pod of the same name.
    fn last_valid(&self) -> Option<Converted> {
        let current = self.current.as_ref();
        let current = current.filter(|current| current.pod_uid == self.facts.uid)?;
        Some(Converted {
            dataplane: convert::with_current_address_and_health(&self.facts, &current.dataplane),
            warnings: current.warnings.to_vec(),
        })
    }

    fn set_dataplane(
        &mut self,
        converted: Option<Converted>,
        is_ip_taken: bool,
        view: &mut MeshView,
        changes: &mut Changes,
    ) {
        let Some(converted) = converted else {
            self.remove_dataplane(view, changes);
            return;
        };
        let new = CurrentDataplane {
            dataplane: self.update_view(converted.dataplane, is_ip_taken, view, changes),
            pod_uid: self.facts.uid.clone(),
            warnings: converted.warnings.into(),
        };
        if self.current.as_ref() != Some(&new) {
            let are_warnings_reported = self
                .current
                .as_ref()
                .is_some_and(|current| current.warnings == new.warnings && current.pod_uid == new.pod_uid);
            changes.dataplanes.push(DataplaneChange::Upsert {
                dataplane: new.dataplane.clone(),
                pod_uid: new.pod_uid.clone(),
                warnings: if are_warnings_reported {
                    Arc::default()
                } else {
                    new.warnings.clone()
                },
            });
            self.current = Some(new);
        }
    }

    /// Adds a Dataplane to the view, unless the view contains an equal Dataplane. Returns the Dataplane, which the view
    /// and the entry share.
    fn update_view(
        &self,
        dataplane: Dataplane,
        is_ip_taken: bool,
        view: &mut MeshView,
        changes: &mut Changes,
    ) -> Arc<Dataplane> {
        let dataplane = Arc::new(dataplane);
        changes.touched.extend(if is_ip_taken {
            view.upsert_dataplane_without_endpoints(dataplane.clone())
        } else {
            view.upsert_dataplane(dataplane.clone())
        });
        // The view keeps an equal Dataplane that it contains already.
        view.dataplane(self.key()).cloned().unwrap_or(dataplane)
    }

    /// Removes the Dataplane from the entry and the view.
    pub(super) fn remove_dataplane(&mut self, view: &mut MeshView, changes: &mut Changes) {
        changes.touched.extend(view.remove_dataplane(self.key()));
        if self.current.take().is_some() {
            changes
                .dataplanes
                .push(DataplaneChange::Delete(self.key().clone()));
        }
    }

    /// Reports once that the sidecar must quit because the application has finished.
    fn report_quit(&mut self, changes: &mut Changes) {
        let must_quit = completion::sidecar_must_quit(&self.facts);
        if let Some(current) = &self.current
            && must_quit
            && !self.is_quit_reported
        {
            changes.sidecars_to_quit.push(current.dataplane.clone());
        }
        self.is_quit_reported = must_quit && self.current.is_some();
    }
}
