//! Load on the webhook: connections, each of which sends one AdmissionReview after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::try_join_all;

use super::reviews::{Expected, Review};
use crate::https::{Connection, Connector};
use crate::process::Process;
use crate::spread::quantile;

/// Path of the injection webhook.
const PATH: &str = "/inject-sidecar?timeout=10s";

/// Condition for the end of a round.
#[derive(Clone, Copy, Debug)]
pub enum RoundEnd {
    /// This time has elapsed.
    Elapsed(Duration),
    /// This number of reviews has been sent.
    Reviews(usize),
}

/// Measurements of a round.
#[derive(Clone, Debug)]
pub struct Round {
    /// Latencies in milliseconds, sorted.
    latencies: Vec<f64>,
    /// Length of the round.
    elapsed: Duration,
    /// CPU time of the server.
    cpu: Duration,
}

/// Persistent connections and the reviews sent over them.
pub struct LoadGenerator {
    connections: Vec<Connection>,
    reviews: Arc<Vec<Review>>,
    expected: Expected,
}

// === impl LoadGenerator ===

impl LoadGenerator {
    /// Opens the connections.
    ///
    /// # Errors
    /// When a connection cannot be opened.
    pub async fn open(
        connector: &Connector,
        connection_count: usize,
        reviews: Vec<Review>,
        expected: Expected,
    ) -> Result<Self> {
        Ok(Self {
            connections: try_join_all((0..connection_count).map(|_| connector.connect())).await?,
            reviews: Arc::new(reviews),
            expected,
        })
    }

    /// Runs a round on all connections at the same time.
    ///
    /// # Errors
    /// When a request fails or a response is wrong.
    pub async fn round(&mut self, server: &Process, end: RoundEnd) -> Result<Round> {
        let started_reviews = AtomicUsize::new(0);
        let start = Instant::now();
        let cpu_before = server.cpu_time()?;
        let next_review = || {
            let number = started_reviews.fetch_add(1, Ordering::Relaxed);
            let continues = match end {
                RoundEnd::Elapsed(time) => start.elapsed() < time,
                RoundEnd::Reviews(count) => number < count,
            };
            continues.then_some(number)
        };
        let (reviews, expected) = (&self.reviews, self.expected);
        let senders = self.connections.iter_mut().map(|connection| async {
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
        let mut latencies = try_join_all(senders).await?.concat();
        latencies.sort_by(f64::total_cmp);
        Ok(Round {
            latencies,
            elapsed: start.elapsed(),
            cpu: server.cpu_time()?.saturating_sub(cpu_before),
        })
    }
}

// === impl Round ===

#[allow(clippy::cast_precision_loss, reason = "the counts are small")]
impl Round {
    /// Returns a quantile of the latencies in milliseconds; 0.5 is the median.
    pub fn latency_millis(&self, fraction: f64) -> f64 {
        quantile(&self.latencies, fraction)
    }

    /// Returns the throughput in reviews per second.
    pub fn reviews_per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Returns the server's CPU time per review, in microseconds.
    pub fn cpu_micros_per_review(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.latencies.len() as f64
    }

    /// Returns the number of reviews per second of the server's CPU time.
    pub fn reviews_per_cpu_second(&self) -> f64 {
        self.latencies.len() as f64 / self.cpu.as_secs_f64()
    }
}
