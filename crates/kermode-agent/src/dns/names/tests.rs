//! Tests of names of the mesh with a simulated control plane and paused time.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::super::message::tests::{mk_query, mk_typed_query, parse, without_edns};
use super::super::message::{TYPE_A, TYPE_AAAA, response_code};
use super::*;

const IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1));
const IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
/// TTL of the simulated control plane's answers, in seconds.
const TTL: u32 = 30;

/// Simulated control plane; cheap to clone.
#[derive(Clone, Default)]
struct FakeControlPlane(Arc<Mutex<FakeState>>);

#[derive(Default)]
struct FakeState {
    names: HashMap<String, Vec<IpAddr>>,
    behaviour: FakeBehaviour,
    asked: Vec<String>,
}

#[derive(Clone, Copy, Default)]
enum FakeBehaviour {
    /// Answers after 10 ms.
    #[default]
    Answers,
    Fails,
    /// Has no names, like an older control plane.
    Unimplemented,
    /// Has no virtual IP for the name.
    WithoutAddress,
    Silent,
}

impl FakeControlPlane {
    fn with_names<const N: usize>(names: [(&str, Vec<IpAddr>); N]) -> Self {
        let fake = Self::default();
        fake.0.lock().names = names.map(|(name, addresses)| (name.to_owned(), addresses)).into();
        fake
    }

    fn set_behaviour(&self, behaviour: FakeBehaviour) {
        self.0.lock().behaviour = behaviour;
    }

    fn calls(&self) -> usize {
        self.0.lock().asked.len()
    }
}

impl NameSource for FakeControlPlane {
    fn resolve(&self, name: String) -> BoxFuture<'static, anyhow::Result<NameAnswer>> {
        let mut state = self.0.lock();
        let addresses = state.names.get(&name).cloned();
        state.asked.push(name);
        let behaviour = state.behaviour;
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            match behaviour {
                FakeBehaviour::Answers => Ok(NameAnswer {
                    exists: addresses.is_some(),
                    addresses: addresses.unwrap_or_default(),
                    ttl: TTL,
                }),
                FakeBehaviour::Fails => Err(anyhow::anyhow!("unavailable")),
                FakeBehaviour::Unimplemented => {
                    Err(anyhow::Error::new(Status::unimplemented("unknown service")).context("a name"))
                }
                FakeBehaviour::WithoutAddress => {
                    Err(anyhow::Error::new(Status::failed_precondition("no virtual IP")).context("a name"))
                }
                FakeBehaviour::Silent => std::future::pending().await,
            }
        })
    }
}

fn mk_names(fake: &FakeControlPlane) -> Arc<MeshNames> {
    MeshNames::new(fake.clone(), Metrics::default())
}

async fn ask(names: &Arc<MeshNames>, query: &[u8]) -> Message {
    Message::from_vec(&names.respond(&parse(query)).await).unwrap()
}

/// Returns the addresses and the TTL of a response.
fn addresses(message: &Message) -> (Vec<IpAddr>, Option<u32>) {
    let addresses = message.answers.iter().filter_map(|record| record.data.ip_addr());
    (
        addresses.collect(),
        message.answers.first().map(|record| record.ttl),
    )
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

#[tokio::test(start_paused = true)]
async fn older_control_plane_without_names_leads_to_nxdomain_and_keeps_known_answers() {
    let fake = FakeControlPlane::with_names([("web.mesh", vec![IPV4])]);
    let names = mk_names(&fake);
    ask(&names, &mk_query(1, "web.mesh")).await;
    fake.set_behaviour(FakeBehaviour::Unimplemented);
    tokio::time::advance(Duration::from_secs(u64::from(TTL))).await;
    assert_eq!(addresses(&ask(&names, &mk_query(1, "web.mesh")).await).0, [IPV4]);
    for name in ["a.mesh", "b.mesh"] {
        assert_eq!(
            code(&ask(&names, &mk_query(1, name)).await),
            ResponseCode::NXDomain,
            "{name}"
        );
    }
    assert_eq!(fake.calls(), 4, "calls are not paused");
}

#[tokio::test(start_paused = true)]
async fn name_of_a_service_without_virtual_ip_leads_to_servfail_and_pauses_no_other_name() {
    let fake = FakeControlPlane::with_names([("web.mesh", vec![IPV4])]);
    let names = mk_names(&fake);
    fake.set_behaviour(FakeBehaviour::WithoutAddress);
    let response = ask(&names, &mk_query(1, "new.mesh")).await;
    assert_eq!(code(&response), ResponseCode::ServFail);
    fake.set_behaviour(FakeBehaviour::Answers);
    assert_eq!(addresses(&ask(&names, &mk_query(1, "web.mesh")).await).0, [IPV4]);
}

#[test]
fn only_names_that_end_in_the_label_mesh_belong_to_the_mesh() {
    let belongs = |name: &str| MeshNames::has_name_of(&parse(&mk_query(1, name)));
    for name in ["web.mesh", "WEB.Mesh", "redis.redis-0.mesh", "mesh"] {
        assert!(belongs(name), "{name}");
    }
    for name in ["web.mesh.demo.svc.cluster.local", "web.notmesh", "mesh.demo"] {
        assert!(!belongs(name), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_of_the_queried_family_are_answered() {
    let fake = FakeControlPlane::with_names([("web_demo_svc_80.mesh", vec![IPV4, IPV6])]);
    let names = mk_names(&fake);
    for (record_type, expected) in [
        (TYPE_A, vec![IPV4]),
        (TYPE_AAAA, vec![IPV6]),
        (255, vec![IPV4, IPV6]),
    ] {
        let query = mk_typed_query(7, "Web_Demo_svc_80.MESH", record_type);
        let response = ask(&names, &query).await;
        assert_eq!(addresses(&response), (expected, Some(TTL)));
        assert_eq!(code(&response), ResponseCode::NoError);
        assert!(response.metadata.recursion_available && response.edns.is_some());
        // The client's case is kept.
        assert_eq!(response.queries[0].name().to_ascii(), "Web_Demo_svc_80.MESH.");
    }
    assert_eq!(fake.0.lock().asked, ["web_demo_svc_80.mesh"]);
}

#[tokio::test(start_paused = true)]
async fn name_without_the_queried_type_is_empty_and_unknown_name_does_not_exist() {
    let fake = FakeControlPlane::with_names([("web.mesh", vec![IPV4])]);
    let names = mk_names(&fake);
    let https = 65;
    for (name, record_type, expected) in [
        ("web.mesh", TYPE_AAAA, ResponseCode::NoError),
        ("web.mesh", https, ResponseCode::NoError),
        ("mesh", TYPE_A, ResponseCode::NoError),
        ("nope.mesh", TYPE_A, ResponseCode::NXDomain),
        ("we b.mesh", TYPE_A, ResponseCode::NXDomain),
    ] {
        let response = ask(&names, &mk_typed_query(7, name, record_type)).await;
        assert_eq!(code(&response), expected, "{name} {record_type}");
        assert!(response.answers.is_empty());
        let [authority] = &response.authorities[..] else {
            panic!("{name} has no SOA record");
        };
        assert!(matches!(&authority.data, RData::SOA(soa) if soa.minimum == authority.ttl));
        assert_eq!(authority.name.to_ascii(), "mesh.");
    }
    // The name with a space and the domain itself are answered without a call.
    assert_eq!(fake.0.lock().asked, ["web.mesh", "nope.mesh"]);
}

#[tokio::test(start_paused = true)]
async fn unsupported_query_is_rejected_without_a_call() {
    let fake = FakeControlPlane::default();
    let names = mk_names(&fake);
    let query = mk_query(7, "web.mesh");
    let mut notify = query.clone();
    notify[2] |= 4 << 3;
    let mut chaos = query.clone();
    let class = query.len() - 12;
    chaos[class] = 3;
    let mut edns_version = query.clone();
    let version = query.len() - 5;
    edns_version[version] = 1;
    for (query, expected) in [
        (notify, ResponseCode::NotImp),
        (chaos, ResponseCode::Refused),
        (edns_version, ResponseCode::BADVERS),
    ] {
        let response = ask(&names, &query).await;
        // The number 16 has two names.
        assert_eq!(u16::from(code(&response)), u16::from(expected));
    }
    assert_eq!(fake.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn concurrent_queries_for_a_name_cause_one_call() {
    let fake = FakeControlPlane::with_names([("web.mesh", vec![IPV4])]);
    let names = mk_names(&fake);
    let query = mk_query(7, "web.mesh");
    let responses = futures::future::join_all((0..100).map(|_| ask(&names, &query))).await;
    for response in responses {
        assert_eq!(addresses(&response).0, [IPV4]);
    }
    assert_eq!(fake.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn answer_is_kept_for_its_ttl_and_its_ttl_is_counted_down() {
    let fake = FakeControlPlane::with_names([("web.mesh", vec![IPV4])]);
    let names = mk_names(&fake);
    let query = mk_query(7, "web.mesh");
    ask(&names, &query).await;
    tokio::time::advance(Duration::from_millis(20_500)).await;
    assert_eq!(addresses(&ask(&names, &query).await), (vec![IPV4], Some(9)));
    assert_eq!(fake.calls(), 1);
    tokio::time::advance(Duration::from_secs(10)).await;
    ask(&names, &query).await;
    assert_eq!(fake.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn last_known_answer_is_served_while_the_control_plane_fails_or_is_silent() {
    for behaviour in [FakeBehaviour::Fails, FakeBehaviour::Silent] {
        let fake = FakeControlPlane::with_names([("web.mesh", vec![IPV4])]);
        let names = mk_names(&fake);
        let query = mk_query(7, "web.mesh");
        ask(&names, &query).await;
        fake.set_behaviour(behaviour);
        tokio::time::advance(Duration::from_hours(1)).await;
        let asked_at = Instant::now();
        assert_eq!(
            addresses(&ask(&names, &query).await),
            (vec![IPV4], Some(STALE_TTL))
        );
        assert!(asked_at.elapsed() <= STALE_WAIT + Duration::from_millis(10));
        // The call of the first query runs, or calls are paused: further queries do not wait.
        let asked_at = Instant::now();
        ask(&names, &query).await;
        assert_eq!(asked_at.elapsed(), Duration::ZERO);
        fake.set_behaviour(FakeBehaviour::Answers);
        // A silent call ends, and then the pause.
        tokio::time::sleep(CALL_TIMEOUT + MAX_PAUSE).await;
        assert_eq!(addresses(&ask(&names, &query).await), (vec![IPV4], Some(TTL)));
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_name_fails_within_the_timeout_and_calls_are_paused_meanwhile() {
    let fake = FakeControlPlane::with_names([("web.mesh", vec![IPV4])]);
    let names = mk_names(&fake);
    fake.set_behaviour(FakeBehaviour::Silent);
    let asked_at = Instant::now();
    assert_eq!(
        code(&ask(&names, &mk_query(7, "web.mesh")).await),
        ResponseCode::ServFail
    );
    assert!(asked_at.elapsed() <= CALL_TIMEOUT + Duration::from_millis(10));
    // A failure is not kept as an answer, and no call is made while calls are paused.
    let started_at = Instant::now();
    fake.set_behaviour(FakeBehaviour::Fails);
    while started_at.elapsed() < Duration::from_secs(20) {
        let response = ask(&names, &mk_query(7, "web.mesh")).await;
        assert_eq!(code(&response), ResponseCode::ServFail);
        tokio::time::advance(Duration::from_millis(5)).await;
    }
    // At most 2 s of pause: the pauses grow from 0.1 s and are cut by up to a half.
    assert!((10..30).contains(&fake.calls()), "{}", fake.calls());
    fake.set_behaviour(FakeBehaviour::Answers);
    tokio::time::advance(MAX_PAUSE).await;
    assert_eq!(addresses(&ask(&names, &mk_query(7, "web.mesh")).await).0, [IPV4]);
}

#[tokio::test(start_paused = true)]
async fn failed_calls_that_ran_at_the_same_time_pause_calls_once() {
    let fake = FakeControlPlane::default();
    let names = mk_names(&fake);
    fake.set_behaviour(FakeBehaviour::Fails);
    let queries: Vec<_> = (0..MAX_CALLS)
        .map(|number| mk_query(1, &format!("name-{number}.mesh")))
        .collect();
    futures::future::join_all(queries.iter().map(|query| ask(&names, query))).await;
    assert_eq!(fake.calls(), MAX_CALLS);
    let pause = names.state.lock().pause.unwrap();
    assert!(pause.until - pause.since <= Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn random_names_cause_a_bounded_rate_of_calls_and_bounded_memory() {
    let fake = FakeControlPlane::default();
    let names = mk_names(&fake);
    for number in 0..5000 {
        ask(&names, &mk_query(1, &format!("name-{number}.mesh"))).await;
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    // Each answered query takes 10 ms. The burst, and then 50 calls a second.
    assert!(fake.calls() < 1000, "{}", fake.calls());
    let state = names.state.lock();
    assert!(state.known.len() <= MAX_NAMES && state.known.bytes() <= MAX_BYTES);
    assert!(state.calls.is_empty());
}

#[tokio::test(start_paused = true)]
async fn many_addresses_are_answered_within_the_limit() {
    let many: Vec<IpAddr> = (0..10_000_u32)
        .map(|number| Ipv4Addr::from(number).into())
        .collect();
    let fake = FakeControlPlane::with_names([("web.mesh", many)]);
    let names = mk_names(&fake);
    let query = without_edns(mk_query(7, "web.mesh"));
    let response = names.respond(&parse(&query)).await;
    assert_eq!(response_code(&response), ResponseCode::NoError);
    let response = Message::from_vec(&response).unwrap();
    assert_eq!(response.answers.len(), MAX_ADDRESSES);
    assert!(response.edns.is_none());
}

/// RFC 4035, section 3.2.2.
#[tokio::test]
async fn response_repeats_the_flag_checking_disabled() {
    let names = mk_names(&FakeControlPlane::with_names([("web.mesh", vec![IPV4])]));
    for flag in [0, 0x10] {
        let mut query = mk_query(7, "web.mesh");
        query[3] |= flag;
        let response = names.respond(&parse(&query)).await;
        assert_eq!(response[3] & 0x10, flag);
        let error = parse(&query).error_response(ResponseCode::ServFail);
        assert_eq!(error[3] & 0x10, flag);
    }
}

/// Generates a question about a name that ends in the domain, with any bytes in its other labels, and with up to 255
/// bytes.
fn any_question() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), proptest::sample::select(&b"aZ-_.\0\\ "[..])];
    let label = proptest::collection::vec(byte, 1..=63);
    let class = prop_oneof![Just(1_u16), any::<u16>()];
    let labels = proptest::collection::vec(label, 0..8);
    (labels, any::<u16>(), class, any::<bool>()).prop_map(|(labels, record_type, class, is_upper_case)| {
        let end = if is_upper_case {
            b"\x04MeSh\0"
        } else {
            b"\x04mesh\0"
        };
        let mut question = Vec::new();
        for label in labels {
            if question.len() + 1 + label.len() + end.len() <= 255 {
                question.push(u8::try_from(label.len()).unwrap());
                question.extend(label);
            }
        }
        question.extend(end);
        question.extend(record_type.to_be_bytes());
        question.extend(class.to_be_bytes());
        question
    })
}

proptest! {
    #[test]
    fn query_for_any_name_of_the_mesh_gets_a_well_formed_response(
        question in any_question(),
        id: u16,
        flags in (0_u8..0x80, any::<u8>()),
        // Records that are announced and missing, such as an answer in a query.
        has_missing_record: bool,
        edns in proptest::option::of((any::<u16>(), any::<[u8; 4]>())),
    ) {
        let mut query = id.to_be_bytes().to_vec();
        query.extend([flags.0, flags.1, 0, 1, 0, u8::from(has_missing_record), 0, 0, 0, u8::from(edns.is_some())]);
        query.extend(&question);
        if let Some((udp_size, extended_flags)) = edns {
            query.extend([0, 0, 41]);
            query.extend(udp_size.to_be_bytes());
            query.extend(extended_flags);
            query.extend([0, 0]);
        }
        let fake = FakeControlPlane::with_names([("a.mesh", vec![IPV4; 256])]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let response = runtime.block_on(async { mk_names(&fake).respond(&parse(&query)).await });
        let message = Message::from_vec(&response).unwrap();
        prop_assert!(parse(&query).is_answered_by(&response, id));
        prop_assert_eq!(message.metadata.message_type, hickory_proto::op::MessageType::Response);
        prop_assert_eq!(&response[12..12 + question.len()], &question[..]);
        prop_assert!(parse(&query).truncate(&response).len() <= parse(&query).max_udp_response());
    }
}
