//! Load: connections that each ask one question after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::try_join_all;

use super::reviews::{Expected, Review};
use crate::https::{Connection, Endpoint};
use crate::process::Process;
use crate::spread::quantile;

const PATH: &str = "/inject-sidecar?timeout=10s";

/// When a round ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After a time.
    Elapsed(Duration),
    /// After so many reviews.
    Count(usize),
}

/// What a round showed.
#[derive(Clone, Debug)]
pub struct Round {
    /// Latencies in milliseconds, sorted.
    latencies: Vec<f64>,
    /// How long it took.
    elapsed: Duration,
    /// CPU time of the server.
    cpu: Duration,
}

/// Kept connections and what is asked over them.
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
    /// When the server does not take them.
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
    /// With the first wrong answer.
    pub async fn round(&mut self, server: &Process, until: Until) -> Result<Round> {
        let asked = AtomicUsize::new(0);
        let (start, before) = (Instant::now(), server.cpu()?);
        let goes_on = || {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            let more = match until {
                Until::Elapsed(time) => start.elapsed() < time,
                Until::Count(count) => number < count,
            };
            more.then_some(number)
        };
        let (reviews, expected) = (&self.reviews, self.expected);
        let callers = self.connections.iter_mut().map(|connection| async {
            let mut latencies = Vec::new();
            while let Some(number) = goes_on() {
                let review = &reviews[number % reviews.len()];
                let asked = Instant::now();
                let answer = connection.post(PATH, review.body.clone()).await?;
                latencies.push(asked.elapsed().as_secs_f64() * 1000.0);
                review.check(&answer, expected)?;
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
    /// Latency at a place from 0 to 1, in milliseconds.
    pub fn latency(&self, place: f64) -> f64 {
        quantile(&self.latencies, place)
    }

    /// Reviews a second.
    pub fn throughput(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds of the server's CPU time for each review.
    pub fn cpu(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.latencies.len() as f64
    }

    /// Reviews that a second of the server's CPU time answers.
    pub fn per_core(&self) -> f64 {
        self.latencies.len() as f64 / self.cpu.as_secs_f64()
    }
}
