//! Errors of keys, certificates and signing requests. Messages name the object, the problem and the remedy.

/// Error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name has characters that are not allowed in a certificate.
    #[error(
        "{what} `{text}` is not allowed in a certificate: rename it, with printable ASCII characters only"
    )]
    NameNotAllowed {
        /// Kind of the name.
        what: &'static str,
        /// The name.
        text: String,
    },
    /// PEM text has no usable certificate or key.
    #[error("{what} is not usable: {reason}; provide it as PEM text")]
    Pem {
        /// Kind of the input.
        what: &'static str,
        /// Reason.
        reason: String,
    },
    /// A certificate cannot be read.
    #[error("certificate of {owner} cannot be read: {reason}; provide an X.509 certificate")]
    Certificate {
        /// Owner of the certificate.
        owner: &'static str,
        /// Reason.
        reason: String,
    },
    /// The certificate of a CA lacks the CA constraint.
    #[error(
        "certificate `{subject}` is not a CA: it needs basicConstraints CA:TRUE; issue it as a CA certificate"
    )]
    NotAuthority {
        /// Subject of the certificate.
        subject: String,
    },
    /// Certificate and key of a CA are not a pair.
    #[error("key does not belong to the CA certificate `{subject}`: store a matching pair")]
    KeyMismatch {
        /// Subject of the certificate.
        subject: String,
    },
    /// The CA has expired or is not valid yet, so its signatures would not verify.
    #[error("CA `{subject}` is not valid now; rotate it, or check the clock")]
    AuthorityNotValid {
        /// Subject of the CA certificate.
        subject: String,
    },
    /// The signing request cannot be read.
    #[error("certificate signing request cannot be read: {reason}; send one PKCS#10 request, DER or PEM")]
    RequestUnreadable {
        /// Reason.
        reason: String,
    },
    /// The key of the signing request has a type that is not accepted.
    #[error(
        "certificate signing request has a key of type {found}; only ECDSA P-256 and Ed25519 are accepted"
    )]
    RequestKey {
        /// Object identifier of the key's algorithm, followed by that of the curve, if any.
        found: String,
    },
    /// The signature of the signing request is invalid.
    #[error(
        "signature of the certificate signing request does not match its public key; sign it with the matching private \
         key"
    )]
    RequestSignature,
    /// The signing request contains something that is not allowed.
    #[error("certificate signing request contains {what}; remove it: names come from the Dataplane")]
    RequestNotAllowed {
        /// Description of the part that is not allowed.
        what: &'static str,
    },
    /// The signing request does not name the proxy that made it.
    #[error(
        "certificate signing request does not name the proxy that made it; use the same version of kuma-dp and kuma-cp"
    )]
    RequestUnbound,
    /// The signing request names another proxy as the proxy that made it, or several proxies.
    #[error(
        "certificate signing request is bound to another proxy; create a request with this proxy's own key"
    )]
    RequestOfAnotherProxy,
    /// The Dataplane has no service.
    #[error(
        "the Dataplane has no tag `kuma.io/service`, so there is no identity to certify; add an inbound, or add tags to \
         the gateway"
    )]
    NoService,
    /// The requested lifetime is less than a second, or the end of the validity is not representable.
    #[error("certificate lifetime must be at least a second; check `dpCert.rotation.expiration` of the Mesh")]
    LifetimeOutOfRange,
    /// The cryptographic library failed; the usual cause is missing randomness of the operating system.
    #[error("{operation} failed: {reason}")]
    Crypto {
        /// Failed step.
        operation: &'static str,
        /// Error of the library.
        reason: String,
    },
}

impl Error {
    /// Returns a conversion of the cryptographic library's errors. `operation` is the step that failed.
    pub(crate) fn crypto(operation: &'static str) -> impl Fn(rcgen::Error) -> Self {
        move |error| Self::Crypto {
            operation,
            reason: error.to_string(),
        }
    }
}
