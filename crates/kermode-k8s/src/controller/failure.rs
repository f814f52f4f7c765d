//! Answers of the API server, said in a sentence that names the object and the remedy.

/// Says what failed and what to do about it. `what` is a clause such as `pods cannot be listed`.
pub fn describe(what: &str, error: &kube::Error) -> String {
    let remedy = match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "the service account lacks a permission ({}); apply the roles printed by `kumactl install control-plane`",
            status.message
        ),
        kube::Error::Api(status) if status.code == 404 => format!(
            "{}; apply the CustomResourceDefinitions printed by `kumactl install control-plane`",
            status.message.trim_end()
        ),
        kube::Error::Api(status) if status.code == 401 => {
            format!(
                "the API server does not accept the credentials ({}); check the kubeconfig",
                status.message
            )
        }
        kube::Error::Api(status) => status.message.clone(),
        kube::Error::Service(error) => {
            format!("the API server cannot be reached ({error}); check its address and the network")
        }
        other => other.to_string(),
    };
    format!("{what}: {remedy}")
}

/// Whether the object was not there.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether somebody else was faster.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
