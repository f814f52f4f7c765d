//! Shared state of the tests: the cluster, one installation, one application.
//!
//! A test requests the parts that it needs. A part that could not be set up fails every test that needs it, with the
//! reason. Other tests still run.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use tokio::sync::OnceCell;

use crate::config::Config;
use crate::harness::cluster::Cluster;
use crate::harness::wait::{Progress, done_if, wait_for};
use crate::harness::{demo, host};
use crate::pods::{dry_run, is_ready};

/// Namespace of the control plane.
pub(crate) const SYSTEM: &str = "kong-mesh-system";
/// Name of the control plane's Deployment, Service and ServiceAccount.
pub(crate) const CONTROL_PLANE: &str = "kuma-control-plane";
/// Namespace of the application in the mesh.
pub(crate) const APP: &str = "e2e-mesh";
/// Namespace outside of the mesh.
pub(crate) const OUTSIDE: &str = "e2e-outside";
/// The server's `kuma.io/service`, which is also the name of Envoy's cluster for it.
pub(crate) const SERVER: &str = "server_e2e-mesh_svc_80";
/// URL that the client calls.
pub(crate) const SERVER_URL: &str = "http://server.e2e-mesh.svc/";

const MESH_MANIFEST: &str = include_str!("../manifests/mesh.yaml");
const APP_MANIFEST: &str = include_str!("../manifests/app.yaml");
const OUTSIDE_MANIFEST: &str = include_str!("../manifests/outside.yaml");
/// Deadline of a rollout.
const ROLLOUT: Duration = Duration::from_secs(90);

/// Shared state of the tests.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) config: Config,
    installed: OnceCell<Result<(), String>>,
    deployed: OnceCell<Result<(), String>>,
}

impl World {
    pub(crate) fn new(cluster: Cluster, config: &Config) -> Result<Self> {
        for program in ["kumactl", "kuma-cp"] {
            let path = config.program(program);
            anyhow::ensure!(
                path.exists(),
                "{} does not exist: run make images",
                path.display()
            );
        }
        Ok(Self {
            cluster,
            config: config.clone(),
            installed: OnceCell::new(),
            deployed: OnceCell::new(),
        })
    }

    /// Removes objects of an earlier run that kept its cluster.
    pub(crate) async fn clear(&self) -> Result<()> {
        let kubectl = &self.cluster.kubectl;
        for namespace in [APP, OUTSIDE, SYSTEM] {
            let namespace_flag = format!("--namespace={namespace}");
            kubectl
                .run(&[
                    "delete",
                    "deployments,pods",
                    "--all",
                    "--force",
                    "--grace-period=0",
                    &namespace_flag,
                ])
                .await?;
        }
        self.uninstall().await?;
        kubectl.delete(&self.app(APP_MANIFEST)?, true).await?;
        kubectl.delete(&self.app(OUTSIDE_MANIFEST)?, true).await?;
        Ok(())
    }

    /// Deletes the installation. Webhooks go first, so that no request waits for a deleted control plane.
    pub(crate) async fn uninstall(&self) -> Result<()> {
        let kubectl = &self.cluster.kubectl;
        let webhooks = [
            "mutatingwebhookconfiguration/kuma-admission-mutating-webhook-configuration",
            "validatingwebhookconfiguration/kuma-validating-webhook-configuration",
        ];
        kubectl
            .run(&["delete", "--ignore-not-found", webhooks[0], webhooks[1]])
            .await?;
        kubectl.delete(&self.manifests(&[]).await?, true).await?;
        Ok(())
    }

    /// Returns the manifests of `kumactl install control-plane` with these flags and the images of this build.
    pub(crate) async fn manifests(&self, flags: &[&str]) -> Result<String> {
        let mut arguments = vec!["install".to_owned(), "control-plane".to_owned()];
        for (flag, image) in [
            ("control-plane", "kuma-cp"),
            ("dataplane", "kuma-dp"),
            ("dataplane-init", "kuma-init"),
        ] {
            let reference = self.cluster.image(image)?;
            let (name, tag) = reference
                .rsplit_once(':')
                .context("an image's reference has a tag")?;
            let (registry, repository) = name
                .rsplit_once('/')
                .context("an image's reference has a registry")?;
            arguments.push(format!("--{flag}-registry={registry}"));
            arguments.push(format!("--{flag}-repository={repository}"));
            arguments.push(format!("--{flag}-version={tag}"));
        }
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        host::output(&self.config.program("kumactl"), &arguments).await
    }

    /// Ensures that the control plane is installed and ready.
    pub(crate) async fn installed(&self) -> Result<()> {
        let outcome = self.installed.get_or_init(|| async {
            let install = async {
                self.cluster.kubectl.apply(&self.manifests(&[]).await?).await?;
                self.rolled_out(SYSTEM, CONTROL_PLANE).await?;
                self.admits().await
            };
            install.await.map_err(|error: anyhow::Error| format!("{error:#}"))
        });
        outcome
            .await
            .clone()
            .map_err(|error| anyhow!("the control plane was not installed: {error}"))
    }

    /// Ensures that the application runs, in a mesh with mTLS STRICT, and that its client gets responses.
    pub(crate) async fn deployed(&self) -> Result<()> {
        self.installed().await?;
        let outcome = self.deployed.get_or_init(|| async {
            let deploy = async {
                self.strict().await?;
                self.deploy().await
            };
            deploy.await.map_err(|error| format!("{error:#}"))
        });
        outcome
            .await
            .clone()
            .map_err(|error| anyhow!("the application was not deployed: {error}"))
    }

    /// Waits until the API server reaches the webhooks: a Service routes to a Pod some time after the Pod is ready.
    pub(crate) async fn admits(&self) -> Result<()> {
        wait_for(
            "a Pod to be admitted",
            Duration::from_secs(15),
            async || match dry_run(self).await {
                Ok(()) => Ok(Progress::Done(())),
                Err(error) => Ok(Progress::NotYet(format!("{error:#}"))),
            },
        )
        .await
    }

    /// Waits until the control plane has created the Mesh `default`, which shows that it works.
    pub(crate) async fn mesh_is_created(&self) -> Result<()> {
        wait_for("Mesh default", Duration::from_secs(30), async || {
            let output = self
                .cluster
                .kubectl
                .attempt(&["get", "mesh", "default", "--output=name"], "")
                .await?;
            Ok(done_if(output.status.success(), (), || {
                String::from_utf8_lossy(&output.stderr).into_owned()
            }))
        })
        .await
    }

    /// Applies the Mesh with mTLS STRICT.
    pub(crate) async fn strict(&self) -> Result<()> {
        self.cluster.kubectl.apply_over(MESH_MANIFEST).await.map(drop)
    }

    /// Deploys the application and the Pods outside of the mesh; returns when the client gets responses.
    pub(crate) async fn deploy(&self) -> Result<()> {
        let kubectl = &self.cluster.kubectl;
        kubectl.apply(&self.app(APP_MANIFEST)?).await?;
        kubectl.apply(&self.app(OUTSIDE_MANIFEST)?).await?;
        for (namespace, name) in [
            (APP, "server"),
            (APP, "client"),
            (APP, "opted-out"),
            (OUTSIDE, "server"),
            (OUTSIDE, "outsider"),
        ] {
            self.rolled_out(namespace, name).await?;
        }
        let before = self.counters().await?;
        wait_for("responses to the client", Duration::from_secs(30), async || {
            let gained = self.counters().await?.since(&before);
            Ok(done_if(gained.succeeded > 0, (), || gained.failures()))
        })
        .await
    }

    /// Returns a manifest with the reference of the demo image.
    fn app(&self, manifest: &str) -> Result<String> {
        let image = self.cluster.image("kermode-demo")?;
        Ok(manifest.replace("image: kermode-demo\n", &format!("image: {image}\n")))
    }

    // === objects of the cluster ===

    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.cluster.client.clone(), namespace)
    }

    pub(crate) fn deployments(&self, namespace: &str) -> Api<Deployment> {
        Api::namespaced(self.cluster.client.clone(), namespace)
    }

    /// Returns the API of Dataplanes, untyped: the tests take names and values from the reference, not from product types.
    pub(crate) fn dataplanes(&self, namespace: &str) -> Api<DynamicObject> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kuma.io", "v1alpha1", "Dataplane"));
        Api::namespaced_with(self.cluster.client.clone(), namespace, &kind)
    }

    /// Returns the ready Pods of a Deployment that are not being deleted, sorted by name.
    pub(crate) async fn ready_pods(&self, namespace: &str, app: &str) -> Result<Vec<Pod>> {
        let labelled = ListParams::default().labels(&format!("app={app}"));
        let mut pods = self.pods(namespace).list(&labelled).await?.items;
        pods.retain(is_ready);
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// Returns the name of a ready Pod of a Deployment with one replica.
    pub(crate) async fn pod(&self, namespace: &str, app: &str) -> Result<String> {
        let pods = self.ready_pods(namespace, app).await?;
        let pod = pods
            .first()
            .with_context(|| format!("no Pod of {namespace}/{app} is ready"))?;
        Ok(pod.name_any())
    }

    /// Restarts a Deployment and waits until it is rolled out.
    pub(crate) async fn restart(&self, namespace: &str, name: &str) -> Result<()> {
        let deployment = format!("deployment/{name}");
        let namespace_flag = format!("--namespace={namespace}");
        let arguments = ["rollout", "restart", &deployment, &namespace_flag];
        self.cluster.kubectl.run(&arguments).await?;
        self.rolled_out(namespace, name).await
    }

    /// Waits until a Deployment is rolled out.
    pub(crate) async fn rolled_out(&self, namespace: &str, name: &str) -> Result<()> {
        let deployments = self.deployments(namespace);
        wait_for(&format!("Deployment {namespace}/{name}"), ROLLOUT, async || {
            let deployment = deployments.get(name).await?;
            let wanted = deployment
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(1);
            let status = deployment.status.clone().unwrap_or_default();
            let current = status.observed_generation >= deployment.metadata.generation;
            let (updated, available) = (
                status.updated_replicas.unwrap_or(0),
                status.available_replicas.unwrap_or(0),
            );
            let done =
                current && updated == wanted && available >= wanted && status.replicas.unwrap_or(0) == wanted;
            Ok(done_if(done, (), || {
                format!("{available} of {wanted} available, {updated} up to date")
            }))
        })
        .await
    }

    /// Returns the counters of the client since its start.
    pub(crate) async fn counters(&self) -> Result<demo::Counters> {
        let pod = self.pod(APP, "client").await?;
        demo::counters(&self.cluster.kubectl, APP, &pod).await
    }
}
