//! Commands, versions and errors of the CNI specification.

use kermode_cni::conflist::SUPPORTED_VERSIONS;
use serde_json::json;

/// Operation that the runtime requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CniCommand {
    /// ADD: apply the rules of transparent proxying in a pod.
    Add,
    /// VERSION: report the supported versions.
    Version,
    /// CHECK: check that the pod has rules.
    Check,
    /// STATUS: report whether ADD can succeed.
    Status,
    /// DEL or GC, which have no effect.
    Ignored,
}

/// Error in the form of the specification: code, message and details.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {details}")]
pub(crate) struct Failure {
    /// The specification defines the codes below 100; the plugin defines codes from 100.
    code: u16,
    /// Kind of the error, the same for all errors with this code.
    message: &'static str,
    /// Cause and affected object.
    details: String,
}

impl CniCommand {
    /// Parses the value of `CNI_COMMAND`.
    pub(crate) fn parse(command: Option<&str>) -> Result<Self, Failure> {
        match command {
            Some("ADD") => Ok(Self::Add),
            Some("VERSION") => Ok(Self::Version),
            Some("CHECK") => Ok(Self::Check),
            Some("STATUS") => Ok(Self::Status),
            Some("DEL" | "GC") => Ok(Self::Ignored),
            Some(other) => Err(Failure::environment(&format!("CNI_COMMAND {other:?} is unknown"))),
            None => Err(Failure::environment(
                "CNI_COMMAND is not set; this program is run by a container runtime",
            )),
        }
    }
}

impl Failure {
    /// The version of the specification that the runtime uses is not supported.
    pub(crate) fn incompatible(version: &str) -> Self {
        let details = format!(
            "version {version:?} is not one of {}",
            SUPPORTED_VERSIONS.join(", ")
        );
        Self {
            code: 1,
            message: "incompatible CNI version",
            details,
        }
    }

    /// An environment variable is missing or wrong.
    pub(crate) fn environment(details: &str) -> Self {
        Self {
            code: 4,
            message: "invalid environment variables",
            details: details.to_owned(),
        }
    }

    /// A file or stream cannot be used.
    pub(crate) fn io(details: &str) -> Self {
        Self {
            code: 5,
            message: "I/O failure",
            details: details.to_owned(),
        }
    }

    /// The plugin's entry of the conflist is invalid.
    pub(crate) fn configuration(details: &str) -> Self {
        Self {
            code: 7,
            message: "invalid network configuration",
            details: details.to_owned(),
        }
    }

    /// The pod cannot be set up now, and the runtime should retry.
    pub(crate) fn retryable(details: &str) -> Self {
        Self {
            code: 11,
            message: "try again later",
            details: details.to_owned(),
        }
    }

    /// ADD cannot succeed now.
    pub(crate) fn unavailable(details: &str) -> Self {
        Self {
            code: 50,
            message: "the plugin is not available",
            details: details.to_owned(),
        }
    }

    /// The pod cannot be fetched, and another attempt would not help.
    pub(crate) fn lookup(details: &str) -> Self {
        Self {
            code: 102,
            message: "cannot get the pod",
            details: details.to_owned(),
        }
    }

    /// The annotations of the pod are invalid.
    pub(crate) fn annotations(details: &str) -> Self {
        Self {
            code: 100,
            message: "invalid annotations of the pod",
            details: details.to_owned(),
        }
    }

    /// The rules cannot be applied.
    pub(crate) fn rules(details: &str) -> Self {
        Self {
            code: 101,
            message: "cannot apply the rules of transparent proxying",
            details: details.to_owned(),
        }
    }

    /// The pod has no rules.
    pub(crate) fn rules_missing(details: &str) -> Self {
        Self {
            code: 103,
            message: "the rules of transparent proxying are missing",
            details: details.to_owned(),
        }
    }

    /// Encodes the error for the runtime.
    pub(crate) fn to_json(&self, version: &str) -> String {
        let Self {
            code,
            message,
            details,
        } = self;
        json!({ "cniVersion": version, "code": code, "msg": message, "details": details }).to_string()
    }
}

/// Returns the response to VERSION. It repeats the version of the request.
pub(crate) fn version_response(cni_version: &str) -> String {
    json!({ "cniVersion": cni_version, "supportedVersions": SUPPORTED_VERSIONS }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_without_effect_are_accepted_and_unknown_operations_are_rejected() {
        for command in ["DEL", "GC"] {
            assert_eq!(CniCommand::parse(Some(command)), Ok(CniCommand::Ignored));
        }
        assert_eq!(CniCommand::parse(Some("CHECK")), Ok(CniCommand::Check));
        assert!(CniCommand::parse(Some("add")).is_err());
        assert!(CniCommand::parse(None).is_err());
    }

    #[test]
    fn error_has_the_fields_of_the_specification() {
        let text = Failure::retryable("the API server is unavailable").to_json("1.0.0");
        let value: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        let expected = json!({
            "cniVersion": "1.0.0", "code": 11, "msg": "try again later", "details": "the API server is unavailable"
        });
        assert_eq!(value, expected);
    }
}
