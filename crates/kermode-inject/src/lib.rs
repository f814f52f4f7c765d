//! Sidecar injection: builds a JSON patch from a Pod's JSON and the control plane's settings.
//!
//! ```text
//! Pod, Namespace ──decision──▶ inject or skip ──plan──▶ resolved settings ──render──▶ containers
//!     ──container_patch──▶ patched and checked ──drain──▶ drain time within the grace period ──patch──▶ operations
//! ```
//!
//! The crate does no IO: all inputs are arguments, and Meshes and ContainerPatches are looked up through [`Context`].
//! The Pod stays raw JSON, and the result is a list of operations on it, so unknown fields of the Pod survive.

mod annotations;
mod changes;
pub mod container_patch;
mod decision;
mod denial;
mod drain;
mod inject;
mod leftovers;
mod names;
mod networks;
mod outdated;
mod patch;
mod plan;
mod pod;
mod pointer;
mod ports;
mod probes;
mod quantity;
mod reason;
mod render;
pub mod settings;
mod stop;
mod timeline;
mod trace;
mod uid;
mod values;
mod volumes;
mod warnings;
pub mod workload;

pub use self::changes::between as differences;
pub use self::container_patch::{
    PatchFailure, PatchProblem, PatchStage, try_container_patch, validate_container_patch,
};
pub use self::denial::Denial;
pub use self::inject::{Context, Injection, Namespace, Outcome, explain, inject};
pub use self::outdated::container_differences;
pub use self::quantity::{Amount, InvalidQuantity, Quantity, parse as parse_quantity};
pub use self::reason::{InjectionSource, Obstacle, SkipReason};
pub use self::render::init::arguments as init_arguments;
pub use self::settings::Settings;
pub use self::settings::environment::ENVIRONMENT;
pub use self::trace::{InjectionExplanation, RenderedContainer, TraceStep, TraceTopic};
