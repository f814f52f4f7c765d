//! Client's side of one gRPC call over HTTP/2 (RFC 9113), without push, priorities and header compression.
//!
//! `h2` is not used here because its buffers would distort the figures: 28.7 KB for each connection, so 287 MB for the 10,000
//! clients, on the machine whose memory and caches the control plane under test shares. This client keeps no buffer between
//! messages above 16 KiB. The effect on CPU time and latency has not been measured; a change to
//! `h2` should state both.

use std::io;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Receive window of the stream, in bytes: that of `kuma-dp`.
const STREAM_WINDOW: u32 = 2 << 20;
/// Receive window of the connection, in bytes: that of `kuma-dp`.
const CONNECTION_WINDOW: u32 = 5 << 20;
/// Initial size of every window in HTTP/2, in bytes.
const DEFAULT_WINDOW: u32 = 65_535;
/// Maximum payload of a frame, in bytes: the default of HTTP/2.
const MAX_FRAME: usize = 16_384;
/// Size of a frame's header, in bytes.
const FRAME_HEADER: usize = 9;
/// Size of a gRPC message's prefix, in bytes.
const MESSAGE_PREFIX: usize = 5;
/// Maximum size of the receive buffer that is kept between messages, in bytes.
const KEPT_BUFFER: usize = 16 * 1024;

// Frame types.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

// Flags, and the id of the only stream.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const STREAM: u32 = 1;

/// A connection with its one call.
pub(crate) struct Call<S> {
    io: S,
    received: BytesMut,
    message: BytesMut,
    to_send: BytesMut,
    /// Remaining bytes of the server's receive window.
    credit: u64,
    /// Received bytes that no WINDOW_UPDATE has returned to the server yet.
    stream_read: u32,
    connection_read: u32,
}

// === impl Call ===

impl<S: AsyncRead + AsyncWrite + Unpin> Call<S> {
    /// Opens the call.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(crate) async fn open(io: S, authority: &str, path: &str, authorization: &str) -> Result<Self> {
        let mut call = Self {
            io,
            received: BytesMut::new(),
            message: BytesMut::new(),
            to_send: BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]),
            credit: u64::from(DEFAULT_WINDOW),
            stream_read: 0,
            connection_read: 0,
        };
        let mut settings = BytesMut::new();
        for (name, value) in [(2, 0), (4, STREAM_WINDOW)] {
            settings.put_u16(name);
            settings.put_u32(value);
        }
        call.frame(SETTINGS, 0, 0, &settings);
        call.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW);
        call.frame(
            HEADERS,
            END_HEADERS,
            STREAM,
            &headers(authority, path, authorization),
        );
        call.flush().await?;
        Ok(call)
    }

    /// Queues a message; [`Call::flush`] sends it.
    ///
    /// # Errors
    /// When the server's receive window is full, which does not happen with usual windows.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<()> {
        let mut framed = BytesMut::with_capacity(MESSAGE_PREFIX + message.len());
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len())?);
        framed.put_slice(message);
        let remaining = self.credit.checked_sub(framed.len() as u64);
        self.credit = remaining.context("the server's receive window is full")?;
        for part in framed.chunks(MAX_FRAME) {
            self.frame(DATA, 0, STREAM, part);
        }
        Ok(())
    }

    /// Sends the queued frames.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if self.to_send.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.to_send);
        self.io.write_all(&bytes).await?;
        self.io.flush().await
    }

    /// Returns the next message.
    ///
    /// # Errors
    /// When the connection or the call has ended.
    pub(crate) async fn receive(&mut self) -> Result<Bytes> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(message);
            }
            while !self.take_frame()? {
                self.flush().await?;
                self.received.reserve(4096);
                ensure!(
                    self.io.read_buf(&mut self.received).await? > 0,
                    "the connection was closed"
                );
            }
        }
    }

    fn take_message(&mut self) -> Result<Option<Bytes>> {
        let Some(mut head) = self.message.get(..MESSAGE_PREFIX) else {
            return Ok(None);
        };
        ensure!(head.get_u8() == 0, "compressed messages are not supported");
        let length = head.get_u32() as usize;
        if self.message.len() < MESSAGE_PREFIX + length {
            return Ok(None);
        }
        self.message.advance(MESSAGE_PREFIX);
        let message = self.message.split_to(length).freeze();
        if self.message.is_empty() {
            self.message = BytesMut::new();
        }
        Ok(Some(message))
    }

    /// Processes one received frame. Returns whether a complete frame was available.
    fn take_frame(&mut self) -> Result<bool> {
        let Some(mut head) = self.received.get(..FRAME_HEADER) else {
            return Ok(false);
        };
        let length = usize::try_from(head.get_uint(3))?;
        let (kind, flags) = (head.get_u8(), head.get_u8());
        let stream = head.get_u32();
        if self.received.len() < FRAME_HEADER + length {
            return Ok(false);
        }
        self.received.advance(FRAME_HEADER);
        let payload = self.received.split_to(length);
        if self.received.is_empty() && self.received.capacity() > KEPT_BUFFER {
            self.received = BytesMut::new();
        }
        self.on_frame(kind, flags, stream, &payload)?;
        Ok(true)
    }

    fn on_frame(&mut self, kind: u8, flags: u8, stream: u32, mut payload: &[u8]) -> Result<()> {
        match kind {
            DATA => {
                ensure!(flags & PADDED == 0, "padded frames are not supported");
                self.message.extend_from_slice(payload);
                self.credit_server(u32::try_from(payload.len())?);
                ensure!(flags & END_STREAM == 0, "the call has ended");
            }
            HEADERS => ensure!(flags & END_STREAM == 0, "the server rejected or ended the call"),
            SETTINGS if flags & ACK == 0 => {
                while payload.len() >= 6 {
                    let (name, value) = (payload.get_u16(), payload.get_u32());
                    if name == 4 {
                        ensure!(
                            value >= DEFAULT_WINDOW,
                            "windows of {value} bytes are not supported"
                        );
                    }
                }
                self.frame(SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, payload),
            // The stream's window is at least as large as the connection's, so only the latter is tracked.
            WINDOW_UPDATE if stream == 0 => self.credit += u64::from(payload.get_u32()),
            RST_STREAM | GOAWAY => bail!("the server ended the call or the connection"),
            _ => {}
        }
        Ok(())
    }

    fn credit_server(&mut self, read: u32) {
        self.stream_read += read;
        self.connection_read += read;
        if self.stream_read > STREAM_WINDOW / 2 {
            let read = std::mem::take(&mut self.stream_read);
            self.window_update(STREAM, read);
        }
        if self.connection_read > CONNECTION_WINDOW / 2 {
            let read = std::mem::take(&mut self.connection_read);
            self.window_update(0, read);
        }
    }

    fn window_update(&mut self, stream: u32, by: u32) {
        self.frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.to_send.reserve(FRAME_HEADER + payload.len());
        self.to_send.put_uint(payload.len() as u64, 3);
        self.to_send.put_u8(kind);
        self.to_send.put_u8(flags);
        self.to_send.put_u32(stream);
        self.to_send.put_slice(payload);
    }
}

/// Returns a header block (RFC 7541) without entries for the server's dynamic table.
fn headers(authority: &str, path: &str, authorization: &str) -> BytesMut {
    // `:method: POST` and `:scheme: https` of the static table, then literals whose names are in that table.
    let mut block = BytesMut::from(&[0x83, 0x87][..]);
    for (name, value) in [
        (4, path),
        (1, authority),
        (31, "application/grpc"),
        (23, authorization),
    ] {
        integer(&mut block, 4, name);
        text(&mut block, value);
    }
    block.put_u8(0);
    text(&mut block, "te");
    text(&mut block, "trailers");
    block
}

fn text(block: &mut BytesMut, value: &str) {
    integer(block, 7, value.len());
    block.put_slice(value.as_bytes());
}

fn integer(block: &mut BytesMut, prefix: u32, value: usize) {
    let limit = (1_usize << prefix) - 1;
    let byte = |value: usize| u8::try_from(value & 0xff).unwrap_or_default();
    if value < limit {
        return block.put_u8(byte(value));
    }
    block.put_u8(byte(limit));
    let mut rest = value - limit;
    while rest >= 128 {
        block.put_u8(byte(rest % 128 + 128));
        rest /= 128;
    }
    block.put_u8(byte(rest));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_match_the_examples_of_the_rfc() {
        let encoded = |prefix, value| {
            let mut block = BytesMut::new();
            integer(&mut block, prefix, value);
            block.to_vec()
        };
        assert_eq!(encoded(5, 10), [0b0000_1010]);
        assert_eq!(encoded(5, 1337), [31, 154, 10]);
    }

    #[tokio::test]
    async fn messages_are_assembled_from_frames_and_pings_are_acknowledged() {
        let (client, mut server) = tokio::io::duplex(1 << 16);
        let mut call = Call::open(client, "a", "/p", "Bearer t").await.expect("open");
        let mut frames = BytesMut::new();
        let mut frame = |kind: u8, payload: &[u8]| {
            frames.put_uint(payload.len() as u64, 3);
            frames.put_slice(&[kind, 0, 0, 0, 0, u8::from(kind == DATA)]);
            frames.put_slice(payload);
        };
        frame(SETTINGS, &[]);
        frame(DATA, &[0, 0, 0, 0, 3, b'a']);
        frame(PING, b"12345678");
        frame(DATA, &[b'b', b'c', 0, 0, 0, 0, 0]);
        server.write_all(&frames).await.expect("written");
        assert_eq!(call.receive().await.expect("a message"), "abc");
        assert_eq!(call.receive().await.expect("a message"), "");
        drop(server);
        assert!(call.receive().await.is_err());
    }
}
