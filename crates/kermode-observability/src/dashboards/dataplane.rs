//! Dashboard of sidecars: state, certificate, traffic of the Pod, and DNS.

use super::{Dashboard, Panel, Row, Target, Unit, Variable};

/// The dashboard.
pub(super) const DASHBOARD: Dashboard = Dashboard {
    uid: "kermode-dataplane",
    title: "Kermode / Dataplane",
    variables: &[
        Variable {
            name: "namespace",
            title: "Namespace",
            series: "kuma_dp_control_plane_connected",
            label: "namespace",
        },
        Variable {
            name: "pod",
            title: "Pod",
            series: r#"kuma_dp_control_plane_connected{namespace=~"$namespace"}"#,
            label: "pod",
        },
    ],
    rows: &[
        Row {
            title: "State",
            panels: &[
                Panel {
                    title: "Connected to the control plane",
                    description: "1 while the sidecar has a stream to the control plane.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"sum by (pod) (kuma_dp_control_plane_connected{namespace=~"$namespace",pod=~"$pod"})"#,
                        legend: "{{pod}}",
                    }],
                },
                Panel {
                    title: "Time until the certificate expires",
                    description: "The sidecar renews its certificate when a fifth of its lifetime is left.",
                    unit: Unit::Seconds,
                    targets: &[Target {
                        expr: r#"(kuma_dp_certificate_expiry_timestamp_seconds{namespace=~"$namespace",pod=~"$pod"} > 0) - time()"#,
                        legend: "{{pod}}",
                    }],
                },
                Panel {
                    title: "Memory",
                    description: "Memory that Envoy has allocated.",
                    unit: Unit::Bytes,
                    targets: &[Target {
                        expr: r#"sum by (pod) (envoy_server_memory_allocated{namespace=~"$namespace",pod=~"$pod"})"#,
                        legend: "{{pod}}",
                    }],
                },
                Panel {
                    title: "Time since the start",
                    description: "Time since Envoy started.",
                    unit: Unit::Seconds,
                    targets: &[Target {
                        expr: r#"sum by (pod) (envoy_server_uptime{namespace=~"$namespace",pod=~"$pod"})"#,
                        legend: "{{pod}}",
                    }],
                },
                Panel {
                    title: "Clusters and listeners",
                    description: "Active clusters and listeners.",
                    unit: Unit::Count,
                    targets: &[
                        Target {
                            expr: r#"sum by (pod) (envoy_cluster_manager_active_clusters{namespace=~"$namespace",pod=~"$pod"})"#,
                            legend: "clusters {{pod}}",
                        },
                        Target {
                            expr: r#"sum by (pod) (envoy_listener_manager_total_listeners_active{namespace=~"$namespace",pod=~"$pod"})"#,
                            legend: "listeners {{pod}}",
                        },
                    ],
                },
                Panel {
                    title: "Updates of configuration",
                    description: "Updates of listeners and clusters, and rejected ones.",
                    unit: Unit::Rate,
                    targets: &[
                        Target {
                            expr: r#"sum by (pod) (rate(envoy_listener_manager_lds_update_success{namespace=~"$namespace",pod=~"$pod"}[$__rate_interval]))"#,
                            legend: "listeners {{pod}}",
                        },
                        Target {
                            expr: r#"sum by (pod) (rate(envoy_cluster_manager_cds_update_success{namespace=~"$namespace",pod=~"$pod"}[$__rate_interval]))"#,
                            legend: "clusters {{pod}}",
                        },
                        Target {
                            expr: r#"sum by (pod) (rate(envoy_listener_manager_lds_update_rejected{namespace=~"$namespace",pod=~"$pod"}[$__rate_interval]))"#,
                            legend: "rejected listeners {{pod}}",
                        },
                        Target {
                            expr: r#"sum by (pod) (rate(envoy_cluster_manager_cds_update_rejected{namespace=~"$namespace",pod=~"$pod"}[$__rate_interval]))"#,
                            legend: "rejected clusters {{pod}}",
                        },
                    ],
                },
            ],
        },
        Row {
            title: "Inbound",
            panels: &[
                Panel {
                    title: "Requests",
                    description: "Requests to the application by HTTP connection manager and class of status.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (envoy_http_conn_manager_prefix, envoy_response_code_class) (rate(envoy_http_downstream_rq_xx{namespace=~"$namespace",pod=~"$pod",envoy_http_conn_manager_prefix=~"localhost_.+"}[$__rate_interval]))"#,
                        legend: "{{envoy_http_conn_manager_prefix}} {{envoy_response_code_class}}xx",
                    }],
                },
                Panel {
                    title: "Latency",
                    description: "Time from the request to the complete response at the server's sidecar.",
                    unit: Unit::Milliseconds,
                    targets: &[
                        Target {
                            expr: r#"histogram_quantile(0.5, sum by (le) (rate(envoy_http_downstream_rq_time_bucket{namespace=~"$namespace",pod=~"$pod",envoy_http_conn_manager_prefix=~"localhost_.+"}[$__rate_interval])))"#,
                            legend: "median",
                        },
                        Target {
                            expr: r#"histogram_quantile(0.99, sum by (le) (rate(envoy_http_downstream_rq_time_bucket{namespace=~"$namespace",pod=~"$pod",envoy_http_conn_manager_prefix=~"localhost_.+"}[$__rate_interval])))"#,
                            legend: "99 %",
                        },
                    ],
                },
                Panel {
                    title: "Connections to the application",
                    description: "Open connections from the sidecar to the application.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"sum by (pod, envoy_cluster_name) (envoy_cluster_upstream_cx_active{namespace=~"$namespace",pod=~"$pod",envoy_cluster_name=~"localhost_.+"})"#,
                        legend: "{{pod}} {{envoy_cluster_name}}",
                    }],
                },
                Panel {
                    title: "Denied by permissions",
                    description: "Requests that no MeshTrafficPermission allows.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (pod) (rate(envoy_http_rbac_denied{namespace=~"$namespace",pod=~"$pod"}[$__rate_interval]))"#,
                        legend: "{{pod}}",
                    }],
                },
                Panel {
                    title: "Connections to closed ports",
                    description: "Connections to ports without an inbound, which STRICT closes.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (pod) (rate(envoy_tcp_downstream_cx_no_route{namespace=~"$namespace",pod=~"$pod"}[$__rate_interval]))"#,
                        legend: "{{pod}}",
                    }],
                },
            ],
        },
        Row {
            title: "Outbound",
            panels: &[
                Panel {
                    title: "Requests",
                    description: "Requests to services.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (envoy_cluster_name) (rate(envoy_cluster_upstream_rq_total{namespace=~"$namespace",pod=~"$pod",envoy_cluster_name=~".+_svc(_.+)?"}[$__rate_interval]))"#,
                        legend: "{{envoy_cluster_name}}",
                    }],
                },
                Panel {
                    title: "Latency",
                    description: "Time from the request to the complete response, 99 %, by service.",
                    unit: Unit::Milliseconds,
                    targets: &[Target {
                        expr: r#"histogram_quantile(0.99, sum by (le, envoy_cluster_name) (rate(envoy_cluster_upstream_rq_time_bucket{namespace=~"$namespace",pod=~"$pod",envoy_cluster_name=~".+_svc(_.+)?"}[$__rate_interval])))"#,
                        legend: "{{envoy_cluster_name}}",
                    }],
                },
                Panel {
                    title: "Open connections",
                    description: "Open connections to endpoints, by service.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"sum by (envoy_cluster_name) (envoy_cluster_upstream_cx_active{namespace=~"$namespace",pod=~"$pod",envoy_cluster_name=~".+_svc(_.+)?"})"#,
                        legend: "{{envoy_cluster_name}}",
                    }],
                },
            ],
        },
        Row {
            title: "DNS",
            panels: &[
                Panel {
                    title: "Responses",
                    description: "Responses of the sidecar's DNS, by origin and code.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (origin, code) (rate(kuma_dp_dns_responses_total{namespace=~"$namespace",pod=~"$pod"}[$__rate_interval]))"#,
                        legend: "{{origin}} {{code}}",
                    }],
                },
                Panel {
                    title: "Duration",
                    description: "Time from the query to the response, 99 %, by origin.",
                    unit: Unit::Seconds,
                    targets: &[Target {
                        expr: r#"histogram_quantile(0.99, sum by (le, origin) (rate(kuma_dp_dns_response_duration_seconds_bucket{namespace=~"$namespace",pod=~"$pod"}[$__rate_interval])))"#,
                        legend: "{{origin}}",
                    }],
                },
                Panel {
                    title: "Failures",
                    description: "Queries that were not served, failures of name servers, and calls to the control plane.",
                    unit: Unit::Rate,
                    targets: &[
                        Target {
                            expr: r#"sum by (reason) (rate(kuma_dp_dns_rejected_total{namespace=~"$namespace",pod=~"$pod"}[$__rate_interval]))"#,
                            legend: "rejected {{reason}}",
                        },
                        Target {
                            expr: r#"sum by (reason) (rate(kuma_dp_dns_name_server_failures_total{namespace=~"$namespace",pod=~"$pod"}[$__rate_interval]))"#,
                            legend: "name server {{reason}}",
                        },
                        Target {
                            expr: r#"sum by (result) (rate(kuma_dp_dns_control_plane_calls_total{namespace=~"$namespace",pod=~"$pod"}[$__rate_interval]))"#,
                            legend: "control plane {{result}}",
                        },
                    ],
                },
                Panel {
                    title: "Cache",
                    description: "Responses in the cache.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"sum by (pod) (kuma_dp_dns_cache_entries{namespace=~"$namespace",pod=~"$pod"})"#,
                        legend: "{{pod}}",
                    }],
                },
                Panel {
                    title: "Memory of the cache",
                    description: "Memory of the responses in the cache.",
                    unit: Unit::Bytes,
                    targets: &[Target {
                        expr: r#"sum by (pod) (kuma_dp_dns_cache_size_bytes{namespace=~"$namespace",pod=~"$pod"})"#,
                        legend: "{{pod}}",
                    }],
                },
            ],
        },
    ],
};
