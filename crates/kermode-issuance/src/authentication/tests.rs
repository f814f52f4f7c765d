//! Tokens good and bad, before an API server that vouches for those signed `good`.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Pod;
use kermode_k8s::convert::facts::PodFacts;
use kermode_k8s::index::Index;
use kube::client::Body;
use serde_json::{Value, json};
use tonic::Code;

use super::*;

/// A test that waits longer has failed.
const LONG: Duration = Duration::from_secs(30);

struct World {
    authentication: Authentication,
    /// How many reviews the API server was asked for.
    reviews: Arc<AtomicUsize>,
}

impl World {
    /// With the Pod `shop/web` of UID `1`.
    fn new(hangs: bool) -> Self {
        let reviews = Arc::new(AtomicUsize::new(0));
        let counter = reviews.clone();
        let service = tower::service_fn(move |request| {
            counter.fetch_add(1, Ordering::Relaxed);
            review(hangs, request)
        });
        let client = Client::new(service, "default");
        let index = SharedIndex::new(Index::default());
        index.write().apply_pod(mk_pod("1"));
        let mut authentication = Authentication::new(client, index);
        authentication.patience = LONG;
        Self {
            authentication,
            reviews,
        }
    }

    async fn identify(&self, token: &str) -> Result<ProxyIdentity, Refused> {
        let identified = self.authentication.identify(&metadata(token)).await;
        // What a stream is asked next must agree with what a request for a certificate is asked in one.
        if let Ok(identity) = &identified {
            let checked = self.authentication.check(&metadata(token), &identity.key).await;
            let allowed = self.authentication.allow(identity);
            assert_eq!(
                checked.map_err(|refused| code(&refused)),
                allowed.map_err(|refused| code(&refused))
            );
        }
        identified
    }

    fn reviews(&self) -> usize {
        self.reviews.load(Ordering::Relaxed)
    }
}

/// The answer of an API server that vouches for every token signed `good`, and for one that has expired says so.
pub(crate) async fn review(hangs: bool, request: Request<Body>) -> io::Result<Response<Body>> {
    assert!(request.uri().path().ends_with("/tokenreviews"));
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    if hangs {
        std::future::pending::<()>().await;
    }
    let mut review: Value = serde_json::from_slice(&body).expect("JSON");
    let token = review["spec"]["token"].as_str().expect("a token").to_owned();
    let payload = token.split('.').nth(1).expect("a JWT");
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).expect("Base64");
    let bound: Value = serde_json::from_slice(&payload).expect("JSON");
    let bound = &bound["kubernetes.io"];
    review["status"] = if token.rsplit('.').next() == Some("good") {
        let account = format!(
            "system:serviceaccount:{}:{}",
            bound["namespace"].as_str().expect("text"),
            bound["serviceaccount"]["name"].as_str().expect("text"),
        );
        json!({"authenticated": true, "user": {"username": account, "extra": {
            POD_NAME: [bound["pod"]["name"]], POD_UID: [bound["pod"]["uid"]],
        }}})
    } else {
        let expired = token.ends_with(".expired");
        let error = if expired {
            "service account token has expired"
        } else {
            "invalid bearer token"
        };
        json!({"authenticated": false, "error": error})
    };
    let body = Body::from(review.to_string().into_bytes());
    Ok(Response::builder().status(201).body(body).expect("a response"))
}

fn mk_pod(uid: &str) -> PodFacts {
    mk_pod_of("web", "10.0.0.1", uid)
}

/// A Pod of the namespace `shop` and the account `robot`.
pub(crate) fn mk_pod_of(name: &str, ip: &str, uid: &str) -> PodFacts {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": uid,
            "annotations": {"kuma.io/sidecar-injected": "true"},
        },
        "spec": {
            "serviceAccountName": "robot",
            "containers": [{"name": "app", "ports": [{"containerPort": 8080}]}],
        },
        "status": {"podIP": ip, "phase": "Running"},
    }))
    .expect("a Pod");
    PodFacts::from(&pod)
}

/// A token of a Pod of the namespace `shop`.
pub(crate) fn mk_token(account: &str, pod: &str, uid: &str, signature: &str) -> String {
    mk_token_in("shop", account, pod, uid, signature)
}

/// A token of a Pod.
pub(crate) fn mk_token_in(namespace: &str, account: &str, pod: &str, uid: &str, signature: &str) -> String {
    let payload = json!({"kubernetes.io": {
        "namespace": namespace, "serviceaccount": {"name": account}, "pod": {"name": pod, "uid": uid},
    }});
    format!(
        "e30.{}.{signature}",
        BASE64_URL_SAFE_NO_PAD.encode(payload.to_string())
    )
}

fn metadata(token: &str) -> HeaderMap {
    let value = format!("Bearer {token}").parse().expect("a header value");
    [(http::header::AUTHORIZATION, value)].into_iter().collect()
}

fn web() -> ObjectKey {
    ObjectKey::new("shop", "web")
}

fn code(refused: &Refused) -> Code {
    status(refused).code()
}

#[tokio::test]
async fn a_good_token_proves_the_pod_it_is_bound_to() {
    let world = World::new(false);
    let identity = world.identify(&mk_token("robot", "web", "1", "good")).await;
    let expected = ProxyIdentity {
        key: web(),
        service_account: "robot".into(),
        uid: "1".into(),
    };
    assert_eq!(identity.expect("it is good"), expected);
    assert!(world.authentication.allow(&expected).is_ok());
}

#[tokio::test]
async fn what_cannot_be_right_costs_no_review() {
    let world = World::new(false);
    let unbound = format!("e30.{}.good", BASE64_URL_SAFE_NO_PAD.encode("{}"));
    for token in ["", "abc", "a.b.c", &unbound] {
        let refused = world.identify(token).await.expect_err("it is no token of a Pod");
        assert_eq!(code(&refused), Code::Unauthenticated, "{token}");
    }
    let of_another = metadata(&mk_token("robot", "other", "2", "good"));
    let refused = world.authentication.check(&of_another, &web()).await;
    assert_eq!(
        code(&refused.expect_err("it is another's")),
        Code::Unauthenticated
    );
    assert_eq!(world.reviews(), 0);
}

#[tokio::test]
async fn a_stranger_does_not_learn_which_pods_there_are() {
    let world = World::new(false);
    let mut answers = Vec::new();
    for pod in ["web", "nothing"] {
        let token = metadata(&mk_token("robot", pod, "guess", "forged"));
        let stream = world.authentication.identify(&token).await;
        let key = ObjectKey::new("shop", pod);
        let certificate = world.authentication.check(&token, &key).await;
        for refused in [stream.expect_err("forged"), certificate.expect_err("forged")] {
            let status = status(&refused);
            answers.push((status.code(), status.message().to_owned()));
        }
    }
    assert_eq!(answers[0].0, Code::Unauthenticated);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(world.reviews(), 4, "the API server decides on all of them");
}

#[tokio::test]
async fn a_proxy_waits_for_its_own_pod_and_loses_its_place_with_it() {
    let world = World::new(false);
    let index = world.authentication.index.clone();
    let token = mk_token("robot", "web", "2", "good");
    let identity = world.identify(&token).await.expect("it is good");
    let allowed = || {
        world
            .authentication
            .allow(&identity)
            .map_err(|refused| code(&refused))
    };
    assert_eq!(allowed(), Err(Code::NotFound), "an earlier Pod of that name");
    index.write().apply_pod(mk_pod("2"));
    assert_eq!(allowed(), Ok(()));
    index.write().remove_pod(&web());
    assert_eq!(allowed(), Err(Code::NotFound), "no Pod");
    index.write().apply_pod(mk_pod("3"));
    assert_eq!(allowed(), Err(Code::NotFound), "a later Pod of that name");
}

#[tokio::test]
async fn another_service_account_than_the_pods_is_refused() {
    let world = World::new(false);
    let identity = world.identify(&mk_token("admin", "web", "1", "good")).await;
    let refused = world.authentication.allow(&identity.expect("it is good"));
    assert_eq!(
        code(&refused.expect_err("another account")),
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn an_api_server_that_hangs_is_not_waited_for() {
    let mut world = World::new(true);
    world.authentication.patience = Duration::from_millis(10);
    let token = mk_token("robot", "web", "1", "good");
    let identified = tokio::time::timeout(LONG, world.identify(&token)).await;
    let refused = identified.expect("an answer").expect_err("nobody vouches");
    assert_eq!(code(&refused), Code::Unavailable);
}

#[tokio::test]
async fn strangers_do_not_hold_up_the_proxies_that_are_known() {
    let world = World::new(true);
    let strangers: Vec<_> = (0..50)
        .map(|number| mk_token("robot", "web", &format!("guess {number}"), "forged"))
        .collect();
    let strangers = futures::future::join_all(strangers.iter().map(|token| world.identify(token)));
    let token = mk_token("robot", "web", "1", "good");
    let known = world.identify(&token);
    let asked = async {
        while world.reviews() <= UNKNOWN {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = strangers => panic!("the API server hangs"),
        _ = known => panic!("the API server hangs"),
        asked = tokio::time::timeout(LONG, asked) => asked.expect("the known proxy's turn"),
    }
    assert_eq!(world.reviews(), UNKNOWN + 1);
}
