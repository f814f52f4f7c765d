//! nginx with two replicas, another nginx as a proxy in front of it, and the load tools wrk (HTTP/1.1) and h2load
//! (HTTP/2).

use anyhow::{Context, Result, ensure};

use super::database::Load;
use crate::fixture::Fixture;
use crate::harness::application::{
    Application, Service, check_that_outsiders_get_no_response, with_applications,
};
use crate::harness::runner::Note;

const NGINX: Application = Application {
    name: "nginx",
    workload: "deployment/nginx",
    manifests: include_str!("../../../manifests/applications/nginx.yaml"),
    images: &["nginx", "load"],
    client_image: "load",
    services: &[
        Service {
            name: "nginx_e2e-applications_svc_80",
            probe: "h2load --h1 http://nginx.e2e-applications | grep '1 succeeded'",
        },
        Service {
            name: "nginx_e2e-applications_svc_81",
            probe: "h2load http://nginx.e2e-applications:81 | grep '1 succeeded'",
        },
    ],
};

/// nginx as a proxy in front of [`NGINX`]. It resolves the name of that Service only when it starts.
const PROXY: Application = Application {
    name: "proxy",
    workload: "deployment/proxy",
    manifests: include_str!("../../../manifests/applications/proxy.yaml"),
    images: &["nginx", "load"],
    client_image: "load",
    services: &[Service {
        name: "proxy_e2e-applications_svc_80",
        probe: "h2load --h1 http://proxy.e2e-applications | grep '1 succeeded'",
    }],
};

/// Prints the body of the response: the identities of server and caller.
const IDENTITIES: &str = "nghttp http://nginx.e2e-applications:81/identity";
/// Load on the server. wrk counts a request without a response as failed after the timeout, if the run has not ended before.
const NGINX_LOAD: Load = Load {
    command: "wrk --threads 1 --connections 8 --duration 30s --timeout 20s http://nginx.e2e-applications &&
        h2load --clients 8 --max-concurrent-streams 10 --requests 5000 http://nginx.e2e-applications:81",
    results: &["Requests/sec", "finished in"],
};
/// Load on the proxy.
const PROXY_LOAD: Load = Load {
    command: "wrk --threads 1 --connections 8 --duration 30s --timeout 20s http://proxy.e2e-applications",
    results: &["Requests/sec"],
};

/// Restarts nginx under load of wrk and h2load, then a proxy in front of it and nginx again under load on the proxy.
pub(super) async fn check_nginx_and_proxy(fixture: &Fixture) -> Result<Note> {
    // One test for both: a second Service with this name would get another ClusterIP, and the cluster's DNS would still
    // give the proxy the first one.
    let applications = [&NGINX, &PROXY];
    with_applications(fixture, &applications, async || {
        check_identities(fixture).await?;
        check_that_outsiders_get_no_response(fixture, &applications).await?;
        let alone = check_restart(fixture, &NGINX, &NGINX, &NGINX_LOAD).await?;
        let proxy = check_restart(fixture, &PROXY, &PROXY, &PROXY_LOAD).await?;
        let server = check_restart(fixture, &PROXY, &NGINX, &PROXY_LOAD).await?;
        Ok(format!(
            "restart of nginx: {alone}; of the proxy in front of it: {proxy}; of nginx behind the proxy: {server}"
        ))
    })
    .await
}

/// Checks the identities of the server and of the client in a request.
async fn check_identities(fixture: &Fixture) -> Result<()> {
    let identities = NGINX.client(fixture, IDENTITIES).await?;
    for identity in [
        "By=spiffe://default/nginx_e2e-applications_svc_81",
        "URI=spiffe://default/nginx-client_e2e-applications_svc",
    ] {
        ensure!(
            identities.contains(identity),
            "{identity} is missing: {identities}"
        );
    }
    Ok(())
}

/// Restarts a server while the client of an application runs a load tool. Checks that no request fails.
async fn check_restart(
    fixture: &Fixture,
    application: &Application,
    restarted: &Application,
    load: &Load,
) -> Result<Note> {
    let restart = async || restarted.restart(fixture).await;
    let runs = application.under_load(fixture, load.command, restart).await?;
    for run in &runs {
        ensure!(load.is_complete(run), "a load tool failed: {run:?}");
        let failures = failures(&run.output);
        ensure!(
            failures.is_empty(),
            "requests failed during the restart of {}: {failures:?}",
            restarted.name
        );
    }
    let last = runs.last().context("no run of the load tool")?;
    let handshakes = application.check_mtls(fixture).await?;
    Ok(format!(
        "{} runs without a failed request, the last one: {}; {handshakes}",
        runs.len(),
        load.results_of(last)
    ))
}

/// Returns the lines in which wrk and h2load report failed requests. wrk prints these lines only if requests failed; h2load
/// always prints numbers.
fn failures(output: &str) -> Vec<&str> {
    let reports_failure = |line: &&str| {
        let of_wrk = line.starts_with("Non-2xx or 3xx responses:") || line.starts_with("Socket errors:");
        let of_h2load = line.starts_with("requests:") && !line.ends_with(" 0 failed, 0 errored, 0 timeout");
        of_wrk || of_h2load
    };
    output.lines().map(str::trim).filter(reports_failure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_requests_of_both_load_tools_are_found() {
        let success = "  54615 requests in 2.00s, 44.06MB read\nRequests/sec:  27283.50\nrequests: 50 total, \
                       50 started, 50 done, 50 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(failures(success).is_empty());
        let failure = "  Socket errors: connect 0, read 2, write 0, timeout 0\n  Non-2xx or 3xx responses: 8\n\
                       requests: 50 total, 50 started, 50 done, 40 succeeded, 10 failed, 10 errored, 0 timeout";
        assert_eq!(failures(failure).len(), 3);
    }
}
