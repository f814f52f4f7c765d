//! Tests of ADD with simulated pods. The test `netns` of this crate applies rules to a network namespace.

use std::cell::Cell;

use super::*;

/// Lookup that fails a number of times, then returns the same pod for every name.
struct Flaky {
    failures: Cell<u32>,
    pod: PodSummary,
}

impl PodLookup for Flaky {
    fn find(&self, _: &str, _: &str) -> anyhow::Result<PodSummary> {
        match self.failures.get() {
            0 => Ok(self.pod.clone()),
            left => {
                self.failures.set(left - 1);
                anyhow::bail!("the API server is unavailable")
            }
        }
    }
}

fn flaky(failures: u32) -> Flaky {
    Flaky {
        failures: Cell::new(failures),
        pod: PodSummary::default(),
    }
}

fn injected(annotation: (&str, &str)) -> Flaky {
    let annotations = [("kuma.io/sidecar-injected", "true"), annotation];
    let annotations = annotations
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into_iter()
        .collect();
    let pod = PodSummary {
        annotations,
        init_containers: Vec::new(),
        running_containers: 2,
    };
    Flaky {
        failures: Cell::new(0),
        pod,
    }
}

fn environment(namespace: &str) -> Environment {
    let arguments = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=cart-1");
    Environment {
        command: Some("ADD".to_owned()),
        network_namespace: None,
        arguments,
    }
}

fn network() -> Network {
    Network::parse(
        r#"{"cniVersion":"1.0.0","kubernetes":{"kubeconfig":"/k","exclude_namespaces":["kube-system"]}}"#,
    )
    .expect("valid")
}

#[test]
fn pod_of_an_excluded_namespace_is_not_looked_up() {
    let pods = flaky(u32::MAX);
    assert_eq!(add(&environment("kube-system"), &network(), &pods), Ok(()));
    assert_eq!(pods.failures.get(), u32::MAX);
}

#[test]
fn sandbox_without_a_pod_is_skipped() {
    assert_eq!(add(&Environment::default(), &network(), &flaky(u32::MAX)), Ok(()));
}

#[test]
fn lookup_is_attempted_thirty_times() {
    assert!(find_with_retries(&flaky(29), "shop", "cart-1", Duration::ZERO).is_ok());
    let failure = find_with_retries(&flaky(30), "shop", "cart-1", Duration::ZERO)
        .expect_err("attempts exhausted")
        .to_string();
    assert!(failure.contains("the API server is unavailable"), "{failure}");
}

#[test]
fn pod_without_sidecar_is_skipped() {
    assert_eq!(add(&environment("shop"), &network(), &flaky(0)), Ok(()));
}

#[test]
fn failure_of_bad_annotations_names_pod_and_annotation() {
    let pods = injected(("traffic.kuma.io/exclude-inbound-ports", "http"));
    let failure = add(&environment("shop"), &network(), &pods)
        .expect_err("rejected")
        .to_string();
    assert!(
        failure.contains("shop/cart-1") && failure.contains("traffic.kuma.io/exclude-inbound-ports"),
        "{failure}"
    );
}

#[test]
fn injected_pod_requires_a_network_namespace() {
    let pods = injected(("kuma.io/mesh", "default"));
    let failure = add(&environment("shop"), &network(), &pods)
        .expect_err("rejected")
        .to_string();
    assert!(failure.contains("CNI_NETNS"), "{failure}");
    let missing_namespace = Environment {
        network_namespace: Some("/nonexistent/netns".into()),
        ..environment("shop")
    };
    let failure = add(&missing_namespace, &network(), &pods)
        .expect_err("rejected")
        .to_string();
    assert!(failure.contains("/nonexistent/netns"), "{failure}");
}
