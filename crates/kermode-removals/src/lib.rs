//! Endpoint removals: which proxies have not acknowledged yet that an endpoint was removed.
//!
//! An endpoint is removed from proxies' configuration when its Pod terminates or becomes unready. Until every proxy of
//! the mesh has acknowledged that, the endpoint may still receive new requests. `kuma-cp` reports added and removed
//! endpoints to [`EndpointRemovals`], ADS streams report what their proxies acknowledged, and the sidecar of a removed
//! endpoint, or an operator, reads the status.
//!
//! A replica knows only the proxies that have a stream there. Replicas do not talk to each other: a [`RemovalReport`]
//! names the other replicas, the sidecar queries all of them, and the report says whether a proxy can be missing from
//! all their answers because a replica has just started or ended.

mod removals;
mod replicas;
mod service;
mod state;
mod status;

pub use removals::{EndpointRemovals, PublishedSequence, StreamAcknowledgements};
pub use replicas::{RECONNECT_TIMEOUT, Replicas};
pub use service::RemovalService;
pub use status::{OpenRemoval, RemovalReport, RemovalStatus};
