//! Tests of the webhooks as the API server meets them: HTTPS on loopback in front, a scripted API server behind.

mod api_server;
mod caller;
mod decisions;
mod hostile;
mod outages;
mod review;
mod world;
