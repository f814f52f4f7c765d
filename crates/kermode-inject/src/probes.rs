//! Turns probes and HTTP lifecycle hooks of the application into virtual probes, which a plaintext listener of the
//! sidecar answers (docs/reference/injection.md#virtual-probes).
//!
//! [`find`] reads probes and hooks from the Pod. The ports of the sidecar are then chosen so that none is a probed
//! port. Afterwards, [`rewrite`] chooses the probes and hooks that the sidecar answers.

use std::fmt::Write as _;

use kermode_crds::annotation;
use kermode_model::{ApplicationProbe, MAX_PROBE_PATH, MAX_PROBES, ProbeProtocol, percent_decode};
use kermode_netfilter::PortSet;
use serde_json::{Map, Value};

use crate::names::SIDECAR;
use crate::plan::{Placement, Plan};
use crate::pod::{Container, Pod};
use crate::trace::{Trace, TraceTopic};

/// Field of the liveness probe.
const LIVENESS: &str = "livenessProbe";
/// Fields of a container that hold a probe.
const PROBE_FIELDS: [&str; 3] = [LIVENESS, "readinessProbe", "startupProbe"];
/// Fields of a container's `lifecycle` that hold a hook.
const HOOK_FIELDS: [&str; 2] = ["postStart", "preStop"];
/// Maximum length of the service of a gRPC probe, in bytes. Envoy and the agent pass it on in a header.
const MAX_SERVICE_LENGTH: usize = 1024;
/// Maximum number of warnings about single probes and hooks; one more warning counts the others. The API server
/// shortens long lists of warnings.
const MAX_WARNINGS: usize = 5;

/// A probe or hook that the kubelet sends to the Pod's IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundProbe {
    /// Name of the container.
    container: String,
    /// Whether the container is a restartable init container.
    is_init: bool,
    /// JSON pointer of the probe or hook in the Pod, as a list of keys and indices.
    pointer: Vec<String>,
    /// Path of the probe or hook in the container, such as `lifecycle.preStop`.
    field: &'static str,
    handler: Handler,
}

/// Handler of a probe or hook.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Handler {
    /// A request to the application, with the change that redirects it to the proxy.
    Application(ApplicationProbe, Change),
    /// A request to the proxy: an earlier injection has rewritten the handler.
    Virtual(ApplicationProbe),
    /// The request cannot be determined or rewritten, with the problem.
    Unresolved(String),
}

/// Change that redirects a handler to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Replaces fields of `httpGet`.
    HttpGet {
        /// Whether `path` exists.
        has_path: bool,
        /// Whether `scheme` is HTTPS, so that it becomes HTTP.
        has_https_scheme: bool,
    },
    /// Replaces the member of this name, `tcpSocket` or `grpc`, with `httpGet`.
    OtherHandler(&'static str),
    /// Restores the handler of the application in place of the `httpGet` of an earlier injection.
    Restored(ProbeProtocol),
}

/// A probe or hook to rewrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RewrittenProbe {
    /// JSON pointer of the probe or hook in the Pod, as a list of keys and indices.
    pub(crate) pointer: Vec<String>,
    pub(crate) change: Change,
    /// Path that the kubelet requests from the proxy. For a restored handler, the path of the application, or the name of
    /// the gRPC service.
    pub(crate) path: String,
    /// Port of the virtual probes. For a restored handler, the port of the application.
    pub(crate) port: u16,
}

/// Messages about probes for the AdmissionReview response.
#[derive(Debug, Default)]
struct Problems {
    /// About probes and hooks that stay as they are.
    unchanged: Vec<String>,
    /// About probes that fail until the sidecar runs.
    early: Vec<String>,
}

/// Returns the probes and hooks of the containers and restartable init containers, except those of the sidecar. Omitted
/// are probes and hooks that the kubelet does not send to the Pod's IP: `exec`, `sleep`, and requests with a `host`.
pub(crate) fn find(pod: &Pod<'_>) -> Vec<FoundProbe> {
    let earlier_port = earlier_port(pod);
    let mut found = Vec::new();
    for (list, containers) in [
        ("containers", &pod.containers),
        ("initContainers", &pod.init_containers),
    ] {
        let is_init = list == "initContainers";
        for (index, container) in containers.iter().enumerate() {
            let is_restartable = container
                .json
                .get("restartPolicy")
                .is_some_and(|policy| policy == "Always");
            if container.name == SIDECAR || is_init && !is_restartable {
                continue;
            }
            for (field, probe) in probes_and_hooks(container) {
                let Some(handler) = handler(container, field, probe, earlier_port) else {
                    continue;
                };
                let pointer = ["spec", list, &index.to_string()].map(str::to_owned);
                found.push(FoundProbe {
                    container: container.name.to_owned(),
                    is_init,
                    pointer: pointer
                        .into_iter()
                        .chain(field.split('.').map(str::to_owned))
                        .collect(),
                    field,
                    handler,
                });
            }
        }
    }
    found
}

/// Returns the changes of probes and hooks: most are sent to the proxy. Appends warnings about the probes that stay as
/// they are, and about those that fail until the sidecar runs. Requests to `direct_ports` do not reach the proxy.
pub(crate) fn rewrite(
    found: &[FoundProbe],
    plan: &Plan<'_>,
    direct_ports: &PortSet,
    warnings: &mut Vec<String>,
    trace: &mut Trace,
) -> Vec<RewrittenProbe> {
    let mut rewritten = Vec::new();
    let mut restored = Vec::new();
    let mut problems = Problems::default();
    for found in found {
        let probe = match &found.handler {
            Handler::Application(probe, _) | Handler::Virtual(probe) => probe,
            Handler::Unresolved(problem) => {
                problems
                    .unchanged
                    .push(format!("{}: {problem}", found.location()));
                continue;
            }
        };
        let is_early = found.is_early(plan);
        if is_early && direct_ports.contains(probe.inbound_port) {
            restored.extend(found.restored(probe));
            continue;
        }
        if let Some(obstacle) = obstacle(found, probe.inbound_port, plan, rewritten.len()) {
            problems
                .unchanged
                .push(format!("{}: {obstacle}", found.location()));
            restored.extend(found.restored(probe));
            continue;
        }
        if is_early {
            problems.early.push(early_problem(found, probe.inbound_port));
        }
        let (port, path) = (plan.virtual_probes_port, &probe.path);
        trace.note(TraceTopic::Probes, || {
            format!(
                "{} of container {} goes to port {port}, path {path}",
                found.field, found.container
            )
        });
        rewritten.push(RewrittenProbe {
            pointer: found.pointer.clone(),
            change: found.redirecting_change(),
            path: path.clone(),
            port,
        });
    }
    problems.warn(warnings);
    rewritten.extend(restored);
    rewritten
}

/// Returns the changes that undo an earlier injection: probes and hooks that it rewrote get their original handlers.
pub(crate) fn restore(found: &[FoundProbe]) -> Vec<RewrittenProbe> {
    let restored = found.iter().filter_map(|found| match &found.handler {
        Handler::Virtual(probe) => found.restored(probe),
        Handler::Application(..) | Handler::Unresolved(_) => None,
    });
    restored.collect()
}

/// Returns the reason why the proxy cannot answer a probe of the application's `port`. `rewritten_count` is
/// the number of the Pod's probes that the proxy answers already.
fn obstacle(probe: &FoundProbe, port: u16, plan: &Plan<'_>, rewritten_count: usize) -> Option<String> {
    if probe.is_early(plan) && probe.field != LIVENESS {
        return Some(format!(
            "in classic mode, the container starts before the sidecar: {}",
            early_remedy(port)
        ));
    }
    (rewritten_count >= MAX_PROBES)
        .then(|| format!("the sidecar answers at most {MAX_PROBES} probes and hooks of a Pod"))
}

/// Returns the warning about a probe that is sent to the sidecar, and that the kubelet executes before the sidecar runs.
fn early_problem(probe: &FoundProbe, port: u16) -> String {
    format!(
        "{}: in classic mode, the sidecar starts after all init containers, and the probe fails until then, so the kubelet \
         may restart the container: {}",
        probe.location(),
        early_remedy(port)
    )
}

fn early_remedy(port: u16) -> String {
    format!(
        "use {}: native, or list port {port} in {}",
        annotation::SIDECAR_MODE,
        annotation::EXCLUDE_INBOUND_PORTS
    )
}

/// Returns the port that an earlier injection chose for virtual probes.
fn earlier_port(pod: &Pod<'_>) -> Option<u16> {
    let is_injected = pod
        .annotations
        .get(annotation::SIDECAR_INJECTED)
        .is_some_and(|value| annotation::marks_injected(value));
    let port = pod.annotations.get(annotation::VIRTUAL_PROBES_PORT)?;
    is_injected.then(|| port.parse().ok()).flatten()
}

/// Returns the probes and hooks of a container, each as its path in the container and its JSON.
fn probes_and_hooks<'a>(container: &Container<'a>) -> Vec<(&'static str, &'a Map<String, Value>)> {
    let probes = PROBE_FIELDS.map(|field| (field, container.object(field)));
    let lifecycle = container.object("lifecycle");
    let hooks = ["lifecycle.postStart", "lifecycle.preStop"]
        .into_iter()
        .zip(HOOK_FIELDS);
    let hooks = hooks.map(|(path, field)| (path, lifecycle.and_then(|hooks| hooks.get(field)?.as_object())));
    probes
        .into_iter()
        .chain(hooks)
        .filter_map(|(path, probe)| Some((path, probe?)))
        .collect()
}

/// Returns the handler of a probe or hook; `None` if the kubelet sends nothing to the Pod's IP. Of a hook, only
/// `httpGet` counts: the kubelet rejects hooks with `tcpSocket`.
fn handler(
    container: &Container<'_>,
    field: &str,
    probe: &Map<String, Value>,
    earlier_port: Option<u16>,
) -> Option<Handler> {
    let is_probe = PROBE_FIELDS.contains(&field);
    let member = |name: &str| {
        let handler = probe.get(name).and_then(Value::as_object);
        handler.filter(|_| is_probe || name == "httpGet")
    };
    let result = if let Some(http) = member("httpGet") {
        (!has_host(http)).then(|| http_handler(container, http, earlier_port))?
    } else if let Some(tcp) = member("tcpSocket") {
        (!has_host(tcp)).then(|| tcp_handler(container, tcp))?
    } else {
        grpc_handler(container, member("grpc")?)
    };
    Some(result.unwrap_or_else(Handler::Unresolved))
}

fn has_host(handler: &Map<String, Value>) -> bool {
    handler
        .get("host")
        .and_then(Value::as_str)
        .is_some_and(|host| !host.is_empty())
}

fn http_handler(
    container: &Container<'_>,
    http: &Map<String, Value>,
    earlier_port: Option<u16>,
) -> Result<Handler, String> {
    let path = http.get("path").and_then(Value::as_str).unwrap_or_default();
    let has_https_scheme = http.get("scheme").and_then(Value::as_str) == Some("HTTPS");
    let port = resolve_port(container, "httpGet", http.get("port"))?;
    if Some(port) == earlier_port
        && !has_https_scheme
        && let Some(probe) = ApplicationProbe::from_path(path)
    {
        return Ok(Handler::Virtual(probe));
    }
    let protocol = if has_https_scheme {
        ProbeProtocol::Https
    } else {
        ProbeProtocol::Http
    };
    let change = Change::HttpGet {
        has_path: http.contains_key("path"),
        has_https_scheme,
    };
    let probe = ApplicationProbe::new(protocol, port, &path_as_sent(path));
    if probe.path.len() > MAX_PROBE_PATH {
        return Err(format!(
            "httpGet.path: with the port, longer than {MAX_PROBE_PATH} bytes"
        ));
    }
    Ok(Handler::Application(probe, change))
}

fn tcp_handler(container: &Container<'_>, tcp: &Map<String, Value>) -> Result<Handler, String> {
    let port = resolve_port(container, "tcpSocket", tcp.get("port"))?;
    let probe = ApplicationProbe::new(ProbeProtocol::Tcp, port, "");
    Ok(Handler::Application(probe, Change::OtherHandler("tcpSocket")))
}

fn grpc_handler(container: &Container<'_>, grpc: &Map<String, Value>) -> Result<Handler, String> {
    let port = resolve_port(container, "grpc", grpc.get("port"))?;
    let service = grpc.get("service").and_then(Value::as_str).unwrap_or_default();
    if service.len() > MAX_SERVICE_LENGTH {
        return Err(format!("grpc.service: longer than {MAX_SERVICE_LENGTH} bytes"));
    }
    let probe = ApplicationProbe::new(ProbeProtocol::Grpc, port, service);
    Ok(Handler::Application(probe, Change::OtherHandler("grpc")))
}

/// Resolves the port of a handler as the kubelet does. A name is looked up among the container's ports.
fn resolve_port(container: &Container<'_>, handler: &str, port: Option<&Value>) -> Result<u16, String> {
    let number = match port {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(name)) => match named_port(container, name) {
            Some(number) => Some(number),
            // A string that is not the name of a port may be a number.
            None => Some(
                name.parse()
                    .map_err(|_| format!("{handler}.port: the container has no port named {name:?}"))?,
            ),
        },
        _ => None,
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("{handler}.port: must be a port number from 1 to 65535 or the name of a port"))
}

fn named_port(container: &Container<'_>, name: &str) -> Option<u64> {
    let mut ports = container.list("ports").iter();
    let port = ports.find(|port| port.get("name").and_then(Value::as_str) == Some(name))?;
    port.get("containerPort")?.as_u64()
}

/// Returns a path in the form in which the kubelet sends it, because the proxy compares paths byte by byte. The kubelet
/// uses Go's `net/url`, which drops a fragment, and encodes a path that contains characters not allowed in a URL.
fn path_as_sent(path: &str) -> String {
    let without_fragment = path.split_once('#').map_or(path, |(path, _)| path);
    let (before_query, query) = without_fragment
        .split_once('?')
        .map_or((without_fragment, None), |(path, query)| (path, Some(query)));
    // If the text is not a valid URL, the kubelet takes the whole text, with `?` and `#`, for a path to encode.
    let Some(decoded) =
        percent_decode(before_query).filter(|_| !path.contains(|c: char| c.is_ascii_control()))
    else {
        return encode_path(path);
    };
    let mut sent = if before_query.bytes().all(is_sent_unchanged) {
        before_query.to_owned()
    } else {
        encode_path(&decoded)
    };
    if let Some(query) = query {
        sent.push('?');
        push_query(&mut sent, query);
    }
    sent
}

/// Whether Go keeps the byte in a path that is encoded already.
fn is_sent_unchanged(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]%/".contains(&byte)
}

/// Appends a query. The kubelet would send the query unchanged. Characters that a request line cannot contain are
/// encoded here, because Envoy would reject such a request.
fn push_query(sent: &mut String, query: &str) {
    for byte in query.bytes() {
        if byte.is_ascii_graphic() {
            sent.push(char::from(byte));
        } else {
            push_encoded(sent, byte);
        }
    }
}

/// Encodes a path as Go's `net/url` does.
fn encode_path(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            push_encoded(&mut encoded, byte);
        }
    }
    encoded
}

fn push_encoded(text: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write!(text, "%{byte:02X}");
}

// === impl Problems ===

impl Problems {
    fn warn(self, warnings: &mut Vec<String>) {
        let Self { unchanged, early } = self;
        let unchanged = unchanged
            .into_iter()
            .map(|problem| format!("{problem} (not rewritten to the sidecar; it may fail under STRICT)"));
        append_bounded(
            unchanged,
            "other probes or lifecycle hooks are not rewritten to the sidecar",
            warnings,
        );
        append_bounded(
            early.into_iter(),
            "other liveness probes fail until the sidecar runs",
            warnings,
        );
    }
}

/// Appends at most [`MAX_WARNINGS`] messages, and the number of the others with the text `about_others`.
fn append_bounded(
    messages: impl ExactSizeIterator<Item = String>,
    about_others: &str,
    warnings: &mut Vec<String>,
) {
    let others = messages.len().saturating_sub(MAX_WARNINGS);
    warnings.extend(messages.take(MAX_WARNINGS));
    if others > 0 {
        warnings.push(format!("{others} {about_others}"));
    }
}

// === impl FoundProbe ===

impl FoundProbe {
    /// Whether the kubelet executes the probe or hook before the sidecar runs, and the container cannot go on without
    /// its success: in classic mode, the sidecar starts after all init containers.
    fn is_early(&self, plan: &Plan<'_>) -> bool {
        let is_required = [LIVENESS, "startupProbe", "lifecycle.postStart"].contains(&self.field);
        plan.placement == Placement::Classic && self.is_init && is_required
    }

    /// Returns the change that sends the probe or hook to the proxy.
    fn redirecting_change(&self) -> Change {
        match &self.handler {
            Handler::Application(_, change) => *change,
            Handler::Virtual(_) | Handler::Unresolved(_) => Change::HttpGet {
                has_path: true,
                has_https_scheme: false,
            },
        }
    }

    /// Returns the change that restores the handler if an earlier injection has rewritten it.
    fn restored(&self, probe: &ApplicationProbe) -> Option<RewrittenProbe> {
        // Injection rewrites only HTTP hooks.
        let is_http = matches!(probe.protocol, ProbeProtocol::Http | ProbeProtocol::Https);
        let is_restorable = is_http || PROBE_FIELDS.contains(&self.field);
        let is_virtual = matches!(self.handler, Handler::Virtual(_));
        (is_virtual && is_restorable).then(|| RewrittenProbe {
            pointer: self.pointer.clone(),
            change: Change::Restored(probe.protocol),
            path: probe.inbound_path.clone(),
            port: probe.inbound_port,
        })
    }

    /// Returns the application's port that the probe or hook reaches, directly or through the proxy.
    pub(crate) fn application_port(&self) -> Option<u16> {
        match &self.handler {
            Handler::Application(probe, _) | Handler::Virtual(probe) => Some(probe.inbound_port),
            Handler::Unresolved(_) => None,
        }
    }

    /// Returns container and field, for messages.
    pub(crate) fn location(&self) -> String {
        format!("container \"{}\": {}", self.container, self.field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_as_the_kubelet_sends_them() {
        for (path, sent) in [
            ("/healthz", "/healthz"),
            ("/healthz?a=1&b=%20#fragment", "/healthz?a=1&b=%20"),
            ("/a%2Fb/(c)[d]", "/a%2Fb/(c)[d]"),
            ("/health check", "/health%20check"),
            ("/(a) b%20c", "/%28a%29%20b%20c"),
            ("/50%", "/50%25"),
            ("/50%?a=1", "/50%25%3Fa=1"),
            ("/ü", "/%C3%BC"),
            ("/x?a b=ü", "/x?a%20b=%C3%BC"),
            ("/a\n?b", "/a%0A%3Fb"),
            ("", ""),
        ] {
            assert_eq!(path_as_sent(path), sent, "{path}");
            // The kubelet sends the rewritten path unchanged.
            assert_eq!(path_as_sent(sent), sent, "{path}");
        }
    }
}
