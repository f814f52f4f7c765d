//! Environment variables that the container runtime sets (CNI specification, section 2).

use std::path::{Path, PathBuf};

use super::protocol::Failure;

/// The variables that the plugin uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// `CNI_COMMAND`.
    pub(crate) command: Option<String>,
    /// `CNI_NETNS`: path of the pod's network namespace.
    pub(crate) network_namespace: Option<PathBuf>,
    /// `CNI_ARGS`: `KEY=value` pairs separated by semicolons. Kubernetes passes namespace and name of the
    /// pod in these pairs.
    pub(crate) arguments: String,
}

impl Environment {
    /// Reads the variables of this process.
    #[allow(
        clippy::disallowed_methods,
        reason = "the only function of this program that reads environment variables"
    )]
    pub(crate) fn read() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            command: variable("CNI_COMMAND"),
            network_namespace: variable("CNI_NETNS").map(PathBuf::from),
            arguments: variable("CNI_ARGS").unwrap_or_default(),
        }
    }

    /// Returns namespace and name of the pod; `None` if `CNI_ARGS` lacks one of them.
    pub(crate) fn pod(&self) -> Option<(&str, &str)> {
        Some((
            self.argument("K8S_POD_NAMESPACE")?,
            self.argument("K8S_POD_NAME")?,
        ))
    }

    /// Returns the path of the pod's network namespace.
    pub(crate) fn network_namespace(&self) -> Result<&Path, Failure> {
        self.network_namespace
            .as_deref()
            .ok_or_else(|| Failure::environment("CNI_NETNS is not set"))
    }

    fn argument(&self, key: &str) -> Option<&str> {
        let mut pairs = self.arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(name, value)| *name == key && !value.is_empty())
            .map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_requires_namespace_and_name() {
        let environment = |arguments: &str| Environment {
            arguments: arguments.to_owned(),
            ..Environment::default()
        };
        let complete = environment(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-1;K8S_POD_INFRA_CONTAINER_ID=x",
        );
        assert_eq!(complete.pod(), Some(("shop", "cart-1")));
        assert_eq!(environment("K8S_POD_NAMESPACE=shop").pod(), None);
        assert_eq!(environment("K8S_POD_NAMESPACE=;K8S_POD_NAME=cart-1").pod(), None);
        assert_eq!(environment("").pod(), None);
    }
}
