//! The Helm chart: Helm renders from values what `kumactl install control-plane` prints for the same flags. Helm is built
//! by the cluster tool (`cluster/`).

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kermode_checkout::Checkout;
use kermode_install::{InstallOption, chart, options};
use kermode_manifests::documents;
use kumactl::control_plane_objects;
use serde::Deserialize;
use serde_json::{Value, json};

/// Annotation that only the chart has: `helm uninstall` keeps the custom resource definitions.
const RESOURCE_POLICY: &str = "helm.sh/resource-policy";

fn checkout() -> Checkout {
    Checkout::find().expect("the checkout")
}

/// Returns the folder of the chart in the repository.
fn folder() -> PathBuf {
    checkout().repository.join("deploy/chart")
}

/// Returns a command that runs Helm.
fn helm() -> Command {
    Command::new(checkout().tool("helm").expect("Helm"))
}

/// Runs `helm template` in the namespace `mesh`. Returns the objects, or Helm's error.
fn rendered(values: &Value) -> Result<Vec<Value>, String> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), values.to_string()).expect("the values are written");
    let output = helm()
        .args(["template", "kermode", "--namespace=mesh", "--values"])
        .args([file.path(), &folder()])
        .output()
        .expect("helm runs");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let documents = documents::parse(&text).expect("YAML");
    Ok(documents::objects(&documents))
}

/// Returns the objects by kind, namespace and name, without the annotation of the chart.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let mut named = BTreeMap::new();
    for mut object in objects {
        if object["kind"] == "CustomResourceDefinition" {
            remove_resource_policy(&mut object);
        }
        let metadata = &object["metadata"];
        let name = format!(
            "{} {} {}",
            object["kind"], metadata["namespace"], metadata["name"]
        );
        assert!(
            named.insert(name.clone(), object).is_none(),
            "{name} is there twice"
        );
    }
    named
}

fn remove_resource_policy(definition: &mut Value) {
    let Some(metadata) = definition["metadata"].as_object_mut() else {
        return;
    };
    if let Some(Value::Object(mut annotations)) = metadata.remove("annotations") {
        annotations.remove(RESOURCE_POLICY);
        if !annotations.is_empty() {
            metadata.insert("annotations".to_owned(), annotations.into());
        }
    }
}

/// Flags of `kumactl install control-plane`, and the values of the chart that mean the same.
#[derive(Debug, Deserialize)]
struct Case {
    flags: Vec<String>,
    values: Value,
}

fn accepted() -> Vec<Case> {
    serde_saphyr::from_str(include_str!("chart/accepted.yaml")).expect("cases")
}

fn refused() -> Vec<Case> {
    serde_saphyr::from_str(include_str!("chart/refused.yaml")).expect("cases")
}

/// Returns the objects that `kumactl` prints for these flags in the namespace `mesh`.
fn printed(flags: &[String]) -> Result<Vec<Value>, anyhow::Error> {
    let flags = flags.iter().map(String::as_str);
    let flags: Vec<&str> = ["--namespace=mesh"].into_iter().chain(flags).collect();
    control_plane_objects(&flags)
}

#[test]
fn helm_renders_the_objects_that_kumactl_prints() {
    for create_namespace in [true, false] {
        for Case {
            mut flags,
            mut values,
        } in accepted()
        {
            values["createNamespace"] = create_namespace.into();
            flags.push(format!("--create-namespace={create_namespace}"));
            let expected = by_name(printed(&flags).expect("manifests"));
            let rendered = by_name(rendered(&values).unwrap_or_else(|error| panic!("{flags:?}: {error}")));
            let (expected_names, names): (Vec<_>, Vec<_>) =
                (expected.keys().collect(), rendered.keys().collect());
            assert_eq!(names, expected_names, "{flags:?}");
            for (name, expected) in &expected {
                assert_eq!(&rendered[name], expected, "{name} with {flags:?}");
            }
        }
    }
}

#[test]
fn cases_set_every_option_to_a_value_other_than_the_default() {
    let is_set = |option: &InstallOption, values: &Value| {
        let value = values.pointer(&format!("/{}", option.path.replace('.', "/")));
        value.is_some_and(|value| *value != option.default)
    };
    let cases = accepted();
    let missing: Vec<&str> = options()
        .iter()
        .filter(|option| option.path != "createNamespace")
        .filter(|option| !cases.iter().any(|case| is_set(option, &case.values)))
        .map(|option| option.path)
        .collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn namespace_is_not_part_of_the_chart_by_default() {
    let objects = rendered(&json!({})).expect("objects");
    assert!(objects.iter().all(|object| object["kind"] != "Namespace"));
}

#[test]
fn helm_uninstall_keeps_the_custom_resource_definitions() {
    for object in rendered(&json!({})).expect("objects") {
        let is_definition = object["kind"] == "CustomResourceDefinition";
        let is_kept = object["metadata"]["annotations"][RESOURCE_POLICY] == "keep";
        assert_eq!(is_kept, is_definition, "{object}");
    }
}

#[test]
fn values_that_kumactl_refuses_as_flags_are_refused_by_helm() {
    for Case { flags, values } in refused() {
        assert!(printed(&flags).is_err(), "kumactl accepts {flags:?}");
        assert!(rendered(&values).is_err(), "Helm accepts {values}");
    }
    let unknown = json!({"controlPlane": {"replica": 2}});
    assert!(rendered(&unknown).is_err(), "Helm accepts {unknown}");
}

#[test]
fn helm_lint_accepts_the_chart() {
    let output = helm()
        .arg("lint")
        .arg("--strict")
        .arg(folder())
        .output()
        .expect("helm runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 chart(s) linted, 0 chart(s) failed"), "{text}");
}

/// Returns the files below a folder, by their paths in it.
fn files_below(folder: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        for entry in fs::read_dir(&current).expect("the folder is readable") {
            let path = entry.expect("the entry is readable").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).expect("a path below the folder");
            let text = fs::read_to_string(&path).expect("the file is readable");
            files.insert(name.to_string_lossy().into_owned(), text);
        }
    }
    files
}

#[test]
fn chart_of_the_repository_is_up_to_date() {
    let files = files_below(&folder());
    let generated = chart::files();
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&files), names(&generated), "run `make chart`");
    for (name, text) in generated {
        assert!(
            files[&name] == text,
            "deploy/chart/{name} is out of date: run `make chart`"
        );
    }
}
