//! Tests of the DNS server with real sockets and simulated name servers.

use hickory_proto::op::ResponseCode;

use super::message::response_code;
use super::message::tests::{mk_query, mk_response};
use super::*;

/// Behaviour of a simulated name server over UDP. Over TCP, every simulated name server responds.
#[derive(Clone, Copy)]
enum Behaviour {
    Responds,
    Fails,
    Silent,
    /// Sends a forged response with a wrong ID and one more byte, then the correct response.
    Forges,
}

async fn mk_name_server(behaviour: Behaviour) -> SocketAddr {
    // A port that is free for UDP may be in use for TCP. In this case, another port is tried.
    let (udp, tcp, address) = loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(address).await {
            break (udp, tcp, address);
        }
    };
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            let query = &buffer[..length];
            match behaviour {
                Behaviour::Responds => udp
                    .send_to(&mk_response(query, ResponseCode::NoError), client)
                    .await
                    .unwrap(),
                Behaviour::Fails => udp
                    .send_to(&mk_response(query, ResponseCode::ServFail), client)
                    .await
                    .unwrap(),
                Behaviour::Silent => 0,
                Behaviour::Forges => {
                    let mut forged = mk_response(query, ResponseCode::NoError);
                    // The ID is in the first two bytes.
                    forged[0] ^= 0xff;
                    forged.push(66);
                    udp.send_to(&forged, client).await.unwrap();
                    udp.send_to(&mk_response(query, ResponseCode::NoError), client)
                        .await
                        .unwrap()
                }
            };
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            while let Some(query) = read_message(&mut stream).await.unwrap() {
                write_message(&mut stream, &mk_response(&query, ResponseCode::NoError))
                    .await
                    .unwrap();
            }
        }
    });
    address
}

/// Starts the agent's DNS server on a free port and returns its IPv4 address.
async fn mk_server(name_servers: Vec<SocketAddr>, zone: impl Zone + Clone) -> SocketAddr {
    let name_servers = NameServers::new(name_servers, Duration::from_millis(200));
    // Another process may bind the port before the server does. In this case, another port is tried.
    loop {
        let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let port = NonZeroU16::new(address.port()).unwrap();
        if let Ok(server) = Server::bind(port, zone.clone(), name_servers.clone()).await {
            tokio::spawn(server.run());
            return address;
        }
    }
}

async fn query_server(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    buffer[..length].to_vec()
}

#[tokio::test]
async fn response_is_passed_on_unchanged() {
    let server = mk_server(vec![mk_name_server(Behaviour::Responds).await], EmptyDnsZone).await;
    let query = mk_query(77, "kubernetes.default");
    assert_eq!(
        query_server(server, &query).await,
        mk_response(&query, ResponseCode::NoError)
    );
}

#[tokio::test]
async fn tcp_connection_serves_several_queries() {
    let server = mk_server(vec![mk_name_server(Behaviour::Silent).await], EmptyDnsZone).await;
    let mut stream = TcpStream::connect(server).await.unwrap();
    for id in [1, 2] {
        let query = mk_query(id, "kubernetes.default");
        write_message(&mut stream, &query).await.unwrap();
        assert_eq!(
            read_message(&mut stream).await.unwrap().unwrap(),
            mk_response(&query, ResponseCode::NoError)
        );
    }
}

#[tokio::test]
async fn next_name_server_is_queried_when_one_fails_or_is_silent() {
    let good = mk_name_server(Behaviour::Responds).await;
    for bad in [Behaviour::Fails, Behaviour::Silent] {
        let server = mk_server(vec![mk_name_server(bad).await, good], EmptyDnsZone).await;
        let query = mk_query(5, "web.demo");
        assert_eq!(
            query_server(server, &query).await,
            mk_response(&query, ResponseCode::NoError)
        );
    }
}

#[tokio::test]
async fn failure_of_the_only_name_server_is_passed_on_and_its_silence_becomes_servfail() {
    let query = mk_query(5, "web.demo");
    let failing = mk_server(vec![mk_name_server(Behaviour::Fails).await], EmptyDnsZone).await;
    assert_eq!(
        query_server(failing, &query).await,
        mk_response(&query, ResponseCode::ServFail)
    );
    let silent = mk_server(vec![mk_name_server(Behaviour::Silent).await], EmptyDnsZone).await;
    assert_eq!(
        response_code(&query_server(silent, &query).await),
        ResponseCode::ServFail
    );
}

#[tokio::test]
async fn forged_response_is_ignored() {
    let server = mk_server(vec![mk_name_server(Behaviour::Forges).await], EmptyDnsZone).await;
    let query = mk_query(5, "web.demo");
    assert_eq!(
        query_server(server, &query).await,
        mk_response(&query, ResponseCode::NoError)
    );
}

#[tokio::test]
async fn message_that_is_not_dns_does_not_end_the_server() {
    let server = mk_server(vec![mk_name_server(Behaviour::Responds).await], EmptyDnsZone).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(b"not dns", server).await.unwrap();
    let query = mk_query(6, "web.demo");
    assert_eq!(
        query_server(server, &query).await,
        mk_response(&query, ResponseCode::NoError)
    );
}

#[tokio::test]
async fn query_for_a_name_of_the_zone_is_not_forwarded() {
    #[derive(Clone)]
    struct Refusing;
    impl Zone for Refusing {
        fn answer(&self, query: &Query<'_>) -> Option<Vec<u8>> {
            Some(query.error_response(ResponseCode::Refused))
        }
    }
    let server = mk_server(vec![mk_name_server(Behaviour::Responds).await], Refusing).await;
    assert_eq!(
        response_code(&query_server(server, &mk_query(6, "web.mesh")).await),
        ResponseCode::Refused
    );
}
