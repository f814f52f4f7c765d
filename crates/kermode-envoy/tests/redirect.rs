//! Test of Envoy with nftables redirection, in a network namespace (needs `unshare`, `ip`, `nft` and `curl`).

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

mod support;

use std::path::Path;
use std::process::Command;

use support::envoy;
use support::input::Input;

/// Starts Envoy with the configuration `$CONFIG`, connects to a redirected address and then to the redirect port
/// itself, and prints the total number of Envoy's upstream connections after each attempt.
///
/// If Envoy connected to itself in a loop, the limit of file descriptors would end the loop. Only connections from the
/// client's source ports are redirected, so Envoy's own connections are not. In a Pod, the rules exempt Envoy's user
/// instead.
const SCRIPT: &str = r#"
set -eu
ulimit -n 4000
ip link set lo up
nft add table ip test
nft add chain ip test output '{ type nat hook output priority -100; }'
nft add rule ip test output tcp sport 7000-7100 tcp dport 7777 redirect to :15001
"$ENVOY" --config-path "$CONFIG" --disable-hot-restart --concurrency 1 --log-level off &
trap 'kill -9 $!' EXIT
until curl --silent --fail --output /dev/null http://127.0.0.1:9901/ready; do
  kill -0 $!
  sleep 0.05
done
count() { curl --silent "http://127.0.0.1:9901/stats?filter=^cluster.outbound_passthrough_ipv4.upstream_cx_total$"; }
curl --silent --max-time 5 --local-port 7000-7100 http://127.0.0.1:7777/ || true
count
curl --silent --max-time 5 http://127.0.0.1:15001/ || true
count
"#;

#[test]
fn connection_to_the_redirect_port_itself_is_closed() {
    let input = Input::parse("proxy: a.demo\ndataplanes: { a.demo: { address: 10.244.0.2 } }");
    let mut resources = input.resources();
    resources.retain(|resource| resource.name.starts_with("outbound:passthrough"));
    assert_eq!(resources.len(), 2, "expected a listener and a cluster");
    let bootstrap = envoy::mk_bootstrap(input.proxy(), 9901, Path::new("/unused.sock"));
    let mut config = envoy::with_static_resources(bootstrap, &resources);
    config
        .as_object_mut()
        .expect("an object")
        .remove("dynamic_resources");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("envoy.json");
    std::fs::write(&path, config.to_string()).expect("a writable directory");

    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            SCRIPT,
        ])
        .env("ENVOY", envoy::binary())
        .env("CONFIG", &path)
        .output()
        .expect("unshare runs");
    let counts: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.rsplit_once(": ").map(|(_, count)| count.to_owned()))
        .collect();
    // Only the redirected connection is passed through. Envoy closes the connection to the redirect port.
    assert_eq!(counts, ["1", "1"], "{}", String::from_utf8_lossy(&output.stderr));
}
