//! Gets the pod from the API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::decision::PodSummary;

/// Lookup of pods.
pub(crate) trait PodLookup {
    /// Returns the current state of a pod.
    fn find(&self, namespace: &str, name: &str) -> anyhow::Result<PodSummary>;
}

/// API server that a kubeconfig names.
pub(crate) struct ApiServer {
    kubeconfig: PathBuf,
}

/// Timeout of connecting and of reading, in each lookup.
const TIMEOUT: Duration = Duration::from_secs(5);

impl ApiServer {
    /// Uses the kubeconfig at a path. Each lookup reads the file again, because the installer renews the token in it.
    pub(crate) fn new(kubeconfig: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
        }
    }

    async fn fetch(&self, namespace: &str, name: &str) -> anyhow::Result<Pod> {
        let path = self.kubeconfig.display();
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig)
            .with_context(|| format!("cannot use the kubeconfig {path}"))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("cannot use the kubeconfig {path}"))?;
        config.connect_timeout = Some(TIMEOUT);
        config.read_timeout = Some(TIMEOUT);
        let pods: Api<Pod> = Api::namespaced(Client::try_from(config)?, namespace);
        Ok(pods.get(name).await?)
    }
}

impl PodLookup for ApiServer {
    fn find(&self, namespace: &str, name: &str) -> anyhow::Result<PodSummary> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let pod = runtime.block_on(self.fetch(namespace, name));
        pod.map(summarize)
            .with_context(|| format!("cannot get pod {namespace}/{name}"))
    }
}

/// Extracts the fields that the decision reads.
fn summarize(pod: Pod) -> PodSummary {
    let spec = pod.spec.unwrap_or_default();
    let init_containers = spec.init_containers.unwrap_or_default();
    let native_sidecars = init_containers
        .iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    PodSummary {
        long_running_containers: spec.containers.len() + native_sidecars.count(),
        annotations: pod.metadata.annotations.unwrap_or_default(),
        init_containers: init_containers
            .into_iter()
            .map(|container| container.name)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_sidecar_counts_as_long_running_container() {
        let pod = serde_json::json!({
            "metadata": { "annotations": { "kuma.io/sidecar-injected": "true" } },
            "spec": {
                "initContainers": [{ "name": "kuma-sidecar", "restartPolicy": "Always" }, { "name": "migrate" }],
                "containers": [{ "name": "app" }],
            },
        });
        let summary = summarize(serde_json::from_value(pod).expect("a pod"));
        assert_eq!(summary.long_running_containers, 2);
        assert_eq!(summary.init_containers, ["kuma-sidecar", "migrate"]);
        assert_eq!(summary.annotations.len(), 1);
    }
}
