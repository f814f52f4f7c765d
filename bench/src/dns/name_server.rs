//! Simulated name server, which CoreDNS forwards to: each name has one IPv4 address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;

/// Length of the header of a DNS message, in bytes.
const HEADER_LENGTH: usize = 12;
/// Record after the question: a pointer to the question's name, type A, class IN, a TTL of 300 s, four bytes of data.
const ANSWER: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 10, 0, 0, 1];

/// Starts the name server. It runs until the process ends.
pub(super) fn start() -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = socket.local_addr()?;
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            if let Some(response) = respond(&buffer[..length]) {
                // CoreDNS repeats a query whose response was lost.
                let _ = socket.send_to(&response, client);
            }
        }
    });
    Ok(address)
}

fn respond(query: &[u8]) -> Option<Vec<u8>> {
    let name = query.get(HEADER_LENGTH..)?;
    let question_length = name.iter().position(|byte| *byte == 0)? + 5;
    let mut response = query.get(..HEADER_LENGTH + question_length)?.to_vec();
    // Response, recursion desired and available, no error; one question and one answer.
    response[2..HEADER_LENGTH].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    response.extend(ANSWER);
    Some(response)
}
