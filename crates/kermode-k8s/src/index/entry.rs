//! One Pod in the index: its facts and what became of them.

use std::sync::Arc;

use kermode_model::view::MeshView;
use kermode_model::{Dataplane, ObjectKey};

use super::changes::{Changes, DataplaneChange};
use crate::convert::facts::{PodFacts, PodPhase};
use crate::convert::{self, ConvertError, ConvertWarning, Converted, completion};

/// One injected Pod.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) facts: PodFacts,
    pub(super) made: Option<Made>,
    pub(super) error: Option<ConvertError>,
    told_to_quit: bool,
}

/// The Dataplane in force.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Made {
    pub(super) dataplane: Arc<Dataplane>,
    pub(super) pod_uid: Arc<str>,
    pub(super) warnings: Arc<[ConvertWarning]>,
}

// === impl Entry ===

impl Entry {
    pub(super) fn new(facts: PodFacts) -> Self {
        Self {
            facts,
            made: None,
            error: None,
            told_to_quit: false,
        }
    }

    pub(super) fn key(&self) -> &ObjectKey {
        &self.facts.key
    }

    /// Puts a new result in force.
    ///
    /// A Pod that cannot be converted keeps its last good Dataplane, but not its health: a terminating Pod must not
    /// stay a destination because of a typing error. Nor does a Pod inherit from an earlier one of its name.
    pub(super) fn conclude(
        &mut self,
        result: Result<Option<Converted>, ConvertError>,
        view: &mut MeshView,
        changes: &mut Changes,
    ) {
        let (converted, error) = match result {
            Ok(converted) => (converted, None),
            Err(error) => (self.last_good(), Some(error)),
        };
        self.put_in_force(converted, view, changes);
        if let Some(error) = error.as_ref().filter(|error| self.error.as_ref() != Some(*error)) {
            changes.dataplanes.push(DataplaneChange::Failed {
                key: self.key().clone(),
                pod_uid: self.facts.uid.clone(),
                error: error.clone(),
            });
        }
        self.error = error;
        self.tell_to_quit(changes);
    }

    /// What there is to tell on the Pod.
    pub(super) fn complaints(&self) -> impl Iterator<Item = DataplaneChange> {
        let failed = self.error.as_ref().map(|error| DataplaneChange::Failed {
            key: self.key().clone(),
            pod_uid: self.facts.uid.clone(),
            error: error.clone(),
        });
        let warned = self.made.as_ref().filter(|made| !made.warnings.is_empty());
        let warned = warned.map(|made| DataplaneChange::Upsert {
            dataplane: made.dataplane.clone(),
            pod_uid: made.pod_uid.clone(),
            warnings: made.warnings.clone(),
        });
        failed.into_iter().chain(warned)
    }

    fn last_good(&self) -> Option<Converted> {
        let made = self.made.as_ref().filter(|made| made.pod_uid == self.facts.uid)?;
        Some(Converted {
            dataplane: convert::refreshed(&self.facts, &made.dataplane),
            warnings: made.warnings.to_vec(),
        })
    }

    fn put_in_force(&mut self, converted: Option<Converted>, view: &mut MeshView, changes: &mut Changes) {
        let Some(converted) = converted else {
            self.withdraw(view, changes);
            return;
        };
        let made = Made {
            dataplane: self.enter(converted.dataplane, view, changes),
            pod_uid: self.facts.uid.clone(),
            warnings: converted.warnings.into(),
        };
        if self.made.as_ref() != Some(&made) {
            let told = self
                .made
                .as_ref()
                .is_some_and(|before| before.warnings == made.warnings);
            changes.dataplanes.push(DataplaneChange::Upsert {
                dataplane: made.dataplane.clone(),
                pod_uid: made.pod_uid.clone(),
                warnings: if told {
                    Arc::default()
                } else {
                    made.warnings.clone()
                },
            });
            self.made = Some(made);
        }
    }

    /// Enters a Dataplane into the view. A failed Pod's has no place there: nothing runs behind its address, which
    /// may already be another Pod's.
    fn enter(&self, dataplane: Dataplane, view: &mut MeshView, changes: &mut Changes) -> Arc<Dataplane> {
        if self.facts.phase == PodPhase::Failed {
            changes.touched.extend(view.remove_dataplane(self.key()));
            return Arc::new(dataplane);
        }
        let in_force = self.made.as_ref().map(|made| &made.dataplane);
        if let (Some(in_force), Some(entered)) = (in_force, view.dataplane(self.key()))
            && Arc::ptr_eq(in_force, entered)
            && **in_force == dataplane
        {
            return in_force.clone();
        }
        let fallback = Arc::new(dataplane.clone());
        changes.touched.extend(view.upsert_dataplane(dataplane));
        view.dataplane(self.key()).cloned().unwrap_or(fallback)
    }

    /// Takes the Dataplane away.
    pub(super) fn withdraw(&mut self, view: &mut MeshView, changes: &mut Changes) {
        changes.touched.extend(view.remove_dataplane(self.key()));
        if self.made.take().is_some() {
            changes
                .dataplanes
                .push(DataplaneChange::Delete(self.key().clone()));
        }
    }

    /// Once for each time that the application has ended.
    fn tell_to_quit(&mut self, changes: &mut Changes) {
        let quits = completion::sidecar_should_quit(&self.facts);
        if let Some(made) = self.made.as_ref().filter(|_| quits && !self.told_to_quit) {
            changes.completed.push(made.dataplane.clone());
        }
        self.told_to_quit = quits && self.made.is_some();
    }
}
