//! The certificate in use and the roots beside it: what an answer of the control plane changes about them. No IO.
//!
//! Roots come with each certificate and, when they change, on a stream. Replicas of the control plane may be behind one
//! another for a moment, so an older answer must not take back what a newer one said.

use std::time::Duration;

use kermode_identity::{TrustBundle, Validity};
use kermode_protocol::certificates::RootsUpdate;

/// How soon a certificate is replaced that nobody accepts any more: the mesh has an altogether different CA.
const AT_ONCE: Duration = Duration::from_secs(2);

/// What is held.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// When the certificate is valid.
    pub(super) validity: Validity,
    /// Number of the CA that signed it.
    pub(super) signer: u32,
    /// Whom to trust.
    pub(super) roots: Roots,
    /// The CA because of which the certificate is being replaced early.
    announced: u32,
}

/// Roots and how new they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Roots {
    pub(super) bundle: TrustBundle,
    pub(super) version: u64,
}

/// What to do about an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reaction {
    /// Envoy has to be told of the roots.
    pub(super) publish: bool,
    /// The certificate has to be replaced within that time.
    pub(super) renew_within: Option<Duration>,
}

// === impl Held ===

impl Held {
    /// What an answer with a certificate makes of what was held before.
    pub(super) fn after(before: Option<&Self>, validity: Validity, signer: u32, roots: Roots) -> Self {
        let newer = before
            .map(|before| &before.roots)
            .filter(|before| roots.is_behind(before));
        Self {
            validity,
            signer,
            roots: newer.cloned().unwrap_or(roots),
            announced: signer,
        }
    }

    /// The stream tells of roots.
    pub(super) fn on_update(&mut self, update: &RootsUpdate) -> Reaction {
        let roots = Roots {
            bundle: bundle(update),
            version: update.roots_version,
        };
        if roots.bundle.is_empty() || roots.is_behind(&self.roots) {
            return Reaction::default();
        }
        if !roots.bundle.shares_a_root_with(&self.roots.bundle) {
            // Certificate and roots have to be replaced together.
            return Reaction {
                publish: false,
                renew_within: Some(AT_ONCE),
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
    /// Whether these are an earlier state of the others. Roots that have nothing in common are not of one history, so
    /// their versions say nothing.
    fn is_behind(&self, other: &Self) -> bool {
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

    fn mk_held(roots: &[u8], version: u64, signer: u32) -> Held {
        let validity = Validity::from_unix(0, 100);
        Held::after(None, validity, signer, mk_roots(roots, version))
    }

    #[test]
    fn a_second_root_is_told_to_envoy_and_the_certificate_stays() {
        let mut held = mk_held(&[1], 3, 1);
        let told = Reaction {
            publish: true,
            renew_within: None,
        };
        assert_eq!(held.on_update(&mk_update(&[1, 2], 4, 1)), told);
        assert_eq!(held.roots, mk_roots(&[1, 2], 4));
        assert_eq!(held.on_update(&mk_update(&[1, 2], 4, 1)), Reaction::default());
    }

    #[test]
    fn another_signer_asks_for_one_renewal() {
        let mut held = mk_held(&[1, 2], 4, 1);
        let update = mk_update(&[1, 2], 4, 2);
        let minute = Some(Duration::from_mins(1));
        assert_eq!(held.on_update(&update).renew_within, minute);
        // The stream breaks and tells the same again.
        assert_eq!(held.on_update(&update), Reaction::default());
        let mut renewed = Held::after(Some(&held), held.validity, 2, mk_roots(&[1, 2], 4));
        assert_eq!(renewed.on_update(&update), Reaction::default());
    }

    #[test]
    fn a_replica_that_is_behind_takes_nothing_back() {
        let mut held = mk_held(&[1, 2], 4, 1);
        assert_eq!(held.on_update(&mk_update(&[1], 3, 1)), Reaction::default());
        let renewed = Held::after(Some(&held), held.validity, 1, mk_roots(&[1], 3));
        assert_eq!(renewed.roots, mk_roots(&[1, 2], 4));
    }

    #[test]
    fn an_altogether_different_ca_is_trusted_with_its_certificate_and_not_before() {
        let mut held = mk_held(&[1, 2], 4, 1);
        let reaction = Reaction {
            publish: false,
            renew_within: Some(AT_ONCE),
        };
        assert_eq!(held.on_update(&mk_update(&[9], 3, 1)), reaction);
        assert_eq!(held.roots, mk_roots(&[1, 2], 4));
        let renewed = Held::after(Some(&held), held.validity, 1, mk_roots(&[9], 3));
        assert_eq!(renewed.roots, mk_roots(&[9], 3));
    }

    #[test]
    fn an_update_without_roots_changes_nothing() {
        let mut held = mk_held(&[1], 3, 1);
        assert_eq!(held.on_update(&mk_update(&[], 9, 2)), Reaction::default());
    }
}
