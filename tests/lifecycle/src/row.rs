//! Rows of the report: what the clients of one protocol saw during a case, in the mesh and without it. Pure.

use std::collections::BTreeMap;

use kermode_harness::demo::Counters;
use serde::Serialize;

use crate::case::{Application, Case, Protocol, Scenario};
use crate::objects::http_protocols;
use crate::pod_watch::ServerEnd;

/// Row of the report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Scenario.
    pub scenario: Scenario,
    /// Protocol.
    pub protocol: Protocol,
    /// Behaviour of the servers on SIGTERM.
    pub application: Application,
    /// Name of the variant.
    pub variant: String,
    /// Whether the run fails if this row is not clean.
    pub required: bool,
    /// Duration of the case in seconds.
    pub seconds: f64,
    /// Result in the mesh.
    pub mesh: SideResult,
    /// Result without the mesh.
    pub plain: SideResult,
}

/// Result on one side.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SideResult {
    /// Number of requests; with TCP, of lines.
    pub requests: u64,
    /// Number of requests that the client has not sent at their time, because its process was paused.
    pub skipped: u64,
    /// Number of failed requests; with TCP, of connections that failed to open or ended before the application of their
    /// server ended.
    pub failed: u64,
    /// Number of requests that the servers were answering when they ended. A server that was killed reports none.
    pub in_progress_at_end: u64,
    /// Number of failures by reason.
    pub reasons: BTreeMap<String, u64>,
    /// 99th percentile of the latency of successful requests, in milliseconds from the scheduled time of the request.
    pub p99_milliseconds: Option<f64>,
    /// With TCP: number of connections that ended although the client did not close them.
    pub ended_connections: u64,
    /// With TCP: shortest time in seconds from the deletion of a Pod to the end of a connection to it.
    pub shortest_life_seconds: Option<f64>,
    /// Failures in the order of time.
    pub failures: Vec<FailureAt>,
    /// Times at which the deletion of a server was requested, in seconds since the start of the case.
    pub deletions: Vec<f64>,
}

/// Failures at a time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailureAt {
    /// Time in seconds since the start of the case.
    pub seconds: f64,
    /// Reason.
    pub reason: String,
    /// Number of failures.
    pub count: u64,
}

// === impl Row ===

impl Row {
    pub(crate) fn new(
        case: &Case,
        protocol: Protocol,
        seconds: f64,
        mesh: SideResult,
        plain: SideResult,
    ) -> Self {
        Self {
            scenario: case.scenario,
            protocol,
            application: case.application,
            variant: case.variant.name.clone(),
            required: case.variant.required,
            seconds,
            mesh,
            plain,
        }
    }

    /// Whether no request failed in the mesh other than those that the servers were answering when they ended.
    pub fn is_clean(&self) -> bool {
        self.mesh.failed <= self.mesh.in_progress_at_end
    }
}

// === impl SideResult ===

impl SideResult {
    /// Returns the result of the clients of a protocol, from their counters at the start and the end of a case. The case
    /// started at `started_at`, in milliseconds since the Unix epoch by the clock of the clients.
    pub(crate) fn new(
        protocol: Protocol,
        started_at: i64,
        start: &Counters,
        end: &Counters,
        servers: &BTreeMap<String, ServerEnd>,
    ) -> Self {
        let increase = end.since(start);
        let since_start = |at: i64| seconds(at - started_at);
        let mut result = Self {
            requests: increase.succeeded + increase.failed,
            skipped: increase.skipped,
            failed: increase.failed,
            in_progress_at_end: in_progress_at_end(protocol, servers),
            p99_milliseconds: increase
                .latency_p99()
                .map(|latency| latency.as_secs_f64() * 1000.0),
            ended_connections: increase.ended_connections.len() as u64,
            deletions: servers
                .values()
                .filter_map(|end| end.deleted_at)
                .map(since_start)
                .collect(),
            failures: increase
                .failures
                .iter()
                .map(|failure| FailureAt {
                    seconds: since_start(failure.at),
                    reason: failure.reason.clone(),
                    count: failure.count,
                })
                .collect(),
            reasons: increase.by_failure,
            ..Self::default()
        };
        result.deletions.sort_by(f64::total_cmp);
        for connection in &increase.ended_connections {
            let server = servers.get(&connection.pod).cloned().unwrap_or_default();
            if let Some(deleted_at) = server
                .deleted_at
                .filter(|deleted_at| connection.at >= *deleted_at)
            {
                let life = seconds(connection.at - deleted_at);
                let shortest = result.shortest_life_seconds.unwrap_or(f64::INFINITY);
                result.shortest_life_seconds = Some(shortest.min(life));
            }
            // If the end of a deleted application is not known, the connection counts as ended by the application.
            let is_early = match server.ended_at {
                Some(ended_at) => connection.at < ended_at,
                None => !server.is_gone,
            };
            if is_early {
                result.failed += 1;
                let reason = format!("ended early: {}", connection.reason);
                *result.reasons.entry(reason.clone()).or_default() += 1;
                result.failures.push(FailureAt {
                    seconds: since_start(connection.at),
                    reason,
                    count: 1,
                });
            }
        }
        result.failures.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        result
    }
}

fn in_progress_at_end(protocol: Protocol, servers: &BTreeMap<String, ServerEnd>) -> u64 {
    let Some(listener) = http_protocols().position(|other| other == protocol) else {
        return 0;
    };
    let reports = servers
        .values()
        .filter_map(|end| end.requests_in_progress.as_ref());
    reports.filter_map(|listeners| listeners.get(listener)).sum()
}

#[allow(clippy::cast_precision_loss, reason = "a case lasts minutes")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use kermode_harness::demo::{EndedConnection, FailureCount};

    use super::*;

    fn mk_servers() -> BTreeMap<String, ServerEnd> {
        let end = |requests_in_progress| ServerEnd {
            deleted_at: Some(12_000),
            ended_at: Some(17_000),
            requests_in_progress: Some(requests_in_progress),
            is_gone: true,
        };
        BTreeMap::from([
            ("a".to_owned(), end(vec![1, 0, 2])),
            ("b".to_owned(), end(vec![2, 0, 0])),
            ("c".to_owned(), ServerEnd::default()),
        ])
    }

    #[test]
    fn requests_in_progress_are_those_of_the_protocol() {
        let count = |protocol| in_progress_at_end(protocol, &mk_servers());
        let protocols = [Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tcp];
        assert_eq!(protocols.map(count), [3, 0, 2, 0]);
    }

    #[test]
    fn connection_fails_if_it_ends_before_the_application_of_its_server() {
        let ended = |pod: &str, at| EndedConnection {
            at,
            pod: pod.to_owned(),
            reason: "closed".to_owned(),
        };
        let end = Counters {
            // Early; with the application; while the server runs.
            ended_connections: vec![ended("a", 14_000), ended("b", 17_300), ended("c", 15_000)],
            ..Counters::default()
        };
        let result = SideResult::new(Protocol::Tcp, 10_000, &Counters::default(), &end, &mk_servers());
        assert_eq!(result.failed, 2);
        assert_eq!(result.ended_connections, 3);
        assert_eq!(result.shortest_life_seconds, Some(2.0));
        let times: Vec<_> = result.failures.iter().map(|failure| failure.seconds).collect();
        assert_eq!(times, [4.0, 5.0]);
    }

    #[test]
    fn times_are_relative_to_the_start_of_the_case() {
        let end = Counters {
            succeeded: 90,
            failed: 10,
            failures: vec![FailureCount {
                at: 13_500,
                reason: "status 503".to_owned(),
                count: 10,
            }],
            ..Counters::default()
        };
        let result = SideResult::new(Protocol::Http1, 10_000, &Counters::default(), &end, &mk_servers());
        assert_eq!((result.requests, result.failed), (100, 10));
        let times: Vec<_> = result.failures.iter().map(|failure| failure.seconds).collect();
        assert_eq!(times, [3.5]);
        assert_eq!(result.deletions, [2.0, 2.0]);
    }
}
