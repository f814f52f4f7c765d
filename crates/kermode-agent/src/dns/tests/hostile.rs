//! Clients that send invalid bytes or too much.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Returns a message with its length prefix.
fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

#[tokio::test]
async fn invalid_bytes_over_tcp_end_only_their_connection() {
    let server = NameServer::with_code(ResponseCode::NoError).await;
    let dns = Dns::start(&[&server]).await;
    let query = mk_query(6, "web.demo");
    let response = mk_response(&query, ResponseCode::NoError);
    let mut undisturbed = TcpStream::connect(dns.address).await.unwrap();
    for bytes in [
        framed(b""),
        framed(b"not dns"),
        framed(&response),
        // Lengths above the limit.
        vec![0xff, 0xff],
        vec![0x10, 0x01],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut stream = TcpStream::connect(dns.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let received = Frames::new(stream, 4096).next().await;
        assert!(matches!(received, Ok(None) | Err(_)), "{bytes:?}: {received:?}");
    }
    // A query that ends before its announced length gets no response.
    let mut cut = TcpStream::connect(dns.address).await.unwrap();
    cut.write_all(&framed(&query)[..20]).await.unwrap();
    cut.shutdown().await.unwrap();
    let received = Frames::new(cut, 4096).next().await;
    assert!(matches!(received, Ok(None) | Err(_)), "{received:?}");
    assert_eq!(server.query_count(), 0);
    write_message(&mut undisturbed, &query).await.unwrap();
    assert_eq!(
        Frames::new(undisturbed, 4096).next().await.unwrap(),
        Some(response)
    );
}

#[tokio::test]
async fn flood_of_tcp_connections_with_queries_leaves_udp_usable() {
    let server = NameServer::with_code(ResponseCode::NoError).await;
    let dns = Dns::start(&[&server]).await;
    let queries = framed(&mk_query(6, "web.demo")).repeat(32);
    let mut connections = Vec::new();
    for _ in 0..4 * MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(dns.address).await.unwrap();
        // The server may have closed the connection already.
        let _ = stream.write_all(&queries).await;
        connections.push(stream);
    }
    let query = mk_query(7, "shop.demo");
    let response = mk_response(&query, ResponseCode::NoError);
    assert_eq!(dns.query(&query).await, response);
    // The server closes all connections but the newest ones.
    let closed = connections.iter_mut().take(3 * MAX_CONNECTIONS);
    for stream in closed {
        while stream.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {}
    }
}
