//! Tests of `kuma-dp` with a real Envoy and a simulated control plane: start, renewal of the certificate, drain, DNS,
//! and the ways in which `kuma-dp` and Envoy end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy exempts test functions, but not their helpers"
)]

mod agent;
mod closed_ports;
mod completion;
mod control_plane;
mod crashes;
mod drain;
mod metrics;
mod probes;
mod removal;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use agent::{Agent, is_running, kilobytes};
use control_plane::{Behaviour, ControlPlane, SPIFFE_ID, free_address};
use nix::sys::signal::Signal;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;

/// Behaviour of a control plane whose mesh has mTLS.
const MTLS: Behaviour = Behaviour {
    token: "first-token",
    has_mtls: true,
    certificate_lifetime: Some(Duration::from_hours(24)),
};

/// Returns the certificate that the proxy under test presents to a client with a certificate of the mesh; `None` if no
/// connection can be made.
async fn presented_certificate(control_plane: &ControlPlane) -> Option<CertificateDer<'static>> {
    let (issued, key, bundle) = control_plane.mk_client_identity();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bundle.roots().iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = SpiffeVerifier {
        roots: Arc::new(roots),
        provider: provider.clone(),
    };
    let key = PrivatePkcs8KeyDer::from_pem_slice(key.private_key_pem().as_bytes()).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(issued.chain, key.into())
        .unwrap();
    let stream = TcpStream::connect(control_plane.inbound).await.ok()?;
    // The verifier ignores the name.
    let name = ServerName::try_from("web").unwrap();
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .ok()?;
    Some(tls.get_ref().1.peer_certificates()?[0].clone())
}

/// Verifies the chain with the roots of the mesh, and the SPIFFE ID instead of a host name.
#[derive(Debug)]
struct SpiffeVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl rustls::client::danger::ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        let certificate = rustls::server::ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        let id = SPIFFE_ID.as_bytes();
        assert!(
            end_entity.windows(id.len()).any(|window| window == id),
            "the certificate does not contain {SPIFFE_ID}"
        );
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[tokio::test]
async fn envoy_becomes_ready_with_its_certificate_and_serves_through_the_drain() {
    let control_plane = ControlPlane::start(MTLS).await;
    let mut agent = Agent::start(&control_plane, "first-token", &[]).await;
    agent.wait_for_ready_status(200).await;
    agent
        .eventually("the inbound presents the certificate", async || {
            presented_certificate(&control_plane).await
        })
        .await;
    let (_, secrets) = agent
        .admin_request("GET", "/config_dump?resource=dynamic_active_secrets")
        .await
        .unwrap();
    for name in ["identity_cert:secret:default", "mesh_ca:secret:default"] {
        assert!(secrets.contains(name), "{name} not in {secrets}");
    }
    // Printed for information only.
    println!(
        "kuma-dp: VmRSS {} kB, RssAnon {} kB",
        kilobytes(agent.pid(), "VmRSS"),
        kilobytes(agent.pid(), "RssAnon")
    );

    let envoy = agent.envoy_pid().await;
    agent.send_signal(Signal::SIGTERM);
    agent.wait_for_ready_status(503).await;
    assert!(
        presented_certificate(&control_plane).await.is_some(),
        "new connections are refused during the drain"
    );
    assert_eq!(agent.wait_for_end().await.code(), Some(0), "{}", agent.log());
    assert!(!is_running(envoy));
}

#[tokio::test]
async fn certificate_is_renewed_with_the_current_token_and_reaches_envoy() {
    // The certificate is valid for 5 s, starting with its issuance. The renewal is due 3.5 s to 4 s after the issuance.
    let behaviour = Behaviour {
        token: "first-token",
        has_mtls: true,
        certificate_lifetime: Some(Duration::from_secs(5)),
    };
    let control_plane = ControlPlane::start(behaviour).await;
    let agent = Agent::start(&control_plane, "first-token", &[]).await;
    let first = agent
        .eventually("the inbound presents the first certificate", async || {
            presented_certificate(&control_plane).await
        })
        .await;
    agent.write_token("second-token");
    control_plane.change_behaviour(|behaviour| behaviour.token = "second-token");
    agent
        .eventually("the certificate is renewed", async || {
            presented_certificate(&control_plane)
                .await
                .filter(|certificate| *certificate != first)
        })
        .await;
    agent
        .eventually("the control plane accepts the second token", async || {
            control_plane
                .accepted_tokens()
                .contains(&"second-token")
                .then_some(())
        })
        .await;
}

#[tokio::test]
async fn envoy_becomes_ready_without_a_certificate_if_mtls_is_off() {
    let control_plane = ControlPlane::start(Behaviour {
        token: "first-token",
        has_mtls: false,
        certificate_lifetime: None,
    })
    .await;
    let agent = Agent::start(&control_plane, "first-token", &[]).await;
    agent.wait_for_ready_status(200).await;
    agent
        .eventually("disabled mTLS is logged", async || {
            agent.log().contains("mTLS is off").then_some(())
        })
        .await;
    assert_eq!(control_plane.accepted_tokens(), [""; 0]);
}

#[tokio::test]
async fn certificate_that_envoy_waits_for_is_requested_until_it_is_issued() {
    // Envoy may receive listeners with mTLS before the issuance service has seen that the mesh has mTLS enabled.
    let behaviour = Behaviour {
        token: "first-token",
        has_mtls: true,
        certificate_lifetime: None,
    };
    let control_plane = ControlPlane::start(behaviour).await;
    let agent = Agent::start(&control_plane, "first-token", &[]).await;
    agent
        .eventually("the agent logs that no certificate is issued", async || {
            agent.log().contains("mTLS is off").then_some(())
        })
        .await;
    control_plane
        .change_behaviour(|behaviour| behaviour.certificate_lifetime = Some(Duration::from_hours(24)));
    agent
        .eventually("the inbound presents a certificate", async || {
            presented_certificate(&control_plane).await
        })
        .await;
}

#[tokio::test]
async fn token_is_reread_after_a_rejection_and_never_logged() {
    let control_plane = ControlPlane::start(MTLS).await;
    let agent = Agent::start(&control_plane, "stale-token-text", &[]).await;
    agent
        .eventually("the rejection is logged", async || {
            agent.log().contains("wrong token").then_some(())
        })
        .await;
    agent.write_token("first-token");
    agent.wait_for_ready_status(200).await;
    let log = agent.log();
    assert!(
        !log.contains("stale-token-text") && !log.contains("PRIVATE KEY"),
        "{log}"
    );
}

#[tokio::test]
async fn sidecar_trusts_a_new_ca_of_the_control_plane_once_its_ca_file_contains_the_new_root() {
    let mut control_plane = ControlPlane::start(MTLS).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("control-plane-ca.crt");
    let overrides = [("KUMA_CONTROL_PLANE_CA_CERT_FILE", file.to_str().unwrap())];
    // The file does not exist yet: the roots of the environment are used.
    let agent = Agent::start(&control_plane, "first-token", &overrides).await;
    agent.wait_for_ready_status(200).await;
    for restart in 1..=2 {
        let new_root = control_plane.restart_with_new_ca().await;
        agent
            .eventually("the new CA is rejected", async || {
                let rejections = agent
                    .log()
                    .matches("has issued the certificate of the control plane")
                    .count();
                (rejections >= restart).then_some(())
            })
            .await;
        assert!(
            control_plane.received().is_empty(),
            "the server is not trusted yet"
        );
        // The kubelet replaces the file instead of writing to it.
        let new_file = directory.path().join("new");
        std::fs::write(&new_file, new_root).unwrap();
        std::fs::rename(new_file, &file).unwrap();
        agent
            .eventually("the sidecar is connected again", async || {
                (!control_plane.received().is_empty()).then_some(())
            })
            .await;
    }
    assert_eq!(agent.log().matches("roots of the control plane read").count(), 2);
    let (status, _) = agent.admin_request("GET", "/ready").await.unwrap();
    assert_eq!(status, 200);
}

#[tokio::test]
async fn kuma_dp_ends_when_envoy_is_stopped_through_its_admin_interface() {
    // Kuma's control plane sends this request to end the sidecar of a finished Job. Kermode's control plane does not
    // send it yet (`docs/reference/dataplane.md#finished-jobs`).
    let control_plane = ControlPlane::start(MTLS).await;
    let mut agent = Agent::start(&control_plane, "first-token", &[]).await;
    agent.wait_for_ready_status(200).await;
    agent.admin_request("POST", "/quitquitquit").await;
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
}

#[tokio::test]
async fn envoy_does_not_outlive_a_killed_kuma_dp() {
    let control_plane = ControlPlane::start(MTLS).await;
    let mut agent = Agent::start(&control_plane, "first-token", &[]).await;
    let envoy = agent.envoy_pid().await;
    agent.send_signal(Signal::SIGKILL);
    agent.wait_for_end().await;
    agent
        .eventually("Envoy is gone", async || (!is_running(envoy)).then_some(()))
        .await;
}

#[tokio::test]
async fn envoy_gets_the_hard_limit_of_open_files() {
    let control_plane = ControlPlane::start(MTLS).await;
    let agent = Agent::start(&control_plane, "first-token", &[]).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.envoy_pid().await)).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .unwrap();
    let limits: Vec<_> = line.split_whitespace().collect();
    let (soft, hard) = (limits[0], limits[1]);
    assert_eq!(soft, hard, "{line}");
    assert_ne!(soft, agent::SOFT_LIMIT);
}

#[tokio::test]
async fn wait_succeeds_when_envoy_is_ready_and_fails_at_the_timeout() {
    let wait = |url: String, timeout: &'static str| {
        let arguments = [
            "wait".to_owned(),
            "--url".to_owned(),
            url,
            "--timeout".to_owned(),
            timeout.to_owned(),
        ];
        tokio::process::Command::new(env!("CARGO_BIN_EXE_kuma-dp"))
            .args(arguments)
            .output()
    };
    let control_plane = ControlPlane::start(MTLS).await;
    let agent = Agent::start(&control_plane, "first-token", &[]).await;
    let ready_url = format!("http://localhost:{}/ready", agent.admin_address().port());
    assert!(wait(ready_url, "30s").await.unwrap().status.success());
    let absent_url = format!("http://{}/absent", agent.admin_address());
    let failed = wait(absent_url, "2s").await.unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let text = String::from_utf8(failed.stderr).unwrap();
    assert!(text.contains("404"), "{text}");
}

#[tokio::test]
async fn wait_fails_at_its_timeout_even_if_the_timeout_of_a_request_is_longer() {
    // The kernel accepts the connection, and no program responds.
    let silent = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let url = format!("http://{}/ready", silent.local_addr().unwrap());
    let waiting = tokio::process::Command::new(env!("CARGO_BIN_EXE_kuma-dp"))
        .args([
            "wait",
            "--url",
            &url,
            "--timeout",
            "300ms",
            "--request-timeout",
            "1h",
        ])
        .kill_on_drop(true)
        .output();
    let failed = tokio::time::timeout(Duration::from_mins(1), waiting).await;
    assert_eq!(failed.expect("the wait ends").unwrap().status.code(), Some(1));
}

#[tokio::test]
async fn dns_queries_get_a_response_over_udp_and_tcp_while_no_name_server_is_reachable() {
    let control_plane = ControlPlane::start(MTLS).await;
    let dns_address = free_address(Ipv4Addr::LOCALHOST.into()).await;
    let overrides = [
        ("KUMA_DNS_ENABLED", "true"),
        ("KUMA_DNS_CORE_DNS_PORT", &dns_address.port().to_string()),
    ];
    let agent = Agent::start(&control_plane, "first-token", &overrides).await;
    // Query with ID 0x0102 for the name servers of the DNS root. The response repeats the ID, and has the response bit
    // (0x80) set.
    let query = [1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let mut tcp = agent
        .eventually("DNS listens", async || TcpStream::connect(dns_address).await.ok())
        .await;
    // Over TCP, two bytes with the length precede each message.
    tcp.write_all(&[&[0, 17], &query[..]].concat()).await.unwrap();
    let mut response = [0; 5];
    tcp.read_exact(&mut response).await.unwrap();
    assert_eq!((response[2], response[3], response[4] & 0x80), (1, 2, 0x80));

    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    udp.send_to(&query, dns_address).await.unwrap();
    let mut response = [0; 4096];
    let (length, from) = udp.recv_from(&mut response).await.unwrap();
    assert_eq!((length, from), (query.len(), dns_address));
    // The response code is 2, SERVFAIL.
    assert_eq!(
        (response[0], response[1], response[2] & 0x80, response[3] & 0x0f),
        (1, 2, 0x80, 2)
    );
}

#[tokio::test]
async fn dns_names_of_the_mesh_are_resolved_by_the_control_plane_and_counted() {
    let control_plane = ControlPlane::start(MTLS).await;
    let dns_address = free_address(Ipv4Addr::LOCALHOST.into()).await;
    let metrics_address = free_address(Ipv4Addr::LOCALHOST.into()).await;
    let overrides = [
        ("KUMA_DNS_ENABLED", "true"),
        ("KUMA_DNS_CORE_DNS_PORT", &dns_address.port().to_string()),
        ("KUMA_DNS_PROMETHEUS_PORT", &metrics_address.port().to_string()),
    ];
    let agent = Agent::start(&control_plane, "first-token", &overrides).await;
    // Query with ID 0x0102 for the address of `web.mesh`, type A, class IN.
    let header = [1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let query = [&header[..], b"\x03Web\x04mesh\0", &[0, 1, 0, 1]].concat();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    udp.connect(dns_address).await.unwrap();
    let mut response = [0; 512];
    let length = agent
        .eventually("DNS responds", async || {
            udp.send(&query).await.ok()?;
            udp.recv(&mut response).await.ok()
        })
        .await;
    // The response has no error and one answer, which ends in the address.
    assert_eq!((response[3] & 0x0f, response[7]), (0, 1));
    assert_eq!(response[length - 4..length], control_plane::VIRTUAL_IP.octets());
    assert_eq!(control_plane.resolved_names(), ["web.mesh"]);

    let mut stream = TcpStream::connect(metrics_address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let expected = "kuma_dp_dns_responses_total{transport=\"UDP\",origin=\"Mesh\",code=\"NOERROR\"} 1";
    assert!(text.contains(expected), "{text}");
}

#[tokio::test]
async fn dns_port_in_use_is_reported_and_stops_envoy() {
    let control_plane = ControlPlane::start(MTLS).await;
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let overrides = [
        ("KUMA_DNS_ENABLED", "true"),
        ("KUMA_DNS_CORE_DNS_PORT", port.as_str()),
    ];
    let mut agent = Agent::start(&control_plane, "first-token", &overrides).await;
    assert_eq!(agent.wait_for_end().await.code(), Some(1));
    assert!(agent.log().contains("KUMA_DNS_CORE_DNS_PORT"), "{}", agent.log());
    let admin = TcpStream::connect(agent.admin_address()).await;
    assert!(admin.is_err(), "Envoy still runs");
}

#[tokio::test]
async fn all_errors_of_an_invalid_configuration_are_reported() {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_kuma-dp"))
        .args(["run", "--drain-time=never"])
        .env_clear()
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    for variable in [
        "KUMA_CONTROL_PLANE_URL",
        "KUMA_CONTROL_PLANE_CA_CERT",
        "KUMA_DATAPLANE_NAME",
        "KUMA_DATAPLANE_DRAIN_TIME",
    ] {
        assert!(text.contains(variable), "{variable} not in {text}");
    }
}
