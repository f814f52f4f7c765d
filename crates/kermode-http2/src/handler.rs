//! Interface between a connection and the code that serves its calls.

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;

/// Serves the calls of a connection. Each call gets a clone of the handler.
pub trait CallHandler: Clone + Send + 'static {
    /// Serves one call until it ends. The future runs in the task of the connection, so it must not block. The future
    /// is dropped when the connection ends.
    fn serve(
        self,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> impl Future<Output = AfterCall> + Send + 'static;
}

/// Effect of a call's end on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterCall {
    /// The connection accepts further calls.
    KeepConnection,
    /// The connection sends GOAWAY and ends with its last call. The client has to connect again for its next call.
    CloseConnection,
}
