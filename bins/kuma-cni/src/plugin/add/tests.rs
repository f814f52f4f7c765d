//! Tests of ADD with simulated pods.

use std::cell::Cell;

use super::*;
use crate::plugin::pods::LookupError;

/// Simulated API server: fails `remaining_failures` times, then returns the same pod for every name.
struct SimulatedLookup {
    remaining_failures: Cell<u32>,
    pod: PodSummary,
}

impl PodLookup for SimulatedLookup {
    fn find(&self, _: &str, _: &str) -> Result<PodSummary, LookupError> {
        match self.remaining_failures.get() {
            0 => Ok(self.pod.clone()),
            remaining => {
                self.remaining_failures.set(remaining - 1);
                Err(LookupError::Unavailable("connection refused".into()))
            }
        }
    }
}

/// Creates a lookup that fails `failures` times, then returns a pod without sidecar.
fn mk_lookup_of_pod_without_sidecar(failures: u32) -> SimulatedLookup {
    SimulatedLookup {
        remaining_failures: Cell::new(failures),
        pod: PodSummary::default(),
    }
}

/// Creates a lookup that returns an injected pod with one more annotation.
fn mk_lookup_of_injected_pod(annotation: (&str, &str)) -> SimulatedLookup {
    let annotations = [("kuma.io/sidecar-injected", "true"), annotation];
    let annotations = annotations
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into_iter()
        .collect();
    let pod = PodSummary {
        annotations,
        init_containers: Vec::new(),
        long_running_containers: 2,
    };
    SimulatedLookup {
        remaining_failures: Cell::new(0),
        pod,
    }
}

fn mk_environment(namespace: &str) -> Environment {
    let arguments = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=cart-1");
    Environment {
        command: Some("ADD".to_owned()),
        network_namespace: None,
        arguments: arguments.into(),
    }
}

fn mk_network() -> NetworkConfig {
    NetworkConfig::parse(
        r#"{"cniVersion":"1.0.0","kubernetes":{"kubeconfig":"/k","exclude_namespaces":["kube-system"]}}"#,
    )
    .expect("a valid configuration")
}

#[test]
fn pod_of_an_excluded_namespace_is_not_looked_up() {
    let pods = mk_lookup_of_pod_without_sidecar(u32::MAX);
    assert_eq!(add(&mk_environment("kube-system"), &mk_network(), &pods), Ok(()));
    assert_eq!(pods.remaining_failures.get(), u32::MAX);
}

#[test]
fn call_without_a_pod_name_succeeds_without_a_lookup() {
    let pods = mk_lookup_of_pod_without_sidecar(u32::MAX);
    assert_eq!(add(&Environment::default(), &mk_network(), &pods), Ok(()));
}

/// Returns a clock that advances by `step` whenever it is read.
fn mk_clock(step: Duration) -> impl Fn() -> Instant {
    let time = Cell::new(Instant::now());
    move || time.replace(time.get() + step)
}

#[test]
fn lookup_is_repeated_while_the_api_server_is_unavailable_and_the_budget_lasts() {
    let find = |failures| {
        let clock = mk_clock(Duration::from_secs(34));
        find_with_retries(
            &mk_lookup_of_pod_without_sidecar(failures),
            "shop",
            "cart-1",
            Duration::ZERO,
            clock,
        )
    };
    // The attempts end 34, 68 and 102 seconds after the beginning.
    assert!(find(2).is_ok());
    let failure = find(3).expect_err("the budget is spent");
    assert_eq!(
        failure,
        Failure::retryable(
            "cannot get pod shop/cart-1: the API server is unavailable: connection refused (attempt 3)"
        )
    );
}

#[test]
fn lookup_that_cannot_succeed_is_not_repeated() {
    /// Fails the first lookup; a second one panics.
    struct SingleFailure(Cell<Option<LookupError>>);
    impl PodLookup for SingleFailure {
        fn find(&self, _: &str, _: &str) -> Result<PodSummary, LookupError> {
            Err(self.0.take().expect("only one attempt"))
        }
    }
    for error in [
        LookupError::NotFound,
        LookupError::Forbidden("pods is forbidden".into()),
        LookupError::Rejected("bad request".into()),
    ] {
        let text = error.to_string();
        let failure = add(
            &mk_environment("shop"),
            &mk_network(),
            &SingleFailure(Cell::new(Some(error))),
        )
        .expect_err("the lookup fails");
        assert_eq!(
            failure,
            Failure::lookup(&format!("cannot get pod shop/cart-1: {text} (attempt 1)"))
        );
    }
}

#[test]
fn pod_without_sidecar_needs_no_network_namespace() {
    assert_eq!(
        add(
            &mk_environment("shop"),
            &mk_network(),
            &mk_lookup_of_pod_without_sidecar(0)
        ),
        Ok(())
    );
}

#[test]
fn failure_for_an_invalid_annotation_names_the_pod_and_the_annotation() {
    let pods = mk_lookup_of_injected_pod(("traffic.kuma.io/exclude-inbound-ports", "http"));
    let failure = add(&mk_environment("shop"), &mk_network(), &pods)
        .expect_err("the pod cannot be set up")
        .to_string();
    assert!(
        failure.contains("shop/cart-1") && failure.contains("traffic.kuma.io/exclude-inbound-ports"),
        "{failure}"
    );
}

#[test]
fn failure_without_a_usable_network_namespace_names_the_variable_or_the_path() {
    // This annotation has no effect on the rules.
    let pods = mk_lookup_of_injected_pod(("kuma.io/mesh", "default"));
    let failure = add(&mk_environment("shop"), &mk_network(), &pods)
        .expect_err("the pod cannot be set up")
        .to_string();
    assert!(failure.contains("CNI_NETNS"), "{failure}");
    let environment_with_nonexistent_network_namespace = Environment {
        network_namespace: Some("/nonexistent/netns".into()),
        ..mk_environment("shop")
    };
    let failure = add(
        &environment_with_nonexistent_network_namespace,
        &mk_network(),
        &pods,
    )
    .expect_err("the pod cannot be set up")
    .to_string();
    assert!(failure.contains("/nonexistent/netns"), "{failure}");
}
