//! Common part of all CAs: key, certificate and signing.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::{Error, IssuedCertificate, Term, Validity, pem};

/// Lifetime of a generated CA: ten years.
pub(crate) const AUTHORITY_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// The validity of a CA starts at least this long before the CA is generated, so that a replica whose clock is behind
/// can sign immediately.
const AUTHORITY_BACKDATE: Duration = Duration::from_hours(24);

/// Certificate and key of a CA.
pub(crate) struct Issuer {
    certificate: CertificateDer<'static>,
    validity: Validity,
    subject: String,
    inner: rcgen::Issuer<'static, KeyPair>,
}

/// Contents of a leaf certificate that [`Issuer::sign`] issues.
pub(crate) struct Leaf {
    /// Subject alternative names.
    pub(crate) names: Vec<SanType>,
    /// Extended key usages.
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    /// Lifetime and clock tolerance, from which the validity is computed.
    pub(crate) term: Term,
}

impl Issuer {
    /// Generates a self-signed CA that can sign only leaf certificates (path length 0).
    pub(crate) fn generate(common_name: &str, names: Vec<SanType>, now: SystemTime) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(Error::crypto("generating a CA key"))?;
        let mut validity = Validity::issued_at(now, Term::of(AUTHORITY_LIFETIME))?;
        validity.not_before -= AUTHORITY_BACKDATE;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "Kuma");
        subject.push(DnType::OrganizationalUnitName, "Mesh");
        subject.push(DnType::CommonName, common_name);
        let mut params = base_params(validity)?;
        params.distinguished_name = subject;
        params.subject_alt_names = names;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .map_err(Error::crypto("signing a CA certificate"))?;
        Self::assemble(certificate.into(), key)
    }

    /// Reads a CA from PEM. Certificates after the first are ignored.
    pub(crate) fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        let unusable = |what| {
            move |error: rustls_pki_types::pem::Error| Error::Pem {
                what,
                reason: error.to_string(),
            }
        };
        let certificate =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(unusable("CA certificate"))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).map_err(unusable("CA key (PKCS#8)"))?;
        let key = KeyPair::try_from(&key).map_err(|error| Error::Pem {
            what: "CA key (PKCS#8)",
            reason: error.to_string(),
        })?;
        Self::assemble(certificate, key)
    }

    /// Combines a CA certificate and its key. Fails if the certificate is not a CA certificate, or if the key does not
    /// match.
    fn assemble(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, Error> {
        let unreadable = |reason: String| Error::Certificate {
            owner: "the CA",
            reason,
        };
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| unreadable(error.to_string()))?;
        let subject = parsed.subject().to_string();
        if !parsed.is_ca() {
            return Err(Error::NotAuthority { subject });
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(Error::KeyMismatch { subject });
        }
        let parsed_validity = parsed.validity();
        let validity = Validity::from_unix(
            parsed_validity.not_before.timestamp(),
            parsed_validity.not_after.timestamp(),
        );
        let inner = rcgen::Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| unreadable(error.to_string()))?;
        Ok(Self {
            certificate,
            validity,
            subject,
            inner,
        })
    }

    /// Signs a leaf for a public key. The leaf does not outlive the CA.
    pub(crate) fn sign(
        &self,
        key: &impl PublicKeyData,
        leaf: Leaf,
        now: SystemTime,
    ) -> Result<IssuedCertificate, Error> {
        if !self.validity.contains(now) {
            return Err(Error::AuthorityNotValid {
                subject: self.subject.clone(),
            });
        }
        let validity = Validity::issued_at(now, leaf.term)?.ending_by(self.validity.not_after);
        let mut params = base_params(validity)?;
        params.subject_alt_names = leaf.names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = leaf.usages;
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(key, &self.inner)
            .map_err(Error::crypto("signing a certificate"))?;
        Ok(IssuedCertificate {
            chain: vec![certificate.into()],
            validity,
        })
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }

    pub(crate) fn certificate_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.certificate)
    }

    pub(crate) fn key_pem(&self) -> String {
        self.inner.key().serialize_pem()
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            certificate: _,
            validity,
            subject,
            inner: _,
        } = self;
        f.debug_struct("Issuer")
            .field("subject", subject)
            .field("validity", validity)
            .finish_non_exhaustive()
    }
}

/// Returns parameters with the validity, a random serial number and an empty subject.
fn base_params(validity: Validity) -> Result<CertificateParams, Error> {
    let mut serial = [0_u8; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| Error::Crypto {
        operation: "generating a serial number",
        reason: "no randomness".to_owned(),
    })?;
    // RFC 5280 requires a positive number: the highest bit is the sign. Setting the next bit keeps the length constant.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    Ok(params)
}

/// Returns a URI as a subject alternative name. `what` describes the URI in error messages.
pub(crate) fn uri_name(what: &'static str, text: &str) -> Result<SanType, Error> {
    let not_allowed = || Error::NameNotAllowed {
        what,
        text: text.to_owned(),
    };
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(not_allowed());
    }
    Ok(SanType::URI(text.try_into().map_err(|_| not_allowed())?))
}
