//! Golden tests: `golden/<case>.input.yaml` describes a mesh, and `golden/<case>.golden.yaml` contains all resources of
//! one proxy of the mesh. The real Envoy validates these resources. `UPDATE_GOLDENS=1` rewrites the golden files.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

mod support;

use std::path::{Path, PathBuf};

use kermode_envoy::Resource;
use kermode_model::MAX_PROBES;
use serde_json::{Value, json};
use support::input::Input;
use support::{envoy, readable};

macro_rules! cases {
    ($($case:ident,)*) => {
        $(#[test]
        fn $case() {
            check_case(stringify!($case));
        })*

        #[test]
        fn every_input_has_a_test() {
            let inputs = std::fs::read_dir(golden_folder()).expect("the golden folder").filter_map(|entry| {
                let name = entry.expect("an entry").file_name().into_string().expect("a text name");
                name.strip_suffix(".input.yaml").map(str::to_owned)
            });
            let tested = [$(stringify!($case)),*];
            for input in inputs {
                assert!(tested.contains(&input.as_str()), "{input}.input.yaml is not listed in `cases!`");
            }
        }
    };
}

cases! {
    balancing,
    direct_access,
    dual_stack,
    headless,
    inbound_protocols,
    ipv6,
    metrics,
    metrics_port_in_use,
    not_redirected,
    outbound_protocols,
    permissions,
    permissive,
    plain,
    probes,
    reachable_services,
    services_without_selector,
    strict,
    virtual_ips,
}

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn check_case(case: &str) {
    let input =
        std::fs::read_to_string(golden_folder().join(format!("{case}.input.yaml"))).expect("the input");
    let input = Input::parse(&input);
    let resources = input.resources();
    assert_eq!(
        resources,
        input.resources(),
        "the same input gives different resources when they are generated again"
    );
    compare_with_golden(case, &to_readable(&resources));
    let bootstrap = envoy::mk_bootstrap(input.proxy(), 9901, Path::new("/run/kuma-dp.sock"));
    if let Err(log) = envoy::validate(&envoy::with_static_resources(bootstrap, &resources)) {
        panic!("Envoy rejects {case}:\n{log}");
    }
}

#[test]
fn envoy_accepts_as_many_and_as_long_probes_as_a_dataplane_may_have() {
    // Every character that a request line may contain, except the two that the YAML of the input would have to escape.
    let characters: String = ('!'..='~').filter(|c| !r#"\""#.contains(*c)).collect();
    // The virtual probe's path is almost as long as `MAX_PROBE_PATH`.
    let long_path = characters.repeat(40);
    let probes: Vec<_> = (0..MAX_PROBES)
        .map(|index| match index % 4 {
            0 => format!(r#"{{ port: {}, path: "/{long_path}" }}"#, 65535 - index),
            1 => format!(r#"{{ port: {index}, path: "/{long_path}", protocol: HTTPS }}"#),
            2 => format!("{{ port: {index}, protocol: TCP }}"),
            _ => format!(
                r#"{{ port: {index}, path: "{}", protocol: GRPC }}"#,
                "\\0ü%/".repeat(200)
            ),
        })
        .collect();
    let input = format!(
        "proxy: web-0.demo\nmtls: STRICT\ndataplanes:\n  web-0.demo:\n    address: 10.244.0.2\n    probes: [{}]\n",
        probes.join(", ")
    );
    let input = Input::parse(&input);
    let bootstrap = envoy::mk_bootstrap(input.proxy(), 9901, Path::new("/run/kuma-dp.sock"));
    if let Err(log) = envoy::validate(&envoy::with_static_resources(bootstrap, &input.resources())) {
        panic!(
            "Envoy rejects the probes:\n{}",
            log.chars().take(2_000).collect::<String>()
        );
    }
}

fn to_readable(resources: &[Resource]) -> Value {
    let entry = |resource: &Resource| {
        json!({
            "kind": format!("{:?}", resource.kind),
            "name": &*resource.name,
            "resource": readable::json(resource),
        })
    };
    resources.iter().map(entry).collect()
}

#[allow(
    clippy::disallowed_methods,
    reason = "`UPDATE_GOLDENS` is a switch for developers"
)]
fn compare_with_golden(case: &str, actual: &Value) {
    let path = golden_folder().join(format!("{case}.golden.yaml"));
    if std::env::var("UPDATE_GOLDENS").is_ok() {
        let text = serde_saphyr::to_string(&kermode_envoy_json::sorted(actual.clone())).expect("YAML");
        std::fs::write(&path, text).expect("a writable golden folder");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let golden: Value = serde_saphyr::from_str(&golden).expect("a golden file in YAML");
    let empty = Vec::new();
    let golden = golden.as_array().unwrap_or(&empty);
    let actual = actual.as_array().unwrap_or(&empty);
    for (golden, actual) in golden.iter().zip(actual) {
        assert_eq!(
            golden, actual,
            "{case}: {} differs (UPDATE_GOLDENS=1 rewrites the golden files)",
            actual["name"]
        );
    }
    assert_eq!(
        golden.len(),
        actual.len(),
        "{case}: the number of resources differs (UPDATE_GOLDENS=1 rewrites the golden files)"
    );
}
