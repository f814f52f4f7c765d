//! PEM encoding, as used in Kubernetes Secrets and Envoy's data sources.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Length of a line, in characters (RFC 7468).
const LINE_LENGTH: usize = 64;

/// Encodes one PEM block.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    // 40 bytes are enough for the rest of the first and last lines, and for a line break after an incomplete line.
    let mut text = String::with_capacity(body.len() + body.len() / LINE_LENGTH + 2 * label.len() + 40);
    text.extend(["-----BEGIN ", label, "-----\n"]);
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so every index is a character boundary.
        let (line, tail) = rest.split_at(rest.len().min(LINE_LENGTH));
        text.extend([line, "\n"]);
        rest = tail;
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

/// Encodes certificates as consecutive PEM blocks.
pub(crate) fn encode_certificates<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    certificates
        .into_iter()
        .map(|der| encode("CERTIFICATE", der))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::{CertificateDer, pem::PemObject};

    #[test]
    fn encoded_block_is_read_by_the_pem_parser_of_rustls() {
        for length in [0_usize, 1, 47, 48, 49, 96, 700] {
            let der = vec![0xa5_u8; length];
            let text = encode("CERTIFICATE", &der);
            assert!(text.lines().all(|line| line.len() <= LINE_LENGTH));
            assert_eq!(
                CertificateDer::from_pem_slice(text.as_bytes()).unwrap().as_ref(),
                der
            );
        }
    }
}
