//! Connections of HTTP/1.1 that carry several requests.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::OK;
use crate::sidecars::{Sidecars, connect, read_text, start_application};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";

#[test]
fn connections_of_client_and_application_stay_open_between_requests() {
    let connection_count = Arc::new(AtomicUsize::new(0));
    let count = connection_count.clone();
    let application = start_application(move |connection| {
        count.fetch_add(1, Ordering::Relaxed);
        loop {
            read_text(connection, "\r\n\r\n");
            connection.write_all(OK.as_bytes()).expect("a response");
        }
    });
    let (_sidecars, address) = Sidecars::start_one("http", application);
    let mut client = connect(address);
    for _ in 0..3 {
        client.write_all(REQUEST).expect("a request");
        let response = read_text(&mut client, "\r\n\r\nok");
        assert!(!response.contains("connection: close"), "{response}");
    }
    assert_eq!(connection_count.load(Ordering::Relaxed), 1);
}

#[test]
fn connection_of_the_client_stays_open_if_the_application_closes_its_own() {
    let application = start_application(|connection| {
        read_text(connection, "\r\n\r\n");
        let response = OK.replace("content-length", "connection: close\r\ncontent-length");
        connection.write_all(response.as_bytes()).expect("a response");
    });
    let (_sidecars, address) = Sidecars::start_one("http", application);
    let mut client = connect(address);
    // A client may send a request before it has the response to the one before.
    client.write_all(&REQUEST.repeat(3)).expect("requests");
    let mut responses = String::new();
    while responses.matches("HTTP/1.1 200 OK\r\n").count() < 3 {
        responses += &read_text(&mut client, "\r\n\r\nok");
    }
    assert!(!responses.contains("connection: close"), "{responses}");
}
