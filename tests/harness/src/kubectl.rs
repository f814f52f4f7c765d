//! Runs kubectl, the interface that users use.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};

/// kubectl for one cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Returns kubectl with this program and kubeconfig.
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    /// Returns the path of the program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Returns the path of the kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl and returns its output and exit status. A failure of kubectl is not an error.
    pub async fn output(&self, arguments: &[&str], stdin: &str) -> Result<Output> {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        if let Some(mut pipe) = child.stdin.take() {
            // If kubectl ends without reading its input, kubectl's error is the relevant one.
            let _ = pipe.write_all(stdin.as_bytes()).await;
        }
        Ok(child.wait_with_output().await?)
    }

    /// Runs kubectl and returns its standard output.
    ///
    /// # Errors
    /// kubectl fails; the error contains its output.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with_input(arguments, "").await
    }

    /// Writes a kubeconfig for a service account of the cluster.
    ///
    /// # Errors
    /// The token cannot be created, or the file cannot be written.
    pub async fn write_kubeconfig_of_account(
        &self,
        namespace: &str,
        account: &str,
        file: &Path,
    ) -> Result<()> {
        let namespace_flag = format!("--namespace={namespace}");
        let token = self.run(&["create", "token", account, &namespace_flag]).await?;
        let text = self.run(&["config", "view", "--raw", "--output=json"]).await?;
        let mut config: Value = serde_json::from_str(&text)?;
        config["users"][0]["user"] = json!({"token": token.trim()});
        std::fs::write(file, config.to_string())
            .with_context(|| format!("{} cannot be written", file.display()))
    }

    /// Applies manifests, as `kubectl apply -f -` does.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        self.run_with_input(&["apply", "--filename=-"], manifests).await
    }

    /// Applies manifests server-side and takes over the ownership of fields.
    pub async fn apply_server_side(&self, manifests: &str) -> Result<String> {
        let arguments = [
            "apply",
            "--server-side",
            "--field-manager=kermode-tests",
            "--force-conflicts",
            "--filename=-",
        ];
        self.run_with_input(&arguments, manifests).await
    }

    /// Deletes the objects of manifests, and waits until they are gone if `wait` is true. Missing objects are ignored.
    pub async fn delete(&self, manifests: &str, wait: bool) -> Result<String> {
        let wait_flag = format!("--wait={wait}");
        self.run_with_input(
            &["delete", "--ignore-not-found", &wait_flag, "--filename=-"],
            manifests,
        )
        .await
    }

    /// Runs a program in a container and returns its standard output.
    ///
    /// # Errors
    /// The program cannot be run or its exit code is not 0; the error contains its output.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[&str],
    ) -> Result<String> {
        let namespace_flag = format!("--namespace={namespace}");
        let container_flag = format!("--container={container}");
        let mut arguments = vec!["exec", pod, &namespace_flag, &container_flag, "--"];
        arguments.extend(command);
        self.run(&arguments).await
    }

    async fn run_with_input(&self, arguments: &[&str], stdin: &str) -> Result<String> {
        let output = self.output(arguments, stdin).await?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}{}", arguments.join(" "), printed, errors.trim());
        }
        Ok(printed)
    }
}

/// Running `kubectl port-forward`: a port of a Pod is reachable on loopback of this machine until this value is
/// dropped.
#[derive(Debug)]
pub struct PortForward {
    /// Port on loopback of this machine.
    port: u16,
    _kubectl: Child,
    /// Kept open without being read, because kubectl ends when it cannot print a message about a connection.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl PortForward {
    /// Makes a GET request and returns the body.
    ///
    /// # Errors
    /// There is no response, or its status is not 200.
    pub async fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        let (head, body) = response
            .split_once("\r\n\r\n")
            .context("the forwarded port sent no HTTP response")?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(
            status.ends_with(" 200 OK"),
            "GET {path} returned {status}: {body}"
        );
        let is_chunked = head
            .to_ascii_lowercase()
            .contains("\r\ntransfer-encoding: chunked");
        if is_chunked {
            join_chunks(body)
        } else {
            Ok(body.to_owned())
        }
    }
}

/// Returns a body without the sizes of its chunks (RFC 9112, section 7.1).
fn join_chunks(mut body: &str) -> Result<String> {
    let mut joined = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").context("a chunk has no size")?;
        let size = usize::from_str_radix(size, 16).context("a chunk has an invalid size")?;
        if size == 0 {
            return Ok(joined);
        }
        let chunk = rest.get(..size).context("a chunk is incomplete")?;
        joined.push_str(chunk);
        body = rest[size..].strip_prefix("\r\n").context("a chunk has no end")?;
    }
}

impl Kubectl {
    /// Forwards a port of a Pod, even if the Pod listens only on loopback. `target` is `pod/<name>` or
    /// `deployment/<name>`.
    pub async fn port_forward(&self, namespace: &str, target: &str, port: u16) -> Result<PortForward> {
        let mut child = Command::new(&self.program)
            .args([
                "port-forward",
                &format!("--namespace={namespace}"),
                target,
                &format!(":{port}"),
            ])
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        let stdout = child
            .stdout
            .take()
            .context("the standard output of kubectl is not piped")?;
        let mut stdout = BufReader::new(stdout).lines();
        let line = stdout.next_line().await?.unwrap_or_default();
        // kubectl prints: Forwarding from 127.0.0.1:40123 -> 5684
        let local_port = line
            .split(" -> ")
            .next()
            .and_then(|local| local.rsplit(':').next());
        let local_port = local_port.and_then(|port| port.parse().ok());
        Ok(PortForward {
            port: local_port
                .with_context(|| format!("kubectl port-forward printed no local port: {line:?}"))?,
            _kubectl: child,
            _stdout: stdout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_an_incomplete_chunk_is_an_error() {
        assert_eq!(
            join_chunks("3\r\na: \r\n2\r\n1\n\r\n0\r\n\r\n").expect("valid"),
            "a: 1\n"
        );
        join_chunks("3\r\na:").expect_err("the chunk is shorter than its size");
        join_chunks("").expect_err("the last chunk is missing");
    }
}
