//! Notification of changes of the services that exist.

use tokio::sync::watch;

/// Notification that services or Meshes were created or deleted; cheap to clone. The engine notifies, and writers of
/// statuses subscribe.
#[derive(Clone, Debug, Default)]
pub struct ServiceChanges(watch::Sender<u64>);

impl ServiceChanges {
    /// Reports that the index is complete. Before, a service that is not listed yet appears to be missing.
    pub fn start(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// Reports that a service or a Mesh may have been created or deleted. Has no effect before [`Self::start`].
    pub fn notify(&self) {
        self.0.send_if_modified(|count| {
            let has_started = *count > 0;
            *count += u64::from(has_started);
            has_started
        });
    }

    /// Returns a receiver of the number of notifications. The number is 0 before [`Self::start`].
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriber_is_notified_only_after_the_index_is_complete() {
        let changes = ServiceChanges::default();
        let mut receiver = changes.subscribe();
        let mut is_notified = || {
            let has_changed = receiver.has_changed().expect("the sender exists");
            receiver.mark_unchanged();
            has_changed
        };
        changes.notify();
        assert!(!is_notified());
        changes.start();
        assert!(is_notified());
        changes.notify();
        assert!(is_notified());
        assert!(!is_notified());
    }
}
