//! State of the current certificate and of the trust bundle, and its changes by messages of the control plane. No IO.
//!
//! The control plane sends the trust bundle with each certificate, and on a stream when the bundle changes. A replica
//! of the control plane may briefly lag behind another, so an older bundle does not replace a newer one.

use std::time::Duration;

use kermode_identity::{TrustBundle, Validity};
use kermode_protocol::certificates::RootsUpdate;

/// Time within which the certificate is renewed if the new trust bundle shares no root with the current one. The time
/// is short, because peers with the new bundle reject the current certificate.
const RENEWAL_AFTER_UNRELATED_CA: Duration = Duration::from_secs(2);

/// Time within which the certificate is renewed if its names are outdated. The time is short, because a client of a new
/// service of the Pod rejects the current certificate. Services select many Pods, so it is not zero.
const RENEWAL_AFTER_NEW_NAMES: Duration = Duration::from_secs(2);

/// State of the current certificate and of the trust bundle that Envoy verifies peers with. The certificate itself is
/// published to SDS and not kept here.
#[derive(Clone, Debug)]
pub(super) struct CurrentCertificate {
    /// Validity of the certificate.
    pub(super) validity: Validity,
    /// Number of the CA generation that signed the certificate.
    pub(super) ca_generation: u32,
    /// Trust bundle of the mesh.
    pub(super) roots: Roots,
    /// Fingerprint of the names that the control plane announced last, or of those in the certificate. Each change causes
    /// only one early renewal.
    announced_names: u64,
    /// Number of the CA generation that signs new certificates, as last announced by the control plane. Each change
    /// causes only one early renewal, although the control plane repeats the announcement.
    announced_ca_generation: u32,
}

/// Trust bundle with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Roots {
    pub(super) bundle: TrustBundle,
    pub(super) version: u64,
}

/// Required reaction to an update of the trust bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reaction {
    /// Whether the trust bundle changed and has to be published to Envoy.
    pub(super) must_publish: bool,
    /// Time within which the certificate has to be renewed early; `None` if the regular renewal suffices.
    pub(super) renew_within: Option<Duration>,
}

// === impl CurrentCertificate ===

impl CurrentCertificate {
    /// Returns the state after a certificate was issued. Keeps the trust bundle of `previous` if it is newer than
    /// `roots`.
    pub(super) fn with_new_certificate(
        previous: Option<&Self>,
        validity: Validity,
        ca_generation: u32,
        names: u64,
        roots: Roots,
    ) -> Self {
        let newer = previous
            .map(|previous| &previous.roots)
            .filter(|previous| roots.is_older_than(previous));
        Self {
            validity,
            ca_generation,
            roots: newer.cloned().unwrap_or(roots),
            announced_names: names,
            announced_ca_generation: ca_generation,
        }
    }

    /// Handles a message from the stream.
    pub(super) fn on_update(&mut self, update: &RootsUpdate) -> Reaction {
        let mut reaction = self.on_trust_bundle(update);
        // An older control plane announces no names.
        if update.names != 0 && std::mem::replace(&mut self.announced_names, update.names) != update.names {
            let window = reaction.renew_within.unwrap_or(Duration::MAX);
            reaction.renew_within = Some(window.min(RENEWAL_AFTER_NEW_NAMES));
        }
        reaction
    }

    fn on_trust_bundle(&mut self, update: &RootsUpdate) -> Reaction {
        let roots = Roots {
            bundle: bundle(update),
            version: update.roots_version,
        };
        if roots.bundle.is_empty() || roots.is_older_than(&self.roots) {
            return Reaction::default();
        }
        if !roots.bundle.shares_a_root_with(&self.roots.bundle) {
            // The renewal replaces certificate and trust bundle together.
            return Reaction {
                must_publish: false,
                renew_within: Some(RENEWAL_AFTER_UNRELATED_CA),
            };
        }
        let must_publish = roots.bundle != self.roots.bundle;
        self.roots = roots;
        let is_new_ca_generation =
            update.signer != self.ca_generation && update.signer != self.announced_ca_generation;
        self.announced_ca_generation = update.signer;
        Reaction {
            must_publish,
            renew_within: is_new_ca_generation.then(|| Duration::from_secs(update.renew_within.into())),
        }
    }
}

fn bundle(update: &RootsUpdate) -> TrustBundle {
    TrustBundle::new(update.roots_der.iter().cloned().map(Into::into))
}

// === impl Roots ===

impl Roots {
    /// Returns whether this bundle is an earlier version of `other`. Bundles without a common root come from different
    /// CAs, so their versions cannot be compared; neither is older.
    fn is_older_than(&self, other: &Self) -> bool {
        self.version < other.version && self.bundle.shares_a_root_with(&other.bundle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an update in which each byte of `roots` stands for one root.
    fn mk_update(roots: &[u8], roots_version: u64, ca_generation: u32) -> RootsUpdate {
        RootsUpdate {
            roots_der: roots.iter().map(|byte| vec![*byte; 8]).collect(),
            roots_version,
            signer: ca_generation,
            renew_within: 60,
            names: 5,
        }
    }

    fn mk_roots(roots: &[u8], version: u64) -> Roots {
        Roots {
            bundle: bundle(&mk_update(roots, version, 1)),
            version,
        }
    }

    fn mk_current(roots: &[u8], version: u64, ca_generation: u32) -> CurrentCertificate {
        let validity = Validity::from_unix(0, 100);
        CurrentCertificate::with_new_certificate(None, validity, ca_generation, 5, mk_roots(roots, version))
    }

    #[test]
    fn second_root_is_published_without_a_renewal() {
        let mut current = mk_current(&[1], 3, 1);
        let only_publish = Reaction {
            must_publish: true,
            renew_within: None,
        };
        assert_eq!(current.on_update(&mk_update(&[1, 2], 4, 1)), only_publish);
        assert_eq!(current.roots, mk_roots(&[1, 2], 4));
        assert_eq!(current.on_update(&mk_update(&[1, 2], 4, 1)), Reaction::default());
    }

    #[test]
    fn change_of_the_ca_generation_causes_one_renewal() {
        let mut current = mk_current(&[1, 2], 4, 1);
        let update = mk_update(&[1, 2], 4, 2);
        let one_minute = Some(Duration::from_mins(1));
        assert_eq!(current.on_update(&update).renew_within, one_minute);
        // After a reconnection the control plane sends the update again.
        assert_eq!(current.on_update(&update), Reaction::default());
        let mut renewed = CurrentCertificate::with_new_certificate(
            Some(&current),
            current.validity,
            2,
            5,
            mk_roots(&[1, 2], 4),
        );
        assert_eq!(renewed.on_update(&update), Reaction::default());
    }

    #[test]
    fn lagging_replica_does_not_replace_a_newer_bundle() {
        let mut current = mk_current(&[1, 2], 4, 1);
        assert_eq!(current.on_update(&mk_update(&[1], 3, 1)), Reaction::default());
        let renewed = CurrentCertificate::with_new_certificate(
            Some(&current),
            current.validity,
            1,
            5,
            mk_roots(&[1], 3),
        );
        assert_eq!(renewed.roots, mk_roots(&[1, 2], 4));
    }

    #[test]
    fn unrelated_ca_is_not_trusted_before_it_has_issued_a_certificate() {
        let mut current = mk_current(&[1, 2], 4, 1);
        let reaction = Reaction {
            must_publish: false,
            renew_within: Some(RENEWAL_AFTER_UNRELATED_CA),
        };
        assert_eq!(current.on_update(&mk_update(&[9], 3, 1)), reaction);
        assert_eq!(current.roots, mk_roots(&[1, 2], 4));
        let renewed = CurrentCertificate::with_new_certificate(
            Some(&current),
            current.validity,
            1,
            5,
            mk_roots(&[9], 3),
        );
        assert_eq!(renewed.roots, mk_roots(&[9], 3));
    }

    #[test]
    fn change_of_the_names_causes_one_renewal() {
        let mut current = mk_current(&[1], 3, 1);
        let unknown_names = RootsUpdate {
            names: 0,
            ..mk_update(&[1], 3, 1)
        };
        assert_eq!(current.on_update(&unknown_names), Reaction::default());
        let other_names = RootsUpdate {
            names: 6,
            ..mk_update(&[1], 3, 1)
        };
        let renewal = Reaction {
            must_publish: false,
            renew_within: Some(RENEWAL_AFTER_NEW_NAMES),
        };
        assert_eq!(current.on_update(&other_names), renewal);
        assert_eq!(current.on_update(&other_names), Reaction::default());
        let roots = mk_roots(&[1], 3);
        let mut renewed =
            CurrentCertificate::with_new_certificate(Some(&current), current.validity, 1, 6, roots);
        assert_eq!(renewed.on_update(&other_names), Reaction::default());
        // A new CA that signs over a long time does not delay the renewal.
        let other_names_and_ca = RootsUpdate {
            names: 7,
            ..mk_update(&[1], 3, 2)
        };
        assert_eq!(renewed.on_update(&other_names_and_ca), renewal);
    }

    #[test]
    fn update_without_roots_is_ignored() {
        let mut current = mk_current(&[1], 3, 1);
        assert_eq!(current.on_update(&mk_update(&[], 9, 2)), Reaction::default());
    }
}
