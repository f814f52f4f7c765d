//! `kermode-demo echo-client`: keeps TCP connections to an echo server open, sends a line on each at a fixed interval, and
//! records when the other end closes one. It serves its counters as JSON, as `kermode-demo client` does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::client::{self, SharedCounters, unix_milliseconds, with_locked};
use crate::counters::Counters;
use crate::request::summary;
use crate::target::{Connector, Target};

/// Line that the client sends.
const LINE: &str = "hello\n";
/// Time between a failure to open a connection and the next attempt. It bounds the rate of attempts.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Flags of the echo client.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Echo server that greets each connection with a line, the name of its Pod.
    target: Target,
    /// Number of connections.
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Time between two lines on a connection.
    #[arg(long, default_value = "100ms", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Timeout of a connection attempt, and of the echo of a line.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Address that serves the counters.
    #[arg(long, default_value = "0.0.0.0:8081", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

/// Runs the client until SIGTERM.
pub(crate) async fn run(args: Args) -> Result<()> {
    let counters = SharedCounters::default();
    let connector = Connector::new(args.timeout)?;
    let mut connections = JoinSet::new();
    for _ in 0..args.connections {
        let (connector, args, counters) = (connector.clone(), args.clone(), Arc::clone(&counters));
        connections.spawn(async move { hold_connections(&connector, &args, &counters).await });
    }
    let load = async move {
        // No task ends.
        while connections.join_next().await.is_some() {}
    };
    client::run_load(args.listen, load, counters).await
}

/// Holds one connection, and opens another one when it ends.
async fn hold_connections(connector: &Connector, args: &Args, counters: &SharedCounters) {
    loop {
        let number = with_locked(counters, Counters::start);
        let outcome = open(connector, args).await;
        with_locked(counters, |counters| {
            if let Err(error) = &outcome {
                counters.record_failure(&summary(error), unix_milliseconds());
            }
            counters.end(number);
        });
        match outcome {
            Ok((mut stream, pod)) => exchange_lines(&mut stream, &pod, args, counters).await,
            Err(_) => tokio::time::sleep(RETRY_DELAY).await,
        }
    }
}

/// Opens a connection, and reads the greeting. Returns the name of the Pod.
async fn open(connector: &Connector, args: &Args) -> Result<(BufStream<TcpStream>, String)> {
    let mut stream = BufStream::new(connector.connect(&args.target).await?);
    let greeting = read_line(&mut stream, args.timeout).await.context("greeting")?;
    Ok((stream, greeting.trim_end().to_owned()))
}

/// Sends lines and reads their echo until the connection ends. Records the lines and the end.
async fn exchange_lines(
    stream: &mut BufStream<TcpStream>,
    pod: &str,
    args: &Args,
    counters: &SharedCounters,
) {
    let mut ticks = interval(args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Nothing is expected between two lines, so this completes only at the end of the connection.
            end = stream.fill_buf() => {
                let reason = match end {
                    Ok([]) => "read: the other end closed the connection".to_owned(),
                    Ok(_) => "read: unexpected data".to_owned(),
                    Err(error) => format!("read: {error}"),
                };
                return with_locked(counters, |counters| {
                    counters.record_ended_connection(pod, &reason, unix_milliseconds());
                });
            }
        }
        let (start, number) = (Instant::now(), with_locked(counters, Counters::start));
        let outcome = exchange_line(stream, args.timeout).await;
        with_locked(counters, |counters| {
            match &outcome {
                Ok(()) => counters.record_success(pod, start.elapsed()),
                Err(error) => counters.record_ended_connection(pod, &summary(error), unix_milliseconds()),
            }
            counters.end(number);
        });
        if outcome.is_err() {
            return;
        }
    }
}

/// Sends a line and reads its echo.
async fn exchange_line(stream: &mut BufStream<TcpStream>, within: Duration) -> Result<()> {
    stream.write_all(LINE.as_bytes()).await.context("send")?;
    stream.flush().await.context("send")?;
    let echo = read_line(stream, within).await.context("echo")?;
    ensure!(echo == LINE, "echo: other data than sent");
    Ok(())
}

async fn read_line(stream: &mut BufStream<TcpStream>, within: Duration) -> Result<String> {
    let mut line = String::new();
    timeout(within, stream.read_line(&mut line))
        .await
        .context("timed out")??;
    ensure!(line.ends_with('\n'), "the other end closed the connection");
    Ok(line)
}
