//! What becomes of streams, for whoever shows it to people.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kermode_envoy::ResourceKind;

use super::{ProxyId, Shared};
use crate::stream::Stream;
use kermode_protocol::ads::{DeltaDiscoveryResponse, Versions};

/// Is told what becomes of streams, on the streams' own tasks: it must be quick and not block.
pub trait StatusSink: Send + Sync + 'static {
    /// `stream` tells apart the streams of a proxy that reconnects before its old stream has ended; a newer one is
    /// greater.
    fn report(&self, proxy: &ProxyId, stream: u64, report: Report<'_>);
}

/// Something that happened to a stream.
#[derive(Clone, Debug)]
pub enum Report<'r> {
    /// It is open, by a proxy that was let in. Its newest numbers are to be read from what comes with it.
    Connected(Versions, Arc<Numbers>),
    /// Configuration was sent or acknowledged. When only numbers changed, this is told once until they are read.
    Progress(Progress),
    /// The proxy refused configuration.
    Rejected {
        /// Its kind in Envoy's words, such as `Listener`.
        kind: &'r str,
        /// Names of what the response held; when it is more than one, they are tried again apart.
        resources: &'r [&'r str],
        /// Envoy's explanation.
        message: &'r str,
    },
    /// It has ended.
    Disconnected,
}

/// How far a proxy has come. Versions count the changes of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest version sent.
    pub sent: u64,
    /// The newest version of which everything was applied.
    pub acknowledged: u64,
    /// How many resources the proxy refuses as they are now.
    pub refused: usize,
}

/// The newest versions of a stream. They change with every change of the mesh, for every proxy, and are looked at every
/// few minutes: so they are not told but left to be read.
#[derive(Debug, Default)]
pub struct Numbers {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    told: AtomicBool,
}

/// Reports one stream, and at last its end.
pub(super) struct Reporter {
    shared: Arc<Shared>,
    proxy: ProxyId,
    stream: u64,
    progress: Progress,
    noted: Progress,
    numbers: Arc<Numbers>,
}

// === impl Numbers ===

impl From<Progress> for Numbers {
    fn from(progress: Progress) -> Self {
        let numbers = Self::default();
        numbers.leave(progress);
        numbers
    }
}

impl Numbers {
    /// The newest version sent, and the newest of which everything was applied.
    pub fn read(&self) -> (u64, u64) {
        // Before the look: what changes after it is told again.
        self.told.store(false, Ordering::SeqCst);
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        (self.sent.load(Ordering::SeqCst), acknowledged)
    }

    /// Leaves them to be read. Whether somebody has to be told so.
    fn leave(&self, progress: Progress) -> bool {
        self.sent.store(progress.sent, Ordering::SeqCst);
        self.acknowledged.store(progress.acknowledged, Ordering::SeqCst);
        !self.told.swap(true, Ordering::SeqCst)
    }
}

// === impl Reporter ===

impl Reporter {
    pub(super) fn open(shared: Arc<Shared>, proxy: ProxyId, versions: Versions) -> Self {
        let stream = shared.streams.fetch_add(1, Ordering::Relaxed);
        let reporter = Self {
            shared,
            proxy,
            stream,
            progress: Progress::default(),
            noted: Progress::default(),
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
        if self.progress == self.noted {
            return;
        }
        let before = std::mem::replace(&mut self.noted, self.progress);
        let first = before.acknowledged == 0 && self.progress.acknowledged != 0;
        let matters = first || before.refused != self.progress.refused;
        if self.numbers.leave(self.progress) || matters {
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
        if let Some(sink) = self.shared.status.get() {
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
    fn numbers_are_told_once_until_they_are_read() {
        let numbers = Numbers::default();
        let progress = |sent| Progress {
            sent,
            acknowledged: sent - 1,
            refused: 0,
        };
        assert!(numbers.leave(progress(1)));
        assert!(!numbers.leave(progress(2)));
        assert_eq!(numbers.read(), (2, 1));
        assert!(numbers.leave(progress(3)));
        assert_eq!(numbers.read(), (3, 2));
    }
}
