//! An Envoy of a benchmark: its process, and its admin interface on a unix socket.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::process::{Process, bound_command};

/// Time limit of Envoy's start. In valgrind, Envoy takes a quarter of a minute on an idle machine.
const START_TIMEOUT: Duration = Duration::from_mins(3);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// A running Envoy. Dropping it ends the process.
pub(crate) struct Envoy {
    child: Child,
    admin: PathBuf,
    log: PathBuf,
}

impl Envoy {
    /// Starts Envoy with a bootstrap, whose admin interface is replaced, and waits until Envoy has its configuration.
    /// `folder` gets its files. `workers` is the number of worker threads.
    pub(crate) async fn start(
        executable: &Path,
        folder: &Path,
        bootstrap: Value,
        workers: u32,
    ) -> Result<Self> {
        Self::launch(bound_command(executable), folder, bootstrap, workers).await
    }

    /// Like [`Self::start`], in valgrind, which counts instructions. Envoy has one worker thread, so that the number of
    /// instructions does not depend on which thread gets a connection.
    pub(crate) async fn start_in_valgrind(
        executable: &Path,
        folder: &Path,
        bootstrap: Value,
    ) -> Result<Self> {
        let mut command = bound_command("valgrind");
        // Valgrind writes the file only at a regular end.
        let file = folder.join("callgrind.out");
        command.arg("--tool=callgrind");
        command.arg(format!("--callgrind-out-file={}", file.display()));
        command.arg(executable);
        Self::launch(command, folder, bootstrap, 1).await
    }

    /// Starts Envoy with `command`, which still lacks Envoy's arguments.
    async fn launch(mut command: Command, folder: &Path, mut bootstrap: Value, workers: u32) -> Result<Self> {
        let admin = folder.join("admin.sock");
        bootstrap["admin"] = json!({ "address": { "pipe": { "path": admin } } });
        let path = folder.join("bootstrap.json");
        std::fs::write(&path, bootstrap.to_string())?;
        let log = folder.join("envoy.log");
        let log_file = std::fs::File::create(&log)?;
        let child = command
            .args(["--disable-hot-restart", "--log-level", "warning"])
            .args(["--concurrency", &workers.to_string()])
            .arg("--config-path")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log_file)
            .spawn()
            .context("cannot start Envoy")?;
        let mut envoy = Self { child, admin, log };
        let started_at = Instant::now();
        loop {
            match envoy.get("/ready").await {
                Ok(state) if state.trim() == "LIVE" => return Ok(envoy),
                _ if envoy.child.try_wait()?.is_some() => bail!("Envoy has ended; log: {}", envoy.log()),
                _ if started_at.elapsed() > START_TIMEOUT => {
                    bail!("Envoy is not live after {START_TIMEOUT:?}; log: {}", envoy.log())
                }
                _ => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Returns the log of Envoy.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the value of a counter or gauge.
    pub(crate) async fn statistic(&self, name: &str) -> Result<u64> {
        let text = self.get(&format!("/stats?filter=^{name}$")).await?;
        let value = text.trim().rsplit_once(": ").map(|(_, value)| value);
        value
            .with_context(|| format!("Envoy has no statistic {name}"))?
            .parse()
            .with_context(|| format!("the statistic {name} is not a number: {text}"))
    }

    /// Returns the memory that Envoy has allocated.
    pub(crate) async fn allocated_bytes(&self) -> Result<f64> {
        let memory: Value = serde_json::from_str(&self.get("/memory").await?)?;
        let allocated = memory["allocated"].as_str().context("no allocated memory")?;
        Ok(allocated.parse()?)
    }

    /// Returns the resident memory.
    pub(crate) fn resident_bytes(&self) -> Result<f64> {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let bytes = self.process()?.resident_bytes()? as f64;
        Ok(bytes)
    }

    /// Returns the process.
    pub(crate) fn process(&self) -> Result<Process> {
        Process::new(self.child.id())
    }

    /// Returns the number of instructions that all threads of Envoy have executed in user space. Envoy must run in
    /// valgrind.
    pub(crate) fn instructions(&self) -> Result<u64> {
        let output = Command::new("callgrind_control")
            .args(["-e", &self.child.id().to_string()])
            .output()
            .context("cannot run callgrind_control, which is part of valgrind")?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse_instructions(&text).with_context(|| format!("callgrind_control printed no numbers: {text}"))
    }

    /// Returns a page of the admin interface.
    async fn get(&self, path: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        let (head, body) = response.split_once("\r\n\r\n").context("no HTTP response")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        Ok(if head.contains("transfer-encoding: chunked") {
            dechunk(body)
        } else {
            body.to_owned()
        })
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the sum of the instructions of all threads, from the output of `callgrind_control -e`; `None` if it has none.
fn parse_instructions(text: &str) -> Option<u64> {
    let threads = text.lines().filter_map(|line| {
        let (_, instructions) = line.trim().strip_prefix("Th ")?.split_once(' ')?;
        instructions.trim().replace(',', "").parse::<u64>().ok()
    });
    threads.reduce(|sum, thread| sum + thread)
}

/// Returns the content of a chunked body.
fn dechunk(mut body: &str) -> String {
    let mut content = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or_default();
        let Some((chunk, rest)) = rest.split_at_checked(size).filter(|(chunk, _)| !chunk.is_empty()) else {
            break;
        };
        content.push_str(chunk);
        body = rest.trim_start_matches("\r\n");
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_of_all_threads_are_added() {
        let text = "  PID 42: envoy\n   Th 1  250,909,254 \n   Th 12       42,898 \n";
        assert_eq!(parse_instructions(text), Some(250_952_152));
        assert_eq!(
            parse_instructions("Error: Callgrind task with PID/name '42' not detected.\n"),
            None
        );
    }

    #[test]
    fn chunks_are_joined_and_an_incomplete_chunk_ends_the_content() {
        assert_eq!(dechunk("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde");
        assert_eq!(dechunk("3\r\nabc\r\n9\r\nde"), "abc");
    }
}
