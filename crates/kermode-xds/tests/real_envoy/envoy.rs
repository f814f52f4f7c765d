//! An Envoy process, observed through its admin interface and by connections to its listeners.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UnixStream};

/// Version of Envoy that Kermode ships.
const VERSION: &str = "1.40.0";
/// Time after which a wait fails the test. Long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Interval at which Envoy is polled, because its admin interface and its listeners send no notifications.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) struct Envoy {
    process: Child,
    directory: TempDir,
}

impl Envoy {
    /// Starts Envoy with a bootstrap that contains only the address of the control plane.
    pub(crate) async fn start(control_plane: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let bootstrap = bootstrap(control_plane, &directory.path().join("admin"));
        let path = directory.path().join("bootstrap.json");
        std::fs::write(&path, bootstrap.to_string()).expect("the bootstrap is written");
        let log = std::fs::File::create(directory.path().join("log")).expect("a log");
        let process = Command::new(binary())
            .args([
                "--concurrency",
                "1",
                "--use-dynamic-base-id",
                "--log-level",
                "info",
                "-c",
            ])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Envoy starts");
        let envoy = Self { process, directory };
        envoy
            .wait_until("the admin interface responds", "/ready", |_| true)
            .await;
        envoy
    }

    /// Returns a page of the admin interface, or an empty text while the interface does not respond.
    async fn get(&self, path: &str) -> String {
        self.try_get(path).await.unwrap_or_default()
    }

    /// Returns a page of the admin interface, or `None` while the interface does not respond.
    async fn try_get(&self, path: &str) -> Option<String> {
        let stream = UnixStream::connect(self.directory.path().join("admin"))
            .await
            .ok()?;
        get_page(TokioIo::new(stream), path).await
    }

    /// Waits until `is_met` returns true for a page of the admin interface. `condition` names the
    /// condition in the message of a failure.
    pub(crate) async fn wait_until(&self, condition: &str, path: &str, is_met: impl Fn(&str) -> bool) {
        let waiting = async {
            while !self.try_get(path).await.is_some_and(|text| is_met(&text)) {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let result = tokio::time::timeout(TIMEOUT, waiting).await;
        assert!(
            result.is_ok(),
            "not met: {condition}; {path} returns {}\n{}",
            self.get(path).await,
            self.log()
        );
    }

    /// Returns the state of Envoy: `LIVE` once Envoy serves.
    pub(crate) async fn state(&self) -> String {
        self.get("/ready").await.trim().to_owned()
    }

    /// Returns the names of the clusters that the control plane sent.
    pub(crate) async fn clusters(&self) -> Vec<String> {
        let page: Value = serde_json::from_str(&self.get("/clusters?format=json").await).expect("JSON");
        let statuses = page["cluster_statuses"].as_array().cloned().unwrap_or_default();
        let names = statuses
            .iter()
            .filter(|status| status["added_via_api"] == true)
            .map(|status| &status["name"]);
        let mut names: Vec<String> = names.filter_map(Value::as_str).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Returns the value of the counter or gauge with this full name.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let text = self.get(&format!("/stats?filter=^{name}$")).await;
        let value = text.trim().rsplit_once(": ").map(|(_, value)| value.to_owned());
        value
            .unwrap_or_else(|| panic!("no statistic {name}: {text}"))
            .parse()
            .expect("a number")
    }

    /// Waits until a counter or gauge has this value.
    pub(crate) async fn wait_for_stat(&self, name: &str, value: u64) {
        let line = format!("{name}: {value}");
        self.wait_until(&line, &format!("/stats?filter=^{name}$"), |text| {
            text.trim() == line
        })
        .await;
    }

    /// Waits until a connection to the listener at `port` receives this text.
    pub(crate) async fn wait_for_text(&self, port: u16, text: &str) {
        let mut last = None;
        let waiting = async {
            while last.as_deref() != Some(text) {
                last = receive(port).await;
            }
        };
        let result = tokio::time::timeout(TIMEOUT, waiting).await;
        assert!(
            result.is_ok(),
            "port {port} must return {text}, but returns {last:?}\n{}",
            self.log()
        );
    }

    /// Returns the text that the first connection accepted by the listener at `port` receives.
    pub(crate) async fn first_text(&self, port: u16) -> String {
        let waiting = async {
            loop {
                if let Some(text) = receive(port).await {
                    return text;
                }
            }
        };
        let received = tokio::time::timeout(TIMEOUT, waiting).await;
        received.unwrap_or_else(|_| panic!("no listener accepts connections to port {port}\n{}", self.log()))
    }

    /// Waits until the HTTP listener at `port` responds with this text.
    pub(crate) async fn wait_for_page(&self, port: u16, text: &str) {
        let mut last = None;
        let waiting = async {
            while last.as_deref() != Some(text) {
                tokio::time::sleep(POLL_INTERVAL).await;
                let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
                    continue;
                };
                last = get_page(TokioIo::new(stream), "/").await;
            }
        };
        let result = tokio::time::timeout(TIMEOUT, waiting).await;
        assert!(
            result.is_ok(),
            "port {port} must return {text}, but returns {last:?}\n{}",
            self.log()
        );
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the text that a connection receives, or `None` if no listener accepts the connection. The text is empty if
/// Envoy has no upstream for the connection.
async fn receive(port: u16) -> Option<String> {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        tokio::time::sleep(POLL_INTERVAL).await;
        return None;
    };
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    Some(text)
}

/// Returns the body of an HTTP response, or `None` if the request fails.
async fn get_page<S>(stream: S, path: &str) -> Option<String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header("host", "envoy")
        .body(Empty::<bytes::Bytes>::new())
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    let body = response.into_body().collect().await.ok()?.to_bytes();
    connection.abort();
    String::from_utf8(body.to_vec()).ok()
}

/// Returns the path of Envoy's executable.
fn binary() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || {
        let home = variable("HOME").expect("a home directory");
        variable("KERMODE_CACHE").unwrap_or_else(|| home.join(".cache/kermode"))
    };
    let path = variable("KERMODE_ENVOY").unwrap_or_else(|| cache().join(format!("envoy/{VERSION}/envoy")));
    assert!(
        path.is_file(),
        "no Envoy at {}: run the tests with make, or set KERMODE_ENVOY to the path of Envoy {VERSION}",
        path.display()
    );
    path
}

/// Returns a bootstrap whose only static resource is the cluster of the control plane.
fn bootstrap(control_plane: SocketAddr, admin: &std::path::Path) -> Value {
    let http2 = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": { "http2_protocol_options": {} },
    });
    json!({
        "node": { "id": "default.web-0.shop", "cluster": "web" },
        "admin": { "address": { "pipe": { "path": admin } } },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": {
                    "cluster_name": "control_plane",
                    "retry_policy": { "retry_back_off": { "base_interval": "0.05s", "max_interval": "0.2s" } },
                }}],
            },
            "cds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
            "lds_config": { "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" },
        },
        "static_resources": { "clusters": [{
            "name": "control_plane",
            "type": "STATIC",
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2 },
            "load_assignment": { "cluster_name": "control_plane", "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": { "socket_address": {
                    "address": control_plane.ip().to_string(), "port_value": control_plane.port(),
                }}},
            }]}]},
        }]},
    })
}
