//! Errors of the access to a cluster. Each names the cluster, the request, the problem and the remedy.

use std::fmt;

use kube::config::KubeconfigError;

/// A request to the API server.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) verb: &'static str,
    /// Resource with its API group.
    pub(crate) resource: String,
    /// Namespace; `None` for all namespaces, and for cluster-scoped objects.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
}

/// Reason why objects of a cluster cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used; check --kubeconfig, --context and the variable KUBECONFIG")]
    Kubeconfig(#[from] KubeconfigError),
    /// The client cannot be built from the kubeconfig.
    #[error("cluster {cluster}: the credentials or certificates of the kubeconfig cannot be used")]
    Client { cluster: String, source: kube::Error },
    /// The user lacks a permission.
    #[error(
        "cluster {cluster}: the user of the kubeconfig may not {request}; ask for a role with {permission} ({message})",
        permission = request.permission()
    )]
    Forbidden {
        cluster: String,
        request: Request,
        message: String,
    },
    /// The API server does not accept the credentials.
    #[error(
        "cluster {cluster}: the API server does not accept the credentials of the kubeconfig; log in again ({message})"
    )]
    Unauthorized { cluster: String, message: String },
    /// The object does not exist.
    #[error("cluster {cluster}: cannot {request}: it does not exist; check its name and namespace")]
    NotFound { cluster: String, request: Request },
    /// The API server does not serve the resource.
    #[error(
        "cluster {cluster}: cannot {request}: the API server does not serve {resource}; apply the manifests of kumactl \
         install control-plane",
        resource = request.resource
    )]
    NotServed { cluster: String, request: Request },
    /// The API server did not answer in time.
    #[error(
        "cluster {cluster}: cannot {request}: no response within {limit}; check the address and the network, or raise \
         --request-timeout"
    )]
    Timeout {
        cluster: String,
        request: Request,
        limit: String,
    },
    /// The API server cannot be reached.
    #[error(
        "cluster {cluster}: cannot {request}: the API server cannot be reached; check its address and the network"
    )]
    Unreachable {
        cluster: String,
        request: Request,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The list has more pages than the client reads.
    #[error(
        "cluster {cluster}: cannot {request}: the list does not end after {pages} pages; select fewer objects, for \
         example those of one namespace",
        pages = super::MAX_PAGES
    )]
    TooManyPages { cluster: String, request: Request },
    /// The list changed so much while it was read that the API server no longer has its state.
    #[error("cluster {cluster}: cannot {request}: the list changed while it was read; run the command again")]
    Expired { cluster: String, request: Request },
    /// The API server responds with another error.
    #[error("cluster {cluster}: cannot {request}")]
    Other {
        cluster: String,
        request: Request,
        source: kube::Error,
    },
}

// === impl Request ===

impl Request {
    /// Returns the missing permission, in the words of RBAC.
    fn permission(&self) -> String {
        let Self { verb, resource, .. } = self;
        match &self.namespace {
            Some(namespace) => format!("verb {verb} on {resource} in namespace {namespace}"),
            None => format!("verb {verb} on {resource} in the whole cluster"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.verb, self.resource)?;
        if let Some(name) = &self.name {
            write!(formatter, " {name}")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(formatter, " in namespace {namespace}")?;
        }
        Ok(())
    }
}

// === impl ClusterError ===

impl ClusterError {
    /// Classifies the error of a request.
    pub(crate) fn of(cluster: String, request: Request, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => Self::Forbidden {
                cluster,
                request,
                message: status.message,
            },
            kube::Error::Api(status) if status.code == 401 => Self::Unauthorized {
                cluster,
                message: status.message,
            },
            // The API server answers in plain text if it does not serve the resource at all.
            kube::Error::Api(status) if status.code == 404 && status.reason == "NotFound" => {
                Self::NotFound { cluster, request }
            }
            kube::Error::Api(status) if status.code == 404 => Self::NotServed { cluster, request },
            kube::Error::Api(status) if status.code == 410 => Self::Expired { cluster, request },
            kube::Error::Service(source) => Self::Unreachable {
                cluster,
                request,
                source,
            },
            source @ kube::Error::HyperError(_) => Self::Unreachable {
                cluster,
                request,
                source: Box::new(source),
            },
            source => Self::Other {
                cluster,
                request,
                source,
            },
        }
    }

    /// Returns the HTTP status and the message of the API server, if it has refused a request for another reason than a
    /// missing object.
    pub(crate) fn refusal(&self) -> Option<(u16, &str)> {
        match self {
            Self::Forbidden { message, .. } => Some((403, message)),
            Self::Other {
                source: kube::Error::Api(status),
                ..
            } => Some((status.code, &status.message)),
            _ => None,
        }
    }

    /// Whether the user lacks a permission, or the API server does not serve the resource. An explanation is possible
    /// without such objects.
    pub(crate) fn is_about_one_resource(&self) -> bool {
        matches!(self, Self::Forbidden { .. } | Self::NotServed { .. })
    }
}
