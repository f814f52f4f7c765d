//! Diagnosis of a failed test: objects, Events and logs. A file contains all of them; the terminal shows the relevant
//! lines of each part.

use std::fmt::Write;
use std::path::PathBuf;

use crate::config::Config;
use crate::fixture::{APP_NAMESPACE, APPLICATIONS_NAMESPACE, Fixture, OUTSIDE_NAMESPACE, SYSTEM_NAMESPACE};
use crate::harness::cluster::Cluster;

/// Maximum number of lines that the terminal shows of each part: the last relevant ones.
const TERMINAL_LINES_PER_PART: usize = 6;

/// Part of a diagnosis, such as the logs of one Pod.
struct Part {
    title: String,
    text: String,
    /// Words that make a line relevant. Without words, the terminal shows nothing of this part.
    terminal_words: &'static [&'static str],
}

/// Removes the diagnoses and logs of earlier runs.
pub(crate) fn remove_old_files(config: &Config) {
    // A failure is ignored: the folder may not exist, and files that remain are overwritten.
    let _ = std::fs::remove_dir_all(output_folder(config));
}

/// Writes the diagnosis of a failed test to a file. Returns the text for the terminal: the relevant lines and the path
/// of the file.
pub(crate) async fn write(fixture: &Fixture, test: &str) -> String {
    let mut file_text = String::new();
    let mut terminal_text = String::new();
    for part in parts(&fixture.cluster).await {
        // Writing to a String cannot fail.
        let _ = writeln!(file_text, "--- {}\n{}\n", part.title, part.text);
        let is_relevant = |line: &&str| part.terminal_words.iter().any(|word| line.contains(word));
        let lines: Vec<&str> = part.text.lines().filter(is_relevant).collect();
        if !lines.is_empty() {
            let _ = writeln!(terminal_text, "    --- {}", part.title);
        }
        for line in &lines[lines.len().saturating_sub(TERMINAL_LINES_PER_PART)..] {
            let _ = writeln!(terminal_text, "    {line}");
        }
    }
    let folder = output_folder(&fixture.config);
    let file = folder.join(format!("{}.txt", test.replace("::", "-")));
    let write_result = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, file_text));
    let outcome = write_result.map_or_else(
        |error| format!(" cannot be written: {error}"),
        |()| " contains the whole diagnosis".into(),
    );
    terminal_text + "    " + &file.display().to_string() + &outcome
}

fn output_folder(config: &Config) -> PathBuf {
    config.checkout.target.join("e2e")
}

async fn parts(cluster: &Cluster) -> Vec<Part> {
    let pods = kubectl(cluster, &["get", "pods", "--all-namespaces", "--output=wide"]).await;
    let kinds = "dataplanes,meshes,meshtrafficpermissions";
    let objects = kubectl(cluster, &["get", kinds, "--all-namespaces", "--output=yaml"]).await;
    let mut parts = vec![
        Part {
            title: "pods".to_owned(),
            text: pods,
            terminal_words: &["e2e-", SYSTEM_NAMESPACE],
        },
        Part {
            title: kinds.to_owned(),
            text: objects,
            terminal_words: &[],
        },
    ];
    for namespace in [
        SYSTEM_NAMESPACE,
        APP_NAMESPACE,
        APPLICATIONS_NAMESPACE,
        OUTSIDE_NAMESPACE,
    ] {
        parts.extend(namespace_parts(cluster, namespace).await);
    }
    parts
}

async fn namespace_parts(cluster: &Cluster, namespace: &str) -> Vec<Part> {
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
            terminal_words: &["Warning"],
        },
        Part {
            title: format!("descriptions of {namespace}"),
            text: descriptions,
            terminal_words: &[],
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
            terminal_words: &["ERROR", "WARN"],
        });
    }
    parts
}

/// Returns the standard output of kubectl; if there is none, the standard error; if kubectl does not run, the reason.
async fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    match cluster.kubectl.output(arguments, "").await {
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
