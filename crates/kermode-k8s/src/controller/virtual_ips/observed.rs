//! The ConfigMap with virtual IPs, as the watch last delivered it.

use k8s_openapi::api::core::v1::ConfigMap;
use kermode_model::VIRTUAL_IPS_CONFIG_MAP;
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::virtual_ips::{Texts, texts_of};

/// The last state of the ConfigMap.
#[derive(Debug, Default)]
pub(super) struct Observed {
    config_map: Option<ObservedConfigMap>,
    /// The ConfigMap of a list that is not complete yet.
    listed: Option<ObservedConfigMap>,
    /// Whether a list was completed. Before, a missing ConfigMap is not known to be missing.
    is_listed: bool,
}

/// The relevant parts of the ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObservedConfigMap {
    pub(super) resource_version: String,
    /// Virtual IPs of each mesh in text form.
    pub(super) texts: Texts,
}

impl Observed {
    /// Applies an event of the watch. Returns whether the ConfigMap may have changed.
    pub(super) fn on_event(&mut self, event: Event<ConfigMap>) -> bool {
        match event {
            Event::Init => {
                self.listed = None;
                false
            }
            Event::InitApply(object) => {
                self.listed = read(&object);
                false
            }
            Event::InitDone => {
                self.config_map = self.listed.take();
                self.is_listed = true;
                true
            }
            Event::Apply(object) => self.set(read(&object)),
            Event::Delete(_) => self.set(None),
        }
    }

    /// Whether a list was completed.
    pub(super) fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// The ConfigMap; `None` if it does not exist.
    pub(super) fn config_map(&self) -> Option<&ObservedConfigMap> {
        self.config_map.as_ref()
    }

    /// Records a write, so that it is not repeated before the watch delivers it.
    pub(super) fn on_written(&mut self, object: &ConfigMap) {
        self.config_map = read(object);
    }

    fn set(&mut self, config_map: Option<ObservedConfigMap>) -> bool {
        let is_changed = self.config_map != config_map;
        self.config_map = config_map;
        is_changed
    }
}

/// Returns the relevant parts of the ConfigMap; `None` for another ConfigMap.
fn read(object: &ConfigMap) -> Option<ObservedConfigMap> {
    (object.name_any() == VIRTUAL_IPS_CONFIG_MAP).then(|| ObservedConfigMap {
        resource_version: object.resource_version().unwrap_or_default(),
        texts: texts_of(object),
    })
}
