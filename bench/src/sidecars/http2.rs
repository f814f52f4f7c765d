//! Client of one gRPC call over HTTP/2 (RFC 9113), without push, priorities and header compression.
//!
//! `h2` is not used here, because its cost would distort the figures of the control plane, which shares the machine
//! with the clients. `make bench-exchange QUICK=1` was run with 1,000 clients, each of which receives a message and
//! responds. With `h2`, this took 44 ms (38 to 46) of the clients' CPU time, and the last response arrived after 63 ms
//! (60 to 66). With this client, it took 28.5 ms (28 to 29) and 47 ms (39 to 51). The values are medians with their
//! ranges. The buffers of `h2` take 28.7 KB for each connection, 287 MB for 10,000 clients. Between messages, this
//! client keeps a receive buffer of at most 16 KiB.

use std::io;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Receive window of the stream, in bytes: the same as in `kuma-dp`.
const STREAM_WINDOW: u32 = 2 << 20;
/// Receive window of the connection, in bytes: the same as in `kuma-dp`.
const CONNECTION_WINDOW: u32 = 5 << 20;
/// Initial size of every window in HTTP/2, in bytes.
const DEFAULT_WINDOW: u32 = 65_535;
/// Maximum payload of a frame, in bytes: the default of HTTP/2.
const MAX_FRAME_PAYLOAD: usize = 16_384;
/// Size of a frame's header, in bytes.
const FRAME_HEADER_SIZE: usize = 9;
/// Size of a gRPC message's prefix, in bytes.
const MESSAGE_PREFIX_SIZE: usize = 5;
/// Maximum size of the receive buffer that a connection keeps between messages, in bytes.
const MAX_KEPT_BUFFER: usize = 16 * 1024;

// Frame types.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

// Identifiers of settings.
const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;

// Flags of frames.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Identifier of the only stream.
const STREAM: u32 = 1;

/// A connection with its one call.
pub(crate) struct Call<S> {
    io: S,
    /// Received bytes that are not processed as frames yet.
    received: BytesMut,
    /// Received DATA that is not returned as messages yet.
    data: BytesMut,
    /// Frames that are queued for `flush`.
    to_send: BytesMut,
    /// Remaining bytes of the server's receive window for the connection.
    server_window: u64,
    /// Received bytes that no WINDOW_UPDATE of the stream has returned to the server yet.
    stream_unreturned: u32,
    /// Received bytes that no WINDOW_UPDATE of the connection has returned to the server yet.
    connection_unreturned: u32,
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
            data: BytesMut::new(),
            to_send: BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]),
            server_window: u64::from(DEFAULT_WINDOW),
            stream_unreturned: 0,
            connection_unreturned: 0,
        };
        let mut settings = BytesMut::new();
        for (name, value) in [(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, STREAM_WINDOW)] {
            settings.put_u16(name);
            settings.put_u32(value);
        }
        call.queue_frame(SETTINGS, 0, 0, &settings);
        call.queue_window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW);
        call.queue_frame(
            HEADERS,
            END_HEADERS,
            STREAM,
            &header_block(authority, path, authorization),
        );
        call.flush().await?;
        Ok(call)
    }

    /// Queues a message; [`Call::flush`] sends it.
    ///
    /// # Errors
    /// When the message does not fit the server's receive window for the connection.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<()> {
        let mut framed = BytesMut::with_capacity(MESSAGE_PREFIX_SIZE + message.len());
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len())?);
        framed.put_slice(message);
        let remaining = self.server_window.checked_sub(framed.len() as u64);
        self.server_window = remaining.context("the server's receive window is full")?;
        for part in framed.chunks(MAX_FRAME_PAYLOAD) {
            self.queue_frame(DATA, 0, STREAM, part);
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
        let Some(mut head) = self.data.get(..MESSAGE_PREFIX_SIZE) else {
            return Ok(None);
        };
        ensure!(head.get_u8() == 0, "compressed messages are not supported");
        let length = head.get_u32() as usize;
        if self.data.len() < MESSAGE_PREFIX_SIZE + length {
            return Ok(None);
        }
        self.data.advance(MESSAGE_PREFIX_SIZE);
        let message = self.data.split_to(length).freeze();
        if self.data.is_empty() {
            self.data = BytesMut::new();
        }
        Ok(Some(message))
    }

    /// Processes one received frame. Returns whether a complete frame was available.
    fn take_frame(&mut self) -> Result<bool> {
        let Some(mut head) = self.received.get(..FRAME_HEADER_SIZE) else {
            return Ok(false);
        };
        let length = usize::try_from(head.get_uint(3))?;
        let (kind, flags) = (head.get_u8(), head.get_u8());
        let stream = head.get_u32();
        if self.received.len() < FRAME_HEADER_SIZE + length {
            return Ok(false);
        }
        self.received.advance(FRAME_HEADER_SIZE);
        let payload = self.received.split_to(length);
        if self.received.is_empty() && self.received.capacity() > MAX_KEPT_BUFFER {
            self.received = BytesMut::new();
        }
        self.on_frame(kind, flags, stream, &payload)?;
        Ok(true)
    }

    fn on_frame(&mut self, kind: u8, flags: u8, stream: u32, mut payload: &[u8]) -> Result<()> {
        match kind {
            DATA => {
                ensure!(flags & PADDED == 0, "padded frames are not supported");
                self.data.extend_from_slice(payload);
                self.count_received(u32::try_from(payload.len())?);
                ensure!(flags & END_STREAM == 0, "the call has ended");
            }
            HEADERS => ensure!(flags & END_STREAM == 0, "the server rejected or ended the call"),
            SETTINGS if flags & ACK == 0 => {
                while payload.len() >= 6 {
                    let (name, value) = (payload.get_u16(), payload.get_u32());
                    if name == INITIAL_WINDOW_SIZE {
                        ensure!(
                            value >= DEFAULT_WINDOW,
                            "windows of {value} bytes are not supported"
                        );
                    }
                }
                self.queue_frame(SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => self.queue_frame(PING, ACK, 0, payload),
            // Only the connection window is tracked. If a message exceeds the server's stream window, the server ends
            // the call.
            WINDOW_UPDATE if stream == 0 => self.server_window += u64::from(payload.get_u32()),
            RST_STREAM | GOAWAY => bail!("the server ended the call or the connection"),
            _ => {}
        }
        Ok(())
    }

    /// Counts received bytes. Once the bytes that are not returned exceed half of a window, returns them to the server
    /// with a WINDOW_UPDATE.
    fn count_received(&mut self, length: u32) {
        self.stream_unreturned += length;
        self.connection_unreturned += length;
        if self.stream_unreturned > STREAM_WINDOW / 2 {
            let increment = std::mem::take(&mut self.stream_unreturned);
            self.queue_window_update(STREAM, increment);
        }
        if self.connection_unreturned > CONNECTION_WINDOW / 2 {
            let increment = std::mem::take(&mut self.connection_unreturned);
            self.queue_window_update(0, increment);
        }
    }

    fn queue_window_update(&mut self, stream: u32, increment: u32) {
        self.queue_frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
    }

    fn queue_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.to_send.reserve(FRAME_HEADER_SIZE + payload.len());
        self.to_send.put_uint(payload.len() as u64, 3);
        self.to_send.put_u8(kind);
        self.to_send.put_u8(flags);
        self.to_send.put_u32(stream);
        self.to_send.put_slice(payload);
    }
}

/// Returns a header block (RFC 7541) that adds nothing to the server's dynamic table.
fn header_block(authority: &str, path: &str, authorization: &str) -> BytesMut {
    // `:method: POST` and `:scheme: https`, which are entries 3 and 7 of the static table.
    let mut block = BytesMut::from(&[0x83, 0x87][..]);
    // Names are indexes of the static table: `:path`, `:authority`, `content-type` and `authorization`.
    for (name_index, value) in [
        (4, path),
        (1, authority),
        (31, "application/grpc"),
        (23, authorization),
    ] {
        append_integer(&mut block, 4, name_index);
        append_string(&mut block, value);
    }
    // A header whose name is not in the static table.
    block.put_u8(0);
    append_string(&mut block, "te");
    append_string(&mut block, "trailers");
    block
}

/// Appends a string literal without Huffman coding.
fn append_string(block: &mut BytesMut, value: &str) {
    append_integer(block, 7, value.len());
    block.put_slice(value.as_bytes());
}

/// Appends an integer with a prefix of `prefix_bits` bits. The other bits of the first byte are 0.
fn append_integer(block: &mut BytesMut, prefix_bits: u32, value: usize) {
    let limit = (1_usize << prefix_bits) - 1;
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
            append_integer(&mut block, prefix, value);
            block.to_vec()
        };
        assert_eq!(encoded(5, 10), [0b0000_1010]);
        assert_eq!(encoded(5, 1337), [31, 154, 10]);
    }

    #[tokio::test]
    async fn messages_are_assembled_from_data_frames_with_a_ping_between_them() {
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
