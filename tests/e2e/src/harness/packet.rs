//! Parses a capture file of tcpdump into TCP segments with their addresses. No IO.
//!
//! The capture is made on the pseudo device `any`, so its format is pcap with the link type Linux cooked capture, v1 or
//! v2.
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-06.html>, <https://www.tcpdump.org/linktypes.html>

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, bail, ensure};

/// Magic number at the start of a pcap file whose numbers are little-endian.
const MAGIC: u32 = 0xa1b2_c3d4;
/// Length of the header of a pcap file, in bytes.
const FILE_HEADER_LENGTH: usize = 24;
/// Length of the header of a record, in bytes. A pcap file contains one record for each packet.
const RECORD_HEADER_LENGTH: usize = 16;
/// Link type of Linux cooked capture v1.
const SLL: u32 = 113;
/// Link type of Linux cooked capture v2.
const SLL2: u32 = 276;
const ETHERTYPE_IPV4: u16 = 0x0800;
const PROTOCOL_TCP: u8 = 6;

/// TCP segment over IPv4, with a non-empty payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) source: SocketAddrV4,
    pub(crate) destination: SocketAddrV4,
    pub(crate) payload: Vec<u8>,
}

impl Segment {
    /// Whether the payload begins with a TLS record of application data.
    pub(crate) fn is_tls_data(&self) -> bool {
        self.payload.starts_with(&[0x17, 0x03, 0x03])
    }

    /// Whether the payload contains a text.
    pub(crate) fn contains_text(&self, text: &str) -> bool {
        self.payload
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.payload);
        write!(
            formatter,
            "{} to {}: {:.200?}",
            self.source, self.destination, text
        )
    }
}

/// Returns the TCP segments that have a payload. An incomplete file header, or an incomplete record at the end, is
/// ignored, because the capture may still run.
///
/// # Errors
/// The file has an unknown format.
pub(crate) fn segments(file: &[u8]) -> Result<Vec<Segment>> {
    if file.len() < FILE_HEADER_LENGTH {
        return Ok(Vec::new());
    }
    let magic = little_endian_u32(file, 0).context("the capture file has no header")?;
    ensure!(
        magic == MAGIC,
        "the capture file begins with {magic:#x} instead of {MAGIC:#x}"
    );
    let (link_header_length, ethertype_offset) =
        match little_endian_u32(file, 20).context("the capture file has no link type")? {
            SLL => (16, 14),
            SLL2 => (20, 0),
            other => bail!("the link type of the capture file is {other} instead of {SLL} or {SLL2}"),
        };
    let mut found = Vec::new();
    let mut rest = &file[FILE_HEADER_LENGTH..];
    while let Some(captured_length) = little_endian_u32(rest, 8).map(|length| length as usize)
        && rest.len() >= RECORD_HEADER_LENGTH + captured_length
    {
        let packet = &rest[RECORD_HEADER_LENGTH..RECORD_HEADER_LENGTH + captured_length];
        if big_endian_u16(packet, ethertype_offset) == Some(ETHERTYPE_IPV4) {
            found.extend(packet.get(link_header_length..).and_then(parse_segment));
        }
        rest = &rest[RECORD_HEADER_LENGTH + captured_length..];
    }
    Ok(found)
}

/// Parses the TCP segment of an IPv4 packet. Returns `None` for another protocol or an empty payload.
fn parse_segment(packet: &[u8]) -> Option<Segment> {
    let ip_header_length = usize::from(packet.first()? & 0x0f) * 4;
    if *packet.get(9)? != PROTOCOL_TCP {
        return None;
    }
    let ip_total_length = usize::from(big_endian_u16(packet, 2)?);
    let tcp = packet.get(ip_header_length..ip_total_length.min(packet.len()))?;
    let tcp_header_length = usize::from(tcp.get(12)? >> 4) * 4;
    let payload = tcp.get(tcp_header_length..)?.to_vec();
    let segment = Segment {
        source: SocketAddrV4::new(ipv4_address(packet, 12)?, big_endian_u16(tcp, 0)?),
        destination: SocketAddrV4::new(ipv4_address(packet, 16)?, big_endian_u16(tcp, 2)?),
        payload,
    };
    (!segment.payload.is_empty()).then_some(segment)
}

fn ipv4_address(bytes: &[u8], offset: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.get(offset..)?.first_chunk::<4>()?))
}

fn big_endian_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn little_endian_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a capture file with one TCP segment from 10.0.0.1:8080 to 10.0.0.2:80 for each payload.
    fn capture_file(payloads: &[&[u8]]) -> Vec<u8> {
        let mut file = MAGIC.to_le_bytes().to_vec();
        file.extend([0; 16]);
        file.extend(SLL2.to_le_bytes());
        for payload in payloads {
            // Header of Linux cooked capture v2: the Ethertype IPv4, and fields that are not read.
            let mut packet = vec![0x08, 0x00];
            packet.extend([0; 18]);
            // IPv4 header: version and length, total length, TTL and protocol, addresses.
            let total_length = u16::try_from(40 + payload.len()).expect("small");
            packet.extend([
                0x45,
                0,
                total_length.to_be_bytes()[0],
                total_length.to_be_bytes()[1],
                0,
                0,
                0,
                0,
                64,
                6,
                0,
                0,
            ]);
            packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
            // TCP header: ports and header length.
            packet.extend([
                0x1f, 0x90, 0x00, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0,
            ]);
            packet.extend(*payload);
            // The link layer pads short packets; the padding is not part of the payload.
            packet.extend([0; 6]);
            let length = u32::try_from(packet.len()).expect("small").to_le_bytes();
            file.extend([0; 8]);
            file.extend(length);
            file.extend(length);
            file.extend(packet);
        }
        file
    }

    #[test]
    fn payloads_are_parsed_with_their_addresses() {
        let found = segments(&capture_file(&[
            b"GET /marker HTTP/1.1",
            b"",
            &[0x17, 3, 3, 0, 1, 9],
        ]))
        .expect("valid");
        assert_eq!(
            found.len(),
            2,
            "the segment with an empty payload must be left out"
        );
        assert_eq!(found[0].source, "10.0.0.1:8080".parse().expect("valid"));
        assert_eq!(found[0].destination, "10.0.0.2:80".parse().expect("valid"));
        assert!(found[0].contains_text("marker") && !found[0].is_tls_data());
        assert!(!found[1].contains_text("marker") && found[1].is_tls_data());
        assert_eq!(found[1].payload.len(), 6);
    }

    #[test]
    fn segments_of_an_incomplete_file_end_with_the_last_complete_packet() {
        let whole = capture_file(&[b"one", b"two"]);
        for length in 0..whole.len() {
            let count = segments(&whole[..length]).expect("no error").len();
            assert!(
                count < 2,
                "{length} of {} bytes must not contain {count} complete segments",
                whole.len()
            );
        }
        assert_eq!(segments(&whole).expect("valid").len(), 2);
    }
}
