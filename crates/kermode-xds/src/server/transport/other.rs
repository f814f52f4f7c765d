//! Calls that a service of tower's answers.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use super::{send_part, until_reset};

/// How long a call may take until its answer begins: the client has to send its request, and to prove who it is.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the client may take to read a message.
const READING: Duration = Duration::from_mins(1);

/// Has a call answered, unless the client ends it before.
pub(super) async fn serve<S>(service: S, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    let request = request.map(|stream| Body::new(Incoming(stream)));
    let response = tokio::select! {
        Ok(response) = service.oneshot(request) => response,
        _ = poll_fn(|context| respond.poll_reset(context)) => return,
        () = sleep(ANSWER) => return respond.send_reset(Reason::CANCEL),
    };
    let (head, body) = response.into_parts();
    let is_all = http_body::Body::is_end_stream(&body);
    let mut stream = match respond.send_response(http::Response::from_parts(head, ()), is_all) {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "answer not sent"),
    };
    if !is_all && let Err(error) = answer(&mut stream, body).await {
        tracing::debug!(%error, "call broke");
        stream.send_reset(error.reason().unwrap_or(Reason::INTERNAL_ERROR));
    }
}

async fn answer(stream: &mut SendStream<Bytes>, mut body: Body) -> Result<(), h2::Error> {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = until_reset(stream) => return Ok(()),
        };
        let Some(frame) = frame else {
            return stream.send_data(Bytes::new(), true);
        };
        let frame = frame.map_err(|_| h2::Error::from(Reason::INTERNAL_ERROR))?;
        match frame.into_data() {
            Ok(data) => match timeout(READING, send(stream, data)).await {
                Ok(sent) => sent?,
                Err(_) => return Err(Reason::CANCEL.into()),
            },
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return stream.send_trailers(trailers);
                }
            }
        }
    }
}

/// Sends data as the client takes it.
pub(super) async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        send_part(stream, &mut data).await?;
    }
    Ok(())
}

/// The body of a request. What was read makes room for more.
struct Incoming(RecvStream);

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let data = std::task::ready!(self.0.poll_data(context));
        Poll::Ready(data.map(|data| {
            let data = data?;
            self.0.flow_control().release_capacity(data.len())?;
            Ok(Frame::data(data))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
