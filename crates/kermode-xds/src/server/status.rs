//! Status of streams: connection, progress and rejections, reported to a [`StatusSink`], which writes it to Dataplanes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kermode_envoy::ResourceKind;
use kermode_protocol::ads::{DeltaDiscoveryResponse, Versions};

use super::{AdsServerState, ProxyId};
use crate::stream::Stream;

/// Receives the reports of streams. Called in the tasks of the streams, so a report must be handled fast and without
/// blocking.
pub trait StatusSink: Send + Sync + 'static {
    /// Receives one report of the stream with the number `stream`. A reconnecting proxy may have several streams for a
    /// while; newer streams have higher numbers.
    fn report(&self, proxy: &ProxyId, stream: u64, report: Report<'_>);
}

/// Report on an event of a stream.
#[derive(Clone, Debug)]
pub enum Report<'r> {
    /// An authorized proxy opened the stream. Contains the versions of its agent and Envoy, and the versions of its
    /// configuration, which the stream keeps current.
    Connected(Versions, Arc<ConfigurationVersions>),
    /// Configuration was sent, acknowledged or rejected. The first acknowledgement and every change of
    /// `rejected_resources` are reported. Any other change is reported only if it is the first change since
    /// [`ConfigurationVersions::read`] was last called.
    Progress(Progress),
    /// The proxy rejected a response.
    Rejected {
        /// Envoy's name of the kind, such as `Listener`.
        kind: &'r str,
        /// Names of the resources in the response. If there is more than one, they are sent again in smaller responses.
        resources: &'r [&'r str],
        /// Envoy's error message.
        message: &'r str,
    },
    /// The stream has ended.
    Disconnected,
}

/// Progress of a proxy. Versions are sequence numbers of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Newest version that was sent to the proxy.
    pub sent: u64,
    /// Newest version that the proxy has applied completely.
    pub acknowledged: u64,
    /// Number of resources whose current version the proxy has rejected.
    pub rejected_resources: usize,
}

/// Current versions of a stream's configuration. Every change of the mesh changes these versions for every proxy. The
/// sink therefore reads the versions when it writes a status, every few minutes, instead of receiving every change.
#[derive(Debug, Default)]
pub struct ConfigurationVersions {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    /// Whether a change was reported since the versions were last read.
    is_reported: AtomicBool,
}

/// Reports the events of one stream to the sink. Dropping the reporter reports the end of the stream.
pub(super) struct Reporter {
    state: Arc<AdsServerState>,
    proxy: ProxyId,
    stream: u64,
    /// Current progress.
    progress: Progress,
    /// Progress that was last stored in `configuration_versions`, whether or not it was reported.
    last_stored: Progress,
    configuration_versions: Arc<ConfigurationVersions>,
}

// === impl ConfigurationVersions ===

impl From<Progress> for ConfigurationVersions {
    fn from(progress: Progress) -> Self {
        let versions = Self::default();
        versions.store(progress);
        versions
    }
}

impl ConfigurationVersions {
    /// Returns the newest version that was sent and the newest version that the proxy has applied completely.
    pub fn read(&self) -> (u64, u64) {
        // The flag is cleared before the versions are read, so that any later change is reported.
        self.is_reported.store(false, Ordering::SeqCst);
        self.peek()
    }

    /// Returns the same as [`Self::read`], but does not count as a read: later changes are not reported because of it.
    pub fn peek(&self) -> (u64, u64) {
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        (self.sent.load(Ordering::SeqCst), acknowledged)
    }

    /// Stores the versions. Returns true if this is the first change since the versions were last read. Such a change
    /// has to be reported.
    fn store(&self, progress: Progress) -> bool {
        self.sent.store(progress.sent, Ordering::SeqCst);
        self.acknowledged.store(progress.acknowledged, Ordering::SeqCst);
        !self.is_reported.swap(true, Ordering::SeqCst)
    }
}

// === impl Reporter ===

impl Reporter {
    pub(super) fn open(state: Arc<AdsServerState>, proxy: ProxyId, versions: Versions) -> Self {
        let stream = state.next_stream.fetch_add(1, Ordering::Relaxed);
        let reporter = Self {
            state,
            proxy,
            stream,
            progress: Progress::default(),
            last_stored: Progress::default(),
            configuration_versions: Arc::default(),
        };
        reporter.report(Report::Connected(
            versions,
            reporter.configuration_versions.clone(),
        ));
        reporter
    }

    /// Records the version of a sent response.
    pub(super) fn on_sent(&mut self, response: &DeltaDiscoveryResponse) {
        if let Ok(version) = response.system_version_info.parse() {
            self.progress.sent = self.progress.sent.max(version);
        }
    }

    /// Updates the progress after a step of the stream, and reports it if necessary (see [`Report::Progress`]).
    pub(super) fn on_progress(&mut self, stream: &Stream) {
        self.progress.rejected_resources = stream.rejected_count();
        if stream.is_settled() && self.progress.rejected_resources == 0 {
            self.progress.acknowledged = self.progress.sent;
        }
        if self.progress == self.last_stored {
            return;
        }
        let before = std::mem::replace(&mut self.last_stored, self.progress);
        let is_first_acknowledgement = before.acknowledged == 0 && self.progress.acknowledged != 0;
        let rejections_changed = before.rejected_resources != self.progress.rejected_resources;
        let is_first_since_read = self.configuration_versions.store(self.progress);
        if is_first_since_read || is_first_acknowledgement || rejections_changed {
            self.report(Report::Progress(self.progress));
        }
    }

    /// Reports a rejection.
    pub(super) fn on_rejected(&self, kind: ResourceKind, resources: &[&str], message: &str) {
        let kind = kind.type_url().rsplit('.').next().unwrap_or_default();
        self.report(Report::Rejected {
            kind,
            resources,
            message,
        });
    }

    fn report(&self, report: Report<'_>) {
        if let Some(sink) = self.state.status_sink.get() {
            sink.report(&self.proxy, self.stream, report);
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.report(Report::Disconnected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_version_change_after_a_read_is_reported() {
        let versions = ConfigurationVersions::default();
        let progress = |sent| Progress {
            sent,
            acknowledged: sent - 1,
            rejected_resources: 0,
        };
        assert!(versions.store(progress(1)));
        assert!(!versions.store(progress(2)));
        assert_eq!(versions.read(), (2, 1));
        assert!(versions.store(progress(3)));
        assert_eq!(versions.read(), (3, 2));
    }
}
