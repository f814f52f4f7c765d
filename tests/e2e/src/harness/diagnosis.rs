//! What helps to understand a failure: objects, events and logs, all of it in a file, the ends of it on the terminal.

use std::fmt::Write;

use crate::harness::cluster::Cluster;
use crate::world::{APP, OUTSIDE, SYSTEM, World};

/// Lines of each part that are shown on the terminal.
const SHOWN: usize = 12;

/// Writes everything to a file and returns the ends of it, with the file's path.
pub(crate) async fn collect(world: &World, test: &str) -> String {
    let mut whole = String::new();
    let mut shown = String::new();
    for (title, text) in parts(&world.cluster).await {
        // Writing to a String cannot fail.
        let _ = writeln!(whole, "--- {title}\n{text}\n");
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.len().saturating_sub(SHOWN);
        let _ = writeln!(shown, "    --- {title}");
        for line in &lines[end..] {
            let _ = writeln!(shown, "    {line}");
        }
    }
    let folder = world.config.target.join("e2e");
    let file = folder.join(format!("{}.txt", test.replace([' ', '/'], "-")));
    match std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, whole)) {
        Ok(()) => {
            let _ = write!(shown, "    all of it: {}", file.display());
        }
        Err(error) => {
            let _ = write!(shown, "    {} cannot be written: {error}", file.display());
        }
    }
    shown
}

async fn parts(cluster: &Cluster) -> Vec<(String, String)> {
    let mut parts = vec![
        (
            "pods".to_owned(),
            kubectl(cluster, &["get", "pods", "--all-namespaces", "--output=wide"]).await,
        ),
        (
            "dataplanes".to_owned(),
            kubectl(
                cluster,
                &[
                    "get",
                    "dataplanes,meshes,meshtrafficpermissions",
                    "--all-namespaces",
                    "--output=yaml",
                ],
            )
            .await,
        ),
    ];
    for namespace in [SYSTEM, APP, OUTSIDE] {
        let here = format!("--namespace={namespace}");
        let events = ["get", "events", &here, "--sort-by=.lastTimestamp"];
        parts.push((format!("events of {namespace}"), kubectl(cluster, &events).await));
        parts.push((
            format!("descriptions of {namespace}"),
            kubectl(cluster, &["describe", "pods", &here]).await,
        ));
        let pods = kubectl(cluster, &["get", "pods", &here, "--output=name"]).await;
        for pod in pods.lines().filter(|line| line.starts_with("pod/")) {
            let logs = ["logs", pod, &here, "--all-containers", "--prefix", "--tail=200"];
            parts.push((
                format!("logs of {namespace} {pod}"),
                kubectl(cluster, &logs).await,
            ));
        }
    }
    parts
}

async fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    match cluster.kubectl.attempt(arguments, "").await {
        Ok(output) => {
            let bytes = if output.stdout.is_empty() {
                output.stderr
            } else {
                output.stdout
            };
            String::from_utf8_lossy(&bytes).trim_end().to_owned()
        }
        Err(error) => format!("{error:#}"),
    }
}
