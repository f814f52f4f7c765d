//! Replicas of a control plane before one API server that has Secrets, and changes of CA from beginning to end.

use kermode_identity::Phase;
use kermode_k8s::controller::recorder::Events;

use super::keeper::{Keeper, Wanted};
use super::*;
use crate::testing::ApiServer;

const NAMESPACE: &str = "kong-mesh-system";
const LIFETIME: Duration = Duration::from_hours(1);
/// A test that waits longer has failed.
const LONG: Duration = Duration::from_secs(30);

/// A replica of the control plane.
struct Replica {
    authorities: Authorities,
    keeper: Keeper,
}

impl Replica {
    fn new(api_server: &ApiServer) -> Self {
        let authorities = Authorities::new(api_server.client(), NAMESPACE.to_owned());
        let keeper = Keeper {
            authorities: authorities.clone(),
            metrics: Metrics::default(),
            events: Events::start(api_server.client(), None),
            meshes: HashMap::new(),
            phases: HashMap::new(),
        };
        Self { authorities, keeper }
    }

    async fn get(&self) -> anyhow::Result<Arc<Succession>> {
        self.authorities.get(&mesh(), "ca-1").await
    }

    /// What the watch of Meshes does, then what the keeper does.
    async fn attend(&mut self, request: Option<&str>) {
        let wanted = Wanted {
            backend: "ca-1".to_owned(),
            lifetime: LIFETIME,
            request: request.map(str::to_owned),
            uid: None,
        };
        self.keeper.set(&mesh(), Some(wanted));
        self.keeper.attend().await;
    }

    /// What the watch of Secrets does.
    async fn secrets_changed(&self) {
        self.authorities.secrets_changed().await;
    }

    fn roots(&self) -> Arc<RootsUpdate> {
        let roots = self.authorities.roots(&mesh(), "ca-1").borrow().clone();
        roots.expect("proxies are told of them")
    }
}

fn mesh() -> MeshName {
    MeshName::from("default")
}

fn numbers(succession: &Succession) -> Vec<u32> {
    let generations = succession.generations();
    generations.iter().map(|generation| generation.number).collect()
}

fn root(succession: &Succession) -> Vec<u8> {
    succession.newest().authority.certificate().to_vec()
}

const FIRST: &str = "default.ca-builtin-key-ca-1";
const FIRST_CERTIFICATE: &str = "default.ca-builtin-cert-ca-1";
const SECOND: &str = "default.ca-builtin-rotation-ca-1.2";

#[tokio::test]
async fn replicas_that_start_together_have_one_ca() {
    let api_server = ApiServer::default();
    let replicas: Vec<_> = (0..3).map(|_| Replica::new(&api_server)).collect();
    let found = futures::future::join_all(replicas.iter().map(Replica::get)).await;
    let roots: Vec<_> = found
        .into_iter()
        .map(|found| root(&found.expect("a CA")))
        .collect();
    assert!(roots.iter().all(|root| *root == roots[0]));
    assert_eq!(api_server.names(), [FIRST_CERTIFICATE, FIRST]);
}

#[tokio::test]
async fn a_change_of_ca_goes_through_its_phases_on_every_replica() {
    let api_server = ApiServer::default();
    let mut replicas = [Replica::new(&api_server), Replica::new(&api_server)];
    for replica in &mut replicas {
        replica.attend(None).await;
        assert_eq!((replica.roots().roots_der.len(), replica.roots().signer), (1, 1));
    }
    let old = replicas[0].roots().roots_der[0].clone();

    for replica in &mut replicas {
        replica.attend(Some("please")).await;
    }
    for expected in [(2, 1), (2, 2), (1, 2)] {
        for replica in &mut replicas {
            replica.secrets_changed().await;
            replica.attend(Some("please")).await;
            let roots = replica.roots();
            assert_eq!((roots.roots_der.len(), roots.signer), expected);
            assert_eq!(roots.roots_der.contains(&old), expected.0 == 2);
        }
        assert_eq!(replicas[0].roots(), replicas[1].roots());
        // A step takes the life of a certificate and a twentieth of it, and some seconds.
        api_server.age(SECOND, LIFETIME + LIFETIME / 20 + Duration::from_secs(42));
    }
    assert_eq!(
        api_server.names(),
        [FIRST_CERTIFICATE, FIRST, SECOND],
        "one replica began"
    );

    // The old one may be deleted, and stays so.
    api_server.delete(FIRST);
    for replica in &mut replicas {
        replica.secrets_changed().await;
        replica.attend(Some("please")).await;
        assert_eq!(numbers(&replica.get().await.expect("a CA")), [2]);
    }
    assert_eq!(api_server.names(), [FIRST_CERTIFICATE, SECOND]);
    assert_eq!(
        numbers(&Replica::new(&api_server).get().await.expect("a CA")),
        [2]
    );
}

#[tokio::test]
async fn the_replica_that_begins_tells_of_it_on_the_mesh() {
    let api_server = ApiServer::default();
    let mut replicas = [Replica::new(&api_server), Replica::new(&api_server)];
    replicas[0].attend(None).await;
    replicas[0].attend(Some("please")).await;
    replicas[1].attend(Some("please")).await;
    api_server.age(SECOND, LIFETIME + LIFETIME / 20 + Duration::from_secs(42));
    for replica in &mut replicas {
        replica.secrets_changed().await;
        replica.attend(Some("please")).await;
    }
    let events = || api_server.events();
    let written = async {
        while events().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, written).await.expect("two Events");
    let events = events();
    let reasons: Vec<_> = events.iter().map(|event| event["reason"].clone()).collect();
    assert_eq!(reasons, ["CARotationStarted", "CARotationSigning"]);
    assert!(
        events.iter().all(|event| event["regarding"]["kind"] == "Mesh"),
        "{events:?}"
    );
}

#[tokio::test]
async fn replicas_that_begin_at_once_agree_on_one_ca() {
    let api_server = ApiServer::default();
    let mut replicas: Vec<_> = (0..3).map(|_| Replica::new(&api_server)).collect();
    for replica in &mut replicas {
        replica.attend(None).await;
    }
    futures::future::join_all(replicas.iter_mut().map(|replica| replica.attend(Some("please")))).await;
    let known = futures::future::join_all(replicas.iter().map(Replica::get)).await;
    let known: Vec<_> = known.into_iter().map(|known| known.expect("CAs")).collect();
    for succession in &known {
        assert_eq!(numbers(succession), [1, 2]);
        assert_eq!(root(succession), root(&known[0]));
        assert_eq!(succession.newest().schedule, known[0].newest().schedule);
    }
}

#[tokio::test]
async fn a_request_that_was_there_before_the_first_ca_asks_for_no_second() {
    let api_server = ApiServer::default();
    Replica::new(&api_server).attend(Some("please")).await;
    assert_eq!(api_server.names(), [FIRST_CERTIFICATE, FIRST]);
    Replica::new(&api_server).attend(Some("please")).await;
    assert_eq!(api_server.names(), [FIRST_CERTIFICATE, FIRST]);
}

#[tokio::test]
async fn a_change_that_was_only_announced_is_called_off_by_deleting_its_secret() {
    let api_server = ApiServer::default();
    let mut replica = Replica::new(&api_server);
    replica.attend(None).await;
    replica.attend(Some("please")).await;
    api_server.delete(SECOND);
    replica.secrets_changed().await;
    replica.attend(None).await;
    assert_eq!(numbers(&replica.get().await.expect("a CA")), [1]);
    assert_eq!(api_server.names(), [FIRST_CERTIFICATE, FIRST]);
}

#[tokio::test]
async fn the_secret_of_a_ca_in_use_is_restored_as_it_was() {
    let api_server = ApiServer::default();
    let mut replica = Replica::new(&api_server);
    replica.attend(None).await;
    replica.attend(Some("please")).await;
    api_server.age(SECOND, LIFETIME + LIFETIME / 20 + Duration::from_secs(42));
    replica.secrets_changed().await;
    let before = replica.get().await.expect("CAs");
    assert_eq!(before.phase(SystemTime::now()), Phase::Reissuing);
    for name in [FIRST, SECOND] {
        let data = api_server.delete(name)["data"].take();
        replica.secrets_changed().await;
        replica.get().await.expect("CAs");
        assert_eq!(api_server.secrets()[name]["data"], data, "{name}");
    }
}

#[tokio::test]
async fn a_lost_key_is_not_replaced_by_another_ca() {
    let api_server = ApiServer::default();
    Replica::new(&api_server).get().await.expect("a CA");
    api_server.delete(FIRST);
    let error = Replica::new(&api_server)
        .get()
        .await
        .expect_err("nobody has the key");
    assert!(error.to_string().contains("restore it from a backup"), "{error}");
}

#[tokio::test]
async fn memory_is_used_for_a_while_when_secrets_cannot_be_read_and_not_longer() {
    let api_server = ApiServer::default();
    let replica = Replica::new(&api_server);
    replica.get().await.expect("a CA");
    api_server.set_failing(true);
    let slot = replica.authorities.slot(&(mesh(), "ca-1".to_owned()));
    let read_before = async |age: Duration| {
        let mut known = slot.known.lock().await;
        let then = Instant::now()
            .checked_sub(age)
            .expect("the machine has run that long");
        (known.read, known.confirmed, known.failed) = (Some(then), Some(then), None);
    };
    read_before(STALENESS / 2).await;
    replica.get().await.expect("memory will do");
    read_before(STALENESS).await;
    let error = replica.get().await.expect_err("a change may have begun");
    assert!(format!("{error:#}").contains("no route"), "{error:#}");
    let again = replica.get().await.expect_err("it has just failed");
    assert!(again.to_string().contains("just failed"), "{again}");
}
