//! Calls that are served by a `tower::Service`, such as tonic's routes.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::time::{sleep, timeout};
use tower::{Service, ServiceExt as _};

use crate::handler::{AfterCall, CallHandler};
use crate::send::{send_some, wait_for_reset};

/// Time within which the service has to return the headers of the response. Includes the time to receive the request
/// and to authenticate the caller.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time within which the client has to read one data frame of the response body. The service chooses the size of the
/// frames.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// Serves calls with a service. The connection stays open after every call.
#[derive(Clone, Debug)]
pub struct ServiceHandler<S>(pub S);

impl<S, B> CallHandler for ServiceHandler<S>
where
    S: Service<http::Request<RequestBody>, Response = http::Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    fn serve(
        self,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> impl Future<Output = AfterCall> + Send + 'static {
        Box::pin(call(self.0, request, respond)).map(|()| AfterCall::KeepConnection)
    }
}

/// Calls the service and sends its response. Ends early when the client resets the call. Resets the call when the
/// service does not return a response within [`RESPONSE_TIMEOUT`].
async fn call<S, B>(service: S, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>)
where
    S: Service<http::Request<RequestBody>, Response = http::Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let request = request.map(RequestBody);
    let response = tokio::select! {
        Ok(response) = service.oneshot(request) => response,
        _ = poll_fn(|context| respond.poll_reset(context)) => return,
        () = sleep(RESPONSE_TIMEOUT) => return respond.send_reset(Reason::CANCEL),
    };
    let (head, body) = response.into_parts();
    let is_empty = body.is_end_stream();
    let mut stream = match respond.send_response(http::Response::from_parts(head, ()), is_empty) {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "response could not be sent"),
    };
    if !is_empty && let Err(error) = send_body(&mut stream, body).await {
        tracing::debug!(%error, "call ended with an error");
        stream.send_reset(error.reason().unwrap_or(Reason::INTERNAL_ERROR));
    }
}

/// Sends a response body. Ends early, without an error, when the client resets the call. Fails when the client does not
/// read a frame within [`READ_TIMEOUT`].
async fn send_body(stream: &mut SendStream<Bytes>, body: impl Body<Data = Bytes>) -> Result<(), h2::Error> {
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = wait_for_reset(stream) => return Ok(()),
        };
        let Some(frame) = frame else {
            return stream.send_data(Bytes::new(), true);
        };
        let frame = frame.map_err(|_| h2::Error::from(Reason::INTERNAL_ERROR))?;
        match frame.into_data() {
            Ok(data) => match timeout(READ_TIMEOUT, send_all(stream, data)).await {
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

/// Sends all data. Waits while the client's window is full.
pub(crate) async fn send_all(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        send_some(stream, &mut data).await?;
    }
    Ok(())
}

/// Body of a request. Reading the body releases flow-control capacity to the client.
#[derive(Debug)]
pub struct RequestBody(RecvStream);

impl Body for RequestBody {
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
