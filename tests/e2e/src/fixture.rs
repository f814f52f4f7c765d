//! Fixture that all tests share: the cluster, one installation of the control plane, one application.
//!
//! Each test calls [`Fixture::ensure_control_plane`] or [`Fixture::ensure_application`], depending on what it needs.
//! The first call sets up the control plane or the application; later calls return the same outcome. If a setup
//! failed, every test that needs the setup fails with the reason, and the other tests still run.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kermode_harness::deployment;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt};
use tokio::sync::OnceCell;

use crate::config::Config;
use crate::harness::cluster::Cluster;
use crate::harness::wait::{Progress, done_if, wait_for};
use crate::harness::{demo, host};
use crate::pods::check_injection_in_dry_run;

/// Namespace of the control plane.
pub(crate) const SYSTEM_NAMESPACE: &str = "kong-mesh-system";
/// Name of the control plane's Deployment, Service and ServiceAccount.
pub(crate) const CONTROL_PLANE: &str = "kuma-control-plane";
/// Port of a replica's diagnostics server, which serves readiness and metrics.
pub(crate) const DIAGNOSTICS_PORT: u16 = 5680;
/// Port of a replica's `/debug` endpoints, on loopback in its Pod.
pub(crate) const DEBUG_PORT: u16 = 5684;
/// Namespace of the application in the mesh.
pub(crate) const APP_NAMESPACE: &str = "e2e-mesh";
/// Namespace of ordinary applications, such as Redis, in the mesh.
pub(crate) const APPLICATIONS_NAMESPACE: &str = "e2e-applications";
/// Namespace outside of the mesh.
pub(crate) const OUTSIDE_NAMESPACE: &str = "e2e-outside";
/// Value of the tag `kuma.io/service` of the application's server. Envoy's cluster for the server has the same name.
pub(crate) const SERVER_SERVICE: &str = "server_e2e-mesh_svc_80";
/// URL at which the client calls the application's server.
pub(crate) const SERVER_URL: &str = "http://server.e2e-mesh.svc/";

const MESH_MANIFEST: &str = include_str!("../manifests/mesh.yaml");
const APP_MANIFEST: &str = include_str!("../manifests/app.yaml");
const OUTSIDE_MANIFEST: &str = include_str!("../manifests/outside.yaml");
/// Timeout of the rollout of a Deployment.
const ROLLOUT_TIMEOUT: Duration = Duration::from_secs(90);

/// Cluster, installation and application that all tests share.
pub(crate) struct Fixture {
    pub(crate) cluster: Cluster,
    pub(crate) config: Config,
    /// Outcome of the installation of the control plane; unset before the first test that needs it.
    installation: OnceCell<Result<(), String>>,
    /// Outcome of the deployment of the application; unset before the first test that needs it.
    application: OnceCell<Result<(), String>>,
}

impl Fixture {
    pub(crate) fn new(cluster: Cluster, config: &Config) -> Result<Self> {
        for program in ["kumactl", "kuma-cp"] {
            let path = config.checkout.release_binary(program);
            anyhow::ensure!(
                path.exists(),
                "{} does not exist: run make images",
                path.display()
            );
        }
        Ok(Self {
            cluster,
            config: config.clone(),
            installation: OnceCell::new(),
            application: OnceCell::new(),
        })
    }

    /// Uninstalls the control plane, and deletes the application and the Pods outside of the mesh. Missing objects are
    /// ignored.
    pub(crate) async fn uninstall_and_delete_test_objects(&self) -> Result<()> {
        let kubectl = &self.cluster.kubectl;
        for namespace in [
            APP_NAMESPACE,
            APPLICATIONS_NAMESPACE,
            OUTSIDE_NAMESPACE,
            SYSTEM_NAMESPACE,
        ] {
            let namespace_flag = format!("--namespace={namespace}");
            kubectl
                .run(&[
                    "delete",
                    "deployments,statefulsets,pods",
                    "--all",
                    "--force",
                    "--grace-period=0",
                    &namespace_flag,
                ])
                .await?;
        }
        self.uninstall().await?;
        kubectl.delete(&self.with_demo_image(APP_MANIFEST)?, true).await?;
        kubectl
            .delete(&self.with_demo_image(OUTSIDE_MANIFEST)?, true)
            .await?;
        let applications = [
            "delete",
            "namespace",
            "--ignore-not-found",
            APPLICATIONS_NAMESPACE,
        ];
        kubectl.run(&applications).await?;
        Ok(())
    }

    /// Deletes the objects that `kumactl uninstall control-plane` prints.
    pub(crate) async fn uninstall(&self) -> Result<()> {
        let kumactl = self.config.checkout.release_binary("kumactl");
        let objects = host::run(&kumactl, &["uninstall", "control-plane"]).await?;
        self.cluster.kubectl.delete(&objects, true).await?;
        Ok(())
    }

    /// Returns the flags of `kumactl install control-plane` for the images of this build.
    pub(crate) fn image_flags(&self) -> Result<Vec<String>> {
        let mut flags = Vec::new();
        for (flag_prefix, image) in [
            ("control-plane", "kuma-cp"),
            ("dataplane", "kuma-dp"),
            ("dataplane-init", "kuma-init"),
            ("cni", "kuma-cni"),
        ] {
            let reference = self.cluster.image(image)?;
            let (name, tag) = reference
                .rsplit_once(':')
                .with_context(|| format!("the image reference {reference} has no tag"))?;
            let (registry, repository) = name
                .rsplit_once('/')
                .with_context(|| format!("the image reference {reference} has no registry"))?;
            flags.push(format!("--{flag_prefix}-registry={registry}"));
            flags.push(format!("--{flag_prefix}-repository={repository}"));
            flags.push(format!("--{flag_prefix}-version={tag}"));
        }
        Ok(flags)
    }

    /// Returns the manifests of `kumactl install control-plane` with these flags and the images of this build.
    pub(crate) async fn manifests(&self, flags: &[&str]) -> Result<String> {
        let image_flags = self.image_flags()?;
        let mut arguments = vec!["install", "control-plane"];
        arguments.extend(image_flags.iter().map(String::as_str));
        arguments.extend(flags);
        host::run(&self.config.checkout.release_binary("kumactl"), &arguments).await
    }

    /// Installs the control plane unless an earlier test did, and waits until it admits Pods.
    pub(crate) async fn ensure_control_plane(&self) -> Result<()> {
        let outcome = self.installation.get_or_init(|| async {
            let install = async {
                self.cluster.kubectl.apply(&self.manifests(&[]).await?).await?;
                self.wait_for_rollout(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
                self.wait_for_admission().await
            };
            install.await.map_err(|error: anyhow::Error| format!("{error:#}"))
        });
        outcome
            .await
            .clone()
            .map_err(|error| anyhow!("the control plane was not installed: {error}"))
    }

    /// Deploys the application in a mesh with mTLS STRICT unless an earlier test did, and waits until its client gets
    /// responses.
    pub(crate) async fn ensure_application(&self) -> Result<()> {
        self.ensure_control_plane().await?;
        let outcome = self.application.get_or_init(|| async {
            let deploy = async {
                self.apply_strict_mesh().await?;
                self.deploy_application().await
            };
            deploy.await.map_err(|error| format!("{error:#}"))
        });
        outcome
            .await
            .clone()
            .map_err(|error| anyhow!("the application was not deployed: {error}"))
    }

    /// Waits until the API server reaches the webhooks. The rollout of the control plane does not show this, because a
    /// Service starts to route to a Pod some time after the Pod is ready.
    pub(crate) async fn wait_for_admission(&self) -> Result<()> {
        wait_for(
            "a Pod to be admitted with a sidecar",
            Duration::from_secs(15),
            async || match check_injection_in_dry_run(self).await {
                Ok(()) => Ok(Progress::Done(())),
                Err(error) => Ok(Progress::NotYet(format!("{error:#}"))),
            },
        )
        .await
    }

    /// Waits until the control plane has created the Mesh `default`.
    pub(crate) async fn wait_for_default_mesh(&self) -> Result<()> {
        wait_for("Mesh default", Duration::from_secs(30), async || {
            let output = self
                .cluster
                .kubectl
                .output(&["get", "mesh", "default", "--output=name"], "")
                .await?;
            Ok(done_if(output.status.success(), (), || {
                String::from_utf8_lossy(&output.stderr).into_owned()
            }))
        })
        .await
    }

    /// Applies the Mesh `default` with mTLS STRICT.
    pub(crate) async fn apply_strict_mesh(&self) -> Result<()> {
        self.cluster
            .kubectl
            .apply_server_side(MESH_MANIFEST)
            .await
            .map(drop)
    }

    /// Deploys the application and the Pods outside of the mesh; returns when the client gets responses.
    pub(crate) async fn deploy_application(&self) -> Result<()> {
        self.apply_application().await?;
        for (namespace, name) in [
            (APP_NAMESPACE, "server"),
            (APP_NAMESPACE, "client"),
            (APP_NAMESPACE, "opted-out"),
            (OUTSIDE_NAMESPACE, "server"),
            (OUTSIDE_NAMESPACE, "outsider"),
        ] {
            self.wait_for_rollout(namespace, name).await?;
        }
        let before = self.client_counters().await?;
        wait_for("responses to the client", Duration::from_secs(30), async || {
            let increase = self.client_counters().await?.since(&before);
            Ok(done_if(increase.succeeded > 0, (), || increase.request_summary()))
        })
        .await
    }

    /// Applies the application and the Pods outside of the mesh, without waiting for them.
    pub(crate) async fn apply_application(&self) -> Result<()> {
        let kubectl = &self.cluster.kubectl;
        kubectl.apply(&self.with_demo_image(APP_MANIFEST)?).await?;
        kubectl.apply(&self.with_demo_image(OUTSIDE_MANIFEST)?).await?;
        Ok(())
    }

    /// Returns the manifest with the image name `kermode-demo` replaced by the reference of the image in this cluster.
    fn with_demo_image(&self, manifest: &str) -> Result<String> {
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

    /// Returns an untyped API of Dataplanes, so that the tests use the documented field names instead of the product's
    /// types.
    pub(crate) fn dataplanes(&self, namespace: &str) -> Api<DynamicObject> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kuma.io", "v1alpha1", "Dataplane"));
        Api::namespaced_with(self.cluster.client.clone(), namespace, &kind)
    }

    /// Returns the ready Pods of the Deployment `app`, by their label `app`. The Pods are sorted by name; Pods that are
    /// being deleted are left out.
    pub(crate) async fn ready_pods(&self, namespace: &str, app: &str) -> Result<Vec<Pod>> {
        deployment::ready_pods(&self.pods(namespace), app).await
    }

    /// Returns the name of the first ready Pod of a Deployment.
    pub(crate) async fn ready_pod_name(&self, namespace: &str, app: &str) -> Result<String> {
        let pods = self.ready_pods(namespace, app).await?;
        let pod = pods
            .first()
            .with_context(|| format!("no Pod of Deployment {namespace}/{app} is ready"))?;
        Ok(pod.name_any())
    }

    /// Restarts a Deployment and waits until it is rolled out.
    pub(crate) async fn restart_deployment(&self, namespace: &str, name: &str) -> Result<()> {
        let deployment = format!("deployment/{name}");
        let namespace_flag = format!("--namespace={namespace}");
        let arguments = ["rollout", "restart", &deployment, &namespace_flag];
        self.cluster.kubectl.run(&arguments).await?;
        self.wait_for_rollout(namespace, name).await
    }

    /// Changes the number of replicas of a Deployment, without waiting for them.
    pub(crate) async fn scale(&self, namespace: &str, name: &str, replicas: usize) -> Result<()> {
        let deployment = format!("deployment/{name}");
        let (namespace_flag, replicas_flag) = (
            format!("--namespace={namespace}"),
            format!("--replicas={replicas}"),
        );
        let arguments = ["scale", &deployment, &namespace_flag, &replicas_flag];
        self.cluster.kubectl.run(&arguments).await.map(drop)
    }

    /// Waits until a Deployment is rolled out.
    pub(crate) async fn wait_for_rollout(&self, namespace: &str, name: &str) -> Result<()> {
        deployment::wait_for_rollout(&self.deployments(namespace), name, ROLLOUT_TIMEOUT)
            .await
            .with_context(|| format!("namespace {namespace}"))
    }

    /// Returns the counters of the application's client since its start.
    pub(crate) async fn client_counters(&self) -> Result<demo::Counters> {
        let pod = self.ready_pod_name(APP_NAMESPACE, "client").await?;
        demo::counters(&self.cluster.kubectl, APP_NAMESPACE, &pod).await
    }
}
