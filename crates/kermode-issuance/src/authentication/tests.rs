//! Tests of authentication with valid and invalid tokens. The mock API server accepts tokens with [`VALID_SIGNATURE`].

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Pod;
use kermode_k8s::convert::facts::PodFacts;
use kermode_k8s::index::Index;
use kermode_model::DEFAULT_TOKEN_AUDIENCE;
use kube::client::Body;
use serde_json::{Value, json};
use tonic::Code;

use super::*;
use crate::service::tests::log::CapturedLog;

/// Audience of the API server. The API server checks it when a TokenReview names no audience.
const API_SERVER_AUDIENCE: &str = "api-server";
/// Time limit of each wait. A test that reaches the limit fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Service account of the Pods.
pub(crate) const SERVICE_ACCOUNT: &str = "robot";
/// Signature of the tokens that the mock API server accepts if the audience is right.
pub(crate) const VALID_SIGNATURE: &str = "good";

struct Fixture {
    authenticator: TokenAuthenticator,
    /// Number of TokenReviews that the API server received.
    reviews: Arc<AtomicUsize>,
}

impl Fixture {
    /// Creates the authenticator for an index with the Pod `shop/web`, UID `1`.
    fn new() -> Self {
        Self::with_api_server(false)
    }

    /// Creates the authenticator of [`Fixture::new`], but with an API server that never responds.
    fn with_hanging_api_server() -> Self {
        Self::with_api_server(true)
    }

    fn with_api_server(is_hanging: bool) -> Self {
        let reviews = Arc::new(AtomicUsize::new(0));
        let counter = reviews.clone();
        let service = tower::service_fn(move |request| {
            counter.fetch_add(1, Ordering::Relaxed);
            async move {
                if is_hanging {
                    std::future::pending::<()>().await;
                }
                review(request).await
            }
        });
        let client = Client::new(service, "default");
        let index = SharedIndex::new(Index::default());
        index.write().apply_pod(mk_pod("1"));
        let mut authenticator = TokenAuthenticator::new(client, index, mk_audiences());
        authenticator.review_timeout = TEST_TIMEOUT;
        Self {
            authenticator,
            reviews,
        }
    }

    async fn identify(&self, token: &str) -> Result<ProxyIdentity, AuthenticationError> {
        let identified = self.authenticator.identify(&metadata(token)).await;
        // ADS streams authenticate and authorize in two steps, certificate requests in one. Both ways must agree.
        if let Ok(identity) = &identified {
            let checked = self
                .authenticator
                .authenticate_as(&metadata(token), &identity.key)
                .await;
            let allowed = self.authenticator.check_access(identity);
            assert_eq!(
                checked.map_err(|error| code(&error)),
                allowed.map_err(|error| code(&error))
            );
        }
        identified
    }

    fn reviews(&self) -> usize {
        self.reviews.load(Ordering::Relaxed)
    }
}

/// Returns the audiences that a control plane accepts by default.
pub(crate) fn mk_audiences() -> AcceptedAudiences {
    AcceptedAudiences {
        sidecars: DEFAULT_TOKEN_AUDIENCE.into(),
        accepts_api_server_tokens: false,
    }
}

/// Handles a TokenReview. Accepts [`VALID_SIGNATURE`] if the token is for an audience of the review. Accepts the
/// signature `any-audience` whatever the audience is, like an API server that ignores audiences. Rejects all other
/// signatures; `expired` has its own error message.
pub(crate) async fn review(request: Request<Body>) -> io::Result<Response<Body>> {
    assert!(request.uri().path().ends_with("/tokenreviews"));
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let mut review: Value = serde_json::from_slice(&body).expect("JSON");
    let token = review["spec"]["token"].as_str().expect("a token").to_owned();
    let payload = token.split('.').nth(1).expect("a JWT");
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).expect("Base64");
    let payload: Value = serde_json::from_slice(&payload).expect("JSON");
    let claims = &payload["kubernetes.io"];
    let requested = review["spec"]["audiences"].as_array().cloned();
    let is_for = |audience: &Value| {
        payload["aud"]
            .as_array()
            .is_some_and(|token_audiences| token_audiences.contains(audience))
    };
    let acceptable = requested
        .clone()
        .unwrap_or_else(|| vec![API_SERVER_AUDIENCE.into()]);
    let confirmed: Vec<Value> = acceptable.into_iter().filter(is_for).collect();
    let signature = token.rsplit('.').next().expect("a signature");
    let is_accepted = match signature {
        VALID_SIGNATURE => !confirmed.is_empty(),
        _ => signature == "any-audience",
    };
    review["status"] = if is_accepted {
        let account = format!(
            "system:serviceaccount:{}:{}",
            claims["namespace"].as_str().expect("text"),
            claims["serviceaccount"]["name"].as_str().expect("text"),
        );
        json!({"authenticated": true, "user": {"username": account, "extra": {
            POD_NAME_KEY: [claims["pod"]["name"]], POD_UID_KEY: [claims["pod"]["uid"]],
        }}, "audiences": requested.filter(|_| signature == VALID_SIGNATURE).map(|_| confirmed)})
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

/// Makes a Pod of the namespace `shop` with the service account [`SERVICE_ACCOUNT`].
pub(crate) fn mk_pod_of(name: &str, ip: &str, uid: &str) -> PodFacts {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": uid, "labels": {"app": name},
            "annotations": {"kuma.io/sidecar-injected": "true"},
        },
        "spec": {
            "serviceAccountName": SERVICE_ACCOUNT,
            "containers": [{"name": "app", "ports": [{"containerPort": 8080}]}, {"name": "kuma-sidecar"}],
        },
        "status": {"podIP": ip, "phase": "Running"},
    }))
    .expect("a Pod");
    PodFacts::from(&pod)
}

/// Makes a token of a Pod of the namespace `shop`.
pub(crate) fn mk_token(account: &str, pod: &str, uid: &str, signature: &str) -> String {
    mk_token_in("shop", account, pod, uid, signature)
}

/// Makes a token of a Pod.
pub(crate) fn mk_token_in(namespace: &str, account: &str, pod: &str, uid: &str, signature: &str) -> String {
    let payload = json!({"aud": [DEFAULT_TOKEN_AUDIENCE], "kubernetes.io": {
        "namespace": namespace, "serviceaccount": {"name": account}, "pod": {"name": pod, "uid": uid},
    }});
    encode_token(&payload, signature)
}

/// Makes a valid token of the Pod `shop/web`, for these audiences.
pub(crate) fn mk_token_for(audiences: &[&str]) -> String {
    let payload = json!({"aud": audiences, "kubernetes.io": {
        "namespace": "shop", "serviceaccount": {"name": SERVICE_ACCOUNT}, "pod": {"name": "web", "uid": "1"},
    }});
    encode_token(&payload, VALID_SIGNATURE)
}

fn encode_token(payload: &Value, signature: &str) -> String {
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

fn code(error: &AuthenticationError) -> Code {
    error.code()
}

#[tokio::test]
async fn valid_token_authenticates_the_pod_that_it_is_bound_to() {
    let fixture = Fixture::new();
    let identity = fixture
        .identify(&mk_token(SERVICE_ACCOUNT, "web", "1", VALID_SIGNATURE))
        .await;
    let expected = ProxyIdentity {
        key: web(),
        service_account: SERVICE_ACCOUNT.into(),
        uid: "1".into(),
    };
    assert_eq!(identity.expect("a valid token"), expected);
    assert!(fixture.authenticator.check_access(&expected).is_ok());
}

#[tokio::test]
async fn token_bound_to_no_pod_or_to_another_pod_is_rejected_without_a_review() {
    let fixture = Fixture::new();
    let unbound = format!("e30.{}.{VALID_SIGNATURE}", BASE64_URL_SAFE_NO_PAD.encode("{}"));
    for token in ["", "abc", "a.b.c", &unbound] {
        let error = fixture
            .identify(token)
            .await
            .expect_err("the token is not bound to a Pod");
        assert_eq!(code(&error), Code::Unauthenticated, "{token}");
    }
    let headers = metadata(&mk_token(SERVICE_ACCOUNT, "other", "2", VALID_SIGNATURE));
    let error = fixture.authenticator.authenticate_as(&headers, &web()).await;
    assert_eq!(
        code(&error.expect_err("the token of another Pod")),
        Code::Unauthenticated
    );
    assert_eq!(fixture.reviews(), 0);
}

#[tokio::test]
async fn token_for_another_audience_is_denied_without_a_review() {
    let fixture = Fixture::new();
    for audiences in [
        &["vault"][..],
        &[API_SERVER_AUDIENCE],
        &["vault", API_SERVER_AUDIENCE],
        &[],
    ] {
        let error = fixture.identify(&mk_token_for(audiences)).await;
        let error = error.expect_err("the token is for another audience");
        assert!(
            matches!(error, AuthenticationError::WrongAudience(_)),
            "{audiences:?}: {error}"
        );
    }
    assert_eq!(fixture.reviews(), 0);
    let token = mk_token_for(&["vault", DEFAULT_TOKEN_AUDIENCE]);
    assert!(fixture.identify(&token).await.is_ok());
}

#[tokio::test]
async fn tokens_for_the_api_server_are_accepted_if_the_setting_allows_them() {
    let mut fixture = Fixture::new();
    fixture.authenticator.audiences.accepts_api_server_tokens = true;
    for audience in [API_SERVER_AUDIENCE, DEFAULT_TOKEN_AUDIENCE] {
        assert!(
            fixture.identify(&mk_token_for(&[audience])).await.is_ok(),
            "{audience}"
        );
    }
    let error = fixture.identify(&mk_token_for(&["vault"])).await;
    assert_eq!(
        code(&error.expect_err("the token is for another audience")),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn token_is_denied_when_the_api_server_does_not_confirm_its_audience() {
    let fixture = Fixture::new();
    let token = mk_token(SERVICE_ACCOUNT, "web", "1", "any-audience");
    let error = fixture.identify(&token).await.expect_err("an unchecked audience");
    assert!(matches!(error, AuthenticationError::InvalidToken(_)), "{error}");
}

#[tokio::test]
async fn response_to_an_invalid_token_does_not_reveal_which_pods_exist() {
    let fixture = Fixture::new();
    let mut responses = Vec::new();
    for pod in ["web", "nothing"] {
        let headers = metadata(&mk_token(SERVICE_ACCOUNT, pod, "guess", "forged"));
        let identified = fixture.authenticator.identify(&headers).await;
        let key = ObjectKey::new("shop", pod);
        let authenticated = fixture.authenticator.authenticate_as(&headers, &key).await;
        for error in [
            identified.expect_err("a forged token"),
            authenticated.expect_err("a forged token"),
        ] {
            responses.push((error.code(), error.to_string()));
        }
    }
    assert_eq!(responses[0].0, Code::Unauthenticated);
    assert!(
        responses.iter().all(|response| *response == responses[0]),
        "{responses:?}"
    );
    assert_eq!(fixture.reviews(), 4, "the API server reviews every token");
}

#[tokio::test]
async fn access_is_allowed_while_the_index_has_the_pod_of_the_token() {
    let fixture = Fixture::new();
    let index = fixture.authenticator.index.clone();
    let token = mk_token(SERVICE_ACCOUNT, "web", "2", VALID_SIGNATURE);
    let identity = fixture.identify(&token).await.expect("a valid token");
    let allowed = || {
        fixture
            .authenticator
            .check_access(&identity)
            .map_err(|error| code(&error))
    };
    assert_eq!(
        allowed(),
        Err(Code::NotFound),
        "the index has an earlier Pod with this name"
    );
    index.write().apply_pod(mk_pod("2"));
    assert_eq!(allowed(), Ok(()));
    index.write().remove_pod(&web());
    assert_eq!(
        allowed(),
        Err(Code::NotFound),
        "the index has no Pod with this name"
    );
    index.write().apply_pod(mk_pod("3"));
    assert_eq!(
        allowed(),
        Err(Code::NotFound),
        "the index has a later Pod with this name"
    );
}

#[tokio::test]
async fn token_of_another_service_account_is_denied() {
    let fixture = Fixture::new();
    let identity = fixture
        .identify(&mk_token("admin", "web", "1", VALID_SIGNATURE))
        .await;
    let error = fixture
        .authenticator
        .check_access(&identity.expect("a valid token"));
    assert_eq!(
        code(&error.expect_err("the token has another service account than the Pod")),
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn review_times_out_when_the_api_server_hangs() {
    let mut fixture = Fixture::with_hanging_api_server();
    fixture.authenticator.review_timeout = Duration::from_millis(10);
    let token = mk_token(SERVICE_ACCOUNT, "web", "1", VALID_SIGNATURE);
    let identified = tokio::time::timeout(TEST_TIMEOUT, fixture.identify(&token)).await;
    let error = identified
        .expect("a response")
        .expect_err("a review that times out");
    assert_eq!(code(&error), Code::Unavailable);
}

#[tokio::test]
async fn reviews_of_unknown_pods_do_not_delay_known_pods() {
    let fixture = Fixture::with_hanging_api_server();
    let unknown_tokens: Vec<_> = (0..50)
        .map(|number| mk_token(SERVICE_ACCOUNT, "web", &format!("guess {number}"), "forged"))
        .collect();
    let unknown_pods = futures::future::join_all(unknown_tokens.iter().map(|token| fixture.identify(token)));
    let token = mk_token(SERVICE_ACCOUNT, "web", "1", VALID_SIGNATURE);
    let known = fixture.identify(&token);
    let known_pod_reviewed = async {
        while fixture.reviews() <= MAX_UNKNOWN_POD_REVIEWS {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = unknown_pods => panic!("a review ended although the API server hangs"),
        _ = known => panic!("a review ended although the API server hangs"),
        outcome = tokio::time::timeout(TEST_TIMEOUT, known_pod_reviewed) => outcome.expect("the known Pod is reviewed"),
    }
    assert_eq!(fixture.reviews(), MAX_UNKNOWN_POD_REVIEWS + 1);
}

#[tokio::test]
async fn flood_of_denied_streams_writes_a_limited_number_of_log_lines() {
    let fixture = Fixture::new();
    let log = CapturedLog::start();
    let headers = metadata(&mk_token("admin", "web", "1", VALID_SIGNATURE));
    let identity = fixture.authenticator.authenticate(&headers).await;
    let identity = identity.expect("a valid token");
    for _ in 0..50 {
        let denied = fixture.authenticator.authorize(&identity);
        denied.expect_err("the token has another service account than the Pod");
    }
    let lines = log.take();
    assert_eq!(lines.len(), 10, "{lines:#?}");
}
