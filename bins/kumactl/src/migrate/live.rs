//! Reads the objects of `kumactl migrate report` from a cluster. Objects that the user may not read are left out, and the
//! report says so.

use anyhow::Result;
use kermode_install::{CONFIG_MAP, NAME};
use kermode_migration::{KUMA_NAMESPACE, system_namespace};
use serde_json::{Value, json};

use super::{Objects, ReportArgs, default_system_namespace};
use crate::cluster::{ClusterClient, ClusterError, Resource, Selection};

/// Resources whose objects are read in all namespaces.
const RESOURCES: [Resource; 9] = [
    Resource::NAMESPACE,
    Resource::SERVICE,
    Resource::DEPLOYMENT,
    Resource::DAEMON_SET,
    Resource::STATEFUL_SET,
    Resource::REPLICA_SET,
    Resource::CRON_JOB,
    Resource::JOB,
    Resource::POD,
];
/// Field selectors of Kuma's Secrets.
const SECRET_TYPES: [&str; 2] = ["system.kuma.io/secret", "system.kuma.io/global-secret"];

/// Reads all objects that Kuma reads.
pub(super) async fn read(args: &ReportArgs) -> Result<Objects> {
    let client = ClusterClient::connect(&args.cluster).await?;
    let mut found = Objects::default();
    for resource in RESOURCES {
        found.add(client.list(&resource, Selection::default()).await)?;
    }
    let kinds = client.mesh_kinds().await;
    for kind in found.readable(kinds)? {
        found.add(client.list_kind(&kind).await)?;
    }
    let namespaces = namespaces_of_kuma(args, &found.objects);
    for namespace in &namespaces {
        let config = client
            .get_opt(&Resource::CONFIG_MAP, Some(namespace), CONFIG_MAP)
            .await;
        found.add(config.map(|config| config.into_iter().collect()))?;
        for kind in SECRET_TYPES {
            found.add(secrets(&client, namespace, kind).await)?;
        }
    }
    Ok(found)
}

/// Returns the namespaces in which the control plane of Kuma may run.
fn namespaces_of_kuma(args: &ReportArgs, objects: &[Value]) -> Vec<String> {
    let mut namespaces = vec![KUMA_NAMESPACE.to_owned(), default_system_namespace()];
    namespaces.extend(system_namespace(objects).map(str::to_owned));
    namespaces.extend(args.control_plane_namespace.clone());
    // The control plane may run in a Namespace without the label.
    let deployments = objects
        .iter()
        .filter(|object| object["kind"] == Resource::DEPLOYMENT.kind);
    let of_kuma = deployments.filter(|deployment| deployment["metadata"]["name"] == NAME);
    namespaces.extend(
        of_kuma
            .filter_map(|deployment| deployment["metadata"]["namespace"].as_str())
            .map(str::to_owned),
    );
    namespaces.sort();
    namespaces.dedup();
    namespaces
}

/// Reads the names of Secrets of a type, and whether each has more than one entry. The API server returns a table, which
/// does not contain the data of the Secrets.
async fn secrets(client: &ClusterClient, namespace: &str, kind: &str) -> Result<Vec<Value>, ClusterError> {
    let fields = format!("type={kind}");
    let selection = Selection {
        namespace: Some(namespace),
        fields: &fields,
        ..Selection::default()
    };
    let table = client.table(&Resource::SECRET, selection).await?;
    let count_column = table.columns.iter().position(|column| column["name"] == "Data");
    let secret = |row: &Value| {
        let count = count_column.and_then(|column| row["cells"][column].as_u64());
        // Secrets of Kuma have one entry. Those of Kermode with the key of a CA also have the certificate.
        let has_certificate = count.is_some_and(|count| count > 1);
        let data = if has_certificate {
            json!({"value": "", "certificate": ""})
        } else {
            json!({"value": ""})
        };
        json!({
            "apiVersion": "v1", "kind": Resource::SECRET.kind, "type": kind, "data": data,
            "metadata": {"namespace": namespace, "name": row["object"]["metadata"]["name"]},
        })
    };
    Ok(table.rows.iter().map(secret).collect())
}

// === impl Objects ===

impl Objects {
    /// Adds the objects, or the reason why the user cannot read them. Other errors end the command.
    fn add(&mut self, found: Result<Vec<Value>, ClusterError>) -> Result<()> {
        let objects = self.readable(found)?;
        self.objects.extend(objects);
        Ok(())
    }

    /// Returns what was read. Where the user lacks the permission, notes the reason and returns nothing. Other errors end
    /// the command.
    fn readable<T>(&mut self, found: Result<Vec<T>, ClusterError>) -> Result<Vec<T>> {
        match found {
            Ok(found) => Ok(found),
            Err(error) if error.is_about_one_resource() => {
                self.unread.push(error.to_string());
                Ok(Vec::new())
            }
            Err(error) => Err(error.into()),
        }
    }
}
