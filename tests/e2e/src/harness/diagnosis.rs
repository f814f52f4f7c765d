//! Diagnosis of a failed test: objects, events and logs. A file contains all of it; the terminal shows the relevant lines.

use std::fmt::Write;
use std::path::PathBuf;

use crate::config::Config;
use crate::harness::cluster::Cluster;
use crate::world::{APP, OUTSIDE, SYSTEM, World};

/// Maximum number of lines of each part on the terminal.
const SHOWN: usize = 6;

/// Part of a diagnosis.
struct Part {
    title: String,
    text: String,
    /// Words that select lines for the terminal.
    relevant: &'static [&'static str],
}

/// Removes the files of earlier runs.
pub(crate) fn remove_old(config: &Config) {
    // The folder may not exist, and files that remain are overwritten.
    let _ = std::fs::remove_dir_all(folder(config));
}

/// Writes the diagnosis to a file. Returns the relevant lines and the path of the file.
pub(crate) async fn collect(world: &World, test: &str) -> String {
    let (mut whole, mut shown) = (String::new(), String::new());
    for part in parts(&world.cluster).await {
        // Writing to a String cannot fail.
        let _ = writeln!(whole, "--- {}\n{}\n", part.title, part.text);
        let relevant = |line: &&str| part.relevant.iter().any(|word| line.contains(word));
        let lines: Vec<&str> = part.text.lines().filter(relevant).collect();
        if !lines.is_empty() {
            let _ = writeln!(shown, "    --- {}", part.title);
        }
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            let _ = writeln!(shown, "    {line}");
        }
    }
    let folder = folder(&world.config);
    let file = folder.join(format!("{}.txt", test.replace("::", "-")));
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, whole));
    let outcome = written.map_or_else(
        |error| format!(" cannot be written: {error}"),
        |()| " contains the whole diagnosis".into(),
    );
    shown + "    " + &file.display().to_string() + &outcome
}

fn folder(config: &Config) -> PathBuf {
    config.target.join("e2e")
}

async fn parts(cluster: &Cluster) -> Vec<Part> {
    let pods = kubectl(cluster, &["get", "pods", "--all-namespaces", "--output=wide"]).await;
    let kinds = "dataplanes,meshes,meshtrafficpermissions";
    let objects = kubectl(cluster, &["get", kinds, "--all-namespaces", "--output=yaml"]).await;
    let mut parts = vec![
        Part {
            title: "pods".to_owned(),
            text: pods,
            relevant: &["e2e-", SYSTEM],
        },
        Part {
            title: kinds.to_owned(),
            text: objects,
            relevant: &[],
        },
    ];
    for namespace in [SYSTEM, APP, OUTSIDE] {
        parts.extend(parts_of(cluster, namespace).await);
    }
    parts
}

async fn parts_of(cluster: &Cluster, namespace: &str) -> Vec<Part> {
    let namespace_flag = format!("--namespace={namespace}");
    let events = kubectl(
        cluster,
        &["get", "events", &namespace_flag, "--sort-by=.lastTimestamp"],
    )
    .await;
    let descriptions = kubectl(cluster, &["describe", "pods", &namespace_flag]).await;
    let mut parts = vec![
        Part {
            title: format!("events of {namespace}"),
            text: events,
            relevant: &["Warning"],
        },
        Part {
            title: format!("descriptions of {namespace}"),
            text: descriptions,
            relevant: &[],
        },
    ];
    let pods = kubectl(cluster, &["get", "pods", &namespace_flag, "--output=name"]).await;
    for pod in pods.lines().filter(|line| line.starts_with("pod/")) {
        let arguments = [
            "logs",
            pod,
            &namespace_flag,
            "--all-containers",
            "--prefix",
            "--tail=200",
        ];
        let text = kubectl(cluster, &arguments).await;
        parts.push(Part {
            title: format!("logs of {namespace} {pod}"),
            text,
            relevant: &["ERROR", "WARN"],
        });
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
