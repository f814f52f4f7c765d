//! Cases: combinations of scenario, application and variant. All protocols of a case have their clients at the same
//! time, so a case has a row in the report for each protocol.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::settings::{Settings, Variant};

/// Changes that happen to the servers while the clients send requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Rolling restarts of the servers.
    Restart,
    /// Scale-down to one server, and back.
    Scale,
    /// Eviction of each server in turn.
    Eviction,
    /// Drain of the node with the most servers, as `kubectl drain` does it.
    Drain,
    /// Rolling restart of the mesh's control plane, and of the servers at the same time.
    ControlPlane,
}

/// Protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1 with connections that are kept alive.
    Http1,
    /// HTTP/2.
    Http2,
    /// Unary calls with gRPC.
    Grpc,
    /// Connections that stay open, with a line of text and its echo every 100 ms.
    Tcp,
}

/// Behaviour of the servers on SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Application {
    /// The server exits at once.
    Exit,
    /// The server lets open requests complete and then exits.
    Drain,
    /// The server keeps serving until Kubernetes kills it.
    Ignore,
}

/// Filters and sizes of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Scenarios to run.
    pub scenarios: Vec<Scenario>,
    /// Protocols of the clients.
    pub protocols: Vec<Protocol>,
    /// Applications to run.
    pub applications: Vec<Application>,
    /// Names of the variants to run; all if empty.
    pub variants: Vec<String>,
    /// Number of servers.
    pub replicas: i32,
    /// Number of servers that a rolling restart adds before it ends as many.
    pub surge: i32,
    /// Number of rolling restarts. The other scenarios have a tenth of this number of rounds, and at least one.
    pub restarts: u32,
    /// Requests a second of each client except for TCP.
    pub rate: u32,
    /// Number of connections of each client.
    pub connections: u32,
    /// Time that a server takes to respond.
    pub delay: Duration,
    /// Time in seconds from the deletion of a Pod to SIGKILL.
    pub grace_period: i64,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Changes.
    pub scenario: Scenario,
    /// Behaviour of the servers.
    pub application: Application,
    /// Labels and annotations of the servers in the mesh.
    pub variant: Variant,
}

// === impl Plan ===

impl Plan {
    /// Returns the cases of this plan. Cases with the same servers are neighbours.
    pub fn cases(&self, settings: &Settings) -> Vec<Case> {
        let mut cases = Vec::new();
        let is_selected =
            |variant: &&Variant| self.variants.is_empty() || self.variants.contains(&variant.name);
        for variant in settings.variants.iter().filter(is_selected) {
            for application in &self.applications {
                let has_control_plane = settings.control_plane.is_some();
                let scenarios = self.scenarios.iter();
                let scenarios =
                    scenarios.filter(|scenario| **scenario != Scenario::ControlPlane || has_control_plane);
                cases.extend(scenarios.map(|scenario| Case {
                    scenario: *scenario,
                    application: *application,
                    variant: variant.clone(),
                }));
            }
        }
        cases
    }

    /// Returns how often a scenario repeats its changes.
    pub fn rounds(&self, scenario: Scenario) -> u32 {
        match scenario {
            Scenario::Restart => self.restarts,
            _ => self.restarts.div_ceil(10).max(1),
        }
    }

    /// Returns the number of responses that a client gets in a second.
    pub(crate) fn responses_in_a_second(&self, protocol: Protocol) -> u64 {
        match protocol {
            // The client sends a line every 100 ms on each connection.
            Protocol::Tcp => 10 * u64::from(self.connections),
            _ => self.rate.into(),
        }
    }
}

/// Returns the name of a value on the command line.
pub fn name(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

// === impl Protocol ===

impl Protocol {
    /// Name of the Service's port.
    pub fn port_name(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// Port of the Service and of the servers. Each protocol has a port of its own, because meshes read the protocol from
    /// the port of the Service. Meshes use ports from 9000 on themselves.
    pub fn port(self) -> u16 {
        match self {
            Self::Http1 => 8080,
            Self::Http2 => 8082,
            Self::Grpc => 8083,
            Self::Tcp => 8084,
        }
    }

    /// Port at which the client of this protocol serves its counters.
    pub fn counters_port(self) -> u16 {
        match self {
            Self::Http1 => 8091,
            Self::Http2 => 8092,
            Self::Grpc => 8093,
            Self::Tcp => 8094,
        }
    }

    /// Name of the container of the client of this protocol.
    pub fn client_container(self) -> String {
        format!("client-{}", name(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_settings(control_plane: &str) -> Settings {
        serde_json::from_value(serde_json::json!({
            "controlPlane": serde_json::from_str::<serde_json::Value>(control_plane).expect("JSON"),
            "variants": [{"name": "a"}, {"name": "b"}],
        }))
        .expect("valid settings")
    }

    fn mk_plan() -> Plan {
        Plan {
            scenarios: vec![Scenario::Restart, Scenario::ControlPlane],
            protocols: vec![Protocol::Http1],
            applications: vec![Application::Exit, Application::Drain],
            variants: vec![],
            replicas: 3,
            surge: 1,
            restarts: 30,
            rate: 500,
            connections: 10,
            delay: Duration::ZERO,
            grace_period: 30,
        }
    }

    #[test]
    fn cases_are_all_combinations_of_the_selected_values() {
        let settings = mk_settings(r#"{"namespace": "n", "deployment": "d"}"#);
        assert_eq!(mk_plan().cases(&settings).len(), 8);
        let plan = Plan {
            variants: vec!["b".to_owned()],
            ..mk_plan()
        };
        assert_eq!(plan.cases(&settings).len(), 4);
    }

    #[test]
    fn scenario_of_the_control_plane_needs_its_deployment() {
        let cases = mk_plan().cases(&mk_settings("null"));
        assert!(cases.iter().all(|case| case.scenario == Scenario::Restart));
    }
}
