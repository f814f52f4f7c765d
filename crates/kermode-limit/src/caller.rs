//! Identities of callers for rate limits that apply before authentication.

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue};

use crate::rate::{KeyedRateLimit, Rate};

/// Caller of a request, identified by a hash of its credentials (the metadata `authorization`). The name in a request
/// does not identify the caller, because a caller can claim any name. The hash cannot be reversed and differs between
/// processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallerId(u64);

/// Computes the ids of callers with a key that is random for each value.
#[derive(Debug, Default)]
pub struct CallerIds(RandomState);

impl CallerIds {
    /// Returns the id of the caller with these credentials.
    pub fn of(&self, credentials: &[u8]) -> CallerId {
        CallerId(self.0.hash_one(credentials))
    }
}

/// Limits the rate of requests of each authenticated caller.
#[derive(Debug)]
pub struct CallerLimit {
    ids: CallerIds,
    rate: KeyedRateLimit<CallerId>,
}

impl CallerLimit {
    /// Creates a limit at this rate.
    pub fn new(rate: Rate) -> Self {
        Self {
            ids: CallerIds::default(),
            rate: KeyedRateLimit::new(rate),
        }
    }

    /// Returns the caller of a request if it is within the rate. Called before the token of the caller is reviewed.
    /// Unauthenticated callers always pass, because only requests of authenticated callers are counted ([`Self::take`]).
    pub fn check(&mut self, headers: &HeaderMap) -> Option<CallerId> {
        let credentials = headers.get(AUTHORIZATION);
        let caller = self
            .ids
            .of(credentials.map(HeaderValue::as_bytes).unwrap_or_default());
        self.rate.has_token(&caller, Instant::now()).then_some(caller)
    }

    /// Counts a request of an authenticated caller. Returns whether it is within the rate.
    pub fn take(&mut self, caller: CallerId) -> bool {
        self.rate.try_take(caller, Instant::now())
    }
}
