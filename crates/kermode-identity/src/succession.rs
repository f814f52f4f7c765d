//! The CAs of a mesh, one after the other: which one signs, which ones are trusted, and when the next one is due.
//!
//! A new CA comes with a schedule that never changes, so that everybody who knows it agrees at any moment without
//! another word: first its root is trusted beside the old one, then it signs, at last the old root is forgotten.
//! Each step waits for longer than a certificate lives. Whoever holds a valid certificate has asked for it within
//! that time and was told both roots; and what the old CA signed has expired before its root goes.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;

use crate::{Authority, TrustBundle};

/// For how long a replica of the control plane may go on with what it knew of the CAs when it cannot look again.
pub const STALENESS: Duration = Duration::from_secs(20);
/// What a step takes beside a certificate's life: [`STALENESS`], and clocks that are wrong by as much as
/// [`crate::BACKDATE`] this way and that,
const MARGIN: Duration = Duration::from_secs(40);
/// and this part of the life, since long lives meet worse clocks.
const MARGIN_PART: u32 = 20;

/// When a new CA takes over. Whole seconds, as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From here on it signs.
    pub signs_from: SystemTime,
    /// Until here the root before it is trusted.
    pub predecessor_until: SystemTime,
}

/// One CA and what is written down about it.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Counts up from 1.
    pub number: u32,
    /// The CA.
    pub authority: Arc<Authority>,
    /// When it takes over; the first one has nobody to take over from.
    pub schedule: Option<Schedule>,
    /// What had been asked for when it was made, see [`Succession::due`].
    pub request: Option<String>,
}

/// The CAs of a mesh's backend, at least one.
#[derive(Clone, Debug)]
pub struct Succession {
    generations: Vec<Generation>,
}

/// How far a change of the CA has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// One root, no change.
    Settled,
    /// The new root is being told to everybody; the old CA signs.
    Distributing,
    /// The new CA signs; the old root is trusted for those whose certificates it signed.
    Reissuing,
}

/// Why a new CA is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Somebody asked for it.
    Requested,
    /// The present one is past 4/5 of its span.
    Ageing,
}

/// Whom a mesh trusts at a moment, and who signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The roots.
    pub bundle: TrustBundle,
    /// Grows with each change of the roots, so that of two answers the older one is known.
    pub version: u64,
    /// Number of the CA that signs.
    pub signer: u32,
}

// === impl Schedule ===

impl Schedule {
    /// Of a CA that is made now, in a mesh whose certificates live that long.
    pub fn starting(now: SystemTime, lifetime: Duration) -> Self {
        let step = lifetime + lifetime / MARGIN_PART + MARGIN;
        let step = Duration::from_secs(step.as_secs() + 1);
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let signs_from = UNIX_EPOCH + Duration::from_secs(now.as_secs()) + step;
        Self {
            signs_from,
            predecessor_until: signs_from + step,
        }
    }
}

// === impl Succession ===

impl Succession {
    /// Of these CAs, in any order; `None` of none.
    pub fn new(mut generations: Vec<Generation>) -> Option<Self> {
        generations.sort_by_key(|generation| generation.number);
        generations.dedup_by_key(|generation| generation.number);
        (!generations.is_empty()).then_some(Self { generations })
    }

    /// All of them, the oldest first.
    pub fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// The newest, whether or not it signs yet.
    pub fn newest(&self) -> &Generation {
        &self.generations[self.generations.len() - 1]
    }

    /// The one that signs.
    pub fn signer(&self, now: SystemTime) -> &Generation {
        // A CA that has ended cannot be waited for.
        let ready = |generation: &&Generation| {
            generation
                .schedule
                .is_none_or(|schedule| schedule.signs_from <= now)
                && generation.authority.validity().contains(now)
        };
        self.generations
            .iter()
            .rfind(ready)
            .unwrap_or_else(|| self.newest())
    }

    /// How long a certificate that is signed now may live: no longer than its root is trusted, should the mesh's
    /// setting have grown since the schedule was made.
    pub fn lifetime(&self, now: SystemTime, wanted: Duration) -> Duration {
        let signer = self.signer(now).number;
        let mut later = self
            .generations
            .iter()
            .filter(|generation| generation.number > signer);
        let until =
            later.find_map(|successor| successor.schedule?.predecessor_until.duration_since(now).ok());
        until.map_or(wanted, |until| wanted.min(until))
    }

    /// Those whose roots are trusted, the oldest first.
    pub fn trusted(&self, now: SystemTime) -> impl Iterator<Item = &Generation> {
        let next = self.generations.iter().skip(1).map(Some).chain([None]);
        self.generations
            .iter()
            .zip(next)
            .filter(move |(_, successor)| {
                successor
                    .and_then(|successor| successor.schedule)
                    .is_none_or(|schedule| now < schedule.predecessor_until)
            })
            .map(|(generation, _)| generation)
    }

    /// Whom to trust, and who signs.
    pub fn trust(&self, now: SystemTime) -> Trust {
        let roots: Vec<CertificateDer<'static>> = self
            .trusted(now)
            .map(|generation| generation.authority.certificate().clone())
            .collect();
        let alone = u64::from(roots.len() == 1);
        Trust {
            bundle: TrustBundle::new(roots),
            version: 2 * u64::from(self.newest().number) + alone,
            signer: self.signer(now).number,
        }
    }

    /// How far a change has come.
    pub fn phase(&self, now: SystemTime) -> Phase {
        if self.trusted(now).count() == 1 {
            Phase::Settled
        } else if self.signer(now).number == self.newest().number {
            Phase::Reissuing
        } else {
            Phase::Distributing
        }
    }

    /// When the answers above change by themselves.
    pub fn next_change(&self, now: SystemTime) -> Option<SystemTime> {
        let ageing = (self.generations.len() == 1 || self.phase(now) == Phase::Settled)
            .then(|| self.newest().authority.validity().renew_at());
        let scheduled = self
            .generations
            .iter()
            .filter_map(|generation| generation.schedule);
        scheduled
            .flat_map(|schedule| [schedule.signs_from, schedule.predecessor_until])
            .chain(ageing)
            .filter(|change| *change > now)
            .min()
    }

    /// Whether a new CA should be made. `request` is what is asked for at present, any text: one that is not that of
    /// the newest CA asks for another. A change that has begun is finished first.
    pub fn due(&self, now: SystemTime, request: Option<&str>) -> Option<Due> {
        if self.phase(now) != Phase::Settled {
            return None;
        }
        let newest = self.newest();
        if now >= newest.authority.validity().renew_at() {
            return Some(Due::Ageing);
        }
        let request = request.filter(|request| !request.is_empty())?;
        (newest.request.as_deref() != Some(request)).then_some(Due::Requested)
    }
}

#[cfg(test)]
mod tests;
