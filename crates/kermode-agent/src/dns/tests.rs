//! Tests of the DNS server with real sockets and simulated name servers.

mod hostile;

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use hickory_proto::op::Message;
use prometheus_client::registry::Registry;
use tokio::net::TcpStream;

use super::message::tests::{
    mk_addresses, mk_negative, mk_query, mk_response, mk_typed_query, with_udp_size, without_edns,
};
use super::message::{is_truncated, response_code};
use super::tcp::{Frames, write_message};
use super::*;

/// Timeout of a simulated name server that is silent.
const TEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Simulated name server.
#[derive(Clone)]
struct NameServer {
    address: SocketAddr,
    /// Number of received queries over UDP and TCP.
    queries: Arc<AtomicUsize>,
}

impl NameServer {
    /// Starts a name server. `over_udp` returns the datagrams with which a query is answered; `over_tcp` returns the
    /// response over TCP.
    async fn start(
        over_udp: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
        over_tcp: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let (udp, tcp, address) = bind_name_server(Ipv4Addr::LOCALHOST.into()).await;
        let queries = Arc::new(AtomicUsize::new(0));
        let server = Self {
            address,
            queries: queries.clone(),
        };
        let udp_queries = queries.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                udp_queries.fetch_add(1, Ordering::Relaxed);
                for response in over_udp(&buffer[..length]) {
                    udp.send_to(&response, client).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                let (reader, mut writer) = stream.into_split();
                let mut frames = Frames::new(reader, 4096);
                // The agent closes a connection early if its own client has gone.
                while let Ok(Some(query)) = frames.next().await {
                    queries.fetch_add(1, Ordering::Relaxed);
                    let _ = write_message(&mut writer, &over_tcp(&query)).await;
                }
            }
        });
        server
    }

    /// Starts a name server that responds with a response code over both transports.
    async fn with_code(code: ResponseCode) -> Self {
        Self::start(
            move |query| vec![mk_response(query, code)],
            move |query| mk_response(query, code),
        )
        .await
    }

    /// Starts a name server that responds over TCP only.
    async fn silent_over_udp() -> Self {
        Self::start(|_| Vec::new(), |query| mk_response(query, ResponseCode::NoError)).await
    }

    /// Starts a name server that responds with well-formed messages over both transports.
    async fn with_responses(respond: fn(&[u8]) -> Vec<u8>) -> Self {
        Self::start(move |query| vec![respond(query)], respond).await
    }

    fn query_count(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }
}

/// Binds a port that is free for both transports. A port that is free for UDP may be in use for TCP. In this case,
/// another port is tried.
async fn bind_name_server(address: IpAddr) -> (UdpSocket, TcpListener, SocketAddr) {
    loop {
        let udp = UdpSocket::bind((address, 0)).await.unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(address).await {
            return (udp, tcp, address);
        }
    }
}

/// Control plane that knows one name.
#[derive(Clone)]
struct OneName;

impl NameSource for OneName {
    fn resolve(&self, name: String) -> BoxFuture<'static, anyhow::Result<NameAnswer>> {
        Box::pin(async move {
            let addresses = (name == "web.mesh").then_some(Ipv4Addr::new(240, 0, 0, 1).into());
            Ok(NameAnswer {
                exists: addresses.is_some(),
                addresses: addresses.into_iter().collect(),
                ttl: 30,
            })
        })
    }
}

/// The agent's DNS server under test.
struct Dns {
    address: SocketAddr,
    metrics: Metrics,
}

impl Dns {
    async fn start(name_servers: &[&NameServer]) -> Self {
        Self::start_with(name_servers, true).await
    }

    async fn start_with(name_servers: &[&NameServer], is_cache_enabled: bool) -> Self {
        let addresses = name_servers.iter().map(|server| server.address).collect();
        Self::start_at(addresses, is_cache_enabled).await
    }

    /// Starts the server on a free port.
    async fn start_at(name_servers: Vec<SocketAddr>, is_cache_enabled: bool) -> Self {
        let metrics = Metrics::default();
        // Another process may bind the port before the server does. In this case, another port is tried.
        loop {
            let (_, _, address) = bind_name_server(Ipv4Addr::LOCALHOST.into()).await;
            let config = Config {
                port: NonZeroU16::new(address.port()).unwrap(),
                name_servers: NameServers::new(name_servers.clone(), TEST_TIMEOUT, metrics.clone()),
                is_cache_enabled,
                metrics: metrics.clone(),
            };
            if let Ok(server) = Server::bind(config, OneName).await {
                tokio::spawn(server.run());
                return Self { address, metrics };
            }
        }
    }

    async fn query(&self, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(query).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = socket.recv(&mut buffer).await.unwrap();
        buffer[..length].to_vec()
    }

    async fn query_over_tcp(&self, query: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        write_message(&mut stream, query).await.unwrap();
        Frames::new(stream, 65_535).next().await.unwrap().unwrap()
    }

    fn metrics_text(&self) -> String {
        let mut registry = Registry::with_prefix("kuma_dp");
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

#[tokio::test]
async fn query_and_response_are_passed_on_unchanged() {
    // The response consists of the query and one byte, so it shows all bytes of the query that the name server got.
    let server = NameServer::with_code(ResponseCode::NoError).await;
    let dns = Dns::start(&[&server]).await;
    let mut with_options = mk_query(77, "KUBERNETES.default");
    let length = with_options.len();
    // DNSSEC OK, checking disabled, and a cookie.
    with_options[length - 4] = 0x80;
    with_options[3] |= 0x10;
    with_options[length - 1] = 12;
    with_options.extend([0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    for query in [
        mk_query(77, "kubernetes.default"),
        with_options,
        mk_typed_query(77, "a.b", 65_280),
    ] {
        let expected = mk_response(&query, ResponseCode::NoError);
        assert_eq!(dns.query(&query).await, expected);
        assert_eq!(dns.query_over_tcp(&query).await, expected);
    }
}

#[tokio::test]
async fn nonexistence_is_passed_on_with_its_soa_record() {
    let server = NameServer::with_responses(|query| mk_negative(query, ResponseCode::NXDomain, 30, 30)).await;
    let dns = Dns::start(&[&server]).await;
    let query = mk_query(5, "nope.demo");
    assert_eq!(
        dns.query(&query).await,
        mk_negative(&query, ResponseCode::NXDomain, 30, 30)
    );
}

#[tokio::test]
async fn name_server_with_ipv6_address_is_queried() {
    let (udp, _tcp, address) = bind_name_server(Ipv6Addr::LOCALHOST.into()).await;
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
        let response = mk_response(&buffer[..length], ResponseCode::NoError);
        udp.send_to(&response, client).await.unwrap();
    });
    let dns = Dns::start_at(vec![address], true).await;
    let query = mk_query(5, "web.demo");
    assert_eq!(
        dns.query(&query).await,
        mk_response(&query, ResponseCode::NoError)
    );
}

#[tokio::test]
async fn tcp_connection_serves_several_queries_at_once() {
    let server = NameServer::silent_over_udp().await;
    let dns = Dns::start(&[&server]).await;
    let mut stream = TcpStream::connect(dns.address).await.unwrap();
    let queries = [1, 2, 3].map(|id| mk_query(id, &format!("name-{id}.demo")));
    for query in &queries {
        write_message(&mut stream, query).await.unwrap();
    }
    let mut frames = Frames::new(stream, 4096);
    let mut responses = Vec::new();
    for _ in &queries {
        responses.push(frames.next().await.unwrap().unwrap());
    }
    responses.sort();
    assert_eq!(
        responses,
        queries.map(|query| mk_response(&query, ResponseCode::NoError))
    );
}

#[tokio::test]
async fn next_name_server_is_queried_when_one_fails_or_is_silent() {
    let good = NameServer::with_code(ResponseCode::NoError).await;
    for bad in [
        NameServer::with_code(ResponseCode::ServFail).await,
        NameServer::with_code(ResponseCode::Refused).await,
        NameServer::silent_over_udp().await,
    ] {
        let dns = Dns::start(&[&bad, &good]).await;
        let query = mk_query(5, "web.demo");
        assert_eq!(
            dns.query(&query).await,
            mk_response(&query, ResponseCode::NoError)
        );
        assert_eq!(bad.query_count(), 1);
    }
}

#[tokio::test]
async fn nonexistence_is_final() {
    let first = NameServer::with_code(ResponseCode::NXDomain).await;
    let second = NameServer::with_code(ResponseCode::NoError).await;
    let dns = Dns::start(&[&first, &second]).await;
    let query = mk_query(5, "web.demo");
    assert_eq!(response_code(&dns.query(&query).await), ResponseCode::NXDomain);
    assert_eq!(second.query_count(), 0);
}

#[tokio::test]
async fn closed_port_of_a_name_server_leads_to_the_next_one_at_once() {
    let (udp, tcp, closed) = bind_name_server(Ipv4Addr::LOCALHOST.into()).await;
    drop((udp, tcp));
    let good = NameServer::with_code(ResponseCode::NoError).await;
    let dns = Dns::start_at(vec![closed, good.address], true).await;
    let query = mk_query(5, "web.demo");
    assert_eq!(
        dns.query(&query).await,
        mk_response(&query, ResponseCode::NoError)
    );
    assert_eq!(
        dns.query_over_tcp(&query).await,
        mk_response(&query, ResponseCode::NoError)
    );
    let text = dns.metrics_text();
    assert!(
        text.contains("kuma_dp_dns_name_server_failures_total{reason=\"Error\"} 2"),
        "{text}"
    );
}

#[tokio::test]
async fn failure_of_the_only_name_server_is_passed_on_and_its_silence_becomes_servfail() {
    let query = mk_query(5, "web.demo");
    let failing = NameServer::with_code(ResponseCode::ServFail).await;
    let dns = Dns::start(&[&failing]).await;
    assert_eq!(
        dns.query(&query).await,
        mk_response(&query, ResponseCode::ServFail)
    );
    let silent = NameServer::silent_over_udp().await;
    for dns in [Dns::start(&[&silent]).await, Dns::start(&[]).await] {
        assert_eq!(response_code(&dns.query(&query).await), ResponseCode::ServFail);
    }
}

#[tokio::test]
async fn response_with_another_id_or_question_is_ignored() {
    let server = NameServer::start(
        |query| {
            let response = mk_response(query, ResponseCode::NoError);
            let mut wrong_id = response.clone();
            // The ID is in the first two bytes; the bytes after the header are the question.
            wrong_id[0] ^= 0xff;
            let mut wrong_question = response.clone();
            wrong_question[13] ^= 0x01;
            vec![wrong_id, wrong_question, query.to_vec(), response]
        },
        |query| {
            let mut response = mk_response(query, ResponseCode::NoError);
            response[13] ^= 0x01;
            response
        },
    )
    .await;
    let dns = Dns::start(&[&server]).await;
    let query = mk_query(5, "web.demo");
    assert_eq!(
        dns.query(&query).await,
        mk_response(&query, ResponseCode::NoError)
    );
    assert_eq!(
        response_code(&dns.query_over_tcp(&query).await),
        ResponseCode::ServFail
    );
}

#[tokio::test]
async fn response_of_another_address_is_ignored() {
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (udp, _tcp, address) = bind_name_server(Ipv4Addr::LOCALHOST.into()).await;
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
        let mut response = mk_response(&buffer[..length], ResponseCode::NoError);
        stranger.send_to(&response, client).await.unwrap();
        *response.last_mut().unwrap() = 8;
        udp.send_to(&response, client).await.unwrap();
    });
    let dns = Dns::start_at(vec![address], true).await;
    assert_eq!(dns.query(&mk_query(5, "web.demo")).await.last(), Some(&8));
}

#[tokio::test]
async fn forwarded_queries_differ_in_id_and_source_port() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (udp, _tcp, address) = bind_name_server(Ipv4Addr::LOCALHOST.into()).await;
    let recorded = seen.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            recorded.lock().push((client.port(), [buffer[0], buffer[1]]));
            let response = mk_response(&buffer[..length], ResponseCode::NoError);
            udp.send_to(&response, client).await.unwrap();
        }
    });
    let dns = Dns::start_at(vec![address], true).await;
    for _ in 0..20 {
        dns.query(&mk_query(5, "web.demo")).await;
    }
    let (mut ports, mut ids): (Vec<_>, Vec<_>) = seen.lock().iter().copied().unzip();
    for count in [count_distinct(&mut ports), count_distinct(&mut ids)] {
        assert!(count > 10, "{count}");
    }
}

fn count_distinct<T: Ord>(values: &mut Vec<T>) -> usize {
    values.sort();
    values.dedup();
    values.len()
}

#[tokio::test]
async fn truncated_response_is_passed_on_and_the_client_gets_all_records_over_tcp() {
    let server = NameServer::start(
        |query| {
            let mut response = mk_addresses(query, 30, &[]);
            response[2] |= 0x02;
            vec![response]
        },
        |query| mk_addresses(query, 30, &[[10, 0, 0, 1]; 300]),
    )
    .await;
    let dns = Dns::start(&[&server]).await;
    let query = mk_query(5, "web.demo");
    for _ in 0..2 {
        assert!(is_truncated(&dns.query(&query).await));
        let response = Message::from_vec(&dns.query_over_tcp(&query).await).unwrap();
        assert_eq!(response.answers.len(), 300);
    }
    // The truncated response is not cached. The response over TCP is, for both transports.
    assert_eq!(server.query_count(), 2);
}

#[tokio::test]
async fn response_larger_than_the_client_accepts_is_truncated() {
    let server = NameServer::with_responses(|query| mk_addresses(query, 30, &[[10, 0, 0, 1]; 100])).await;
    for is_cache_enabled in [true, false] {
        let dns = Dns::start_with(&[&server], is_cache_enabled).await;
        let query = mk_query(5, "web.demo");
        // The last query is answered from the cache, if it is enabled.
        for (query, is_expected) in [
            (with_udp_size(query.clone(), 512), true),
            (without_edns(query.clone()), true),
            (query.clone(), false),
            (with_udp_size(query.clone(), 512), true),
        ] {
            let response = dns.query(&query).await;
            assert_eq!(is_truncated(&response), is_expected);
            let answers = Message::from_vec(&response).unwrap().answers.len();
            assert_eq!(answers, if is_expected { 0 } else { 100 });
        }
    }
}

#[tokio::test]
async fn zone_transfer_over_tcp_is_not_implemented() {
    let server = NameServer::with_code(ResponseCode::NoError).await;
    let dns = Dns::start(&[&server]).await;
    for record_type in [251, 252] {
        let response = dns.query_over_tcp(&mk_typed_query(5, "demo", record_type)).await;
        assert_eq!(response_code(&response), ResponseCode::NotImp);
    }
    assert_eq!(server.query_count(), 0);
}

#[tokio::test]
async fn message_that_is_not_a_query_is_not_forwarded_and_does_not_end_the_server() {
    let server = NameServer::with_code(ResponseCode::NoError).await;
    let dns = Dns::start(&[&server]).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let query = mk_query(6, "web.demo");
    for bytes in [b"not dns".to_vec(), mk_response(&query, ResponseCode::NoError)] {
        socket.send_to(&bytes, dns.address).await.unwrap();
    }
    let mut two_questions = query.clone();
    two_questions[5] = 2;
    assert_eq!(
        response_code(&dns.query(&two_questions).await),
        ResponseCode::FormErr
    );
    assert_eq!(
        dns.query(&query).await,
        mk_response(&query, ResponseCode::NoError)
    );
    assert_eq!(server.query_count(), 1);
    assert!(
        dns.metrics_text()
            .contains("kuma_dp_dns_rejected_total{reason=\"Malformed\"} 3")
    );
}

#[tokio::test]
async fn repeated_query_is_answered_from_the_cache_unless_it_is_turned_off() {
    let server = NameServer::with_responses(|query| mk_addresses(query, 30, &[[10, 0, 0, 1]])).await;
    for (is_cache_enabled, expected) in [(true, 1), (false, 3)] {
        let dns = Dns::start_with(&[&server], is_cache_enabled).await;
        let before = server.query_count();
        for name in ["web.demo", "WEB.demo", "web.DEMO"] {
            let query = mk_query(6, name);
            let response = Message::from_vec(&dns.query(&query).await).unwrap();
            assert_eq!(response.queries[0].name().to_ascii(), format!("{name}."));
            assert_eq!(
                response.answers[0].data.ip_addr(),
                Some(Ipv4Addr::new(10, 0, 0, 1).into())
            );
        }
        assert_eq!(server.query_count() - before, expected);
        let text = dns.metrics_text();
        let hits = "kuma_dp_dns_responses_total{transport=\"UDP\",origin=\"Cache\",code=\"NOERROR\"} 2";
        assert_eq!(text.contains(hits), is_cache_enabled, "{text}");
    }
}

#[tokio::test]
async fn name_of_the_mesh_is_answered_by_the_control_plane_and_others_are_forwarded() {
    let server = NameServer::with_code(ResponseCode::NXDomain).await;
    let dns = Dns::start(&[&server]).await;
    // A client with search domains asks for the second name before the first one.
    let forwarded = mk_query(6, "web.mesh.demo.svc.cluster.local");
    assert_eq!(
        dns.query(&forwarded).await,
        mk_response(&forwarded, ResponseCode::NXDomain)
    );
    assert_eq!(server.query_count(), 1);
    let query = mk_query(6, "web.mesh");
    for response in [dns.query(&query).await, dns.query_over_tcp(&query).await] {
        let response = Message::from_vec(&response).unwrap();
        assert_eq!(
            response.answers[0].data.ip_addr(),
            Some(Ipv4Addr::new(240, 0, 0, 1).into())
        );
    }
    assert_eq!(
        response_code(&dns.query(&mk_query(6, "nope.mesh")).await),
        ResponseCode::NXDomain
    );
    assert_eq!(server.query_count(), 1);
}

#[tokio::test]
async fn new_tcp_connection_replaces_the_oldest_one_at_the_limit() {
    let server = NameServer::with_code(ResponseCode::NoError).await;
    let dns = Dns::start(&[&server]).await;
    let mut connections = Vec::new();
    for _ in 0..=MAX_CONNECTIONS {
        connections.push(TcpStream::connect(dns.address).await.unwrap());
    }
    let query = mk_query(6, "web.demo");
    let oldest = connections.remove(0);
    assert!(matches!(
        Frames::new(oldest, 4096).next().await,
        Ok(None) | Err(_)
    ));
    let mut newest = connections.pop().unwrap();
    write_message(&mut newest, &query).await.unwrap();
    let response = Frames::new(newest, 4096).next().await.unwrap().unwrap();
    assert_eq!(response, mk_response(&query, ResponseCode::NoError));
}

#[tokio::test]
async fn excess_udp_queries_are_dropped_and_counted() {
    let silent = NameServer::silent_over_udp().await;
    let dns = Dns::start(&[&silent]).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    // The socket of the server buffers a part of the queries, so they are sent in several bursts.
    while !dns
        .metrics_text()
        .contains("kuma_dp_dns_rejected_total{reason=\"Limit\"}")
    {
        for id in 0..100 {
            socket
                .send_to(&mk_query(id, "web.demo"), dns.address)
                .await
                .unwrap();
        }
        tokio::task::yield_now().await;
    }
}
