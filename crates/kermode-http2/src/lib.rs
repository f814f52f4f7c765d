//! HTTP/2 server on [`h2`] that runs a connection and all its calls in one task.
//!
//! [`serve`] drives one connection: it accepts calls, passes each to a [`CallHandler`], and ends the connection when
//! the connection is idle, at shutdown, or when a call returns [`AfterCall::CloseConnection`]. [`ServiceHandler`]
//! serves calls with a `tower::Service`, such as tonic's routes. The crate does not depend on gRPC or xDS;
//! `kermode-runtime` accepts the sockets and does the TLS handshakes.
//!
//! The README of the crate compares the crate with tonic's server, with measurements.

mod connection;
mod handler;
mod repoll;
mod send;
mod service;

pub use connection::serve;
pub use handler::{AfterCall, CallHandler};
pub use send::{send_some, wait_for_reset};
pub use service::{RequestBody, ServiceHandler};
