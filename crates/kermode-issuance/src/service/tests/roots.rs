//! Streams of roots over TLS.

use std::time::{Duration, SystemTime};

use kermode_identity::{Generation, Schedule, Succession};
use kermode_model::MeshName;
use tonic::Code;

use super::server::{Server, mk_mesh};
use super::web_token;
use crate::authentication::tests::mk_token;

/// A test that waits longer has failed.
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_proxy_is_told_of_a_new_root_at_once() {
    let server = Server::start().await;
    let mut stream = server
        .watch(&web_token(), "web.shop")
        .await
        .expect("it is let in");
    let first = stream.message().await.expect("no error").expect("the roots");
    assert_eq!((first.roots_der.len(), first.signer), (1, 1));

    let mesh = mk_mesh();
    let mtls = mesh.mtls.clone().expect("it has mTLS");
    let known = server.authorities.get(&mesh.name, "ca-1").await.expect("a CA");
    let now = SystemTime::now();
    let next = Generation {
        number: 2,
        authority: std::sync::Arc::new(
            kermode_identity::Authority::generate(&MeshName::from("default"), now).expect("a CA"),
        ),
        schedule: Some(Schedule::starting(now, mtls.certificate_lifetime)),
        request: None,
    };
    let both = Succession::new(vec![known.newest().clone(), next]).expect("two");
    // The same again is no news.
    server.authorities.publish(&mesh.name, &mtls, &known);
    server.authorities.publish(&mesh.name, &mtls, &both);
    let told = tokio::time::timeout(LONG, stream.message())
        .await
        .expect("it is told");
    let told = told.expect("no error").expect("the roots");
    assert_eq!((told.roots_der.len(), told.signer), (2, 1));
    assert!(told.roots_version > first.roots_version);
    assert_eq!(told.roots_der[0], first.roots_der[0]);
}

#[tokio::test]
async fn a_proxy_has_two_streams_and_no_more() {
    let server = Server::start().await;
    let watch = async || server.watch(&web_token(), "web.shop").await;
    let (first, second) = (watch().await, watch().await);
    assert!(first.is_ok() && second.is_ok());
    let refused = watch().await.expect_err("there is no room");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(
        server.metric("roots_streams_refused_total{reason=\"Streams\"} "),
        1
    );
    assert_eq!(server.metric("roots_streams "), 2);
    let other = mk_token("robot", "other", "2", "good");
    assert!(server.watch(&other, "other.shop").await.is_ok());
    drop(first);
    let room = async {
        while watch().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, room)
        .await
        .expect("its place is given back");
}
