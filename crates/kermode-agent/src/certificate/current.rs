//! Current certificate and trust bundle, and how messages of the control plane change them. No IO.
//!
//! A trust bundle comes with each certificate and, when it changes, on a stream. A replica of the control plane may briefly
//! lag behind another, so an older bundle does not replace a newer one.

use std::time::Duration;

use kermode_identity::{TrustBundle, Validity};
use kermode_protocol::certificates::RootsUpdate;

/// Time within which the certificate is renewed when the new trust bundle shares no root with the current one: peers
/// reject the current certificate.
const IMMEDIATE: Duration = Duration::from_secs(2);

/// Current certificate and trust bundle.
#[derive(Clone, Debug)]
pub(super) struct Current {
    /// Validity of the certificate.
    pub(super) validity: Validity,
    /// Number of the CA generation that signed the certificate.
    pub(super) signer: u32,
    /// Trust bundle.
    pub(super) roots: Roots,
    /// Number of the CA generation for which a renewal was last requested.
    announced: u32,
}

/// Trust bundle with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Roots {
    pub(super) bundle: TrustBundle,
    pub(super) version: u64,
}

/// Consequence of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reaction {
    /// The trust bundle changed and has to be published to Envoy.
    pub(super) publish: bool,
    /// The certificate has to be renewed within this time.
    pub(super) renew_within: Option<Duration>,
}

// === impl Current ===

impl Current {
    /// Returns the state after a new certificate. `before` keeps its trust bundle if that is newer.
    pub(super) fn after(before: Option<&Self>, validity: Validity, signer: u32, roots: Roots) -> Self {
        let newer = before
            .map(|before| &before.roots)
            .filter(|before| roots.is_older_than(before));
        Self {
            validity,
            signer,
            roots: newer.cloned().unwrap_or(roots),
            announced: signer,
        }
    }

    /// Handles a trust bundle from the stream.
    pub(super) fn on_update(&mut self, update: &RootsUpdate) -> Reaction {
        let roots = Roots {
            bundle: bundle(update),
            version: update.roots_version,
        };
        if roots.bundle.is_empty() || roots.is_older_than(&self.roots) {
            return Reaction::default();
        }
        if !roots.bundle.shares_a_root_with(&self.roots.bundle) {
            // Certificate and trust bundle have to be replaced together.
            return Reaction {
                publish: false,
                renew_within: Some(IMMEDIATE),
            };
        }
        let publish = roots.bundle != self.roots.bundle;
        self.roots = roots;
        let is_new = update.signer != self.signer && update.signer != self.announced;
        self.announced = update.signer;
        Reaction {
            publish,
            renew_within: is_new.then(|| Duration::from_secs(update.renew_within.into())),
        }
    }
}

fn bundle(update: &RootsUpdate) -> TrustBundle {
    TrustBundle::new(update.roots_der.iter().cloned().map(Into::into))
}

// === impl Roots ===

impl Roots {
    /// Returns whether this bundle is an earlier version of `other`. Versions of bundles without a common root are not
    /// comparable.
    fn is_older_than(&self, other: &Self) -> bool {
        self.version < other.version && self.bundle.shares_a_root_with(&other.bundle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_update(roots: &[u8], roots_version: u64, signer: u32) -> RootsUpdate {
        RootsUpdate {
            roots_der: roots.iter().map(|byte| vec![*byte; 8]).collect(),
            roots_version,
            signer,
            renew_within: 60,
        }
    }

    fn mk_roots(roots: &[u8], version: u64) -> Roots {
        Roots {
            bundle: bundle(&mk_update(roots, version, 1)),
            version,
        }
    }

    fn mk_current(roots: &[u8], version: u64, signer: u32) -> Current {
        let validity = Validity::from_unix(0, 100);
        Current::after(None, validity, signer, mk_roots(roots, version))
    }

    #[test]
    fn second_root_is_published_and_the_certificate_stays() {
        let mut current = mk_current(&[1], 3, 1);
        let published = Reaction {
            publish: true,
            renew_within: None,
        };
        assert_eq!(current.on_update(&mk_update(&[1, 2], 4, 1)), published);
        assert_eq!(current.roots, mk_roots(&[1, 2], 4));
        assert_eq!(current.on_update(&mk_update(&[1, 2], 4, 1)), Reaction::default());
    }

    #[test]
    fn another_signer_causes_one_renewal() {
        let mut current = mk_current(&[1, 2], 4, 1);
        let update = mk_update(&[1, 2], 4, 2);
        let minute = Some(Duration::from_mins(1));
        assert_eq!(current.on_update(&update).renew_within, minute);
        // After a reconnection the stream repeats the update.
        assert_eq!(current.on_update(&update), Reaction::default());
        let mut renewed = Current::after(Some(&current), current.validity, 2, mk_roots(&[1, 2], 4));
        assert_eq!(renewed.on_update(&update), Reaction::default());
    }

    #[test]
    fn lagging_replica_does_not_replace_a_newer_bundle() {
        let mut current = mk_current(&[1, 2], 4, 1);
        assert_eq!(current.on_update(&mk_update(&[1], 3, 1)), Reaction::default());
        let renewed = Current::after(Some(&current), current.validity, 1, mk_roots(&[1], 3));
        assert_eq!(renewed.roots, mk_roots(&[1, 2], 4));
    }

    #[test]
    fn unrelated_ca_is_trusted_together_with_its_certificate() {
        let mut current = mk_current(&[1, 2], 4, 1);
        let reaction = Reaction {
            publish: false,
            renew_within: Some(IMMEDIATE),
        };
        assert_eq!(current.on_update(&mk_update(&[9], 3, 1)), reaction);
        assert_eq!(current.roots, mk_roots(&[1, 2], 4));
        let renewed = Current::after(Some(&current), current.validity, 1, mk_roots(&[9], 3));
        assert_eq!(renewed.roots, mk_roots(&[9], 3));
    }

    #[test]
    fn update_without_roots_is_ignored() {
        let mut current = mk_current(&[1], 3, 1);
        assert_eq!(current.on_update(&mk_update(&[], 9, 2)), Reaction::default());
    }
}
