//! Pods that are rejected at admission, with the reason.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};

use crate::harness::runner::Note;
use crate::pods::pod;
use crate::world::{APP, World};

pub(super) async fn invalid_injection_label_is_rejected_with_key_and_value(world: &World) -> Result<Note> {
    world.deployed().await?;
    let mut pod = pod(world, APP, "wrong-label", &["server"])?;
    pod.labels_mut()
        .insert("kuma.io/sidecar-injection".to_owned(), "perhaps".to_owned());
    check_denial(world, &pod, &["kuma.io/sidecar-injection", "perhaps", "enabled"]).await
}

pub(super) async fn unknown_mesh_is_rejected_by_name(world: &World) -> Result<Note> {
    world.deployed().await?;
    let mut pod = pod(world, APP, "wrong-mesh", &["server"])?;
    pod.annotations_mut()
        .insert("kuma.io/mesh".to_owned(), "no-such-mesh".to_owned());
    check_denial(world, &pod, &["Mesh", "no-such-mesh", "kuma.io/mesh"]).await
}

async fn check_denial(world: &World, pod: &Pod, needles: &[&str]) -> Result<Note> {
    match world.pods(APP).create(&PostParams::default(), pod).await {
        Ok(pod) => {
            let name = pod.name_any();
            world.pods(APP).delete(&name, &DeleteParams::default()).await?;
            anyhow::bail!("Pod {name} was admitted")
        }
        Err(kube::Error::Api(status)) => {
            for needle in needles {
                ensure!(
                    status.message.contains(needle),
                    "{needle:?} is missing from: {}",
                    status.message
                );
            }
            Ok(String::new())
        }
        Err(error) => Err(error.into()),
    }
}
