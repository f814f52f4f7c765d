//! Suite `crds`: Kermode's CustomResourceDefinitions, and objects that their schemas or the webhook accept or reject.

mod schema;

use anyhow::{Context, Result, bail};
use kermode_crds::definition;
use kermode_inject::validate_container_patch;
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::suite::{Outcome, Runner};

/// Runner of the suite.
pub(crate) struct Crds;

impl Runner for Crds {
    fn suite(&self) -> &'static str {
        "crds"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["crd", "crd-validate", "admission"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        match case.kind() {
            "crd" => compare_definition(case),
            "crd-validate" => validate_by_schema(case),
            "admission" => validate_by_webhook(case),
            kind => bail!("unknown kind {kind:?}"),
        }
    }
}

/// Compares a CustomResourceDefinition with Kuma's definition of the same name.
fn compare_definition(case: &Case<'_>) -> Result<Outcome> {
    let expected = case.document("expected")?;
    let actual = definition_named(expected["metadata"]["name"].as_str().unwrap_or_default())?;
    Ok(Outcome::Compared {
        expected: comparable(&expected),
        actual: comparable(&actual),
    })
}

fn definition_named(name: &str) -> Result<Value> {
    definition::all()
        .into_iter()
        .find(|definition| definition["metadata"]["name"] == name)
        .with_context(|| format!("Kermode has no CustomResourceDefinition {name}"))
}

/// Checks an object against the schema of a CustomResourceDefinition. The verdict is compared with the expected one.
fn validate_by_schema(case: &Case<'_>) -> Result<Outcome> {
    let definition = definition_named(case.at("/inputs/crd").as_str().unwrap_or_default())?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    Ok(Outcome::Compared {
        expected: case.at("/expected").clone(),
        actual: json!({"accepted": schema::accepts(schema, case.at("/inputs/object"))}),
    })
}

/// Checks a ContainerPatch as the validating webhook does. The verdict is compared with the expected one.
fn validate_by_webhook(case: &Case<'_>) -> Result<Outcome> {
    let namespace: String = case.decode("/inputs/systemNamespace")?;
    let result = validate_container_patch(case.at("/inputs/object"), &namespace);
    Ok(Outcome::Compared {
        expected: case.at("/expected").clone(),
        actual: json!({"allowed": result.is_ok()}),
    })
}

/// Returns the parts of a CustomResourceDefinition that are compared, without descriptions in the schemas.
fn comparable(definition: &Value) -> Value {
    let spec = &definition["spec"];
    let versions: Vec<Value> = spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|version| {
            json!({
                "name": version["name"],
                "served": version["served"],
                "storage": version["storage"],
                "additionalPrinterColumns": version["additionalPrinterColumns"],
                "schema": without_descriptions(&version["schema"]["openAPIV3Schema"]),
            })
        })
        .collect();
    json!({"group": spec["group"], "names": spec["names"], "scope": spec["scope"], "versions": versions})
}

/// Removes descriptions from a schema. A property with the name `description` stays.
fn without_descriptions(schema: &Value) -> Value {
    let Value::Object(members) = schema else {
        return schema.clone();
    };
    let members = members
        .iter()
        .filter(|(key, _)| *key != "description")
        .map(|(key, member)| {
            let member = match (key.as_str(), member) {
                ("properties", Value::Object(properties)) => Value::Object(
                    properties
                        .iter()
                        .map(|(name, property)| (name.clone(), without_descriptions(property)))
                        .collect(),
                ),
                _ => without_descriptions(member),
            };
            (key.clone(), member)
        });
    Value::Object(members.collect())
}
