//! Requests and TCP connections over IPv6 alone.

use std::io::Write as _;
use std::net::Ipv6Addr;

use crate::sidecars::{Sidecars, connect, read_to_end, start_application_at};
use crate::{accept_tunnel, open_websocket, read_until};

#[test]
fn requests_and_connections_over_ipv6_pass_through_both_sidecars() {
    let tunnel = start_application_at(Ipv6Addr::LOCALHOST.into(), accept_tunnel);
    let banner = start_application_at(Ipv6Addr::LOCALHOST.into(), |connection| {
        connection.write_all(b"banner").expect("an open socket");
    });
    let sidecars = Sidecars::start(&[("http", tunnel), ("tcp", banner)]);
    let mut client = open_websocket(sidecars.outbound(0));
    client.write_all(b"ping").expect("an open tunnel");
    read_until(&mut client, b"ping");
    assert_eq!(read_to_end(&mut connect(sidecars.outbound(1))), "banner");
    let accepted = sidecars.server.counter_sum("listener.*ssl.handshake");
    assert!(accepted >= 2, "{accepted} TLS handshakes");
}
