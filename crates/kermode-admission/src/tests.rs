//! Tests of the webhooks over HTTPS, with a mock API server for lookups and Events.

mod api_server;
mod caller;
mod decisions;
mod fixture;
mod hostile;
mod outages;
mod review;
mod starvation;
