//! Environment variables that the container runtime sets (CNI specification, section 2).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use kermode_model::{is_dns_label, is_dns_subdomain};

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
    pub(crate) arguments: OsString,
}

impl Environment {
    /// Reads the variables of this process.
    #[allow(
        clippy::disallowed_methods,
        reason = "the only function of this program that reads environment variables"
    )]
    pub(crate) fn read() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            command: variable("CNI_COMMAND").map(|command| command.to_string_lossy().into_owned()),
            network_namespace: variable("CNI_NETNS").map(PathBuf::from),
            arguments: variable("CNI_ARGS").unwrap_or_default(),
        }
    }

    /// Returns namespace and name of the pod; `None` if `CNI_ARGS` lacks one of them.
    ///
    /// # Errors
    /// If `CNI_ARGS` is not UTF-8, or namespace or name is not one of Kubernetes. Such a name would change the path of the
    /// request to the API server.
    pub(crate) fn pod(&self) -> Result<Option<(&str, &str)>, Failure> {
        let invalid = |problem: &str| {
            let arguments = self.arguments.to_string_lossy();
            Failure::environment(&format!("CNI_ARGS {arguments:?} {problem}"))
        };
        let arguments = self.arguments.to_str().ok_or_else(|| invalid("is not UTF-8"))?;
        let pod = argument(arguments, "K8S_POD_NAMESPACE").zip(argument(arguments, "K8S_POD_NAME"));
        match pod {
            Some((namespace, _)) if !is_dns_label(namespace) => Err(invalid("has an invalid namespace")),
            Some((_, name)) if !is_dns_subdomain(name) => Err(invalid("has an invalid name of a pod")),
            pod => Ok(pod),
        }
    }

    /// Returns the path of the pod's network namespace.
    pub(crate) fn network_namespace(&self) -> Result<&Path, Failure> {
        self.network_namespace
            .as_deref()
            .ok_or_else(|| Failure::environment("CNI_NETNS is not set"))
    }
}

/// Returns the value of a key in `CNI_ARGS`, unless it is empty.
fn argument<'a>(arguments: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(name, value)| *name == key && !value.is_empty())
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn with_arguments(arguments: impl Into<OsString>) -> Environment {
        Environment {
            arguments: arguments.into(),
            ..Environment::default()
        }
    }

    #[test]
    fn pod_requires_namespace_and_name() {
        let complete = with_arguments(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-1;K8S_POD_INFRA_CONTAINER_ID=x",
        );
        assert_eq!(complete.pod(), Ok(Some(("shop", "cart-1"))));
        for incomplete in [
            "",
            ";;=;",
            "K8S_POD_NAMESPACE=shop",
            "K8S_POD_NAMESPACE=;K8S_POD_NAME=cart-1",
        ] {
            assert_eq!(with_arguments(incomplete).pod(), Ok(None), "{incomplete}");
        }
        // The API server accepts names of 253 bytes without a dot.
        let long = "x".repeat(253);
        let arguments = format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={long}");
        assert_eq!(with_arguments(arguments).pod(), Ok(Some(("shop", long.as_str()))));
    }

    #[test]
    fn arguments_that_name_no_possible_pod_are_rejected() {
        let long = "x".repeat(254);
        let paths = [
            "../secrets/key",
            "cart-1?watch=1",
            "cart 1",
            "cart\n1",
            "Cart",
            "cart-",
            "ＣＡＲＴ",
            &long,
        ];
        for name in paths {
            for arguments in [
                format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name}"),
                format!("K8S_POD_NAMESPACE={name};K8S_POD_NAME=cart-1"),
            ] {
                let failure = with_arguments(&arguments).pod().expect_err("an invalid name");
                assert!(
                    failure.to_json("1.0.0").contains("invalid n"),
                    "{arguments}: {failure}"
                );
            }
        }
        let not_utf8: OsString = OsStringExt::from_vec(b"K8S_POD_NAME=\xff".to_vec());
        let failure = with_arguments(not_utf8).pod().expect_err("not UTF-8");
        assert!(failure.to_string().contains("is not UTF-8"), "{failure}");
    }
}
