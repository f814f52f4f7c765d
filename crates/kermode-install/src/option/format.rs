//! Forms of texts. A form is a regular expression without Perl's extensions, which the schema of the Helm chart contains
//! too.

/// Form of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Regular expression that matches the whole text.
    pub(crate) pattern: &'static str,
    /// Greatest number of characters.
    pub(crate) max_length: usize,
    /// Advice for messages about texts that do not have the format.
    pub(crate) remedy: &'static str,
}

/// DNS label of RFC 1123, like the name of a Namespace.
pub(crate) const DNS_LABEL: Format = Format {
    pattern: "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
    max_length: 63,
    remedy: "use at most 63 lower case letters, digits and dashes, with a letter or digit at both ends",
};

/// DNS subdomain of RFC 1123, like the name of a Secret.
pub(crate) const DNS_SUBDOMAIN: Format = Format {
    pattern: r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    max_length: 253,
    remedy: "use the name of an object: lower case letters, digits, dashes and dots",
};

/// Key of a label or taint.
pub(crate) const LABEL_KEY: Format = Format {
    pattern: r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
    max_length: 317,
    remedy: "use a key of a label, for example topology.kubernetes.io/zone",
};

/// Value of a label or taint.
pub(crate) const LABEL_VALUE: Format = Format {
    pattern: "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$",
    max_length: 63,
    remedy: "use a value of a label: letters, digits, dashes, dots and underscores",
};

/// Registry of images, with an optional path.
pub(crate) const REGISTRY: Format = Format {
    pattern: r"^[^\s/]+(/[^\s/]+)*/?$",
    max_length: 255,
    remedy: "the registry of an image must not be empty or contain whitespace; write it as HOST/PATH",
};

/// Repository or tag of an image.
pub(crate) const IMAGE_PART: Format = Format {
    pattern: r"^[^\s]+$",
    max_length: 255,
    remedy: "the repository and the tag of an image must not be empty or contain whitespace",
};

/// Quantity of CPU or memory.
pub(crate) const QUANTITY: Format = Format {
    pattern: r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
    max_length: 20,
    remedy: "use a quantity, for example 500m or 2Gi",
};

/// Range of IP addresses.
pub(crate) const CIDR: Format = Format {
    pattern: r"^([0-9]{1,3}(\.[0-9]{1,3}){3}/([0-9]|[12][0-9]|3[0-2])|[0-9a-fA-F]*:[0-9a-fA-F:]*/([0-9]{1,2}|1[01][0-9]|12[0-8]))$",
    max_length: 49,
    remedy: "use a range of IP addresses, for example 192.0.2.0/24 or 2001:db8::/64",
};

/// URL of the webhooks, by the rules of the API server for `clientConfig.url`.
pub(crate) const WEBHOOK_URL: Format = Format {
    pattern: r"^https://[^\s@?#/:][^\s@?#]*$",
    max_length: 1000,
    remedy: "write it as https://HOST:PORT, without user, query and fragment",
};

/// Folder of a node.
pub(crate) const FOLDER: Format = Format {
    pattern: r"^(/\.?[^/:.\s][^/:\s]*)+/?$",
    max_length: 255,
    remedy: "use an absolute path other than / without \"..\", \":\" and whitespace",
};

/// File with a network configuration.
pub(crate) const NETWORK_FILE: Format = Format {
    pattern: r"^[^/\s]+\.(conf|conflist|json)$",
    max_length: 255,
    remedy: "use the name of a file in the folder of network configurations that ends in .conf, .conflist or .json",
};

/// Name of an environment variable.
pub(crate) const VARIABLE: Format = Format {
    pattern: "^[A-Za-z_][A-Za-z0-9_.-]*$",
    max_length: 255,
    remedy: "use the name of an environment variable: letters, digits and underscores",
};
