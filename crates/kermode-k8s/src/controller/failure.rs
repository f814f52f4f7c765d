//! Converts errors of the API server to messages that name the reason and the remedy.

/// Returns a message that contains the failure, its reason and, for common errors, the remedy. `failure` is a clause
/// such as `pods cannot be listed`.
pub fn describe(failure: &str, error: &kube::Error) -> String {
    let reason = match error {
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
                "the API server does not accept the credentials ({}); check the kubeconfig or the service account",
                status.message
            )
        }
        kube::Error::Api(status) => status.message.clone(),
        kube::Error::Service(error) => {
            format!("the API server cannot be reached ({error}); check its address and the network")
        }
        other => other.to_string(),
    };
    format!("{failure}: {reason}")
}

/// Whether the object does not exist.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether a concurrent write has changed or created the object.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Whether the API server has rejected a new object because its namespace is being deleted.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403 && status.message.contains("being terminated"))
}
