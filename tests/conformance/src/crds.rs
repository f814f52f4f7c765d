//! Suite `crds`: our CustomResourceDefinitions beside those of the corpus.

use anyhow::{Context, Result};
use kermode_crds::definition;
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::suite::{Outcome, Suite};

/// Runner of the suite.
pub(crate) struct Crds;

impl Suite for Crds {
    fn name(&self) -> &'static str {
        "crds"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["crd"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let theirs = case.file("expected")?;
        let name = &theirs["metadata"]["name"];
        let ours = definition::all()
            .into_iter()
            .find(|definition| definition["metadata"]["name"] == *name)
            .with_context(|| format!("no CustomResourceDefinition {name}"))?;
        Ok(Outcome::Compared {
            expected: comparable(&theirs),
            actual: comparable(&ours),
        })
    }
}

/// Group, names, scope, version flags and the schema without descriptions.
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

/// A schema without the prose; `properties` may hold one named `description`, which stays.
fn without_descriptions(schema: &Value) -> Value {
    let Value::Object(members) = schema else {
        return schema.clone();
    };
    let kept = members
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
    Value::Object(kept.collect())
}
