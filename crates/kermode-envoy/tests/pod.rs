//! Tests of the sidecar of a dual-stack Pod: the real Envoy with the rules of `kermode-netfilter`, called from another
//! network namespace (needs `unshare`, `nsenter`, `ip`, `nft`, `curl` and `python3`).

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

mod support;

use std::process::Command;

use kermode_netfilter::{IpFamilies, RuleSet, TrafficConfig};
use support::access_log::AccessLogServer;
use support::certificates::Authority;
use support::envoy;
use support::input::Input;
use support::secrets::{refer_to_secret_files, write_secrets};

/// Starts Envoy and an application in the network namespace of the Pod, applies the rules, and runs `$CALLS`. The
/// application serves the directory `$FOLDER` at port 8080, which has an inbound, and at port 8081.
///
/// The calls `plain URL` and `mtls URL` send a request from the network namespace of a client. If the response has
/// status 200, they print its body. Otherwise, they print the status, or `refused` if there is no response. The call
/// `stat REGEX` prints the values of the statistics of Envoy whose names match. The call `closed N` waits until Envoy has
/// logged N closed connections, and prints the destinations of all.
const SCRIPT: &str = r#"
set -eu
cd "$FOLDER"
# Waits at most 60 s for a condition.
await() {
  for _ in $(seq 1200); do if "$@"; then return; fi; sleep 0.05; done
  echo "not fulfilled within 60 s: $*" >&2
  exit 1
}
unshare --net sleep infinity & client=$!
has_namespace() { [ "$(readlink /proc/$client/ns/net)" != "$(readlink /proc/self/ns/net)" ]; }
await has_namespace
in_client() { nsenter --target $client --net "$@"; }
ip link set lo up
# Envoy connects to the application from this address if the client uses IPv6.
ip addr add ::6/128 dev lo
ip link add eth0 type veth peer name eth0 netns $client
ip addr add 10.0.0.9/24 dev eth0
ip addr add fd00:10::9/64 dev eth0 nodad
ip link set eth0 up
in_client ip addr add 10.0.0.1/24 dev eth0
in_client ip addr add fd00:10::1/64 dev eth0 nodad
in_client ip link set eth0 up
nft -f rules
python3 -m http.server 8080 --bind :: >/dev/null 2>&1 &
python3 -m http.server 8081 --bind :: >/dev/null 2>&1 &
"$ENVOY" --config-path envoy.json --disable-hot-restart --concurrency 1 --log-level off &
await curl --silent --fail --output /dev/null http://127.0.0.1:9901/ready
await curl --silent --output /dev/null http://127.0.0.1:8080/
await curl --silent --output /dev/null http://127.0.0.1:8081/
plain() { call "$1"; }
mtls() { call --insecure --cert client.pem --key client.key "$1"; }
call() {
  status=$(in_client curl --silent --max-time 30 --output response --write-out '%{http_code}' "$@") || status=refused
  if [ "$status" = 200 ]; then cat response; else echo "$status"; fi
}
has_closed() { [ "$(wc -l < closed)" -ge "$1" ]; }
closed() { await has_closed "$1"; cat closed; }
stat() { curl --silent "http://127.0.0.1:9901/stats?filter=$1" | sed 's/.*: //'; }
eval "$CALLS"
"#;

/// Runs [`SCRIPT`] with these calls. Returns the lines that the calls print.
fn call_pod(input: &str, calls: &str) -> Vec<String> {
    let input = Input::parse(input);
    let authority = Authority::new();
    let secrets = write_secrets(&authority, &["spiffe://default/web_shop_svc_80"]);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let agent_socket = folder.path().join("agent.sock");
    let _access_log = AccessLogServer::start(&agent_socket, &folder.path().join("closed"));
    let bootstrap = envoy::mk_bootstrap(input.proxy(), 9901, &agent_socket);
    let mut config = envoy::with_static_resources(bootstrap, &input.resources());
    config
        .as_object_mut()
        .expect("an object")
        .remove("dynamic_resources");
    refer_to_secret_files(&mut config, secrets.path());
    let client_secret = authority.identity(&["spiffe://default/client_shop_svc"]);
    let client_certificate = &client_secret["resources"][0]["tls_certificate"];
    let pem = |field: &str| {
        client_certificate[field]["inline_string"]
            .as_str()
            .expect("PEM")
            .to_owned()
    };
    let rules = RuleSet::new(&TrafficConfig::default(), IpFamilies::DualStack);

    for (name, content) in [
        ("hello", "application\n".to_owned()),
        ("envoy.json", config.to_string()),
        ("client.pem", pem("certificate_chain")),
        ("client.key", pem("private_key")),
        ("rules", rules.to_string()),
    ] {
        std::fs::write(folder.path().join(name), content).expect("a writable directory");
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--pid", "--mount-proc"])
        .args(["--fork", "--kill-child", "sh", "-c", SCRIPT])
        .env("ENVOY", envoy::binary())
        .env("FOLDER", folder.path())
        .env("CALLS", calls)
        .output()
        .expect("unshare runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8_lossy(&output.stdout);
    lines.lines().map(str::to_owned).collect()
}

/// Returns the input with a dual-stack Pod that has an inbound at port 8080. `mesh_settings` contains the settings of
/// the mesh, as lines of YAML.
fn mk_input(mesh_settings: &str) -> String {
    format!(
        "{mesh_settings}
proxy: web-1.shop
dataplanes:
  web-1.shop:
    address: 10.0.0.9
    additionalAddresses: [\"fd00:10::9\"]
    redirectPortInboundV6: 15010
    inbound: [{{ port: 8080, tags: {{ kuma.io/service: web_shop_svc_80, kuma.io/protocol: http }} }}]
"
    )
}

#[test]
fn both_addresses_of_a_dual_stack_pod_accept_only_mtls() {
    let calls = "
        plain http://10.0.0.9:8080/hello
        plain http://[fd00:10::9]:8080/hello
        mtls https://10.0.0.9:8080/hello
        mtls https://[fd00:10::9]:8080/hello";
    assert_eq!(
        call_pod(&mk_input("mtls: STRICT"), calls),
        ["refused", "refused", "application", "application"]
    );
}

#[test]
fn keepalive_probes_detect_disappeared_clients_of_a_pod() {
    // Opens a connection to each address and sends nothing. `ss` shows the timers of the connections that Envoy has
    // accepted.
    let calls = "
        in_client python3 -c 'import socket, time
connections = [socket.create_connection((host, 8080)) for host in (\"10.0.0.9\", \"fd00:10::9\")]
time.sleep(60)' &
        accepted() { ss --no-header --tcp --numeric --options state established '( sport = :15006 or sport = :15010 )'; }
        has_accepted() { [ \"$(accepted | wc -l)\" = 2 ]; }
        await has_accepted
        accepted | grep --only-matching keepalive";
    assert_eq!(
        call_pod(&mk_input("mtls: STRICT"), calls),
        ["keepalive", "keepalive"]
    );
}

#[test]
fn udp_datagrams_reach_the_application_under_strict_mtls() {
    let calls = "
        python3 -c 'import socket
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.bind((\"::\", 8080))
open(\"bound\", \"w\").close()
while True:
    data, client = server.recvfrom(100)
    server.sendto(data, client)' &
        await test -e bound
        in_client python3 -c 'import socket
for host in (\"10.0.0.9\", \"fd00:10::9\"):
    client = socket.socket(socket.AF_INET6 if \":\" in host else socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(60)
    client.sendto(b\"echo\", (host, 8080))
    print(client.recv(100).decode())'";
    assert_eq!(call_pod(&mk_input("mtls: STRICT"), calls), ["echo", "echo"]);
}

#[test]
fn permissions_apply_to_both_addresses_of_a_dual_stack_pod() {
    let mesh_settings = "
mtls: STRICT
permissions: [{ rules: [{ service: friend_shop_svc, action: Allow }] }]";
    let calls = "
        mtls https://10.0.0.9:8080/hello
        mtls https://[fd00:10::9]:8080/hello
        stat '^http.*rbac.denied$'";
    // The listener of each address has denied one request.
    assert_eq!(
        call_pod(&mk_input(mesh_settings), calls),
        ["403", "403", "1", "1"]
    );
}

#[test]
fn virtual_probe_reaches_the_application_in_plain_text_under_strict_mtls() {
    let input = format!(
        "{}    probes: [{{ port: 8080, path: /hello }}, {{ port: 8081, path: /hello }}, {{ port: 8082, path: /hello }}]\n",
        mk_input("mtls: STRICT")
    );
    // The listener for virtual probes has port 9000 and paths that begin with the application's port. Port 8081 has no
    // inbound. Nothing listens on port 8082. No probe has the path `/other`.
    let calls = "
        status() { in_client curl --silent --max-time 30 --output /dev/null --write-out '%{http_code}\\n' \"$1\"; }
        plain http://10.0.0.9:8080/hello
        plain http://10.0.0.9:9000/8080/hello
        status http://10.0.0.9:9000/8080/hello
        status http://10.0.0.9:9000/8081/hello
        status http://10.0.0.9:9000/8082/hello
        status http://10.0.0.9:9000/8080/other";
    assert_eq!(
        call_pod(&input, calls),
        ["refused", "application", "200", "200", "503", "404"]
    );
}

/// Calls of port 8081, which has no inbound, at both addresses.
const CALLS_OF_PORT_WITHOUT_INBOUND: &str = "
        plain http://10.0.0.9:8081/hello
        plain http://[fd00:10::9]:8081/hello
        mtls https://10.0.0.9:8081/hello
        stat '^tcp.inbound_passthrough_.*downstream_cx_no_route$'";

#[test]
fn port_without_an_inbound_is_closed_in_strict_mode() {
    // Envoy has closed two connections over IPv4 and one over IPv6.
    assert_eq!(
        call_pod(&mk_input("mtls: STRICT"), CALLS_OF_PORT_WITHOUT_INBOUND),
        ["refused", "refused", "refused", "2", "1"]
    );
}

#[test]
fn envoy_logs_each_closed_connection_with_its_destination_at_once() {
    let calls = "
        plain http://10.0.0.9:8081/hello
        closed 1
        plain http://[fd00:10::9]:8081/hello
        plain http://10.0.0.9:15006/hello
        mtls https://10.0.0.9:8080/hello
        mtls https://10.0.0.9:8081/hello
        closed 3";
    // Port 15006 is a redirection port, and port 8080 has an inbound.
    let (v4, v6) = ("10.0.0.9:8081", "[fd00:10::9]:8081");
    assert_eq!(
        call_pod(&mk_input("mtls: STRICT"), calls),
        [
            "refused",
            v4,
            "refused",
            "refused",
            "application",
            "refused",
            v4,
            v6,
            v4
        ]
    );
}

#[test]
fn every_port_of_a_serviceless_pod_is_closed_in_strict_mode() {
    // The Dataplane of a service-less Pod has a placeholder inbound, with port 49151 and a service name without a port.
    let input = mk_input("mtls: STRICT")
        .replace("web_shop_svc_80", "web_shop_svc")
        .replace("port: 8080", "port: 49151");
    let calls = "
        plain http://10.0.0.9:8080/hello
        plain http://[fd00:10::9]:8080/hello";
    assert_eq!(call_pod(&input, calls), ["refused", "refused"]);
}

#[test]
fn port_without_an_inbound_is_open_in_other_modes_and_if_the_mesh_allows_it() {
    for settings in ["", "mtls: PERMISSIVE", "mtls: STRICT\ninboundPassthrough: true"] {
        assert_eq!(
            call_pod(&mk_input(settings), CALLS_OF_PORT_WITHOUT_INBOUND),
            ["application", "application", "refused", "0", "0"],
            "{settings}"
        );
    }
}
