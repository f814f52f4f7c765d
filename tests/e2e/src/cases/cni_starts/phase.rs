//! Observes the packets of a batch of Pods while it starts.

use std::fmt;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::cni;
use super::super::encryption::{capture_request_outside, segments_with};
use super::batch::Batch;
use crate::harness::capture::Capture;
use crate::harness::runner::print_line;

/// Starts of a batch of Pods under one condition.
pub(super) struct Phase {
    /// Condition.
    name: &'static str,
    /// Number of Pods that started.
    pub(super) starts: usize,
    /// Number of Pods that the installer redirected, because they had started without the plugin.
    repaired: usize,
    /// Longest wait of a Pod for the installer, in seconds.
    pub(super) longest_repair: f64,
    /// Longest wait of a Pod for the end of its validation, in seconds.
    longest_validation: f64,
    /// Number of segments of the comparison request, which are readable.
    readable_outside: usize,
}

impl Phase {
    /// Adds a Pod that has started. Its waits begin with its validation, or at `complete_since` if that is later.
    fn add(&mut self, pod: &Pod, complete_since: Option<Timestamp>, repair: Option<Timestamp>) -> Result<()> {
        let ended = cni::validation_state(pod).and_then(|state| state.terminated.as_ref());
        let times =
            ended.and_then(|ended| Some((ended.started_at.as_ref()?.0, ended.finished_at.as_ref()?.0)));
        let (started, finished) =
            times.with_context(|| format!("the validation of Pod {} has not ended", pod.name_any()))?;
        let begin = complete_since.map_or(started, |since| since.max(started));
        let wait = |end: Timestamp| end.duration_since(begin).as_secs_f64();
        self.starts += 1;
        self.repaired += usize::from(repair.is_some());
        self.longest_repair = repair.map_or(0.0, wait).max(self.longest_repair);
        self.longest_validation = wait(finished).max(self.longest_validation);
        Ok(())
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} starts, {} redirected by the installer within {:.1} s, all validated within {:.0} s; 0 readable segments, \
             {} outside of the mesh",
            self.name,
            self.starts,
            self.repaired,
            self.longest_repair,
            self.longest_validation,
            self.readable_outside
        )
    }
}

/// Captures all packets while a batch starts, and checks that none contains the batch's marker. `start` returns the time
/// at which the last absent part of the cluster came back. Prints the phase, because all of them take minutes.
pub(super) async fn observe(
    batch: &Batch<'_>,
    name: &'static str,
    start: impl AsyncFnOnce() -> Result<Option<Timestamp>>,
) -> Result<Phase> {
    let fixture = batch.fixture;
    let capture = Capture::start(&fixture.cluster).await?;
    let begin = Timestamp::now();
    let complete_since = start().await.with_context(|| format!("Pods that start {name}"))?;
    let outside_marker = format!("outside-{}", batch.marker());
    capture_request_outside(fixture, &capture, &outside_marker).await?;
    let segments = capture.end().await?;
    let readable = segments_with(&segments, &format!("/{}", batch.marker()));
    ensure!(
        readable.is_empty(),
        "Pods that start {name} sent {} readable segments, such as {}",
        readable.len(),
        readable[0]
    );
    let mut phase = Phase {
        name,
        starts: 0,
        repaired: 0,
        longest_repair: 0.0,
        longest_validation: 0.0,
        readable_outside: segments_with(&segments, &outside_marker).len(),
    };
    let redirected = cni::redirected_pods(fixture).await?;
    for pod in batch.pods().await? {
        let repair = redirected.get(&pod.uid().unwrap_or_default());
        phase.add(
            &pod,
            complete_since,
            repair.copied().filter(|time| *time >= begin),
        )?;
    }
    print_line(&format!("       {phase}"));
    Ok(phase)
}
