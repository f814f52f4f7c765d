//! Connector of a tonic channel for a connection that exists already.

use std::future::{Ready, ready};
use std::io;

use http::Uri;
use hyper_util::rt::TokioIo;
use tower::util::ServiceFn;

/// Returns a connector that hands out `stream` once. Further attempts of the channel to connect fail with the text
/// `closed`.
pub(crate) fn of_stream<S>(
    stream: S,
    closed: &'static str,
) -> ServiceFn<impl FnMut(Uri) -> Ready<io::Result<TokioIo<S>>>> {
    let mut unused_stream = Some(TokioIo::new(stream));
    tower::service_fn(move |_| ready(unused_stream.take().ok_or_else(|| io::Error::other(closed))))
}
