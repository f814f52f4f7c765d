//! Why a request of a proxy is refused: what it is told, how it is counted, and what the log says.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kermode_identity::Error;
use kermode_model::ObjectKey;
use prometheus_client::encoding::EncodeLabelValue;
use tonic::{Code, Status};

use super::limits::Exceeded;
use crate::authentication::{Refused, status};

/// Lines a minute for one reason: strangers may try any number of times, and no attempt shall go unseen.
const LINES: u32 = 10;
const MINUTE: Duration = Duration::from_mins(1);

/// A refusal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The caller is not who he says.
    #[error(transparent)]
    Caller(#[from] Refused),
    /// The name is not one of a proxy.
    #[error("the proxy's name is not <pod>.<namespace>")]
    Name,
    /// The Dataplane is not there, or in another mesh.
    #[error("no Dataplane {0} in that mesh yet")]
    NotThere(ObjectKey),
    /// There are no certificates.
    #[error("mesh {0} has no mTLS backend enabled")]
    NoMtls(String),
    /// The CA cannot be used.
    #[error("the mesh's certificate authority is not available")]
    Authority,
    /// The signing request is not accepted.
    #[error(transparent)]
    Request(#[from] Error),
    /// One proxy asks for too many certificates.
    #[error("this proxy asks too often: at most 20 certificates at once, then one in 3 s")]
    TooOften,
    /// All proxies together do.
    #[error("too many certificates are asked for: at most 500 a second; try again later")]
    TooMany,
    /// The proxy has other streams, or there are too many.
    #[error("too many streams of roots are open")]
    Streams,
    /// It took too long.
    #[error("the request was not complete, or not answered, within {0:?}")]
    TimedOut(Duration),
    /// The message was never understood; what its sender was told.
    #[error("the message cannot be read")]
    Unreadable,
}

/// Why, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Reason {
    NoToken,
    TokenNotBound,
    TokenOfAnother,
    InvalidToken,
    WrongServiceAccount,
    UnknownProxy,
    OtherPod,
    ReviewUnavailable,
    BadName,
    NotThere,
    NoMtls,
    Authority,
    RequestUnreadable,
    RequestKey,
    RequestSignature,
    RequestAsks,
    RequestOfAnother,
    RequestOther,
    TooOften,
    TooMany,
    Streams,
    TimedOut,
    Unreadable,
}

/// Lets the first few lines of a reason into the log each minute, and counts the others.
#[derive(Debug, Default)]
pub(super) struct Gate {
    reasons: Mutex<HashMap<Reason, Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    left_out: u64,
}

// === impl Refusal ===

impl From<Exceeded> for Refusal {
    fn from(exceeded: Exceeded) -> Self {
        match exceeded {
            Exceeded::Each => Self::TooOften,
            Exceeded::Total => Self::TooMany,
        }
    }
}

impl Refusal {
    /// The label.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Caller(Refused::NoToken) => Reason::NoToken,
            Self::Caller(Refused::NotBound) => Reason::TokenNotBound,
            Self::Caller(Refused::Foreign(_)) => Reason::TokenOfAnother,
            Self::Caller(Refused::InvalidToken(_)) => Reason::InvalidToken,
            Self::Caller(Refused::NotYours { .. }) => Reason::WrongServiceAccount,
            Self::Caller(Refused::UnknownProxy(_)) => Reason::UnknownProxy,
            Self::Caller(Refused::OtherPod(_)) => Reason::OtherPod,
            Self::Caller(Refused::Unavailable(_) | Refused::TooSlow) => Reason::ReviewUnavailable,
            Self::Name => Reason::BadName,
            Self::NotThere(_) => Reason::NotThere,
            Self::NoMtls(_) => Reason::NoMtls,
            Self::Authority => Reason::Authority,
            Self::Request(error) => match error {
                Error::RequestUnreadable { .. } => Reason::RequestUnreadable,
                Error::RequestKey { .. } => Reason::RequestKey,
                Error::RequestSignature => Reason::RequestSignature,
                Error::RequestAsks { .. } => Reason::RequestAsks,
                Error::RequestUnbound | Error::RequestOfAnother => Reason::RequestOfAnother,
                _ => Reason::RequestOther,
            },
            Self::TooOften => Reason::TooOften,
            Self::TooMany => Reason::TooMany,
            Self::Streams => Reason::Streams,
            Self::TimedOut(_) => Reason::TimedOut,
            Self::Unreadable => Reason::Unreadable,
        }
    }

    /// What the caller is told.
    pub(crate) fn status(&self) -> Status {
        let code = match self {
            Self::Caller(refused) => return status(refused),
            Self::Name | Self::Request(_) | Self::Unreadable => Code::InvalidArgument,
            Self::NotThere(_) => Code::NotFound,
            Self::NoMtls(_) => Code::FailedPrecondition,
            Self::Authority => Code::Unavailable,
            Self::TooOften | Self::TooMany | Self::Streams => Code::ResourceExhausted,
            Self::TimedOut(_) => Code::DeadlineExceeded,
        };
        Status::new(code, self.to_string())
    }

    /// Whether it is part of an ordinary start, or of the control plane's own making.
    fn is_ordinary(&self) -> bool {
        matches!(
            self.reason(),
            Reason::UnknownProxy
                | Reason::NotThere
                | Reason::NoMtls
                | Reason::ReviewUnavailable
                | Reason::Authority
        )
    }
}

// === impl Gate ===

impl Gate {
    /// Writes a refusal into the log: what was claimed, never what proves anything.
    pub(super) fn log(&self, refusal: &Refusal, claimed: &str) {
        if refusal.is_ordinary() {
            tracing::debug!(proxy = claimed, "request has to wait: {refusal}");
            return;
        }
        let reason = refusal.reason();
        if let Some(left_out) = self.admit(reason, Instant::now()) {
            tracing::warn!(proxy = claimed, ?reason, left_out, "request refused: {refusal}");
        }
    }

    /// Whether a line may be written now, and how many were not before it.
    fn admit(&self, reason: Reason, now: Instant) -> Option<u64> {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let window = reasons.entry(reason).or_insert(Window {
            since: now,
            lines: 0,
            left_out: 0,
        });
        if now.saturating_duration_since(window.since) >= MINUTE {
            (window.since, window.lines) = (now, 0);
        }
        if window.lines == LINES {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_a_few_times_and_then_counted() {
        let gate = Gate::default();
        let now = Instant::now();
        let lines = (0..1000).filter_map(|_| gate.admit(Reason::InvalidToken, now));
        assert_eq!(lines.collect::<Vec<_>>(), [0; LINES as usize]);
        assert_eq!(gate.admit(Reason::RequestAsks, now), Some(0), "another reason");
        let left_out = 1000 - u64::from(LINES);
        assert_eq!(gate.admit(Reason::InvalidToken, now + MINUTE), Some(left_out));
    }
}
