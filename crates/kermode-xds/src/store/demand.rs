//! Demand: the proxies that have streams on this replica. The publisher generates the resources that belong to one
//! proxy only, such as inbound listeners, just for these proxies.

use std::collections::{HashMap, HashSet};

use kermode_model::ObjectKey;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// Counts the streams of each proxy, and records the proxies that gained their first stream or lost their last one.
#[derive(Debug, Default)]
pub(super) struct Demand {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Number of streams of each proxy that has any.
    stream_counts: HashMap<ObjectKey, usize>,
    /// Proxies that gained their first stream or lost their last one since the last call of [`Demand::changed`].
    changed: HashSet<ObjectKey>,
}

// === impl Demand ===

impl Demand {
    /// Counts a new stream of a proxy.
    pub(super) fn add_stream(&self, proxy: &ObjectKey) {
        let mut state = self.state.lock();
        let count = state.stream_counts.entry(proxy.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.notify_changed(state, proxy);
        }
    }

    /// Stops counting a stream of a proxy.
    pub(super) fn remove_stream(&self, proxy: &ObjectKey) {
        let mut state = self.state.lock();
        let Some(count) = state.stream_counts.get_mut(proxy) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            state.stream_counts.remove(proxy);
            self.notify_changed(state, proxy);
        }
    }

    pub(super) fn has_stream(&self, proxy: &ObjectKey) -> bool {
        self.state.lock().stream_counts.contains_key(proxy)
    }

    /// Number of proxies that have streams.
    pub(super) fn proxy_count(&self) -> usize {
        self.state.lock().stream_counts.len()
    }

    /// Waits until a proxy gains its first stream or loses its last stream. Returns all proxies for which this has
    /// happened since the last call. Cancel safe.
    pub(super) async fn changed(&self) -> HashSet<ObjectKey> {
        loop {
            let changed = std::mem::take(&mut self.state.lock().changed);
            if !changed.is_empty() {
                return changed;
            }
            self.notify.notified().await;
        }
    }

    fn notify_changed(&self, mut state: MutexGuard<'_, State>, proxy: &ObjectKey) {
        state.changed.insert(proxy.clone());
        drop(state);
        self.notify.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn demand_changes_only_with_the_first_stream_and_the_end_of_the_last_stream() {
        let demand = Demand::default();
        let proxy = ObjectKey::new("ns", "web");
        demand.add_stream(&proxy);
        assert_eq!(demand.changed().await, HashSet::from([proxy.clone()]));
        demand.add_stream(&proxy);
        demand.remove_stream(&proxy);
        assert!(demand.has_stream(&proxy));
        assert_eq!(demand.proxy_count(), 1);
        assert!(
            demand.state.lock().changed.is_empty(),
            "another stream must not change the demand"
        );
        demand.remove_stream(&proxy);
        assert_eq!(demand.changed().await, HashSet::from([proxy.clone()]));
        assert!(!demand.has_stream(&proxy));
        assert!(
            demand.state.lock().stream_counts.is_empty(),
            "the count of a proxy without streams must be removed"
        );
    }
}
