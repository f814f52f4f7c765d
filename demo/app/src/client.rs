//! `kermode-demo client`: calls a URL at a fixed interval, logs one line each second, and serves its counters as JSON.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::counters::Counters;
use crate::request::{Requester, Url, summary};
use crate::shutdown::Shutdown;
use crate::{listener, output};

/// Flags of the client.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// URL to call.
    url: Url,
    /// Time between two requests; a slow response does not delay the next request.
    #[arg(long, default_value = "100ms", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Timeout of a request.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Reuse connections. By default, every request opens a connection.
    #[arg(long)]
    keep_alive: bool,
    /// Address that serves the counters.
    #[arg(long, default_value = "0.0.0.0:8081", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

/// Counters that the requests, the log and the listener share.
type SharedCounters = Arc<Mutex<Counters>>;

/// Runs the client until SIGTERM.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut shutdown = Shutdown::new()?;
    let counters = SharedCounters::default();
    let listener = listener::bind(args.listen).await?;
    let requester = Requester::new(args.timeout, args.keep_alive)?;
    let calls = tokio::spawn(call_repeatedly(
        requester,
        args.url,
        args.interval,
        Arc::clone(&counters),
    ));
    let log = tokio::spawn(log_each_second(Arc::clone(&counters)));
    let served_counters = Arc::clone(&counters);
    let handler = move |request: Request<Incoming>, _| match request.uri().path() {
        "/healthz" => listener::json(StatusCode::OK, &json!({"healthy": true})),
        _ => listener::json(
            StatusCode::OK,
            &json!(with_locked(&served_counters, |counters| counters.clone())),
        ),
    };
    listener::serve(listener, None, handler, shutdown.wait()).await;
    calls.abort();
    log.abort();
    let since_start = with_locked(&counters, |counters| counters.line_since(&Counters::default()));
    output::line(&format!("ended: {since_start}"));
    Ok(())
}

async fn call_repeatedly(requester: Requester, url: Url, period: Duration, counters: SharedCounters) {
    let mut ticks = interval(period);
    // After a pause of the process, the missed requests are skipped instead of sent in a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let (requester, url, counters) = (requester.clone(), url.clone(), Arc::clone(&counters));
        tokio::spawn(async move {
            let outcome = requester.get(&url).await;
            with_locked(&counters, |counters| match &outcome {
                Ok(response) => counters.record_response(response.status, &response.body),
                Err(error) => counters.record_failure(&summary(error)),
            });
        });
    }
}

async fn log_each_second(counters: SharedCounters) {
    let mut ticks = interval(Duration::from_secs(1));
    let mut earlier = Counters::default();
    // The first tick completes at once.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let now = with_locked(&counters, |counters| counters.clone());
        output::line(&now.line_since(&earlier));
        earlier = now;
    }
}

fn with_locked<T>(counters: &SharedCounters, action: impl FnOnce(&mut Counters) -> T) -> T {
    action(&mut counters.lock().unwrap_or_else(PoisonError::into_inner))
}
