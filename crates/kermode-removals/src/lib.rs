//! Endpoint removals: which proxies have not yet acknowledged the removal of an endpoint.
//!
//! An endpoint is removed from proxies' configuration when its Pod terminates or becomes unready. Until every proxy of
//! the mesh has acknowledged the removal, the endpoint may still receive new requests. `kuma-cp` reports added and
//! removed endpoints, identified by the keys of their proxies, to [`EndpointRemovals`]. ADS streams report the
//! acknowledgements of their proxies. The sidecar of a removed endpoint, or an operator, reads the status.
//!
//! A replica reports only on its own proxies: the proxies that have a stream at this replica, or had a stream within
//! the [`RECONNECT_TIMEOUT`]. Replicas do not communicate with each other: a [`RemovalReport`] lists all others, which
//! the sidecar asks as well. [`RemovalReport::covers_all_proxies`] is false while a proxy may be missing from the
//! reports of all replicas, because a replica has just started or ended.

mod removals;
mod replicas;
mod service;
mod state;
mod status;

pub use removals::{EndpointRemovals, PublishedSequence, StreamAcknowledgements};
pub use replicas::{RECONNECT_TIMEOUT, Replicas};
pub use service::RemovalService;
pub use status::{OpenRemoval, RemovalReport, RemovalStatus};
