//! Tests of `kumactl check` with an API server that a function stands for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use kermode_check::CheckOutcome;
use serde_json::{Value, json};

use super::*;
use crate::cli::{Cli, Command};
use crate::cluster::tests::cluster;

fn args(flags: &[&str]) -> CheckArgs {
    let line = ["kumactl", "check"].iter().chain(flags);
    let Command::Check(args) = Cli::try_parse_from(line).expect("flags").command else {
        panic!("the subcommand is not check");
    };
    *args
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, String) {
    let status =
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message});
    (code, status.to_string())
}

async fn report(client: &ClusterClient, flags: &[&str]) -> Report {
    let report = check_cluster(client, &args(flags), &Progress::with(None)).await;
    report.expect("a report")
}

fn ids(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.id).collect()
}

#[tokio::test]
async fn user_without_any_permission_gets_no_finding_and_the_missing_permissions() {
    let client = cluster(Duration::from_mins(1), |_| failure(403, "Forbidden", "no"));
    let report = report(&client, &[]).await;
    assert_eq!(ids(&report), [""; 0]);
    let left_out = |check: &&kermode_check::Check| check.outcome == CheckOutcome::NotChecked;
    assert_eq!(report.checks.iter().filter(left_out).count(), report.checks.len());
    let nodes = report.checks.iter().find(|check| check.name == "nodes");
    let reason = &nodes.expect("the check").summary;
    assert!(
        reason.contains("verb list on nodes in the whole cluster"),
        "{reason}"
    );
}

#[tokio::test]
async fn permissions_are_asked_for_before_an_installation() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let client = cluster(Duration::from_mins(1), move |path| {
        if path.ends_with("/selfsubjectaccessreviews") {
            count.fetch_add(1, Ordering::Relaxed);
            return (201, json!({"status": {"allowed": false}}).to_string());
        }
        if path.starts_with("/apis/admissionregistration.k8s.io") {
            return (404, "404 page not found".to_owned());
        }
        let version = json!({"major": "1", "minor": "30"});
        let body = if path == "/version" {
            version
        } else {
            json!({"items": []})
        };
        (200, body.to_string())
    });
    let report = report(&client, &["--pre"]).await;
    let ids = ids(&report);
    assert_eq!(
        2 * ids.iter().filter(|id| **id == "PermissionMissing").count(),
        asked.load(Ordering::Relaxed)
    );
    assert_eq!(ids[ids.len() - 2..], ["AdmissionUnavailable", "NoLinuxNode"]);
}

#[tokio::test(start_paused = true)]
async fn wait_repeats_the_checks_until_no_finding_is_an_error_or_the_time_is_over() {
    let creations = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&creations);
    // The API server reaches the injector at the third attempt. The user may create Pods, and nothing else.
    let client = cluster(Duration::from_mins(1), move |path| {
        if !path.contains("dryRun=All") {
            return failure(403, "Forbidden", "no");
        }
        if count.fetch_add(1, Ordering::Relaxed) < 2 {
            return failure(
                500,
                "InternalError",
                "failed calling webhook \"kuma-injector.kuma.io\": refused",
            );
        }
        let pod: Value = json!({"metadata": {"annotations": {"kuma.io/sidecar-injected": "true"}}});
        (201, pod.to_string())
    });
    let report_at_the_end = report(&client, &["--wait=1s"]).await;
    assert_eq!(ids(&report_at_the_end), ["WebhookUnreachable"]);
    assert_eq!(creations.load(Ordering::Relaxed), 1);
    let report = report(&client, &["--wait=1m"]).await;
    assert_eq!(ids(&report), [""; 0]);
    assert_eq!(creations.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn wait_repeats_the_checks_after_a_request_that_fails() {
    let reads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reads);
    // The API server fails at the first attempts.
    let client = cluster(Duration::from_mins(1), move |path| {
        if !path.contains("dryRun=All") {
            let fails = path.starts_with("/api/v1/nodes") && count.fetch_add(1, Ordering::Relaxed) < 3;
            return if fails {
                failure(500, "InternalError", "etcd has no leader")
            } else {
                failure(403, "Forbidden", "no")
            };
        }
        let pod: Value = json!({"metadata": {"annotations": {"kuma.io/sidecar-injected": "true"}}});
        (201, pod.to_string())
    });
    for flags in [&[][..], &["--wait=1s"]] {
        let result = check_cluster(&client, &args(flags), &Progress::with(None)).await;
        let error = format!("{:#}", result.expect_err("an error"));
        assert!(error.contains("etcd has no leader"), "{error}");
    }
    assert_eq!(reads.load(Ordering::Relaxed), 2);
    let report = report(&client, &["--wait=1m"]).await;
    assert_eq!(ids(&report), [""; 0]);
    assert_eq!(reads.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn dry_run_in_a_missing_namespace_is_left_out() {
    let client = cluster(Duration::from_mins(1), |path| {
        if path.contains("dryRun=All") {
            return failure(404, "NotFound", "namespaces \"none\" not found");
        }
        failure(403, "Forbidden", "no")
    });
    let report = report(&client, &["--namespace=none"]).await;
    let injector = report.checks.iter().find(|check| check.name == "injector");
    assert_eq!(
        injector.expect("the check").summary,
        "namespace none does not exist; name another one with --namespace"
    );
}
