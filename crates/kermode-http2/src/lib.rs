//! HTTP/2 server on [`h2`] that runs a connection and all its calls in one task.
//!
//! [`serve`] drives one connection: it accepts calls, passes each to a [`CallHandler`], and ends the connection when it is
//! idle, when it shuts down, or when a call asks for it. [`ServiceHandler`] answers calls by a `tower::Service`, such as
//! tonic's routes. The crate knows nothing of gRPC or xDS; accepting sockets and TLS are `kermode-runtime`'s.
//!
//! The README of the crate says what differs from tonic's server, with measurements.

mod connection;
mod handler;
mod repoll;
mod send;
mod service;

pub use connection::serve;
pub use handler::{AfterCall, CallHandler};
pub use send::{reset, send_some};
pub use service::{RequestBody, ServiceHandler};
