//! Status of streams: connection, progress and rejections, for the sink that shows them to users.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kermode_envoy::ResourceKind;
use kermode_protocol::ads::{DeltaDiscoveryResponse, Versions};

use super::{AdsServerState, ProxyId};
use crate::stream::Stream;

/// Receives the reports of streams. It runs in the streams' tasks, so it must be fast and must not block.
pub trait StatusSink: Send + Sync + 'static {
    /// Receives one report. A reconnecting proxy may have several streams for a while; newer streams have higher numbers.
    fn report(&self, proxy: &ProxyId, stream: u64, report: Report<'_>);
}

/// Report on an event of a stream.
#[derive(Clone, Debug)]
pub enum Report<'r> {
    /// An authorized proxy opened the stream. The second field returns its current versions at any time.
    Connected(Versions, Arc<Numbers>),
    /// Configuration was sent or acknowledged. A change of versions alone is reported once until [`Numbers::read`] is called.
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
    /// Newest version that was sent.
    pub sent: u64,
    /// Newest version that the proxy has applied completely.
    pub acknowledged: u64,
    /// Number of resources whose current version the proxy has rejected.
    pub refused: usize,
}

/// Current versions of a stream. Read on demand instead of being reported, because they change for every proxy with every
/// change of the mesh, but are written to statuses only every few minutes.
#[derive(Debug, Default)]
pub struct Numbers {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    /// Whether a change was reported and not read yet.
    is_reported: AtomicBool,
}

/// Reports the events of one stream; dropping it reports the end.
pub(super) struct Reporter {
    state: Arc<AdsServerState>,
    proxy: ProxyId,
    stream: u64,
    progress: Progress,
    last_reported: Progress,
    numbers: Arc<Numbers>,
}

// === impl Numbers ===

impl From<Progress> for Numbers {
    fn from(progress: Progress) -> Self {
        let numbers = Self::default();
        numbers.store(progress);
        numbers
    }
}

impl Numbers {
    /// Returns the newest version that was sent and the newest version that the proxy has applied completely.
    pub fn read(&self) -> (u64, u64) {
        // Cleared before the versions are read, so that any later change is reported.
        self.is_reported.store(false, Ordering::SeqCst);
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        (self.sent.load(Ordering::SeqCst), acknowledged)
    }

    /// Stores the versions. Returns whether the change has to be reported.
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
            last_reported: Progress::default(),
            numbers: Arc::default(),
        };
        reporter.report(Report::Connected(versions, reporter.numbers.clone()));
        reporter
    }

    pub(super) fn sent(&mut self, response: &DeltaDiscoveryResponse) {
        if let Ok(version) = response.system_version_info.parse() {
            self.progress.sent = self.progress.sent.max(version);
        }
    }

    pub(super) fn progress(&mut self, stream: &Stream) {
        self.progress.refused = stream.rejected_count();
        if stream.is_settled() && self.progress.refused == 0 {
            self.progress.acknowledged = self.progress.sent;
        }
        if self.progress == self.last_reported {
            return;
        }
        let before = std::mem::replace(&mut self.last_reported, self.progress);
        let first = before.acknowledged == 0 && self.progress.acknowledged != 0;
        let is_significant = first || before.refused != self.progress.refused;
        if self.numbers.store(self.progress) || is_significant {
            self.report(Report::Progress(self.progress));
        }
    }

    pub(super) fn rejected(&self, kind: ResourceKind, resources: &[&str], message: &str) {
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
    fn version_changes_are_reported_once_until_they_are_read() {
        let numbers = Numbers::default();
        let progress = |sent| Progress {
            sent,
            acknowledged: sent - 1,
            refused: 0,
        };
        assert!(numbers.store(progress(1)));
        assert!(!numbers.store(progress(2)));
        assert_eq!(numbers.read(), (2, 1));
        assert!(numbers.store(progress(3)));
        assert_eq!(numbers.read(), (3, 2));
    }
}
