//! Denials of callers and of requests for certificates, with their gRPC statuses, metric labels and log lines.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kermode_identity::Error;
use kermode_limit::rate::Window;
use kermode_model::ObjectKey;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelValue;
use tonic::{Code, Status};

use crate::authentication::AuthenticationError;

/// Maximum number of log lines per minute for each reason.
const MAX_LINES_PER_MINUTE: u32 = 10;
const MINUTE: Duration = Duration::from_mins(1);

/// Error that causes the denial of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denial {
    /// The caller is not authenticated as the proxy that it names.
    #[error(transparent)]
    Authentication(#[from] AuthenticationError),
    /// The requested name does not have the form `<pod>.<namespace>`.
    #[error("the proxy's name does not have the form <pod>.<namespace>")]
    InvalidName,
    /// The Dataplane does not exist, or belongs to another mesh.
    #[error("no Dataplane {0} in the requested mesh yet")]
    DataplaneNotFound(ObjectKey),
    /// The mesh has no mTLS.
    #[error("mesh {0} has no mTLS backend enabled; set spec.mtls.enabledBackend of the Mesh")]
    NoMtls(String),
    /// The CA cannot be read or created.
    #[error("the CA of the mesh is not available; see the log of kuma-cp")]
    AuthorityUnavailable,
    /// The signing request is invalid, or signing the certificate failed.
    #[error(transparent)]
    SigningRequest(#[from] Error),
    /// The proxy exceeds its rate limit.
    #[error(
        "this proxy requests certificates too often: at most 20 at once, then one every 3 s; retry later"
    )]
    ProxyRate,
    /// All proxies together exceed the total rate limit.
    #[error("too many certificates are requested: at most 500 per second; retry later")]
    TotalRate,
    /// The proxy exceeds its rate limit of opened streams of roots.
    #[error(
        "this proxy opens streams of roots too often: at most 20 at once, then one every 3 s; retry later"
    )]
    StreamRate,
    /// The proxy, or all proxies together, have reached the limit of open streams of roots.
    #[error("too many streams of roots are open; retry later")]
    TooManyStreams,
    /// The request did not arrive, or was not processed, in time.
    #[error("the request did not arrive, or was not processed, within {0:?}; retry later")]
    TimedOut(Duration),
    /// The message cannot be decoded. tonic has already sent its own status, so this denial is only counted and logged.
    #[error("the message cannot be decoded; use the same version of kuma-dp and kuma-cp")]
    MessageUnreadable,
}

/// Reason of a denial, in metric labels and log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum DenialReason {
    NoToken,
    TokenNotBound,
    /// The token is for another audience.
    WrongAudience,
    TokenOfOtherProxy,
    InvalidToken,
    WrongServiceAccount,
    UnknownProxy,
    /// The index has another Pod of the same name.
    UidMismatch,
    /// The API server did not answer the TokenReview.
    ReviewUnavailable,
    InvalidName,
    /// The Dataplane does not exist, or belongs to another mesh.
    DataplaneNotFound,
    NoMtls,
    AuthorityUnavailable,
    SigningRequestUnreadable,
    /// The signing request has an unsupported type of key.
    SigningRequestKey,
    SigningRequestSignature,
    /// The signing request contains a name or attribute that is not allowed.
    SigningRequestNotAllowed,
    /// The signing request does not name the proxy that made it, or names another proxy.
    SigningRequestProxy,
    /// Signing the certificate failed for another reason.
    SigningFailed,
    /// The proxy exceeds its rate limit.
    ProxyRate,
    /// All proxies together exceed the total rate limit.
    TotalRate,
    /// The proxy exceeds its rate limit of opened streams of roots.
    StreamRate,
    /// The limit of open streams of roots is reached.
    TooManyStreams,
    TimedOut,
    /// The gRPC message cannot be decoded.
    MessageUnreadable,
}

/// Log of denials, with a limited number of lines for each reason. Each line contains the number of lines of the
/// same reason that were suppressed since the previous line.
#[derive(Debug, Default)]
pub(crate) struct DenialLog {
    windows: Mutex<HashMap<DenialReason, Window>>,
}

// === impl Denial ===

impl Denial {
    /// Returns the reason of the denial.
    pub(crate) fn reason(&self) -> DenialReason {
        match self {
            Self::Authentication(error) => authentication_reason(error),
            Self::InvalidName => DenialReason::InvalidName,
            Self::DataplaneNotFound(_) => DenialReason::DataplaneNotFound,
            Self::NoMtls(_) => DenialReason::NoMtls,
            Self::AuthorityUnavailable => DenialReason::AuthorityUnavailable,
            Self::SigningRequest(error) => match error {
                Error::RequestUnreadable { .. } => DenialReason::SigningRequestUnreadable,
                Error::RequestKey { .. } => DenialReason::SigningRequestKey,
                Error::RequestSignature => DenialReason::SigningRequestSignature,
                Error::RequestNotAllowed { .. } => DenialReason::SigningRequestNotAllowed,
                Error::RequestUnbound | Error::RequestOfAnotherProxy => DenialReason::SigningRequestProxy,
                _ => DenialReason::SigningFailed,
            },
            Self::ProxyRate => DenialReason::ProxyRate,
            Self::TotalRate => DenialReason::TotalRate,
            Self::StreamRate => DenialReason::StreamRate,
            Self::TooManyStreams => DenialReason::TooManyStreams,
            Self::TimedOut(_) => DenialReason::TimedOut,
            Self::MessageUnreadable => DenialReason::MessageUnreadable,
        }
    }

    /// Returns the gRPC status of the response.
    pub(crate) fn status(&self) -> Status {
        let code = match self {
            Self::Authentication(error) => error.code(),
            // The signing request is valid: the failure is on the side of the control plane.
            Self::SigningRequest(_) if self.reason() == DenialReason::SigningFailed => Code::Internal,
            Self::InvalidName | Self::SigningRequest(_) | Self::MessageUnreadable => Code::InvalidArgument,
            Self::DataplaneNotFound(_) => Code::NotFound,
            Self::NoMtls(_) => Code::FailedPrecondition,
            Self::AuthorityUnavailable => Code::Unavailable,
            Self::ProxyRate | Self::TotalRate | Self::StreamRate | Self::TooManyStreams => {
                Code::ResourceExhausted
            }
            Self::TimedOut(_) => Code::DeadlineExceeded,
        };
        Status::new(code, self.to_string())
    }

    /// Returns whether the denial is logged only at debug level. Either the denial is expected while a proxy starts, or
    /// another log line of the control plane already contains the error.
    fn is_logged_at_debug(&self) -> bool {
        matches!(
            self.reason(),
            DenialReason::UnknownProxy
                | DenialReason::UidMismatch
                | DenialReason::DataplaneNotFound
                | DenialReason::NoMtls
                | DenialReason::AuthorityUnavailable
        )
    }
}

fn authentication_reason(error: &AuthenticationError) -> DenialReason {
    match error {
        AuthenticationError::NoToken => DenialReason::NoToken,
        AuthenticationError::NotBound => DenialReason::TokenNotBound,
        AuthenticationError::WrongAudience(_) => DenialReason::WrongAudience,
        AuthenticationError::OtherProxy(_) => DenialReason::TokenOfOtherProxy,
        AuthenticationError::InvalidToken(_) => DenialReason::InvalidToken,
        AuthenticationError::ServiceAccountMismatch { .. } => DenialReason::WrongServiceAccount,
        AuthenticationError::UnknownProxy(_) => DenialReason::UnknownProxy,
        AuthenticationError::UidMismatch(_) => DenialReason::UidMismatch,
        AuthenticationError::ReviewFailed(_) | AuthenticationError::ReviewTimedOut => {
            DenialReason::ReviewUnavailable
        }
    }
}

// === impl DenialLog ===

impl DenialLog {
    /// Logs a denial with the name that the caller claims, if known. The token of the caller is never logged.
    pub(crate) fn log(&self, denial: &Denial, claimed_name: Option<&str>) {
        if denial.is_logged_at_debug() {
            tracing::debug!(proxy = claimed_name, "request denied: {denial}");
            return;
        }
        let reason = denial.reason();
        if let Some(suppressed) = self.try_pass(reason) {
            tracing::warn!(
                proxy = claimed_name,
                ?reason,
                suppressed,
                "request denied: {denial}"
            );
        }
    }

    /// Returns the number of lines of this reason suppressed since the previous line, or `None` if this line is
    /// suppressed too.
    pub(crate) fn try_pass(&self, reason: DenialReason) -> Option<u64> {
        self.try_pass_at(reason, Instant::now())
    }

    fn try_pass_at(&self, reason: DenialReason, now: Instant) -> Option<u64> {
        let mut windows = self.windows.lock();
        let window = windows.entry(reason);
        window
            .or_insert(const { Window::new(MAX_LINES_PER_MINUTE, MINUTE) })
            .try_pass(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_of_denials_is_logged_up_to_the_limit_and_then_counted() {
        let log = DenialLog::default();
        let now = Instant::now();
        let lines = (0..1000).filter_map(|_| log.try_pass_at(DenialReason::InvalidToken, now));
        assert_eq!(lines.collect::<Vec<_>>(), [0; MAX_LINES_PER_MINUTE as usize]);
        assert_eq!(
            log.try_pass_at(DenialReason::SigningRequestNotAllowed, now),
            Some(0),
            "another reason has its own limit"
        );
        let suppressed = 1000 - u64::from(MAX_LINES_PER_MINUTE);
        assert_eq!(
            log.try_pass_at(DenialReason::InvalidToken, now + MINUTE),
            Some(suppressed)
        );
    }

    #[test]
    fn only_a_failure_to_sign_a_valid_request_is_an_internal_error() {
        let failure = Denial::from(Error::AuthorityNotValid {
            subject: "default".to_owned(),
        });
        assert_eq!(failure.status().code(), Code::Internal);
        assert_eq!(
            Denial::from(Error::RequestSignature).status().code(),
            Code::InvalidArgument
        );
    }
}
