//! What can go wrong with keys and certificates, said so that the reader knows what to change.

/// A refusal or failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name of the mesh cannot stand in a certificate.
    #[error(
        "{what} `{text}` cannot stand in a certificate: only printable ASCII is allowed there; rename it"
    )]
    Name {
        /// What the name names.
        what: &'static str,
        /// The name.
        text: String,
    },
    /// PEM text that should hold a CA's certificate or key does not.
    #[error("{what} is not usable: {reason}; put a PEM block of the right kind there")]
    Pem {
        /// Which input.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate cannot be read.
    #[error("certificate of {what} cannot be read: {reason}")]
    Certificate {
        /// Whose certificate.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate that shall sign others is not a CA's.
    #[error(
        "certificate `{subject}` is not a CA: it needs basicConstraints CA:TRUE; issue it as a CA certificate"
    )]
    NotAuthority {
        /// Subject of the certificate.
        subject: String,
    },
    /// Certificate and key of a CA do not belong together.
    #[error("key does not belong to the CA certificate `{subject}`: store the pair that was made together")]
    KeyMismatch {
        /// Subject of the certificate.
        subject: String,
    },
    /// The CA is past its end (or not yet valid), so nothing it signed would verify.
    #[error("CA `{subject}` is not valid now; rotate it, or check the clock")]
    AuthorityExpired {
        /// Subject of the CA certificate.
        subject: String,
    },
    /// The signing request cannot be read.
    #[error("certificate signing request cannot be read: {reason}; send one PKCS#10 request, DER or PEM")]
    RequestUnreadable {
        /// What is wrong with it.
        reason: String,
    },
    /// The signing request is for a kind of key that is not accepted.
    #[error(
        "certificate signing request has a key of type {found}; only ECDSA P-256 and Ed25519 are accepted"
    )]
    RequestKey {
        /// The algorithm, as text or as an object identifier.
        found: String,
    },
    /// The signing request is not signed by the key it is for.
    #[error(
        "signature of the certificate signing request does not verify with its own key; sign it with that key"
    )]
    RequestSignature,
    /// The signing request asks for what the proxy does not get.
    #[error("certificate signing request asks for {what}; leave it out: names come from the Dataplane")]
    RequestAsks {
        /// What it asks for.
        what: &'static str,
    },
    /// The signing request does not say which proxy made it.
    #[error(
        "certificate signing request does not name the proxy that made it; use the sidecar's own version"
    )]
    RequestUnbound,
    /// The signing request was made by another proxy.
    #[error("certificate signing request was made by another proxy; make one with a key of your own")]
    RequestOfAnother,
    /// There is nothing to certify.
    #[error(
        "the Dataplane has no tag `kuma.io/service`, so there is no identity to certify; add an inbound or gateway tags"
    )]
    NoEntitlement,
    /// A certificate was asked for that would never be valid.
    #[error("certificate lifetime must be positive; check `dpCert.rotation.expiration` of the Mesh")]
    Lifetime,
    /// The cryptographic library refused; the operating system's randomness is the usual cause.
    #[error("{doing} failed: {reason}")]
    Crypto {
        /// What was being done.
        doing: &'static str,
        /// What the library says.
        reason: String,
    },
}

impl Error {
    /// An error of the cryptographic library while `doing` something.
    pub(crate) fn crypto(doing: &'static str) -> impl Fn(rcgen::Error) -> Self {
        move |error| Self::Crypto {
            doing,
            reason: error.to_string(),
        }
    }
}
