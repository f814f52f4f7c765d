//! Gets the pod from the API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use kuma_cni::decision::{PodSummary, summarize};

/// Lookup of pods.
pub(crate) trait PodLookup {
    /// Returns the current state of a pod.
    fn find(&self, namespace: &str, name: &str) -> Result<PodSummary, LookupError>;
}

/// Failure to get a pod from the API server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    /// The kubeconfig cannot be used.
    #[error(
        "cannot use the kubeconfig {path}: {source}; check that the installer of kuma-cni runs on this node",
        path = path.display()
    )]
    Kubeconfig {
        /// Path of the kubeconfig.
        path: PathBuf,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pod does not exist: it was deleted after its sandbox was requested.
    #[error("the pod does not exist; it was probably deleted")]
    NotFound,
    /// The API server does not accept the token.
    #[error(
        "the API server does not accept the token in the kubeconfig: {0}; check that the installer of kuma-cni runs on \
         this node"
    )]
    Unauthorized(String),
    /// The API server denies the request.
    #[error("the API server denies the request: {0}; let the service account of kuma-cni get pods")]
    Forbidden(String),
    /// The API server rejects the request for another reason.
    #[error("the API server rejects the request: {0}")]
    Rejected(String),
    /// The async runtime, which executes the lookup, cannot be created.
    #[error("kuma-cni cannot create an async runtime: {0}")]
    Runtime(std::io::Error),
    /// The API server cannot be reached, or cannot respond now.
    #[error("the API server is unavailable: {0}")]
    Unavailable(String),
}

impl LookupError {
    /// Whether another attempt may succeed within seconds. The installer writes the kubeconfig with a valid token when it
    /// starts.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Runtime(_) | Self::Unavailable(_) | Self::Unauthorized(_) | Self::Kubeconfig { .. } => true,
            Self::NotFound | Self::Forbidden(_) | Self::Rejected(_) => false,
        }
    }
}

impl From<kube::Error> for LookupError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                404 => Self::NotFound,
                401 => Self::Unauthorized(status.message.clone()),
                403 => Self::Forbidden(status.message.clone()),
                408 | 429 | 500.. => {
                    Self::Unavailable(format!("{} (status {})", status.message, status.code))
                }
                _ => Self::Rejected(format!("{} (status {})", status.message, status.code)),
            },
            other => Self::Unavailable(with_causes(&other)),
        }
    }
}

/// Returns the text of an error with its causes, without repetitions.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
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

    async fn fetch(&self, namespace: &str, name: &str) -> Result<Pod, LookupError> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig)
            .map_err(|error| self.unusable_kubeconfig(error.into()))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|error| self.unusable_kubeconfig(error.into()))?;
        config.connect_timeout = Some(TIMEOUT);
        config.read_timeout = Some(TIMEOUT);
        let client = Client::try_from(config).map_err(|error| self.unusable_kubeconfig(error.into()))?;
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        Ok(pods.get(name).await?)
    }

    fn unusable_kubeconfig(&self, source: Box<dyn std::error::Error + Send + Sync>) -> LookupError {
        LookupError::Kubeconfig {
            path: self.kubeconfig.clone(),
            source,
        }
    }
}

impl PodLookup for ApiServer {
    fn find(&self, namespace: &str, name: &str) -> Result<PodSummary, LookupError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LookupError::Runtime)?;
        runtime.block_on(self.fetch(namespace, name)).map(summarize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_api_server_and_rejected_token_are_transient() {
        let error = |code: u16| {
            let status = kube::core::Status::failure("text of the server", "Reason").with_code(code);
            LookupError::from(kube::Error::Api(Box::new(status)))
        };
        for (code, text) in [
            (404, "does not exist"),
            (403, "get pods"),
            (400, "rejects the request: text of the server (status 400)"),
        ] {
            let error = error(code);
            assert!(!error.is_transient(), "{code}: {error}");
            assert!(error.to_string().contains(text), "{code}: {error}");
        }
        for code in [401, 408, 429, 500, 503] {
            assert!(error(code).is_transient(), "{code}");
        }
        let unreachable = kube::Error::Service(Box::new(std::io::Error::other("connection refused")));
        let unreachable = LookupError::from(unreachable);
        assert!(unreachable.is_transient());
        assert!(
            unreachable.to_string().contains("connection refused"),
            "{unreachable}"
        );
    }

    #[test]
    fn kubeconfig_that_does_not_exist_is_named_and_transient() {
        let pods = ApiServer::new(Path::new("/nonexistent/kubeconfig"));
        let error = pods.find("shop", "cart-1").expect_err("no kubeconfig");
        assert!(error.is_transient());
        assert!(error.to_string().contains("/nonexistent/kubeconfig"), "{error}");
    }
}
