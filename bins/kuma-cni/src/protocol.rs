//! Commands, versions and errors of the CNI specification.

use serde_json::json;

/// The versions of the specification that are spoken. An entry of ours in an older conflist gets 0.3.0.
pub(crate) const SUPPORTED_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CniCommand {
    /// Prepare a pod.
    Add,
    /// Say which versions are spoken.
    Version,
    /// CHECK, DEL, GC and STATUS: there is nothing to check, undo or collect.
    Nothing,
}

/// An error as the runtime wants it: a code with a meaning, a sentence, details.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {details}")]
pub(crate) struct Failure {
    code: u16,
    message: &'static str,
    details: String,
}

impl CniCommand {
    pub(crate) fn parse(command: Option<&str>) -> Result<Self, Failure> {
        match command {
            Some("ADD") => Ok(Self::Add),
            Some("VERSION") => Ok(Self::Version),
            Some("CHECK" | "DEL" | "GC" | "STATUS") => Ok(Self::Nothing),
            Some(other) => Err(Failure::environment(&format!("CNI_COMMAND {other:?} is unknown"))),
            None => Err(Failure::environment(
                "CNI_COMMAND is not set; this program is run by a container runtime",
            )),
        }
    }
}

impl Failure {
    /// The runtime speaks a version that is not supported.
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

    /// A variable of the environment is missing or wrong.
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
            message: "input or output failed",
            details: details.to_owned(),
        }
    }

    /// Our entry of the conflist cannot be used.
    pub(crate) fn configuration(details: &str) -> Self {
        Self {
            code: 7,
            message: "invalid network configuration",
            details: details.to_owned(),
        }
    }

    /// The pod cannot be prepared now; the runtime tries again.
    pub(crate) fn later(details: &str) -> Self {
        Self {
            code: 11,
            message: "try again later",
            details: details.to_owned(),
        }
    }

    /// The pod's annotations cannot be used.
    pub(crate) fn annotations(details: &str) -> Self {
        Self {
            code: 100,
            message: "the pod's annotations cannot be used",
            details: details.to_owned(),
        }
    }

    /// The rules cannot be applied.
    pub(crate) fn rules(details: &str) -> Self {
        Self {
            code: 101,
            message: "the rules of transparent proxying cannot be applied",
            details: details.to_owned(),
        }
    }

    /// As the runtime reads it.
    pub(crate) fn to_json(&self, version: &str) -> String {
        let Self {
            code,
            message,
            details,
        } = self;
        json!({ "cniVersion": version, "code": code, "msg": message, "details": details }).to_string()
    }
}

/// The answer to VERSION.
pub(crate) fn versions(asked: &str) -> String {
    json!({ "cniVersion": asked, "supportedVersions": SUPPORTED_VERSIONS }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_without_work_are_accepted_and_unknown_ones_are_not() {
        for command in ["CHECK", "DEL", "GC", "STATUS"] {
            assert_eq!(CniCommand::parse(Some(command)), Ok(CniCommand::Nothing));
        }
        assert!(CniCommand::parse(Some("add")).is_err());
        assert!(CniCommand::parse(None).is_err());
    }

    #[test]
    fn an_error_has_the_fields_of_the_specification() {
        let text = Failure::later("the API server is away").to_json("1.0.0");
        let value: serde_json::Value = serde_json::from_str(&text).expect("json");
        let expected = json!({
            "cniVersion": "1.0.0", "code": 11, "msg": "try again later", "details": "the API server is away"
        });
        assert_eq!(value, expected);
    }
}
