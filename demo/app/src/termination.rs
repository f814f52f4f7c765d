//! Termination message of the container. Kubernetes shows it in the status of the Pod.

use std::fs::OpenOptions;
use std::io::Write;

use serde_json::Value;

/// Default path of the termination message. In a container, the kubelet mounts a file there.
const PATH: &str = "/dev/termination-log";

/// Writes the termination message. Outside of Kubernetes, the file does not exist, and nothing is written.
pub(crate) fn report(message: &Value) {
    if let Ok(mut file) = OpenOptions::new().write(true).open(PATH) {
        // A failure is ignored, because the program ends anyway.
        let _ = write!(file, "{message}");
    }
}
