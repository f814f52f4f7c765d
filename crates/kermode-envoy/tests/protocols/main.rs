//! Tests of protocols: messages between a client and an application through both sidecars, under STRICT.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

mod direct;
mod http2;
mod ipv6;
mod keepalive;
mod sidecars;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde_json::Value;
use sidecars::{Sidecars, connect, mk_input, read_text, read_to_end, read_until, start_application};
use support::input::Input;
use support::readable;
use support::secrets::for_each_child;

/// Timeout of every wait; long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A request and a response of HTTP/1.1, and the parts that must arrive.
struct Exchange<'a> {
    request: &'a str,
    /// End of the request when it arrives at the application.
    request_end: &'a str,
    /// Part of the request when it arrives at the application. Envoy writes the names of headers in lower case.
    arrives: &'a str,
    response: &'a str,
    /// Parts of the response when it arrives at the client.
    returns: &'a [&'a str],
}

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

impl Default for Exchange<'_> {
    fn default() -> Self {
        Self {
            request: GET,
            request_end: "\r\n\r\n",
            arrives: "GET / HTTP/1.1\r\n",
            response: OK,
            returns: &["HTTP/1.1 200 OK\r\n", "\r\n\r\nok"],
        }
    }
}

/// Sends the request of each exchange through both sidecars to an application that sends the response, and checks what
/// arrives.
fn check_exchanges(exchanges: &[Exchange]) {
    let (to_application, from_test) = mpsc::channel::<(String, String)>();
    let from_test = Arc::new(Mutex::new(from_test));
    let (to_test, from_application) = mpsc::channel();
    let application = start_application(move |connection| {
        let next = from_test.lock().expect("the lock").recv_timeout(TIMEOUT);
        let (end, response) = next.expect("an exchange");
        to_test.send(read_text(connection, &end)).expect("the test runs");
        connection.write_all(response.as_bytes()).expect("a response");
        // The sidecar opens another connection for the next request.
    });
    let (_sidecars, address) = Sidecars::start_one("http", application);
    for exchange in exchanges {
        let end_and_response = (exchange.request_end.to_owned(), exchange.response.to_owned());
        to_application
            .send(end_and_response)
            .expect("the application runs");
        let mut client = connect(address);
        client.write_all(exchange.request.as_bytes()).expect("a request");
        let response = read_to_end(&mut client);
        let request = from_application.try_recv().unwrap_or_default();
        assert!(
            request.contains(exchange.arrives),
            "{}\napplication: {request}\nclient: {response}",
            exchange.request
        );
        for part in exchange.returns {
            assert!(
                response.contains(part),
                "{}\nclient: {response}",
                exchange.request
            );
        }
    }
}

#[test]
fn trailers_and_informational_responses_of_http_1_1_are_forwarded() {
    check_exchanges(&[
        Exchange {
            request: "POST / HTTP/1.1\r\nHost: web\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                      3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
            request_end: "\r\n0\r\nx-sum: 1\r\n\r\n",
            arrives: "transfer-encoding: chunked",
            response: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 2\r\n\r\n",
            returns: &["3\r\nabc\r\n0\r\nx-sum: 2\r\n\r\n"],
        },
        Exchange {
            response: "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n\
                       HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            returns: &["HTTP/1.1 103 ", "link: </a.css>\r\n", "HTTP/1.1 200 OK\r\n"],
            ..Default::default()
        },
    ]);
}

#[test]
fn targets_hosts_and_headers_are_not_changed() {
    let target = "/a//b/../c%2Fd/.%2e/;x=1?q=%7c&r=a|{}^`\"<>[]\\";
    let odd_target = format!("GET {target} HTTP/1.1\r\nHost: Web.example:8080\r\nConnection: close\r\n\r\n");
    let large_header = format!("x-large: {}\r\n", "x".repeat(70_000));
    let many_headers = (0..150).map(|index| format!("x-{index}: 1\r\n"));
    let many_headers = many_headers.collect::<Vec<_>>().concat();
    let with_headers = |headers: &str| {
        (
            GET.replace("\r\n\r\n", &format!("\r\n{headers}\r\n")),
            OK.replace("content-length", &format!("{headers}content-length")),
        )
    };
    let large = with_headers(&large_header);
    let long = with_headers(&many_headers);
    check_exchanges(&[
        Exchange {
            request: &odd_target,
            arrives: &format!("GET {target} HTTP/1.1\r\nhost: Web.example:8080\r\n"),
            ..Default::default()
        },
        Exchange {
            request: &large.0,
            arrives: &large_header,
            response: &large.1,
            returns: &["HTTP/1.1 200 OK\r\n", &large_header],
            ..Default::default()
        },
        Exchange {
            request: &long.0,
            arrives: "x-149: 1\r\n",
            response: &long.1,
            returns: &["HTTP/1.1 200 OK\r\n", "x-149: 1\r\n"],
            ..Default::default()
        },
        Exchange {
            request: "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\nX_Name: grüße\r\n\r\n",
            arrives: "x_name: grüße\r\n",
            response: "HTTP/1.1 200 OK\r\nServer: nginx\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                       content-length: 2\r\n\r\nok",
            returns: &["server: nginx\r\n", "set-cookie: a=1\r\nset-cookie: b=2\r\n"],
            ..Default::default()
        },
    ]);
}

#[test]
fn responses_without_body_and_bodies_of_unknown_length_are_forwarded() {
    check_exchanges(&[
        Exchange {
            request: "HEAD / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n",
            arrives: "HEAD / HTTP/1.1\r\n",
            response: "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n",
            returns: &["HTTP/1.1 200 OK\r\n", "content-length: 1234\r\n"],
            ..Default::default()
        },
        Exchange {
            response: "HTTP/1.1 204 No Content\r\n\r\n",
            returns: &["HTTP/1.1 204 No Content\r\n"],
            ..Default::default()
        },
        Exchange {
            response: "HTTP/1.1 304 Not Modified\r\netag: x\r\ncontent-length: 77\r\n\r\n",
            returns: &[
                "HTTP/1.1 304 Not Modified\r\n",
                "etag: x\r\n",
                "content-length: 77\r\n",
            ],
            ..Default::default()
        },
        Exchange {
            // The end of the connection ends the body.
            response: "HTTP/1.1 200 OK\r\n\r\nuntil the end",
            returns: &["transfer-encoding: chunked\r\n", "\r\nuntil the end\r\n0\r\n\r\n"],
            ..Default::default()
        },
        Exchange {
            request: "GET / HTTP/1.0\r\n\r\n",
            response: "HTTP/1.0 200 OK\r\n\r\nuntil the end",
            returns: &["HTTP/1.0 200 OK\r\n", "\r\n\r\nuntil the end"],
            ..Default::default()
        },
    ]);
}

#[test]
fn request_that_offers_an_upgrade_to_tls_or_http_2_is_served_without_the_upgrade() {
    let offer = |upgrade: &str| {
        format!("GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n")
    };
    let h2c = offer("h2c").replace(
        "Connection: ",
        "HTTP2-Settings: AAMAAABk\r\nConnection: HTTP2-Settings, ",
    );
    let application = start_application(|connection| {
        while !read_text(connection, "\r\n\r\n").contains("upgrade: ") {
            connection.write_all(OK.as_bytes()).expect("a response");
        }
    });
    let (_sidecars, address) = Sidecars::start_one("http", application);
    for request in [offer("TLS/1.2"), offer("HTTP/2.0"), h2c] {
        let mut client = connect(address);
        client.write_all(request.as_bytes()).expect("a request");
        let head = read_text(&mut client, "\r\n\r\nok");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{request}{head}");
    }
}

#[test]
fn application_decides_on_requests_that_expect_100_continue() {
    let application = start_application(|connection| {
        let head = read_text(connection, "\r\n\r\n");
        let responses: [&[u8]; 2] = if head.contains("/refused") {
            [
                b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n",
                b"",
            ]
        } else {
            [b"HTTP/1.1 100 Continue\r\n\r\n", OK.as_bytes()]
        };
        connection.write_all(responses[0]).expect("a response");
        if !responses[1].is_empty() {
            read_until(connection, b"hello");
            connection.write_all(responses[1]).expect("a response");
        }
    });
    let (_sidecars, address) = Sidecars::start_one("http", application);
    let send_head = |path: &str| {
        let mut client = connect(address);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\nExpect: 100-continue\r\n\
             Content-Length: 5\r\n\r\n"
        );
        client.write_all(head.as_bytes()).expect("a request");
        client
    };
    let response = read_to_end(&mut send_head("/refused"));
    assert!(response.starts_with("HTTP/1.1 417 "), "{response}");

    let mut accepted = send_head("/");
    assert_eq!(
        read_text(&mut accepted, "\r\n\r\n"),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    accepted.write_all(b"hello").expect("a body");
    let response = read_to_end(&mut accepted);
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

/// Accepts an upgrade or a CONNECT request, and then echoes bytes.
fn accept_tunnel(connection: &mut TcpStream) {
    let head = read_text(connection, "\r\n\r\n");
    let upgrade = head.lines().find_map(|line| line.strip_prefix("upgrade: "));
    let response = match upgrade {
        Some(upgrade) => {
            format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\r\n")
        }
        None => "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
    };
    connection.write_all(response.as_bytes()).expect("a response");
    let mut reader = connection.try_clone().expect("a socket");
    let _ = std::io::copy(&mut reader, connection);
}

#[test]
fn upgrades_and_connect_open_a_tunnel_to_the_application() {
    let (_sidecars, address) = Sidecars::start_one("http", start_application(accept_tunnel));
    let upgrade = |name: &str| {
        format!("GET /x HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: {name}\r\n\r\n")
    };
    let connect_request = "CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n".to_owned();
    for (request, status) in [
        (upgrade("websocket"), "101"),
        (upgrade("tcp"), "101"),
        (upgrade("SPDY/3.1"), "101"),
        (connect_request, "200"),
    ] {
        let mut client = connect(address);
        client.write_all(request.as_bytes()).expect("a request");
        let head = read_text(&mut client, "\r\n\r\n");
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}{head}"
        );
        client.write_all(b"ping").expect("an open tunnel");
        read_until(&mut client, b"ping");
    }
}

/// Opens a WebSocket to [`accept_tunnel`].
fn open_websocket(address: SocketAddr) -> TcpStream {
    let mut tunnel = connect(address);
    tunnel
        .write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .expect("a request");
    read_until(&mut tunnel, b"\r\n\r\n");
    tunnel
}

/// HTTP/2 compresses the headers between sidecars. `~` is one of the characters whose code is longer than the character.
#[test]
fn large_header_is_forwarded_and_does_not_end_the_requests_of_others() {
    let (_sidecars, address) = Sidecars::start_one("http", start_application(accept_tunnel));
    let mut tunnel = open_websocket(address);
    for length in [200_000, 250_000] {
        let mut client = connect(address);
        let request = format!(
            "GET /x HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nx-large: {}\r\n\r\n",
            "~".repeat(length)
        );
        client.write_all(request.as_bytes()).expect("a request");
        let head = read_text(&mut client, "\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 101 "), "{length}: {head}");
        tunnel.write_all(b"ping").expect("an open tunnel");
        read_until(&mut tunnel, b"ping");
    }
}

/// The stopped sidecar stands for a node that disappeared: no connection is closed, and nothing is received.
#[test]
fn request_to_a_sidecar_that_stopped_responding_ends_after_an_unanswered_ping() {
    let application = start_application(accept_tunnel);
    let sidecars = Sidecars::start_with(&[("http", application)], shorten_pings);
    let mut tunnel = open_websocket(sidecars.outbound(0));
    sidecars.server.stop();
    tunnel.write_all(b"ping").expect("an open tunnel");
    assert_eq!(read_to_end(&mut tunnel), "");
    let timeouts = sidecars.client.counter_sum("cluster.*http2.keepalive_timeout");
    assert_eq!(timeouts, 1);
}

/// Shortens interval and timeout of PINGs, at any depth of the value.
fn shorten_pings(value: &mut Value) {
    if let Some(keepalive) = value.get_mut("connectionKeepalive") {
        keepalive["interval"] = "1s".into();
        keepalive["timeout"] = "1s".into();
    }
    for_each_child(value, &mut shorten_pings);
}

#[test]
fn invalid_request_does_not_end_the_requests_of_others() {
    let (_sidecars, address) = Sidecars::start_one("http", start_application(accept_tunnel));
    let mut tunnel = open_websocket(address);
    // HTTP/2 between sidecars does not allow an empty host.
    let mut invalid = connect(address);
    invalid
        .write_all(b"GET / HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n")
        .expect("a request");
    let response = read_to_end(&mut invalid);
    assert!(response.starts_with("HTTP/1.1 50"), "{response}");
    tunnel.write_all(b"ping").expect("an open tunnel");
    read_until(&mut tunnel, b"ping");
}

#[test]
fn body_larger_than_the_buffers_is_forwarded_while_it_arrives() {
    const SIZE: usize = 8 << 20;
    let application = start_application(|connection| {
        read_until(connection, b"\r\n\r\n");
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
        connection.write_all(head.as_bytes()).expect("a response");
        let mut reader = connection.try_clone().expect("a socket");
        let _ = std::io::copy(&mut reader, connection);
    });
    let (_sidecars, address) = Sidecars::start_one("http", application);
    let mut client = connect(address);
    let head = format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: {SIZE}\r\n\r\n");
    client.write_all(head.as_bytes()).expect("a request");
    // The response begins before the body of the request.
    let head = read_text(&mut client, "\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut writer = client.try_clone().expect("a socket");
    let sender = std::thread::spawn(move || writer.write_all(&vec![b'x'; SIZE]));
    let mut echo = vec![0; SIZE];
    client.read_exact(&mut echo).expect("the whole body");
    sender.join().expect("a thread").expect("an open socket");
    assert!(echo.iter().all(|byte| *byte == b'x'));
}

#[test]
fn tcp_server_may_send_first_and_each_side_may_close_its_direction_first() {
    let banner = start_application(|connection| {
        connection.write_all(b"banner\n").expect("an open socket");
        // The client closes its direction, and still reads.
        let request = read_to_end(connection);
        let response = format!("got {request}");
        connection.write_all(response.as_bytes()).expect("an open socket");
    });
    let (to_test, late) = mpsc::channel();
    let closing = start_application(move |connection| {
        connection.shutdown(Shutdown::Write).expect("an open socket");
        to_test.send(read_to_end(connection)).expect("the test runs");
    });
    let sidecars = Sidecars::start(&[("tcp", banner), ("kafka", closing)]);
    let mut client = connect(sidecars.outbound(0));
    assert_eq!(read_text(&mut client, "\n"), "banner\n");
    client.write_all(b"query").expect("an open socket");
    client.shutdown(Shutdown::Write).expect("an open socket");
    assert_eq!(read_to_end(&mut client), "got query");

    let mut client = connect(sidecars.outbound(1));
    assert_eq!(read_to_end(&mut client), "");
    client.write_all(b"late").expect("the other direction is open");
    client.shutdown(Shutdown::Write).expect("an open socket");
    assert_eq!(late.recv_timeout(TIMEOUT).expect("the bytes"), "late");
}

#[test]
fn idle_tcp_connections_and_http_streams_have_no_timeout() {
    let any = SocketAddr::from(([127, 0, 0, 1], 1));
    let applications = ["http", "tcp"].map(|protocol| (protocol, any));
    for services in applications.chunks(1) {
        for proxy in ["client-0.demo", "server-0.demo"] {
            let input = Input::parse(&format!("{}proxy: {proxy}\n", mk_input(services)));
            for resource in input.resources() {
                if !resource.name.contains("admin") {
                    check_timeouts(&readable::json(&resource), &resource.name);
                }
            }
        }
    }
}

/// Checks the timeouts of all TCP proxies, connection managers and routes, at any depth of the value.
fn check_timeouts(value: &Value, resource: &str) {
    let filter = value["@type"].as_str().unwrap_or_default();
    if filter.ends_with(".TcpProxy") {
        assert_eq!(value["idleTimeout"], "0s", "{resource}");
    } else if filter.ends_with(".HttpConnectionManager") {
        assert_eq!(value["streamIdleTimeout"], "0s", "{resource}");
    } else if value.get("cluster").is_some() {
        // Envoy's default timeout of a response is 15 s.
        assert_eq!(value["timeout"], "0s", "{resource}");
    }
    match value {
        Value::Object(map) => map.values().for_each(|child| check_timeouts(child, resource)),
        Value::Array(list) => list.iter().for_each(|child| check_timeouts(child, resource)),
        _ => {}
    }
}
