//! DNS over TCP (RFC 7766): messages with a length prefix, several of them on one connection.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// Limit on a query, in bytes. The connection of a client with a longer query is closed.
const MAX_QUERY: usize = 4096;
/// Limit on the queries of one connection that are answered concurrently. Further queries are not read meanwhile.
const MAX_PIPELINED: usize = 16;
/// Time after which a connection without a complete query is closed, and timeout of the write of one response.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Length of the prefix with the message's length.
const PREFIX_LENGTH: usize = 2;
/// Minimum space for one read.
const READ_SIZE: usize = 512;

/// Reader of messages. Dropping the future of [`Frames::next`] loses no bytes.
#[derive(Debug)]
pub(crate) struct Frames<R> {
    reader: R,
    max_message: usize,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(crate) fn new(reader: R, max_message: usize) -> Self {
        Self {
            reader,
            max_message,
            buffer: Vec::new(),
        }
    }

    /// Reads one message. Memory grows with the bytes that arrive, not with the announced length. Returns `None` at the
    /// end of the stream.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(prefix) = self.buffer.first_chunk() {
                let length = usize::from(u16::from_be_bytes(*prefix));
                if length > self.max_message {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the message is too long",
                    ));
                }
                if self.buffer.len() >= PREFIX_LENGTH + length {
                    let rest = self.buffer.split_off(PREFIX_LENGTH + length);
                    let mut message = std::mem::replace(&mut self.buffer, rest);
                    message.drain(..PREFIX_LENGTH);
                    return Ok(Some(message));
                }
            }
            self.buffer.reserve(READ_SIZE);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }
}

/// Writes one message with its length prefix.
pub(crate) async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // A single write puts prefix and message into one segment.
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}

/// Serves the queries of a connection until the client closes it or is idle. Queries are answered concurrently, in the
/// order in which the responses are known. `respond` returns `None` for a message that is not a query, which ends the
/// connection.
pub(crate) async fn serve_connection<F: Future<Output = Option<Vec<u8>>>>(
    stream: TcpStream,
    respond: impl Fn(Vec<u8>) -> F,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut queries = Frames::new(reader, MAX_QUERY);
    let mut responses = FuturesUnordered::<F>::new();
    // Responses that came while another one was written.
    let mut waiting = VecDeque::new();
    let mut is_open = true;
    let mut idle_at = Instant::now() + IDLE_TIMEOUT;
    while is_open || !responses.is_empty() {
        tokio::select! {
            Some(response) = responses.next() => {
                waiting.push_back(response);
                while let Some(response) = waiting.pop_front() {
                    let Some(response) = response else {
                        return Ok(());
                    };
                    let write = timeout(IDLE_TIMEOUT, write_message(&mut writer, &response));
                    // Other queries go on meanwhile, because they hold permits that all connections share.
                    complete_while(write, &mut responses, &mut waiting).await??;
                }
                idle_at = Instant::now() + IDLE_TIMEOUT;
            }
            query = queries.next(), if is_open && responses.len() < MAX_PIPELINED => match query? {
                Some(query) => {
                    responses.push(respond(query));
                    idle_at = Instant::now() + IDLE_TIMEOUT;
                }
                // The client may have closed only its half of the connection.
                None => is_open = false,
            },
            () = sleep_until(idle_at), if responses.is_empty() => return Ok(()),
        }
    }
    Ok(())
}

/// Completes `main`, and moves what the futures in `others` return meanwhile to `finished`.
async fn complete_while<M: Future, F: Future>(
    main: M,
    others: &mut FuturesUnordered<F>,
    finished: &mut VecDeque<F::Output>,
) -> M::Output {
    let mut main = pin!(main);
    loop {
        tokio::select! {
            output = &mut main => return output,
            Some(output) = others.next() => finished.push_back(output),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use nix::sys::socket::setsockopt;
    use nix::sys::socket::sockopt::{RcvBuf, SndBuf};
    use tokio::net::TcpListener;

    use super::*;

    async fn mk_connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (client, server)
    }

    #[tokio::test]
    async fn messages_are_framed_regardless_of_how_they_arrive() {
        let bytes = [0, 3, 1, 2, 3, 0, 0, 0, 1, 9];
        for chunk in 1..=bytes.len() {
            let (mut writer, reader) = tokio::io::duplex(chunk);
            tokio::spawn(async move {
                for part in bytes.chunks(chunk) {
                    writer.write_all(part).await.unwrap();
                }
            });
            let mut frames = Frames::new(reader, 3);
            assert_eq!(frames.next().await.unwrap(), Some(vec![1, 2, 3]), "{chunk}");
            assert_eq!(frames.next().await.unwrap(), Some(vec![]));
            assert_eq!(frames.next().await.unwrap(), Some(vec![9]));
            assert_eq!(frames.next().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn message_above_the_limit_and_cut_message_are_errors() {
        let mut too_long = Frames::new(&[0_u8, 4, 1, 2, 3, 4][..], 3);
        assert_eq!(
            too_long.next().await.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        let mut cut = Frames::new(&[0_u8, 3, 1][..], 3);
        assert_eq!(cut.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn announced_length_takes_no_memory() {
        let mut frames = Frames::new(&[0xff_u8, 0xff, 1][..], usize::from(u16::MAX));
        frames.next().await.unwrap_err();
        assert!(
            frames.buffer.capacity() < 4 * READ_SIZE,
            "{}",
            frames.buffer.capacity()
        );
    }

    #[tokio::test]
    async fn pipelined_queries_are_answered_concurrently_and_after_a_half_close() {
        let (mut client, server) = mk_connection().await;
        let barrier = tokio::sync::Barrier::new(MAX_PIPELINED);
        let serving = serve_connection(server, async |query| {
            // Without concurrency, the first query would wait forever.
            barrier.wait().await;
            Some(query)
        });
        let asking = async {
            for id in 0..MAX_PIPELINED {
                write_message(&mut client, &[u8::try_from(id).unwrap()])
                    .await
                    .unwrap();
            }
            client.shutdown().await.unwrap();
            let mut frames = Frames::new(&mut client, 1);
            let mut answered = Vec::new();
            while let Some(response) = frames.next().await.unwrap() {
                answered.extend(response);
            }
            answered.sort_unstable();
            answered
        };
        let (result, answered) = tokio::join!(serving, asking);
        result.unwrap();
        assert_eq!(answered.len(), MAX_PIPELINED);
    }

    #[tokio::test]
    async fn queries_beyond_the_limit_are_not_read_until_a_response_is_sent() {
        let (mut client, server) = mk_connection().await;
        let concurrent = std::cell::Cell::new(0);
        let most = std::cell::Cell::new(0);
        let serving = serve_connection(server, async |query| {
            concurrent.set(concurrent.get() + 1);
            most.set(most.get().max(concurrent.get()));
            // All queries have arrived, so a server without the limit reads them while this one waits.
            for _ in 0..10 * MAX_PIPELINED {
                tokio::task::yield_now().await;
            }
            concurrent.set(concurrent.get() - 1);
            Some(query)
        });
        for _ in 0..2 * MAX_PIPELINED {
            write_message(&mut client, b"q").await.unwrap();
        }
        let asking = async {
            client.shutdown().await.unwrap();
            let mut frames = Frames::new(&mut client, 1);
            let mut answered = 0;
            while frames.next().await.unwrap().is_some() {
                answered += 1;
            }
            answered
        };
        let (result, answered) = tokio::join!(serving, asking);
        result.unwrap();
        assert_eq!(answered, 2 * MAX_PIPELINED);
        assert_eq!(most.get(), MAX_PIPELINED);
    }

    #[tokio::test]
    async fn queries_go_on_while_the_client_does_not_read_a_response() {
        let (mut client, server) = mk_connection().await;
        // A response does not fit into these buffers.
        setsockopt(&client, RcvBuf, &4096).unwrap();
        setsockopt(&server, SndBuf, &4096).unwrap();
        let all_arrived = Arc::new(tokio::sync::Barrier::new(4));
        let (sender, mut finished) = tokio::sync::mpsc::unbounded_channel();
        let serving = tokio::spawn(serve_connection(server, move |query: Vec<u8>| {
            let sender = sender.clone();
            let all_arrived = all_arrived.clone();
            async move {
                all_arrived.wait().await;
                // The first response is known at once, the others when they are polled again, while it is written.
                if query != [0] {
                    tokio::task::yield_now().await;
                    sender.send(query).unwrap();
                }
                Some(vec![0; usize::from(u16::MAX)])
            }
        }));
        for id in 0..4 {
            write_message(&mut client, &[id]).await.unwrap();
        }
        for _ in 1..4 {
            finished.recv().await.unwrap();
        }
        serving.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_is_closed_even_if_a_part_of_a_query_arrived() {
        let (mut client, server) = mk_connection().await;
        client.write_all(&[0, 9, 1]).await.unwrap();
        let started = Instant::now();
        serve_connection(server, async |_| None).await.unwrap();
        assert!(started.elapsed() >= IDLE_TIMEOUT);
    }
}
