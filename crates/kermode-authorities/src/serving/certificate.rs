//! Serving certificate of one replica.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kermode_identity::{IssuedServingCertificate, ServingAuthority, Term};
use kermode_runtime::tls::ServingCertificate;
use rustls_pki_types::CertificateDer;

/// Lifetime of a serving certificate.
pub(super) const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(24 * 7);

/// Serving certificate of this replica, with the data from which its successor is issued.
pub(super) struct ReplicaCertificate {
    /// DNS names and IP addresses in the certificate.
    names: Vec<String>,
    /// Lifetime and clock tolerance of each issued certificate.
    term: Term,
    /// CA certificate of the issuer.
    pub(super) issuer: CertificateDer<'static>,
    /// Last issued certificate.
    issued: IssuedServingCertificate,
    /// The certificate in `issued`, in the form that the servers present.
    presented: Arc<ServingCertificate>,
}

/// Reason for which a certificate was issued anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReissueReason {
    /// 4/5 of the certificate's validity had passed.
    Ageing,
    /// Another CA signs now.
    OtherCa,
}

impl ReplicaCertificate {
    pub(super) fn issue(
        authority: &ServingAuthority,
        names: Vec<String>,
        clock_tolerance: Duration,
        now: SystemTime,
    ) -> anyhow::Result<Self> {
        let term = Term {
            lifetime: CERTIFICATE_LIFETIME,
            clock_tolerance,
        };
        let issued = authority.issue(&names, term, now)?;
        let key = issued.private_key().into();
        let presented = ServingCertificate::new(issued.certificate.chain.clone(), key)?;
        Ok(Self {
            names,
            term,
            issuer: authority.certificate().clone(),
            issued,
            presented,
        })
    }

    /// Returns the certificate that the servers present.
    pub(super) fn presented(&self) -> Arc<ServingCertificate> {
        self.presented.clone()
    }

    /// Returns the time at which the certificate expires.
    pub(super) fn not_after(&self) -> SystemTime {
        self.issued.certificate.validity.not_after
    }

    /// Issues the certificate anew if it is due, or if another CA than `signer` has issued it.
    pub(super) fn reissue_if_due(
        &mut self,
        signer: &ServingAuthority,
        now: SystemTime,
    ) -> anyhow::Result<Option<ReissueReason>> {
        let reason = if self.issuer != *signer.certificate() {
            ReissueReason::OtherCa
        } else if self.issued.needs_renewal(now) {
            ReissueReason::Ageing
        } else {
            return Ok(None);
        };
        let issued = signer.issue(&self.names, self.term, now)?;
        let key = issued.private_key().into();
        self.presented.replace(issued.certificate.chain.clone(), key)?;
        self.issued = issued;
        self.issuer = signer.certificate().clone();
        Ok(Some(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_certificate(
        authority: &ServingAuthority,
        clock_tolerance: Duration,
        now: SystemTime,
    ) -> ReplicaCertificate {
        let names = vec!["localhost".to_owned()];
        ReplicaCertificate::issue(authority, names, clock_tolerance, now).expect("a certificate")
    }

    #[test]
    fn certificate_is_dated_back_by_the_clock_tolerance() {
        let start = SystemTime::now();
        let authority = ServingAuthority::generate(start).expect("a CA");
        let clock_tolerance = Duration::from_mins(20);
        let certificate = mk_certificate(&authority, clock_tolerance, start);
        let validity = certificate.issued.certificate.validity;
        assert!(validity.contains(start - clock_tolerance));
        // The margin of 2 s is for the rounding to whole seconds.
        assert!(!validity.contains(start - clock_tolerance - Duration::from_secs(2)));
    }

    #[test]
    fn certificate_is_renewed_shortly_before_it_expires_but_not_at_half_its_lifetime() {
        let start = SystemTime::now();
        let authority = ServingAuthority::generate(start).expect("a CA");
        let mut certificate = mk_certificate(&authority, Duration::from_mins(5), start);
        let first = certificate.issued.certificate.chain.clone();

        let half = certificate.reissue_if_due(&authority, start + CERTIFICATE_LIFETIME / 2);
        assert_eq!(half.expect("the check succeeds"), None);
        assert_eq!(certificate.issued.certificate.chain, first);
        let shortly_before_expiry = start + CERTIFICATE_LIFETIME - Duration::from_hours(1);
        let renewed = certificate.reissue_if_due(&authority, shortly_before_expiry);
        assert_eq!(
            renewed.expect("the renewal succeeds"),
            Some(ReissueReason::Ageing)
        );
        assert_ne!(certificate.issued.certificate.chain, first);
        let validity = certificate.issued.certificate.validity;
        assert!(validity.contains(shortly_before_expiry + CERTIFICATE_LIFETIME / 2));
    }

    #[test]
    fn certificate_is_issued_anew_when_another_ca_signs() {
        let start = SystemTime::now();
        let old = ServingAuthority::generate(start).expect("a CA");
        let new = ServingAuthority::generate(start).expect("a CA");
        let mut certificate = mk_certificate(&old, Duration::from_mins(5), start);
        let reissued = certificate.reissue_if_due(&new, start);
        assert_eq!(reissued.expect("reissued"), Some(ReissueReason::OtherCa));
        let again = certificate.reissue_if_due(&new, start);
        assert_eq!(again.expect("the check succeeds"), None);
    }
}
