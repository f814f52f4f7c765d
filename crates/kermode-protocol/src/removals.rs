//! Endpoint-removal RPC: a terminating sidecar watches until no proxy sends requests to its endpoint.
//!
//! One server-streaming call, authenticated as for ADS. The first response is sent immediately, further responses after
//! each change, until the caller closes the stream. Replicas of the control plane do not communicate with each other.
//! Each response lists the addresses of the other replicas, and the sidecar calls these replicas as well.
//!
//! The names on the wire contain *departure*, an older term for endpoint removal. These names do not change, so that
//! sidecars and control planes of different versions stay compatible.

/// Name of the gRPC service, package included.
pub const SERVICE_NAME: &str = "kermode.departure.v1.DepartureService";

/// Path of the server-streaming method: [`WatchRemovalRequest`] to [`WatchRemovalResponse`]s.
pub const WATCH_REMOVAL: &str = "/kermode.departure.v1.DepartureService/WatchDeparture";

/// Subscribes to the removal of the caller's own endpoint. Empty, because the token identifies the caller.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct WatchRemovalRequest {}

/// Status of a removal, as one replica has observed it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchRemovalResponse {
    /// Whether the control plane has removed the endpoint from the proxies' configuration.
    #[prost(bool, tag = "1")]
    pub removed: bool,
    /// Number of proxies that have not acknowledged the removal. If it is 0 and [`removed`](Self::removed) is true, no
    /// proxy that is connected to this replica starts another request to the endpoint.
    #[prost(uint64, tag = "2")]
    pub unacknowledged_by: u64,
    /// Time from the publication of the removal to its last acknowledgement, in milliseconds; 0 before this
    /// acknowledgement.
    #[prost(uint64, tag = "3")]
    pub took_ms: u64,
    /// Addresses (`<ip>:<port>`) at which the other replicas serve this RPC. Each replica reports only on the proxies
    /// that are connected to it.
    #[prost(string, repeated, tag = "4")]
    pub other_replicas: Vec<String>,
    /// Whether every proxy is connected to one of the replicas. A replica assumes this if it is in the list of replicas
    /// and no replica started or ended within the last minute.
    #[prost(bool, tag = "5")]
    pub covers_all_proxies: bool,
}

impl WatchRemovalResponse {
    /// Returns whether the removal is complete at the responding replica: none of its proxies starts another request to
    /// the endpoint, and every proxy is connected to one of the replicas.
    pub fn is_complete(&self) -> bool {
        self.removed && self.unacknowledged_by == 0 && self.covers_all_proxies
    }
}
