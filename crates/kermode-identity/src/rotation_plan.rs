//! Rotation plan of a CA, of a mesh or of the control plane: which generation signs, which generations are trusted, and
//! when a rotation is due.
//!
//! Each new CA has a fixed schedule. First, proxies trust the new root in addition to the old root. Then the new CA
//! signs. Finally, the old root is removed. Each phase is longer than the lifetime of a certificate. Therefore every
//! proxy with a valid certificate has received both roots before the new CA signs, and all certificates of the old CA
//! have expired before the old root is removed (`docs/reference/certificates.md#rotation`).
//!
//! For the CA of the control plane, a phase covers only the distribution of a root: replicas issue their certificates
//! again as soon as another CA signs.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;

use crate::{Authority, ServingAuthority, Term, TrustBundle, Validity};

/// Maximum age of cached CAs that a replica uses when it cannot read the Secrets.
pub const MAX_STALENESS: Duration = Duration::from_secs(20);
/// Minimum of the lag margin, one of the three parts of a phase: lifetime of a certificate + drift margin + lag margin.
/// The lag margin is [`MAX_STALENESS`] + 2 × [`Term::backdate`]: a clock may be ahead by the backdate while another is
/// behind by the backdate. The minimum allows clocks that are wrong by 10 s: [`MAX_STALENESS`] + 2 × 10 s.
const MIN_LAG_MARGIN: Duration = Duration::from_secs(40);
/// The drift margin is the certificate's lifetime divided by this number, because clock drift grows with the lifetime.
const DRIFT_MARGIN_DIVISOR: u32 = 20;

/// Schedule of a new CA. Its times are whole seconds, because its Secret stores seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Time from which the CA signs.
    pub signs_from: SystemTime,
    /// Time until which the previous root is trusted.
    pub predecessor_trusted_until: SystemTime,
}

/// CA that can be rotated.
pub trait RotatingAuthority {
    /// Returns the CA certificate, a root.
    fn certificate(&self) -> &CertificateDer<'static>;

    /// Returns the validity of the CA certificate.
    fn validity(&self) -> Validity;
}

/// One CA with the metadata of its Secret.
#[derive(Debug)]
pub struct Generation<A = Authority> {
    /// Number of the generation, starting at 1.
    pub number: u32,
    /// The CA.
    pub authority: Arc<A>,
    /// Schedule; `None` for the first generation.
    pub schedule: Option<Schedule>,
    /// Rotation request of the user when the CA was generated; see [`RotationPlan::due_rotation`].
    pub request: Option<String>,
}

/// Generations of a CA, at least one.
#[derive(Debug)]
pub struct RotationPlan<A = Authority> {
    generations: Vec<Generation<A>>,
}

/// Phase of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No rotation is in progress. One root is trusted.
    Settled,
    /// Proxies receive the new root; the old CA signs.
    Distributing,
    /// The new CA signs; the old root is still trusted.
    Reissuing,
}

/// Reason for a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationReason {
    /// The user requested the rotation.
    Requested,
    /// Four fifths of the validity of the newest CA have passed.
    Ageing,
}

/// Trust bundle and signer at one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Root certificates.
    pub bundle: TrustBundle,
    /// Version of the bundle. Increases with every change of the roots.
    pub version: u64,
    /// Number of the generation that signs.
    pub signer: u32,
}

// === impl Schedule ===

impl Schedule {
    /// Returns the schedule of a CA that is generated at `now`, for certificates of this term.
    pub fn generated_at(now: SystemTime, term: Term) -> Self {
        let lag_margin = MIN_LAG_MARGIN.max(MAX_STALENESS + 2 * term.backdate());
        let phase_duration = term.lifetime + term.lifetime / DRIFT_MARGIN_DIVISOR + lag_margin;
        // Rounded up to whole seconds.
        let phase_duration = Duration::from_secs(phase_duration.as_secs() + 1);
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let signs_from = UNIX_EPOCH + Duration::from_secs(now.as_secs()) + phase_duration;
        Self {
            signs_from,
            predecessor_trusted_until: signs_from + phase_duration,
        }
    }
}

// === impl RotatingAuthority ===

impl RotatingAuthority for Authority {
    fn certificate(&self) -> &CertificateDer<'static> {
        Self::certificate(self)
    }

    fn validity(&self) -> Validity {
        Self::validity(self)
    }
}

impl RotatingAuthority for ServingAuthority {
    fn certificate(&self) -> &CertificateDer<'static> {
        Self::certificate(self)
    }

    fn validity(&self) -> Validity {
        Self::validity(self)
    }
}

// === impl Generation ===

impl<A> Clone for Generation<A> {
    fn clone(&self) -> Self {
        Self {
            number: self.number,
            authority: self.authority.clone(),
            schedule: self.schedule,
            request: self.request.clone(),
        }
    }
}

// === impl RotationPlan ===

impl<A> Clone for RotationPlan<A> {
    fn clone(&self) -> Self {
        Self {
            generations: self.generations.clone(),
        }
    }
}

impl<A: RotatingAuthority> RotationPlan<A> {
    /// Creates a plan from generations in any order. Returns `None` if there are no generations.
    pub fn new(mut generations: Vec<Generation<A>>) -> Option<Self> {
        generations.sort_by_key(|generation| generation.number);
        generations.dedup_by_key(|generation| generation.number);
        (!generations.is_empty()).then_some(Self { generations })
    }

    /// Returns all generations, the oldest first.
    pub fn generations(&self) -> &[Generation<A>] {
        &self.generations
    }

    /// Returns the newest generation, whether or not it signs yet.
    pub fn newest(&self) -> &Generation<A> {
        &self.generations[self.generations.len() - 1]
    }

    /// Returns the generation that signs at `now`.
    pub fn signer(&self, now: SystemTime) -> &Generation<A> {
        // An expired CA never signs.
        let may_sign = |generation: &&Generation<A>| {
            generation
                .schedule
                .is_none_or(|schedule| schedule.signs_from <= now)
                && generation.authority.validity().contains(now)
        };
        self.generations
            .iter()
            .rfind(may_sign)
            // If all older CAs have expired, the newest CA signs before its scheduled time. If the newest CA has also
            // expired, signing fails with an error that names this CA.
            .unwrap_or_else(|| self.newest())
    }

    /// Returns the lifetime of a certificate that is signed at `now`: `configured`, limited to the time for which the
    /// root of the signer remains trusted. The limit matters if the mesh's lifetime setting was increased during a
    /// rotation.
    pub fn lifetime(&self, now: SystemTime, configured: Duration) -> Duration {
        let signer = self.signer(now).number;
        let mut successors = self
            .generations
            .iter()
            .filter(|generation| generation.number > signer);
        let trusted_for = successors.find_map(|successor| {
            successor
                .schedule?
                .predecessor_trusted_until
                .duration_since(now)
                .ok()
        });
        trusted_for.map_or(configured, |trusted_for| configured.min(trusted_for))
    }

    /// Returns the generations whose roots are trusted, the oldest first.
    pub fn trusted(&self, now: SystemTime) -> impl Iterator<Item = &Generation<A>> {
        let successors = self.generations.iter().skip(1).map(Some).chain([None]);
        self.generations
            .iter()
            .zip(successors)
            .filter(move |(_, successor)| {
                successor
                    .and_then(|successor| successor.schedule)
                    .is_none_or(|schedule| now < schedule.predecessor_trusted_until)
            })
            .map(|(generation, _)| generation)
    }

    /// Returns the trust bundle and the signer.
    pub fn trust(&self, now: SystemTime) -> Trust {
        let roots: Vec<CertificateDer<'static>> = self
            .trusted(now)
            .map(|generation| generation.authority.certificate().clone())
            .collect();
        // Each generation changes the roots twice: its root is added, and later the previous root is removed.
        let removed_roots = u64::from(roots.len() == 1);
        Trust {
            bundle: TrustBundle::new(roots),
            version: 2 * u64::from(self.newest().number) + removed_roots,
            signer: self.signer(now).number,
        }
    }

    /// Returns the phase of the rotation.
    pub fn phase(&self, now: SystemTime) -> Phase {
        if self.trusted(now).count() == 1 {
            Phase::Settled
        } else if self.signer(now).number == self.newest().number {
            Phase::Reissuing
        } else {
            Phase::Distributing
        }
    }

    /// Returns the next time at which the signer or the trust bundle changes, or a rotation becomes due.
    pub fn next_change(&self, now: SystemTime) -> Option<SystemTime> {
        let renewal_due =
            (self.phase(now) == Phase::Settled).then(|| self.newest().authority.validity().renew_at());
        let scheduled = self
            .generations
            .iter()
            .filter_map(|generation| generation.schedule);
        scheduled
            .flat_map(|schedule| [schedule.signs_from, schedule.predecessor_trusted_until])
            .chain(renewal_due)
            .filter(|change| *change > now)
            .min()
    }

    /// Returns the reason to start a rotation now, if any. `request` is the user's rotation request, an arbitrary text.
    /// The request causes a rotation if it differs from the request of the newest CA. No rotation is due while another
    /// rotation is in progress.
    pub fn due_rotation(&self, now: SystemTime, request: Option<&str>) -> Option<RotationReason> {
        if self.phase(now) != Phase::Settled {
            return None;
        }
        let newest = self.newest();
        if now >= newest.authority.validity().renew_at() {
            return Some(RotationReason::Ageing);
        }
        let request = request.filter(|request| !request.is_empty())?;
        (newest.request.as_deref() != Some(request)).then_some(RotationReason::Requested)
    }
}

#[cfg(test)]
mod tests;
