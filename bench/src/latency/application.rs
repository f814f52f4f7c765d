//! The application: a server for all protocols, in a thread of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::thread;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::call::{GRPC, REQUEST_SIZE, RESPONSE_SIZE, grpc_message};

/// Starts the application. It serves HTTP/1.1, HTTP/2 with prior knowledge and gRPC at `http`, and TCP at `tcp`. Its
/// thread ends with the process.
pub(super) fn start(http: Vec<SocketAddr>, tcp: SocketAddr) -> Result<()> {
    // The addresses are bound when this function returns, so clients can connect.
    let mut listeners = Vec::new();
    for address in http {
        listeners.push((bind(address)?, true));
    }
    listeners.push((bind(tcp)?, false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            for (listener, is_http) in listeners {
                tokio::spawn(accept(listener, is_http));
            }
            std::future::pending::<()>().await;
        });
    });
    Ok(())
}

fn bind(address: SocketAddr) -> Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address);
    let listener = listener.with_context(|| format!("cannot listen at {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn accept(listener: std::net::TcpListener, is_http: bool) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        // Without this option, a response that follows another one would wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        if is_http {
            let serving = async {
                let builder = auto::Builder::new(TokioExecutor::new());
                builder
                    .serve_connection(TokioIo::new(stream), service_fn(respond))
                    .await
            };
            tokio::spawn(serving);
        } else {
            tokio::spawn(serve_tcp(stream));
        }
    }
}

async fn respond(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let is_grpc = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value == GRPC);
    request.into_body().collect().await?;
    let mut response = if is_grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let frames = [
            Frame::data(grpc_message(RESPONSE_SIZE)),
            Frame::trailers(trailers),
        ];
        let frames = frames.into_iter().map(Ok::<_, Infallible>);
        Response::new(StreamBody::new(stream::iter(frames)).boxed())
    } else {
        Response::new(Full::new(Bytes::from_static(&[b'x'; RESPONSE_SIZE])).boxed())
    };
    let content_type = if is_grpc { GRPC } else { "text/plain" };
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

/// Sends a response for each request.
async fn serve_tcp(mut stream: TcpStream) -> Result<()> {
    let (mut request, response) = ([0; REQUEST_SIZE], [b'x'; RESPONSE_SIZE]);
    loop {
        stream.read_exact(&mut request).await?;
        stream.write_all(&response).await?;
    }
}
