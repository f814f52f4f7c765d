//! Test harness: the cluster, kubectl, programs on the host, waits with time limits, Envoy's statistics, faults,
//! memory limits, networks inside Pods, packet captures, and ordinary applications.

pub(crate) mod application;
pub(crate) mod capture;
pub(crate) mod cluster;
pub(crate) mod diagnosis;
pub(crate) mod envoy;
pub(crate) mod fault;
pub(crate) mod host;
pub(crate) mod idle_connections;
pub(crate) mod inner_network;
pub(crate) mod memory;
pub(crate) mod packet;
pub(crate) mod runner;

pub(crate) use kermode_harness::{demo, kubectl, wait};
