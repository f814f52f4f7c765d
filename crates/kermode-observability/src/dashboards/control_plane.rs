//! Dashboard of the control plane: its replicas, and the stages from a watch event to an acknowledged configuration.

use super::{Dashboard, Panel, Row, Target, Unit, Variable};

/// The dashboard.
pub(super) const DASHBOARD: Dashboard = Dashboard {
    uid: "kermode-control-plane",
    title: "Kermode / Control plane",
    variables: &[Variable {
        name: "namespace",
        title: "Namespace",
        series: "kuma_cp_leader",
        label: "namespace",
    }],
    rows: &[
        Row {
            title: "Replicas",
            panels: &[
                Panel {
                    title: "Replicas",
                    description: "Replicas that Prometheus scrapes, replicas that they know, and the leader.",
                    unit: Unit::Count,
                    targets: &[
                        Target {
                            expr: r#"count(kuma_cp_replicas_known{namespace=~"$namespace"})"#,
                            legend: "scraped",
                        },
                        Target {
                            expr: r#"max(kuma_cp_replicas_known{namespace=~"$namespace"})"#,
                            legend: "known",
                        },
                        Target {
                            expr: r#"sum(kuma_cp_leader{namespace=~"$namespace"})"#,
                            legend: "leaders",
                        },
                    ],
                },
                Panel {
                    title: "Connected sidecars",
                    description: "ADS streams of authenticated proxies.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"sum by (pod) (kuma_cp_xds_connected_proxies{namespace=~"$namespace"})"#,
                        legend: "{{pod}}",
                    }],
                },
                Panel {
                    title: "Waiting sidecars",
                    description: "Proxies that wait for a slot for their first configuration.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"sum by (pod) (kuma_cp_xds_waiting_proxies{namespace=~"$namespace"})"#,
                        legend: "{{pod}}",
                    }],
                },
                Panel {
                    title: "Failed and evicted streams",
                    description: "Streams that were denied or ended with an error, and streams that were ended for rebalancing.",
                    unit: Unit::Rate,
                    targets: &[
                        Target {
                            expr: r#"sum by (pod) (rate(kuma_cp_xds_streams_failed_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "failed {{pod}}",
                        },
                        Target {
                            expr: r#"sum by (pod) (rate(kuma_cp_xds_streams_evicted_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "evicted {{pod}}",
                        },
                    ],
                },
                Panel {
                    title: "Connections at a limit",
                    description: "Connections that were closed for a new one, or refused.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (server, result) (rate(kuma_cp_connections_limited_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                        legend: "{{server}} {{result}}",
                    }],
                },
            ],
        },
        Row {
            title: "From a change to its publication",
            panels: &[
                Panel {
                    title: "Lag",
                    description: "Time from the receipt of a watch event to the publication of its changes.",
                    unit: Unit::Seconds,
                    targets: &[
                        Target {
                            expr: r#"histogram_quantile(0.5, sum by (le) (rate(kuma_cp_engine_lag_seconds_bucket{namespace=~"$namespace"}[$__rate_interval])))"#,
                            legend: "median",
                        },
                        Target {
                            expr: r#"histogram_quantile(0.99, sum by (le) (rate(kuma_cp_engine_lag_seconds_bucket{namespace=~"$namespace"}[$__rate_interval])))"#,
                            legend: "99 %",
                        },
                    ],
                },
                Panel {
                    title: "Work",
                    description: "Time to apply a batch, and to encode and publish its changes.",
                    unit: Unit::Seconds,
                    targets: &[
                        Target {
                            expr: r#"histogram_quantile(0.5, sum by (le) (rate(kuma_cp_engine_work_seconds_bucket{namespace=~"$namespace"}[$__rate_interval])))"#,
                            legend: "median",
                        },
                        Target {
                            expr: r#"histogram_quantile(0.99, sum by (le) (rate(kuma_cp_engine_work_seconds_bucket{namespace=~"$namespace"}[$__rate_interval])))"#,
                            legend: "99 %",
                        },
                    ],
                },
                Panel {
                    title: "Watch events",
                    description: "Watch events received, and Pods converted because of them.",
                    unit: Unit::Rate,
                    targets: &[
                        Target {
                            expr: r#"sum by (pod) (rate(kuma_cp_engine_watch_events_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "events {{pod}}",
                        },
                        Target {
                            expr: r#"sum by (pod) (rate(kuma_cp_engine_conversions_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "conversions {{pod}}",
                        },
                    ],
                },
                Panel {
                    title: "Waiting watch events",
                    description: "Watch events in the queue when the engine last took a batch.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"max by (pod) (kuma_cp_engine_waiting_watch_events{namespace=~"$namespace"})"#,
                        legend: "{{pod}}",
                    }],
                },
                Panel {
                    title: "Resources",
                    description: "Resources encoded because an input changed, and resources whose content changed.",
                    unit: Unit::Rate,
                    targets: &[
                        Target {
                            expr: r#"sum by (pod) (rate(kuma_cp_xds_resources_encoded_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "encoded {{pod}}",
                        },
                        Target {
                            expr: r#"sum by (pod) (rate(kuma_cp_xds_resources_changed_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "changed {{pod}}",
                        },
                    ],
                },
                Panel {
                    title: "Dataplane writes",
                    description: "Writes of Dataplanes to the API server, by result.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (result) (rate(kuma_cp_dataplane_writes_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                        legend: "{{result}}",
                    }],
                },
                Panel {
                    title: "Pods without Dataplane",
                    description: "Pods that could not be converted, or whose Dataplane was rejected or has no Mesh.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (pod) (rate(kuma_cp_dataplane_generation_failures_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                        legend: "{{pod}}",
                    }],
                },
            ],
        },
        Row {
            title: "Configuration of sidecars",
            panels: &[
                Panel {
                    title: "Responses",
                    description: "ADS responses sent, by kind of resource.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (kind) (rate(kuma_cp_xds_responses_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                        legend: "{{kind}}",
                    }],
                },
                Panel {
                    title: "Size of responses",
                    description: "Bytes of the ADS responses sent, by kind of resource.",
                    unit: Unit::ByteRate,
                    targets: &[Target {
                        expr: r#"sum by (kind) (rate(kuma_cp_xds_responses_bytes_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                        legend: "{{kind}}",
                    }],
                },
                Panel {
                    title: "Acknowledgement",
                    description: "Time from sending a response to its ACK or NACK, 99 %.",
                    unit: Unit::Seconds,
                    targets: &[Target {
                        expr: r#"histogram_quantile(0.99, sum by (le, kind) (rate(kuma_cp_xds_acknowledgement_seconds_bucket{namespace=~"$namespace"}[$__rate_interval])))"#,
                        legend: "{{kind}}",
                    }],
                },
                Panel {
                    title: "Rejections",
                    description: "Responses that Envoy rejected. Must be 0.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (kind) (rate(kuma_cp_xds_rejections_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                        legend: "{{kind}}",
                    }],
                },
                Panel {
                    title: "Open endpoint removals",
                    description: "Removed endpoints that a proxy may still send requests to.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"max by (pod) (kuma_cp_xds_endpoint_removals_open{namespace=~"$namespace"})"#,
                        legend: "{{pod}}",
                    }],
                },
                Panel {
                    title: "Endpoint removal",
                    description: "Time from the publication of an endpoint removal to its last acknowledgement.",
                    unit: Unit::Seconds,
                    targets: &[
                        Target {
                            expr: r#"histogram_quantile(0.5, sum by (le) (rate(kuma_cp_xds_endpoint_removal_acknowledgement_seconds_bucket{namespace=~"$namespace"}[$__rate_interval])))"#,
                            legend: "median",
                        },
                        Target {
                            expr: r#"histogram_quantile(0.99, sum by (le) (rate(kuma_cp_xds_endpoint_removal_acknowledgement_seconds_bucket{namespace=~"$namespace"}[$__rate_interval])))"#,
                            legend: "99 %",
                        },
                    ],
                },
                Panel {
                    title: "Ignored names",
                    description: "Subscribed names of resources that do not exist, beyond the limit of a stream.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (pod) (rate(kuma_cp_xds_names_ignored_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                        legend: "{{pod}}",
                    }],
                },
            ],
        },
        Row {
            title: "Admission",
            panels: &[
                Panel {
                    title: "Reviews",
                    description: "Admission reviews by webhook and outcome.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (webhook, outcome) (rate(kuma_cp_admission_reviews_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                        legend: "{{webhook}} {{outcome}}",
                    }],
                },
                Panel {
                    title: "Denied Pods",
                    description: "Pods that the injector denied, by reason.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (reason) (rate(kuma_cp_admission_reviews_total{namespace=~"$namespace",webhook="inject",outcome="refused"}[$__rate_interval]))"#,
                        legend: "{{reason}}",
                    }],
                },
                Panel {
                    title: "Duration",
                    description: "Time from the head of the request to the response, 99 %.",
                    unit: Unit::Seconds,
                    targets: &[Target {
                        expr: r#"histogram_quantile(0.99, sum by (le, webhook) (rate(kuma_cp_admission_review_duration_seconds_bucket{namespace=~"$namespace"}[$__rate_interval])))"#,
                        legend: "{{webhook}}",
                    }],
                },
            ],
        },
        Row {
            title: "Certificates",
            panels: &[
                Panel {
                    title: "Certificate requests",
                    description: "Requests of sidecars for certificates, by result.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (result) (rate(kuma_cp_certificate_requests_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                        legend: "{{result}}",
                    }],
                },
                Panel {
                    title: "Denied requests",
                    description: "Denied requests for certificates and denied streams of trust bundles, by reason.",
                    unit: Unit::Rate,
                    targets: &[
                        Target {
                            expr: r#"sum by (reason) (rate(kuma_cp_certificate_refusals_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "certificate {{reason}}",
                        },
                        Target {
                            expr: r#"sum by (reason) (rate(kuma_cp_roots_streams_refused_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "trust bundle {{reason}}",
                        },
                    ],
                },
                Panel {
                    title: "Streams of trust bundles",
                    description: "Open streams that send the trust bundle of a mesh to a sidecar.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"sum by (pod) (kuma_cp_roots_streams{namespace=~"$namespace"})"#,
                        legend: "{{pod}}",
                    }],
                },
                Panel {
                    title: "Expiry of CAs",
                    description: "Time until the expiry of each trusted root.",
                    unit: Unit::Seconds,
                    targets: &[
                        Target {
                            expr: r#"min by (mesh, backend, generation) (kuma_cp_mesh_ca_expiry_timestamp_seconds{namespace=~"$namespace"}) - time()"#,
                            legend: "{{mesh}} {{backend}} {{generation}}",
                        },
                        Target {
                            expr: r#"min by (generation) (kuma_cp_control_plane_ca_expiry_timestamp_seconds{namespace=~"$namespace"}) - time()"#,
                            legend: "control plane {{generation}}",
                        },
                    ],
                },
                Panel {
                    title: "Phases of rotations",
                    description: "The current phase of each CA has the value 1.",
                    unit: Unit::Count,
                    targets: &[
                        Target {
                            expr: r#"max by (mesh, backend, phase) (kuma_cp_mesh_ca_phase{namespace=~"$namespace"})"#,
                            legend: "{{mesh}} {{backend}} {{phase}}",
                        },
                        Target {
                            expr: r#"max by (phase) (kuma_cp_control_plane_ca_phase{namespace=~"$namespace"})"#,
                            legend: "control plane {{phase}}",
                        },
                    ],
                },
                Panel {
                    title: "Rotations and failures",
                    description: "Rotations started, and failed reads and writes of Secrets.",
                    unit: Unit::Rate,
                    targets: &[
                        Target {
                            expr: r#"sum by (mesh, reason) (rate(kuma_cp_mesh_ca_rotations_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "rotation {{mesh}} {{reason}}",
                        },
                        Target {
                            expr: r#"sum by (pod) (rate(kuma_cp_mesh_ca_secret_failures_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "Secret of a mesh {{pod}}",
                        },
                        Target {
                            expr: r#"sum by (pod) (rate(kuma_cp_control_plane_ca_secret_failures_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "Secret of the control plane {{pod}}",
                        },
                    ],
                },
            ],
        },
        Row {
            title: "Names and other objects",
            panels: &[
                Panel {
                    title: "Virtual IPs",
                    description: "Services by state of their virtual IP.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"max by (mesh, state) (kuma_cp_virtual_ip_services{namespace=~"$namespace"})"#,
                        legend: "{{mesh}} {{state}}",
                    }],
                },
                Panel {
                    title: "Lookups of names",
                    description: "Lookups of names that end in .mesh by sidecars, by result.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (result) (rate(kuma_cp_name_lookups_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                        legend: "{{result}}",
                    }],
                },
                Panel {
                    title: "Writes of ConfigMaps",
                    description: "Writes of ConfigMaps with virtual IPs and with the roots of the control plane, and of NetworkAttachmentDefinitions.",
                    unit: Unit::Rate,
                    targets: &[
                        Target {
                            expr: r#"sum by (result) (rate(kuma_cp_virtual_ip_writes_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "virtual IPs {{result}}",
                        },
                        Target {
                            expr: r#"sum by (result) (rate(kuma_cp_control_plane_ca_writes_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "roots {{result}}",
                        },
                        Target {
                            expr: r#"sum by (result) (rate(kuma_cp_network_attachment_writes_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                            legend: "networks {{result}}",
                        },
                    ],
                },
                Panel {
                    title: "Closed ports",
                    description: "Reports of sidecars about connections to ports that STRICT closes, by result.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (result) (rate(kuma_cp_closed_port_reports_total{namespace=~"$namespace"}[$__rate_interval]))"#,
                        legend: "{{result}}",
                    }],
                },
            ],
        },
    ],
};
