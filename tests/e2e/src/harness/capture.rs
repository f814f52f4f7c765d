//! Packet capture by tcpdump in the node's network namespace, through which all traffic between Pods passes. Tests can
//! read the captured segments while tcpdump still runs.

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

/// Number of bytes that are captured of each packet: the beginning of a message, with its first line and headers. tcpdump
/// reserves this size for each packet in its buffer, so a larger value makes it lose packets on a busy machine.
const CAPTURED_BYTES: &str = "4096";
/// Size of the buffer in KiB.
const BUFFER_KIB: &str = "65536";
/// Timeout for each line that tcpdump prints while it starts or ends.
const TCPDUMP_LINE_TIMEOUT: Duration = Duration::from_secs(20);

/// Running capture.
pub(crate) struct Capture {
    tcpdump: Child,
    /// Standard error of tcpdump: its messages.
    messages: Lines<BufReader<ChildStderr>>,
    /// Standard output of tcpdump so far: the capture file.
    pcap: Arc<Mutex<Vec<u8>>>,
    /// Task that appends the output of tcpdump to `pcap`.
    reader: JoinHandle<()>,
}

impl Capture {
    /// Starts a capture of all TCP traffic of Pods, and returns once tcpdump is listening.
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let filter = format!("tcp and net {}", cluster.addresses.pod_cidr);
        let mut tcpdump = cluster
            .in_node_network("tcpdump")
            .args([
                "-i",
                "any",
                "--immediate-mode",
                "-n",
                "-s",
                CAPTURED_BYTES,
                "-B",
                BUFFER_KIB,
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
        let output = tcpdump
            .stdout
            .take()
            .context("the standard output of tcpdump is not piped")?;
        let pcap = Arc::new(Mutex::new(Vec::new()));
        let reader = tokio::spawn(append_output(output, Arc::clone(&pcap)));
        let mut messages = BufReader::new(
            tcpdump
                .stderr
                .take()
                .context("the standard error of tcpdump is not piped")?,
        )
        .lines();
        let mut printed = Vec::new();
        loop {
            let line = tokio::time::timeout(TCPDUMP_LINE_TIMEOUT, messages.next_line())
                .await
                .context("tcpdump has not started in time")??;
            match line {
                Some(line) if line.contains("listening on") => break,
                Some(line) => printed.push(line),
                None => bail!(
                    "tcpdump ended before it captured anything: {}",
                    printed.join("; ")
                ),
            }
        }
        Ok(Self {
            tcpdump,
            messages,
            pcap,
            reader,
        })
    }

    /// Returns the segments captured so far.
    pub(crate) fn segments_so_far(&self) -> Result<Vec<Segment>> {
        segments(&self.pcap.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the capture and returns all segments.
    ///
    /// # Errors
    /// tcpdump does not end in time, the kernel dropped packets, or the capture file has an unknown format.
    pub(crate) async fn end(mut self) -> Result<Vec<Segment>> {
        let pid = self.tcpdump.id().context("tcpdump has already ended")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGINT)?;
        let mut printed = Vec::new();
        while let Some(line) = tokio::time::timeout(TCPDUMP_LINE_TIMEOUT, self.messages.next_line())
            .await
            .context("tcpdump has not ended in time")??
        {
            printed.push(line);
        }
        self.tcpdump.wait().await?;
        self.reader.await?;
        let is_complete = printed
            .iter()
            .any(|line| line.trim() == "0 packets dropped by kernel");
        ensure!(
            is_complete,
            "the capture is incomplete: tcpdump does not report 0 dropped packets: {}",
            printed.join("; ")
        );
        segments(&self.pcap.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Appends the output of tcpdump to `pcap` until tcpdump ends.
async fn append_output(mut output: impl AsyncRead + Unpin, pcap: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        pcap.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(&buffer[..count]);
    }
}
