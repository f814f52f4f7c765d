//! Packet capture in the node's network namespace, which all traffic between Pods passes. The output of tcpdump is read
//! while tcpdump runs.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr};
use tokio::task::JoinHandle;

use super::cluster::Cluster;
use super::packet::{Segment, segments};

/// Deadline for the start and the end of tcpdump.
const LIMIT: Duration = Duration::from_secs(20);

/// Running capture.
pub(crate) struct Capture {
    child: Child,
    messages: Lines<BufReader<ChildStderr>>,
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Capture {
    /// Starts a capture of all TCP traffic of Pods, and returns once tcpdump is listening.
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let filter = format!("tcp and net {}", cluster.settings.pods);
        let mut child = cluster
            .in_node_network("tcpdump")
            .args([
                "-i",
                "any",
                "--immediate-mode",
                "-n",
                "-s",
                "0",
                "-B",
                "16384",
                "-U",
                "-w",
                "-",
                &filter,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("tcpdump cannot be started")?;
        let output = child
            .stdout
            .take()
            .context("the standard output of tcpdump is not captured")?;
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let reader = tokio::spawn(read(output, Arc::clone(&bytes)));
        let mut messages = BufReader::new(
            child
                .stderr
                .take()
                .context("the standard error of tcpdump is not captured")?,
        )
        .lines();
        let mut printed = Vec::new();
        loop {
            let line = tokio::time::timeout(LIMIT, messages.next_line())
                .await
                .context("tcpdump has not started in time")??;
            match line {
                Some(line) if line.contains("listening on") => break,
                Some(line) => printed.push(line),
                None => bail!("tcpdump ended: {}", printed.join("; ")),
            }
        }
        Ok(Self {
            child,
            messages,
            bytes,
            reader,
        })
    }

    /// Returns the segments captured so far.
    pub(crate) fn so_far(&self) -> Result<Vec<Segment>> {
        segments(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the capture and returns all segments.
    ///
    /// # Errors
    /// tcpdump fails, or packets were lost, so the capture is incomplete.
    pub(crate) async fn end(mut self) -> Result<Vec<Segment>> {
        let pid = self.child.id().context("tcpdump has already ended")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGINT)?;
        let mut printed = Vec::new();
        while let Some(line) = tokio::time::timeout(LIMIT, self.messages.next_line())
            .await
            .context("tcpdump has not ended in time")??
        {
            printed.push(line);
        }
        self.child.wait().await?;
        self.reader.await?;
        let complete = printed
            .iter()
            .any(|line| line.trim() == "0 packets dropped by kernel");
        ensure!(complete, "the capture is not complete: {}", printed.join("; "));
        segments(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn read(mut from: impl AsyncRead + Unpin, to: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        to.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(&buffer[..count]);
    }
}
