//! Load: connections that send one review after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::try_join_all;

use super::reviews::{Expected, Review};
use crate::https::{Connection, Endpoint};
use crate::process::Process;
use crate::spread::quantile;

/// Path of the injection webhook.
const PATH: &str = "/inject-sidecar?timeout=10s";

/// When a round ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After a time.
    Elapsed(Duration),
    /// After a number of reviews.
    Count(usize),
}

/// Measurements of a round.
#[derive(Clone, Debug)]
pub struct Round {
    /// Latencies in milliseconds, sorted.
    latencies: Vec<f64>,
    /// Wall time.
    elapsed: Duration,
    /// CPU time of the server.
    cpu: Duration,
}

/// Persistent connections and the reviews sent over them.
pub struct Load {
    connections: Vec<Connection>,
    reviews: Arc<Vec<Review>>,
    expected: Expected,
}

// === impl Load ===

impl Load {
    /// Opens the connections.
    ///
    /// # Errors
    /// When a connection cannot be opened.
    pub async fn open(
        endpoint: &Endpoint,
        concurrency: usize,
        reviews: Vec<Review>,
        expected: Expected,
    ) -> Result<Self> {
        Ok(Self {
            connections: try_join_all((0..concurrency).map(|_| endpoint.connect())).await?,
            reviews: Arc::new(reviews),
            expected,
        })
    }

    /// Runs a round.
    ///
    /// # Errors
    /// With the first wrong response.
    pub async fn round(&mut self, server: &Process, until: Until) -> Result<Round> {
        let started = AtomicUsize::new(0);
        let (start, before) = (Instant::now(), server.cpu()?);
        let next_review = || {
            let number = started.fetch_add(1, Ordering::Relaxed);
            let more = match until {
                Until::Elapsed(time) => start.elapsed() < time,
                Until::Count(count) => number < count,
            };
            more.then_some(number)
        };
        let (reviews, expected) = (&self.reviews, self.expected);
        let callers = self.connections.iter_mut().map(|connection| async {
            let mut latencies = Vec::new();
            while let Some(number) = next_review() {
                let review = &reviews[number % reviews.len()];
                let sent_at = Instant::now();
                let response = connection.post(PATH, review.body.clone()).await?;
                latencies.push(sent_at.elapsed().as_secs_f64() * 1000.0);
                review.check(&response, expected)?;
            }
            Ok::<_, anyhow::Error>(latencies)
        });
        let mut latencies = try_join_all(callers).await?.concat();
        latencies.sort_by(f64::total_cmp);
        Ok(Round {
            latencies,
            elapsed: start.elapsed(),
            cpu: server.cpu()?.saturating_sub(before),
        })
    }
}

// === impl Round ===

#[allow(clippy::cast_precision_loss, reason = "counts far below what a float holds")]
impl Round {
    /// Returns a quantile of the latency, `at` from 0 to 1, in milliseconds.
    pub fn latency(&self, at: f64) -> f64 {
        quantile(&self.latencies, at)
    }

    /// Returns the throughput in reviews per second.
    pub fn throughput(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Returns the server's CPU time per review, in microseconds.
    pub fn cpu(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.latencies.len() as f64
    }

    /// Returns the number of reviews per second of the server's CPU time.
    pub fn per_core(&self) -> f64 {
        self.latencies.len() as f64 / self.cpu.as_secs_f64()
    }
}
