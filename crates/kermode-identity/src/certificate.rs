//! Issued certificate: its chain and validity.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kermode_model::DEFAULT_CLOCK_TOLERANCE;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::{Error, pem};

/// A certificate is dated back by at most its lifetime divided by this number. A sidecar renews its certificate at a
/// random moment between 7/10 and 4/5 of the validity ([`crate::RenewalTimer`]), and this moment must be well after the
/// issuance.
const BACKDATE_DIVISOR: u32 = 10;

/// Times that determine the validity of a new certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Time from the issuance to the end of the validity.
    pub lifetime: Duration,
    /// Largest clock difference at which a peer still accepts a new certificate.
    pub clock_tolerance: Duration,
}

impl Term {
    /// Returns the term with the default tolerance.
    pub fn of(lifetime: Duration) -> Self {
        Self {
            lifetime,
            clock_tolerance: DEFAULT_CLOCK_TOLERANCE,
        }
    }

    /// Returns the time from the start of the validity to the issuance: the clock tolerance, but at most a tenth of the
    /// lifetime, in whole seconds.
    pub fn backdate(self) -> Duration {
        let backdate = self.clock_tolerance.min(self.lifetime / BACKDATE_DIVISOR);
        Duration::from_secs(backdate.as_secs())
    }
}

/// Validity of a certificate, in whole seconds as in X.509.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Start of the validity.
    pub not_before: SystemTime,
    /// End of the validity.
    pub not_after: SystemTime,
}

impl Validity {
    /// Returns the validity of a certificate that is issued at `now` for this term.
    pub(crate) fn issued_at(now: SystemTime, term: Term) -> Result<Self, Error> {
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        let lifetime = Duration::from_secs(term.lifetime.as_secs());
        match now.checked_add(lifetime) {
            Some(not_after) if !lifetime.is_zero() => Ok(Self {
                not_before: now - term.backdate(),
                not_after,
            }),
            _ => Err(Error::LifetimeOutOfRange),
        }
    }

    /// Returns the validity between two times in seconds since the Unix epoch, as in the certificate RPC.
    pub fn from_unix(not_before: i64, not_after: i64) -> Self {
        let time = |seconds: i64| {
            let distance = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 {
                UNIX_EPOCH - distance
            } else {
                UNIX_EPOCH + distance
            }
        };
        Self {
            not_before: time(not_before),
            not_after: time(not_after),
        }
    }

    /// Returns start and end in seconds since the Unix epoch.
    pub fn to_unix(self) -> (i64, i64) {
        let seconds = |time: SystemTime| OffsetDateTime::from(time).unix_timestamp();
        (seconds(self.not_before), seconds(self.not_after))
    }

    /// Returns whether `now` is within the validity.
    pub fn contains(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Returns the latest time of the renewal: 4/5 of the validity after its start. The remaining fifth covers an
    /// outage of the control plane. Sidecars renew their certificates up to a tenth of the validity earlier
    /// ([`crate::RenewalTimer`]).
    pub fn renew_at(&self) -> SystemTime {
        let span = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + span * 4 / 5
    }

    /// Returns this validity, shortened to end at `limit` at the latest. `limit` is the end of the issuer's validity.
    pub(crate) fn ending_by(self, limit: SystemTime) -> Self {
        Self {
            not_after: self.not_after.min(limit),
            ..self
        }
    }
}

/// A signed certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The leaf, then the intermediate certificates. The root is not included, because it is part of the
    /// [`crate::TrustBundle`].
    pub chain: Vec<CertificateDer<'static>>,
    /// Validity of the leaf.
    pub validity: Validity,
}

impl IssuedCertificate {
    /// Returns the chain as PEM text, leaf first.
    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(self.chain.iter().map(AsRef::as_ref))
    }
}

#[cfg(test)]
mod tests {
    use kermode_model::MAX_CLOCK_TOLERANCE;

    use super::*;

    #[test]
    fn validity_is_dated_back_in_whole_seconds_and_survives_conversion_to_unix_time() {
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        let validity = Validity::issued_at(now, Term::of(Duration::from_hours(24))).unwrap();
        assert_eq!(validity.to_unix(), (1_699_999_700, 1_700_086_400));
        assert_eq!(Validity::from_unix(1_699_999_700, 1_700_086_400), validity);
    }

    #[test]
    fn certificate_is_dated_back_by_the_clock_tolerance_but_at_most_by_a_tenth_of_its_lifetime() {
        let backdate = |lifetime: u64, clock_tolerance: u64| {
            Term {
                lifetime: Duration::from_secs(lifetime),
                clock_tolerance: Duration::from_secs(clock_tolerance),
            }
            .backdate()
            .as_secs()
        };
        assert_eq!(backdate(3600, 300), 300);
        assert_eq!(backdate(3600, 0), 0);
        assert_eq!(backdate(69, 300), 6);
    }

    #[test]
    fn renewal_is_due_well_after_the_issuance() {
        let now = UNIX_EPOCH + Duration::from_hours(24);
        for lifetime in [
            Duration::from_mins(1),
            Duration::from_hours(1),
            Duration::from_hours(24),
        ] {
            let term = Term {
                lifetime,
                clock_tolerance: MAX_CLOCK_TOLERANCE,
            };
            let validity = Validity::issued_at(now, term).unwrap();
            let issuance_to_renewal = validity.renew_at().duration_since(now).unwrap();
            assert!(
                issuance_to_renewal >= lifetime * 3 / 4,
                "{lifetime:?}: {issuance_to_renewal:?}"
            );
        }
    }

    #[test]
    fn renewal_is_due_at_four_fifths_of_the_validity() {
        let validity = Validity::from_unix(1000, 2000);
        assert_eq!(validity.renew_at(), Validity::from_unix(1800, 0).not_before);
    }

    #[test]
    fn lifetime_below_a_second_is_rejected() {
        assert!(matches!(
            Validity::issued_at(UNIX_EPOCH, Term::of(Duration::from_millis(900))),
            Err(Error::LifetimeOutOfRange)
        ));
    }
}
