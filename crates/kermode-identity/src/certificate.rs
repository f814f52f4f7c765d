//! Issued certificate: its chain and validity.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::{Error, pem};

/// The validity of a certificate starts this long before its issuance, so that a peer whose clock is behind accepts a
/// new certificate.
pub const BACKDATE: Duration = Duration::from_secs(10);

/// Validity of a certificate, in whole seconds as in X.509.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Start of the validity.
    pub not_before: SystemTime,
    /// End of the validity.
    pub not_after: SystemTime,
}

impl Validity {
    /// Returns the validity that starts [`BACKDATE`] before `now` and ends `lifetime` after `now`.
    pub(crate) fn starting(now: SystemTime, lifetime: Duration) -> Result<Self, Error> {
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        let lifetime = Duration::from_secs(lifetime.as_secs());
        match now.checked_add(lifetime) {
            Some(not_after) if !lifetime.is_zero() => Ok(Self {
                not_before: now - BACKDATE,
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

    /// Returns the time at which renewal is due: after 4/5 of the validity. The remaining fifth covers an outage of the
    /// control plane.
    pub fn renew_at(&self) -> SystemTime {
        let span = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + span * 4 / 5
    }

    /// Returns the validity with its end limited to `limit`, the end of the issuer's validity.
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
    use super::*;

    #[test]
    fn validity_is_backdated_in_whole_seconds_and_survives_conversion_to_unix_time() {
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        let validity = Validity::starting(now, Duration::from_secs(100)).unwrap();
        assert_eq!(validity.to_unix(), (1_699_999_990, 1_700_000_100));
        assert_eq!(Validity::from_unix(1_699_999_990, 1_700_000_100), validity);
    }

    #[test]
    fn renewal_is_due_at_four_fifths_of_the_validity() {
        let validity = Validity::from_unix(1000, 2000);
        assert_eq!(validity.renew_at(), Validity::from_unix(1800, 0).not_before);
    }

    #[test]
    fn lifetime_below_a_second_is_rejected() {
        assert!(matches!(
            Validity::starting(UNIX_EPOCH, Duration::from_millis(900)),
            Err(Error::LifetimeOutOfRange)
        ));
    }
}
