//! Certificates of Envoy, from `/certs`. The response contains no keys.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::{InspectError, elements, json, text};
use crate::table::aligned;

/// Certificates of a sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Certificates(pub Vec<Certificate>);

/// A certificate that a sidecar uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Use of the certificate.
    pub kind: CertificateKind,
    /// Serial number, in hexadecimal notation.
    pub serial: String,
    /// URIs: SPIFFE IDs, and the URIs of tags.
    pub uris: Vec<String>,
    /// Start of the validity (RFC 3339).
    pub valid_from: String,
    /// End of the validity (RFC 3339).
    pub expires: String,
    /// Time until the end of the validity, in seconds; negative after the end. Absent if Envoy reports no valid time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<i64>,
}

/// Use of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CertificateKind {
    /// The sidecar presents the certificate.
    Identity,
    /// The sidecar trusts the certificate.
    Authority,
}

impl Certificates {
    /// Path of Envoy's admin interface.
    pub const PATH: &'static str = "/certs";

    /// Reads Envoy's response. Envoy lists the certificates once for each use; the report contains each certificate once.
    pub fn parse(response: &[u8], now: SystemTime) -> Result<Self, InspectError> {
        let response = json(Self::PATH, response)?;
        let now = OffsetDateTime::from(now);
        let mut certificates: Vec<Certificate> = Vec::new();
        for entry in elements(&response, "certificates") {
            let kinds = [
                ("cert_chain", CertificateKind::Identity),
                ("ca_cert", CertificateKind::Authority),
            ];
            for (key, kind) in kinds {
                for found in elements(entry, key) {
                    let certificate = Certificate::of(kind, found, now);
                    if !certificates.contains(&certificate) {
                        certificates.push(certificate);
                    }
                }
            }
        }
        certificates.sort_by(|a, b| (a.kind, &a.uris, &a.expires).cmp(&(b.kind, &b.uris, &b.expires)));
        Ok(Self(certificates))
    }

    /// The certificates that the sidecar presents.
    pub fn identities(&self) -> impl Iterator<Item = &Certificate> {
        self.0
            .iter()
            .filter(|certificate| certificate.kind == CertificateKind::Identity)
    }

    /// Formats the certificates as a table.
    pub fn to_text(&self) -> String {
        if self.0.is_empty() {
            return "The sidecar has no certificate: mTLS of its mesh is off, or no certificate was issued.\n".to_owned();
        }
        let head = ["KIND", "SERIAL", "VALID FROM", "EXPIRES", "REMAINING", "URI"];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for certificate in &self.0 {
            let kind = match certificate.kind {
                CertificateKind::Identity => "identity",
                CertificateKind::Authority => "authority",
            };
            let mut uris = certificate.uris.iter();
            let first = uris.next().cloned().unwrap_or_else(|| "-".to_owned());
            lines.push(vec![
                kind.to_owned(),
                certificate.serial.clone(),
                certificate.valid_from.clone(),
                certificate.expires.clone(),
                certificate.remaining(),
                first,
            ]);
            lines.extend(uris.map(|uri| {
                let mut line = vec![String::new(); head.len() - 1];
                line.push(uri.clone());
                line
            }));
        }
        aligned(&lines)
    }
}

impl Certificate {
    fn of(kind: CertificateKind, certificate: &Value, now: OffsetDateTime) -> Self {
        let expires = text(certificate, "expiration_time");
        let remaining = OffsetDateTime::parse(&expires, &Rfc3339).map(|end| end - now);
        Self {
            kind,
            serial: text(certificate, "serial_number"),
            uris: elements(certificate, "subject_alt_names")
                .filter_map(|name| name["uri"].as_str().map(str::to_owned))
                .collect(),
            valid_from: text(certificate, "valid_from"),
            expires,
            remaining_seconds: remaining.ok().map(Duration::whole_seconds),
        }
    }

    /// The time until the end of the validity, such as `23h 59m`.
    pub fn remaining(&self) -> String {
        let Some(seconds) = self.remaining_seconds else {
            return "unknown".to_owned();
        };
        let minutes = seconds / 60;
        let (days, hours, minutes) = (minutes / (24 * 60), minutes / 60 % 24, minutes % 60);
        match seconds {
            ..0 => "expired".to_owned(),
            _ if days > 0 => format!("{days}d {hours}h"),
            _ => format!("{hours}h {minutes}m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn certificate(serial: &str, uri: &str, expires: &str) -> Value {
        json!({
            "path": "<inline>", "serial_number": serial, "subject_alt_names": [{"uri": uri}],
            "valid_from": "2026-12-01T00:00:00Z", "expiration_time": expires,
        })
    }

    #[test]
    fn each_certificate_is_listed_once_with_its_remaining_time() {
        let entry = json!({
            "ca_cert": [certificate("1", "spiffe://default", "2036-12-01T00:00:00Z")],
            "cert_chain": [certificate("2", "spiffe://default/web", "2026-12-02T00:30:00Z")],
        });
        let response = json!({"certificates": [entry, entry]}).to_string();
        let now = OffsetDateTime::parse("2026-12-01T00:00:00Z", &Rfc3339).expect("a time");
        let report = Certificates::parse(response.as_bytes(), now.into()).expect("a report");
        let found: Vec<_> = report
            .0
            .iter()
            .map(|certificate| {
                (
                    certificate.kind,
                    certificate.serial.as_str(),
                    certificate.remaining(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (CertificateKind::Identity, "2", "1d 0h".to_owned()),
                (CertificateKind::Authority, "1", "3653d 0h".to_owned()),
            ]
        );
        let later = now + Duration::hours(24);
        let report = Certificates::parse(response.as_bytes(), later.into()).expect("a report");
        assert_eq!(report.0[0].remaining(), "0h 30m");
        let after_the_end = now + Duration::hours(25);
        let report = Certificates::parse(response.as_bytes(), after_the_end.into()).expect("a report");
        assert_eq!(report.0[0].remaining(), "expired");
    }

    #[test]
    fn sidecar_without_certificates_is_explained() {
        let report = Certificates::parse(b"{}", SystemTime::UNIX_EPOCH).expect("a report");
        assert!(report.to_text().contains("no certificate was issued"));
    }
}
