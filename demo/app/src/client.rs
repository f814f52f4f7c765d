//! `kermode-demo client`: calls a URL at a fixed interval, logs one line each second, and serves its counters as JSON.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::counters::Counters;
use crate::request::{Protocol, Requester, Url, summary};
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
    /// Protocol of the requests.
    #[arg(long, default_value = "http1")]
    protocol: Protocol,
    /// Reuse connections. By default, every HTTP/1.1 request opens a connection.
    #[arg(long)]
    keep_alive: bool,
    /// Number of connections over which the requests are spread, with --keep-alive or HTTP/2. With HTTP/1.1, more are
    /// opened if all are in use.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Address that serves the counters.
    #[arg(long, default_value = "0.0.0.0:8081", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

/// Counters that the requests, the log and the listener share.
pub(crate) type SharedCounters = Arc<Mutex<Counters>>;

/// Runs the client until SIGTERM.
pub(crate) async fn run(args: Args) -> Result<()> {
    let counters = SharedCounters::default();
    let requester = if args.keep_alive || args.protocol != Protocol::Http1 {
        Requester::with_connections(args.timeout, args.protocol, args.connections)?
    } else {
        Requester::new(args.timeout, false)?
    };
    let calls = call_repeatedly(requester, args.url, args.interval, Arc::clone(&counters));
    run_load(args.listen, calls, counters).await
}

/// Runs a load until SIGTERM, logs one line each second, and serves the counters.
pub(crate) async fn run_load(
    address: SocketAddr,
    load: impl Future<Output = ()> + Send + 'static,
    counters: SharedCounters,
) -> Result<()> {
    let mut shutdown = Shutdown::new()?;
    let listener = listener::bind(address).await?;
    let load = tokio::spawn(load);
    let log = tokio::spawn(log_each_second(Arc::clone(&counters)));
    let (served_counters, running_since) = (Arc::clone(&counters), unix_milliseconds());
    let handler = move |request: Request<Incoming>, _| {
        std::future::ready(match request.uri().path() {
            "/healthz" => listener::json(StatusCode::OK, &json!({"healthy": true})),
            _ => listener::json(StatusCode::OK, &snapshot(&served_counters, running_since)),
        })
    };
    listener::serve(listener, None, handler, shutdown.wait()).await;
    load.abort();
    log.abort();
    let since_start = with_locked(&counters, |counters| counters.line_since(&Counters::default()));
    output::line(&format!("ended: {since_start}"));
    Ok(())
}

/// Returns the counters with `settled`, the number of the first requests that have all ended, and with `now` and
/// `runningSince`, the current time and the start of the client in milliseconds since the Unix epoch.
fn snapshot(counters: &SharedCounters, running_since: u64) -> serde_json::Value {
    let counters = with_locked(counters, |counters| counters.clone());
    let mut value = json!(counters);
    value["settled"] = counters.settled().into();
    value["runningSince"] = running_since.into();
    value["now"] = unix_milliseconds().into();
    value
}

async fn call_repeatedly(requester: Requester, url: Url, period: Duration, counters: SharedCounters) {
    let mut ticks = interval(period);
    // After a pause of the process, the missed requests are skipped and counted instead of sent in a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut earlier = None;
    loop {
        // The latency of a request begins at its scheduled time, so it includes a late start.
        let scheduled = ticks.tick().await;
        let missed = earlier.map_or(0, |earlier| missed_ticks(scheduled - earlier, period));
        earlier = Some(scheduled);
        let number = with_locked(&counters, |counters| {
            counters.record_skipped(missed);
            counters.start()
        });
        let (requester, url, counters) = (requester.clone(), url.clone(), Arc::clone(&counters));
        tokio::spawn(async move {
            let outcome = requester.get(&url).await;
            let (latency, now) = (Instant::now() - scheduled, unix_milliseconds());
            with_locked(&counters, |counters| {
                match &outcome {
                    Ok(response) => {
                        counters.record_response(response.status, &response.body, latency, now);
                    }
                    Err(error) => counters.record_failure(&summary(error), now),
                }
                counters.end(number);
            });
        });
    }
}

/// Returns the number of ticks between two ticks that are this far apart.
fn missed_ticks(apart: Duration, period: Duration) -> u64 {
    let periods = apart.as_micros() / period.as_micros().max(1);
    u64::try_from(periods).unwrap_or(u64::MAX).saturating_sub(1)
}

/// Returns the number of milliseconds since the Unix epoch.
pub(crate) fn unix_milliseconds() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
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

/// Runs an action on the counters.
pub(crate) fn with_locked<T>(counters: &SharedCounters, action: impl FnOnce(&mut Counters) -> T) -> T {
    action(&mut counters.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_between_two_ticks_are_missed() {
        let missed =
            |milliseconds| missed_ticks(Duration::from_millis(milliseconds), Duration::from_millis(2));
        assert_eq!([2, 4, 20].map(missed), [0, 1, 9]);
    }
}
