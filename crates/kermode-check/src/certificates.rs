//! Checks of CA certificates: those that the API server trusts, and those of the meshes.

use std::time::{Duration, SystemTime};

use kermode_identity::TrustBundle;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::catalogue::FindingKind;
use crate::facts::{CertificateFact, Facts};
use crate::report::{Check, Finding};

const CERTIFICATES: &str = "certificates";

/// Checks the validity of the CA certificates at `now`.
pub(crate) fn certificates(facts: &Facts, now: SystemTime) -> Check {
    let (mut findings, mut count, mut first_end) = (Vec::new(), 0, None);
    for fact in &facts.certificates {
        let validities = TrustBundle::from_pem(&fact.pem).and_then(|bundle| bundle.validities());
        match validities {
            Ok(validities) => {
                for validity in validities {
                    count += 1;
                    first_end = first_end.into_iter().chain([validity.not_after]).min();
                    if !validity.contains(now) {
                        findings.push(invalid(
                            fact,
                            &format!(
                                "{} is valid from {} to {}",
                                fact.owner,
                                date(validity.not_before),
                                date(validity.not_after)
                            ),
                        ));
                    } else if now > validity.renew_at() {
                        findings.push(expires(fact, validity.not_after, now));
                    }
                }
            }
            Err(error) => findings.push(invalid(fact, &format!("{} cannot be read: {error}", fact.owner))),
        }
    }
    let unread: String = facts
        .unread_certificates
        .iter()
        .map(|reason| format!("; not read: {reason}"))
        .collect();
    if count == 0 && findings.is_empty() {
        return Check::left_out(CERTIFICATES, format!("no CA certificate was read{unread}"));
    }
    let end = first_end.map_or_else(|| "unknown".to_owned(), date);
    Check::new(
        CERTIFICATES,
        format!("{count} of CAs, the first ends at {end}{unread}"),
        findings,
    )
}

fn invalid(fact: &CertificateFact, problem: &str) -> Finding {
    Finding::new(
        FindingKind::CertificateInvalid,
        &fact.object,
        problem,
        "check the clocks; then read the log of the leading replica, and see docs/reference/certificates.md#rotation for the \
         rotation of a CA",
    )
}

fn expires(fact: &CertificateFact, end: SystemTime, now: SystemTime) -> Finding {
    let days = end.duration_since(now).unwrap_or(Duration::ZERO).as_secs() / (24 * 60 * 60);
    Finding::new(
        FindingKind::CertificateExpires,
        &fact.object,
        format!(
            "{} ends at {}, in {days} days, and should have been replaced after four fifths of its lifetime",
            fact.owner,
            date(end)
        ),
        "check that a replica of the control plane is ready and leads, and read its log; the annotation kuma.io/rotate-ca starts \
         a rotation (docs/reference/certificates.md#rotation)",
    )
}

fn date(time: SystemTime) -> String {
    let text = OffsetDateTime::from(time).format(&Rfc3339);
    text.unwrap_or_else(|_| "an unknown time".to_owned())
}
