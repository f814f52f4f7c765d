//! Versions of API servers and kubelets, which decide whether native sidecars and sleep hooks work.

use std::fmt;

/// Major and minor number of a Kubernetes version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KubernetesVersion {
    major: u32,
    minor: u32,
}

impl KubernetesVersion {
    /// First version that runs native sidecars (restartable init containers) by default.
    const NATIVE_SIDECARS: Self = Self::new(1, 29);

    /// First version that supports the lifecycle handler `sleep` by default (feature `PodLifecycleSleepAction`).
    const SLEEP_HOOKS: Self = Self::new(1, 30);

    /// Creates a version.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Parses a version such as `1.34`, `1.29+` or `v1.27.9-gke.100`. Returns `None` if the text, apart from the `v`,
    /// does not start with two numbers separated by a dot.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, rest) = text.trim_start_matches('v').split_once('.')?;
        let end = rest.find(|character: char| !character.is_ascii_digit());
        let minor = &rest[..end.unwrap_or(rest.len())];
        Some(Self::new(major.parse().ok()?, minor.parse().ok()?))
    }

    /// Whether this version runs native sidecars (docs/design.md#sidecar-modes).
    pub fn supports_native_sidecars(self) -> bool {
        self >= Self::NATIVE_SIDECARS
    }

    /// Whether this version supports the lifecycle handler `sleep` (docs/design.md#delayed-stop).
    pub fn supports_sleep_hooks(self) -> bool {
        self >= Self::SLEEP_HOOKS
    }
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_and_minor_number_are_parsed() {
        for (text, expected) in [
            ("1.34", Some("1.34")),
            ("1.29+", Some("1.29")),
            ("v1.27.9", Some("1.27")),
            ("v1.28.3-gke.1286000", Some("1.28")),
            ("v1.30.0-eks-036c24b", Some("1.30")),
            ("v1.31-rc.1", Some("1.31")),
            ("", None),
            ("v1", None),
            ("1.", None),
            ("one.two", None),
            ("1.99999999999", None),
        ] {
            let parsed = KubernetesVersion::parse(text).map(|version| version.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn native_sidecars_are_supported_since_1_29() {
        let supported =
            |text: &str| KubernetesVersion::parse(text).map(KubernetesVersion::supports_native_sidecars);
        assert_eq!(supported("v1.28.15"), Some(false));
        assert_eq!(supported("v1.29.0"), Some(true));
        assert_eq!(supported("2.0"), Some(true));
    }
}
