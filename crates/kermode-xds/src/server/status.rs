//! What becomes of streams, for whoever shows it to people.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kermode_envoy::ResourceKind;

use super::{ProxyId, Shared};
use crate::stream::Stream;
use crate::wire::{DeltaDiscoveryResponse, Versions};

/// Is told what becomes of streams, on the streams' own tasks: it must be quick and not block.
pub trait StatusSink: Send + Sync + 'static {
    /// `stream` tells apart the streams of a proxy that reconnects before its old stream has ended; a newer one is
    /// greater.
    fn report(&self, proxy: &ProxyId, stream: u64, report: Report<'_>);
}

/// Something that happened to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report<'r> {
    /// It is open, by a proxy that was let in.
    Connected(Versions),
    /// Configuration was sent or acknowledged.
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

/// Reports one stream, and at last its end.
pub(super) struct Reporter {
    shared: Arc<Shared>,
    proxy: ProxyId,
    stream: u64,
    progress: Progress,
    reported: Progress,
}

impl Reporter {
    pub(super) fn open(shared: Arc<Shared>, proxy: ProxyId, versions: Versions) -> Self {
        let stream = shared.streams.fetch_add(1, Ordering::Relaxed);
        let reporter = Self {
            shared,
            proxy,
            stream,
            progress: Progress::default(),
            reported: Progress::default(),
        };
        reporter.report(Report::Connected(versions));
        reporter
    }

    pub(super) fn sent(&mut self, response: &DeltaDiscoveryResponse) {
        if let Ok(version) = response.system_version_info.parse() {
            self.progress.sent = self.progress.sent.max(version);
        }
    }

    pub(super) fn progress(&mut self, stream: &Stream) {
        self.progress.refused = stream.rejections().count();
        if stream.is_settled() && self.progress.refused == 0 {
            self.progress.acknowledged = self.progress.sent;
        }
        if self.progress != self.reported {
            self.reported = self.progress;
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
