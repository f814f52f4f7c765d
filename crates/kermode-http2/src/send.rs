//! Sending under HTTP/2 flow control.

use std::future::poll_fn;

use bytes::Bytes;
use h2::SendStream;

/// Waits for capacity in the client's window, then sends as much of `data` as fits and removes the sent part.
///
/// # Errors
/// When the call or its connection has ended.
pub async fn send_some(stream: &mut SendStream<Bytes>, data: &mut Bytes) -> Result<(), h2::Error> {
    stream.reserve_capacity(data.len());
    let mut capacity = stream.capacity();
    while capacity == 0 {
        capacity = match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(capacity) => capacity?,
            None => return Err(h2::Reason::STREAM_CLOSED.into()),
        };
    }
    let part = data.split_to(data.len().min(capacity));
    stream.send_data(part, false)
}

/// Completes when the client resets the call or its connection ends.
pub async fn wait_for_reset(stream: &mut SendStream<Bytes>) {
    // An error means that the connection has ended.
    let _ = poll_fn(|context| stream.poll_reset(context)).await;
}
