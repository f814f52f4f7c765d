//! Which proxies have streams here: what nobody asks for need not be made, let alone kept.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kermode_model::ObjectKey;
use tokio::sync::Notify;

/// The proxies that have streams, and those that gained their first or lost their last one since somebody looked.
#[derive(Debug, Default)]
pub(super) struct Demand {
    state: Mutex<State>,
    turned: Notify,
}

#[derive(Debug, Default)]
struct State {
    streams: HashMap<ObjectKey, usize>,
    turned: HashSet<ObjectKey>,
}

// === impl Demand ===

impl Demand {
    /// A stream of a proxy begins.
    pub(super) fn enter(&self, proxy: &ObjectKey) {
        let mut state = self.state();
        let streams = state.streams.entry(proxy.clone()).or_default();
        *streams += 1;
        if *streams == 1 {
            self.note(state, proxy);
        }
    }

    /// A stream of a proxy has ended.
    pub(super) fn leave(&self, proxy: &ObjectKey) {
        let mut state = self.state();
        let Some(streams) = state.streams.get_mut(proxy) else {
            return;
        };
        *streams -= 1;
        if *streams == 0 {
            state.streams.remove(proxy);
            self.note(state, proxy);
        }
    }

    /// Whether a proxy has a stream.
    pub(super) fn is_wanted(&self, proxy: &ObjectKey) -> bool {
        self.state().streams.contains_key(proxy)
    }

    /// How many proxies have one.
    pub(super) fn len(&self) -> usize {
        self.state().streams.len()
    }

    /// Waits until a proxy gains its first stream or loses its last one; returns those for which that may have
    /// happened. Cancel safe.
    pub(super) async fn turned(&self) -> HashSet<ObjectKey> {
        loop {
            let turned = std::mem::take(&mut self.state().turned);
            if !turned.is_empty() {
                return turned;
            }
            self.turned.notified().await;
        }
    }

    fn note(&self, mut state: MutexGuard<'_, State>, proxy: &ObjectKey) {
        state.turned.insert(proxy.clone());
        drop(state);
        self.turned.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_first_stream_and_the_end_of_the_last_one_count() {
        let demand = Demand::default();
        let proxy = ObjectKey::new("ns", "web");
        demand.enter(&proxy);
        assert_eq!(demand.turned().await, HashSet::from([proxy.clone()]));
        demand.enter(&proxy);
        demand.leave(&proxy);
        assert!(demand.is_wanted(&proxy));
        assert_eq!(demand.len(), 1);
        assert!(demand.state().turned.is_empty(), "another stream changes nothing");
        demand.leave(&proxy);
        assert_eq!(demand.turned().await, HashSet::from([proxy.clone()]));
        assert!(!demand.is_wanted(&proxy));
        assert!(demand.state().streams.is_empty(), "nothing is left of it");
    }
}
