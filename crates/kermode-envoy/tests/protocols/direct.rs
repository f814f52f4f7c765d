//! Direct access of HTTP/1.1 and TCP. The tests of HTTP/2 cover direct access, too.

use std::io::Write as _;

use crate::sidecars::{Sidecars, connect, read_text, read_to_end, start_application};
use crate::{GET, OK};

#[test]
fn requests_of_http_1_1_and_tcp_connections_reach_the_pod_with_direct_access() {
    let web = start_application(|connection| {
        read_text(connection, "\r\n\r\n");
        connection.write_all(OK.as_bytes()).expect("a response");
    });
    let banner = start_application(|connection| {
        connection.write_all(b"banner").expect("an open socket");
    });
    let sidecars = Sidecars::start(&[("http", web), ("tcp", banner)]);
    let mut client = connect(sidecars.direct(0));
    client.write_all(GET.as_bytes()).expect("a request");
    assert!(read_to_end(&mut client).starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(read_to_end(&mut connect(sidecars.direct(1))), "banner");
    let handshakes = sidecars.client.counter_sum("cluster.direct_access.ssl.handshake");
    assert_eq!(handshakes, 2);
}
