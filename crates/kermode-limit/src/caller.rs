//! Identities of callers for rate limits that apply before authentication.

use std::hash::{BuildHasher, RandomState};

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
