//! Calls of the service, with an authenticator that accepts one token.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::uri::PathAndQuery;
use k8s_openapi::api::core::v1::{Pod, Service};
use kermode_k8s::convert::facts::{PodFacts, ServiceFacts};
use kermode_model::{Mesh, ObjectKey};
use kermode_protocol::rpc::Rpc;
use serde_json::json;
use tonic::Code;

use super::*;

/// Authenticates the Pod `shop/web` with UID 1 by the token `web`, and counts the reviews.
#[derive(Clone, Default)]
struct WebAuthenticator {
    reviews: Arc<AtomicUsize>,
}

impl Authenticator for WebAuthenticator {
    fn authenticate<'a>(
        &'a self,
        metadata: &'a http::HeaderMap,
    ) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
        self.reviews.fetch_add(1, Ordering::Relaxed);
        let is_web = metadata
            .get("authorization")
            .is_some_and(|value| value == "Bearer web");
        let identity = ProxyIdentity {
            key: ObjectKey::new("shop", "web"),
            service_account: "web".into(),
            uid: "1".into(),
        };
        let result = is_web
            .then_some(identity)
            .ok_or_else(|| Status::unauthenticated("unknown token"));
        Box::pin(async { result })
    }

    fn authorize(&self, _: &ProxyIdentity) -> Result<(), Status> {
        Ok(())
    }
}

/// Returns a service that knows the Pod `shop/web` and the headless Service `web` with port 80.
fn mk_service(has_virtual_ips: bool) -> NameService {
    mk_service_with(WebAuthenticator::default(), has_virtual_ips)
}

fn mk_service_with(authenticator: WebAuthenticator, has_virtual_ips: bool) -> NameService {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "1", "labels": {"app": "web"},
            "annotations": {"kuma.io/sidecar-injected": "true"},
        },
        "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 80}]}, {"name": "kuma-sidecar"}]},
        "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "phase": "Running"},
    }))
    .expect("a Pod");
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"port": 80}]},
    }))
    .expect("a Service");
    let index = SharedIndex::default();
    index.write().apply_mesh(Mesh::new("default"));
    index.write().apply_service(ServiceFacts::from(&service));
    index.write().apply_pod(PodFacts::from(&pod));
    NameService::new(authenticator, index, has_virtual_ips, Metrics::default())
}

fn allocate(service: &NameService) {
    let virtual_ips = [("web_shop_svc_80".into(), [240, 0, 0, 1].into())];
    let of_mesh = [("default".into(), virtual_ips.into())];
    service.inner.index.write().apply_virtual_ips(of_mesh.into());
}

/// Resolves a name. Returns the addresses and the time for which they may be cached, in seconds.
async fn resolve_as(service: &NameService, token: &str, name: &str) -> Result<(Vec<String>, u32), Code> {
    let mut request = Request::new(ResolveRequest {
        name: name.to_owned(),
    });
    let authorization = format!("Bearer {token}").parse().expect("a header value");
    request.metadata_mut().insert("authorization", authorization);
    let mut client = tonic::client::Grpc::new(Rpc(service.clone()));
    let codec = ProstCodec::<ResolveRequest, ResolveResponse>::default();
    let response = client
        .unary(request, PathAndQuery::from_static(RESOLVE), codec)
        .await;
    let response = response.map_err(|status| status.code())?.into_inner();
    Ok((response.addresses, response.ttl_seconds))
}

#[tokio::test]
async fn response_contains_addresses_and_how_long_they_may_be_cached() {
    let service = mk_service(true);
    allocate(&service);
    for (name, addresses, ttl) in [
        ("web_shop_svc_80.mesh", vec!["240.0.0.1"], 30),
        ("web_shop_svc_80.web.mesh", vec!["10.0.0.1", "fd00::1"], 5),
        ("other_shop_svc_80.mesh", vec![], 5),
    ] {
        let addresses = addresses.into_iter().map(str::to_owned).collect();
        assert_eq!(
            resolve_as(&service, "web", name).await,
            Ok((addresses, ttl)),
            "{name}"
        );
    }
    for result in [LookupResult::Service, LookupResult::Pod, LookupResult::Unknown] {
        assert_eq!(service.inner.metrics.lookup_count(result), 1, "{result:?}");
    }
}

#[tokio::test]
async fn service_without_a_virtual_ip_has_to_be_looked_up_again() {
    let service = mk_service(true);
    assert_eq!(
        resolve_as(&service, "web", "web_shop_svc_80.mesh").await,
        Err(Code::FailedPrecondition)
    );
    assert_eq!(
        service.inner.metrics.lookup_count(LookupResult::WithoutAddress),
        1
    );
    allocate(&service);
    assert!(resolve_as(&service, "web", "web_shop_svc_80.mesh").await.is_ok());
}

#[tokio::test]
async fn services_are_unknown_if_virtual_ips_are_disabled() {
    let service = mk_service(false);
    assert_eq!(
        resolve_as(&service, "web", "web_shop_svc_80.mesh").await,
        Ok((vec![], 5))
    );
    assert!(
        resolve_as(&service, "web", "web_shop_svc_80.web.mesh")
            .await
            .is_ok_and(|(ips, _)| ips.len() == 2)
    );
}

#[tokio::test]
async fn token_is_reviewed_once_and_a_pod_that_disappears_is_refused_at_once() {
    let authenticator = WebAuthenticator::default();
    let service = mk_service_with(authenticator.clone(), true);
    let name = "web_shop_svc_80.web.mesh";
    for _ in 0..3 {
        assert!(resolve_as(&service, "web", name).await.is_ok());
    }
    assert_eq!(authenticator.reviews.load(Ordering::Relaxed), 1);
    // Rejected tokens are reviewed each time.
    for _ in 0..2 {
        assert!(resolve_as(&service, "other", name).await.is_err());
    }
    assert_eq!(authenticator.reviews.load(Ordering::Relaxed), 3);
    service
        .inner
        .index
        .write()
        .remove_pod(&ObjectKey::new("shop", "web"));
    assert_eq!(resolve_as(&service, "web", name).await, Err(Code::NotFound));
}

#[tokio::test]
async fn unauthenticated_caller_and_unknown_pod_are_refused() {
    let service = mk_service(true);
    let name = "web_shop_svc_80.web.mesh";
    assert_eq!(
        resolve_as(&service, "other", name).await,
        Err(Code::Unauthenticated)
    );
    service
        .inner
        .index
        .write()
        .remove_pod(&ObjectKey::new("shop", "web"));
    assert_eq!(resolve_as(&service, "web", name).await, Err(Code::NotFound));
    assert_eq!(service.inner.metrics.lookup_count(LookupResult::Refused), 2);
}

#[tokio::test]
async fn name_in_upper_case_or_outside_of_the_domain_is_refused() {
    let service = mk_service(true);
    let long = format!("{}.mesh", "a".repeat(MAX_NAME_LENGTH));
    for name in [
        "",
        "web",
        "web.example",
        "web_shop_svc_80.mesh.",
        "Web_shop_svc_80.mesh",
        "xmesh",
        &long,
    ] {
        assert_eq!(
            resolve_as(&service, "web", name).await,
            Err(Code::InvalidArgument),
            "{name}"
        );
    }
    let oversized = "a".repeat(MAX_REQUEST_SIZE);
    assert!(resolve_as(&service, "web", &oversized).await.is_err());
}

#[tokio::test]
async fn proxy_with_too_many_requests_is_refused_and_others_are_not() {
    let service = mk_service(true);
    let name = "web_shop_svc_80.web.mesh";
    // The limit grows while the requests are sent, so more than its burst may be necessary.
    let mut refused = None;
    for _ in 0..100_000 {
        refused = resolve_as(&service, "web", name).await.err();
        if refused.is_some() {
            break;
        }
    }
    assert_eq!(refused, Some(Code::ResourceExhausted));
    assert_eq!(
        resolve_as(&service, "other", name).await,
        Err(Code::Unauthenticated)
    );
}
