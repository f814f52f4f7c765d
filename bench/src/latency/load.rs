//! The load generator. It keeps a number of connections open and calls on each of them, one call at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kermode_model::Protocol;
use tokio::time::{Instant, sleep, sleep_until};

use super::call::Connection;
use crate::spread::quantile;

/// Calls of connections before they are measured: caches fill, and Envoy opens its connections.
const WARM_UP: Duration = Duration::from_millis(200);
/// Delay of a timer that does not count as latency of a call: timers have a resolution of a millisecond.
const TIMER_LATENESS: Duration = Duration::from_millis(2);
/// Time limit of the calls that are under way at the end of a measurement.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

// Phases of a measurement.
const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const STOPPING: u8 = 2;

/// The moments of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Closed loop: each connection calls again as soon as it has a response, so the proxies are at full load.
    Closed,
    /// Open loop: this number of calls is due in each second, however long responses take. The latency of a call begins
    /// when the call is due, so it includes the time for which the call had to wait for the one before it.
    Open(u32),
}

/// Load of a measurement: the called server, and number and pace of the calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
    pub(super) connections: u16,
    pub(super) pace: Pace,
    pub(super) duration: Duration,
}

/// Results of a measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) count: usize,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    /// Time between the two readings of `read`.
    pub(super) elapsed: Duration,
}

impl Load {
    /// Calls for a while. Returns the results, and the values of `read` at the start and at the end of the measurement.
    pub(super) async fn run<T>(self, read: impl Fn() -> Result<T>) -> Result<(Outcome, T, T)> {
        let phase = Arc::new(AtomicU8::new(WARMING_UP));
        let mut tasks = Vec::new();
        for number in 0..self.connections {
            let connection = Connection::open(self.protocol, self.address).await?;
            tasks.push(tokio::spawn(self.repeat(number, connection, Arc::clone(&phase))));
        }
        sleep(WARM_UP).await;
        let before = read()?;
        let started_at = Instant::now();
        phase.store(MEASURING, Ordering::Relaxed);
        sleep(self.duration).await;
        phase.store(STOPPING, Ordering::Relaxed);
        let elapsed = started_at.elapsed();
        let after = read()?;
        let mut latencies = Vec::new();
        for task in tasks {
            let stopping = tokio::time::timeout(STOP_TIMEOUT, task).await;
            latencies.extend(stopping.context("a call does not end")???);
        }
        ensure!(!latencies.is_empty(), "no call ended within {:?}", self.duration);
        latencies.sort_by(f64::total_cmp);
        let outcome = Outcome {
            count: latencies.len(),
            p50: Duration::from_secs_f64(quantile(&latencies, 0.5)),
            p99: Duration::from_secs_f64(quantile(&latencies, 0.99)),
            elapsed,
        };
        Ok((outcome, before, after))
    }

    /// Calls on one connection until the measurement ends. Returns the latencies of the measured calls in seconds.
    async fn repeat(self, number: u16, mut connection: Connection, phase: Arc<AtomicU8>) -> Result<Vec<f64>> {
        let mut latencies = Vec::new();
        let mut schedule = match self.pace {
            Pace::Closed => None,
            Pace::Open(rate) => {
                let interval = Duration::from_secs(1) / rate.max(1);
                Some((
                    Instant::now() + interval * u32::from(number),
                    interval * u32::from(self.connections),
                ))
            }
        };
        while phase.load(Ordering::Relaxed) != STOPPING {
            let mut begin = Instant::now();
            if let Some((next, interval)) = &mut schedule {
                if begin < *next {
                    sleep_until(*next).await;
                    // A call that begins even later has waited for other calls.
                    begin = Instant::now().min(*next + TIMER_LATENESS);
                } else {
                    begin = *next;
                }
                *next += *interval;
            }
            connection.call().await?;
            if phase.load(Ordering::Relaxed) == MEASURING {
                latencies.push(begin.elapsed().as_secs_f64());
            }
        }
        Ok(latencies)
    }
}
