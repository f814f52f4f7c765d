//! Pods that the admission webhook denies. The denial names the problem and the remedy.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};

use crate::fixture::{APP_NAMESPACE, Fixture};
use crate::harness::runner::Note;
use crate::pods::demo_pod;

pub(super) async fn denial_of_an_invalid_injection_label_names_key_and_value(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let mut pod = demo_pod(fixture, APP_NAMESPACE, "wrong-label", &["server"])?;
    pod.labels_mut()
        .insert("kuma.io/sidecar-injection".to_owned(), "perhaps".to_owned());
    check_denial(
        fixture,
        &pod,
        &["kuma.io/sidecar-injection", "perhaps", "enabled"],
    )
    .await
}

pub(super) async fn denial_of_an_unknown_mesh_names_the_mesh(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let mut pod = demo_pod(fixture, APP_NAMESPACE, "wrong-mesh", &["server"])?;
    pod.annotations_mut()
        .insert("kuma.io/mesh".to_owned(), "no-such-mesh".to_owned());
    check_denial(fixture, &pod, &["Mesh", "no-such-mesh", "kuma.io/mesh"]).await
}

/// Creates a Pod and checks that its denial contains all of these texts.
async fn check_denial(fixture: &Fixture, pod: &Pod, expected_texts: &[&str]) -> Result<Note> {
    match fixture
        .pods(APP_NAMESPACE)
        .create(&PostParams::default(), pod)
        .await
    {
        Ok(pod) => {
            let name = pod.name_any();
            fixture
                .pods(APP_NAMESPACE)
                .delete(&name, &DeleteParams::default())
                .await?;
            anyhow::bail!("Pod {name} was admitted, although it is invalid")
        }
        Err(kube::Error::Api(status)) => {
            for text in expected_texts {
                ensure!(
                    status.message.contains(text),
                    "{text:?} is missing from the denial: {}",
                    status.message
                );
            }
            Ok(String::new())
        }
        Err(error) => Err(error.into()),
    }
}
