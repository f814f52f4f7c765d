//! Dashboard of a mesh: traffic between services as their clients see it, and the state of the sidecars.

use super::{Dashboard, Panel, Row, Target, Unit, Variable};

/// The dashboard.
pub(super) const DASHBOARD: Dashboard = Dashboard {
    uid: "kermode-mesh",
    title: "Kermode / Mesh",
    variables: &[Variable {
        name: "mesh",
        title: "Mesh",
        series: "kuma_dp_control_plane_connected",
        label: "mesh",
    }],
    rows: &[
        Row {
            title: "Sidecars",
            panels: &[
                Panel {
                    title: "Sidecars",
                    description: "Sidecars that Prometheus scrapes, and those without a connection to the control plane.",
                    unit: Unit::Count,
                    targets: &[
                        Target {
                            expr: r#"count(kuma_dp_control_plane_connected{mesh=~"$mesh"})"#,
                            legend: "sidecars",
                        },
                        Target {
                            expr: r#"count(kuma_dp_control_plane_connected{mesh=~"$mesh"} == 0) or vector(0)"#,
                            legend: "disconnected",
                        },
                    ],
                },
                Panel {
                    title: "Remaining lifetime of certificates",
                    description: "Part of the lifetime that the sidecar with the oldest certificate has left. Sidecars renew at 0.2.",
                    unit: Unit::Fraction,
                    targets: &[Target {
                        expr: r#"min((kuma_dp_certificate_expiry_timestamp_seconds{mesh=~"$mesh"} - time()) / (kuma_dp_certificate_expiry_timestamp_seconds{mesh=~"$mesh"} - kuma_dp_certificate_start_timestamp_seconds{mesh=~"$mesh"} > 0))"#,
                        legend: "lowest",
                    }],
                },
                Panel {
                    title: "Rejected configuration",
                    description: "Rejected updates of listeners and clusters, as the sidecars count them.",
                    unit: Unit::Rate,
                    targets: &[
                        Target {
                            expr: r#"sum(rate(envoy_listener_manager_lds_update_rejected{mesh=~"$mesh"}[$__rate_interval]))"#,
                            legend: "listeners",
                        },
                        Target {
                            expr: r#"sum(rate(envoy_cluster_manager_cds_update_rejected{mesh=~"$mesh"}[$__rate_interval]))"#,
                            legend: "clusters",
                        },
                    ],
                },
            ],
        },
        Row {
            title: "HTTP and gRPC",
            panels: &[
                Panel {
                    title: "Requests",
                    description: "Requests of clients, by service.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (envoy_cluster_name) (rate(envoy_cluster_upstream_rq_total{mesh=~"$mesh",envoy_cluster_name=~".+_svc(_.+)?"}[$__rate_interval]))"#,
                        legend: "{{envoy_cluster_name}}",
                    }],
                },
                Panel {
                    title: "Successful requests",
                    description: "Part of the requests whose response has a status below 500, by service.",
                    unit: Unit::Fraction,
                    targets: &[Target {
                        expr: r#"sum by (envoy_cluster_name) (rate(envoy_cluster_upstream_rq_xx{mesh=~"$mesh",envoy_cluster_name=~".+_svc(_.+)?",envoy_response_code_class!="5"}[$__rate_interval])) / sum by (envoy_cluster_name) (rate(envoy_cluster_upstream_rq_xx{mesh=~"$mesh",envoy_cluster_name=~".+_svc(_.+)?"}[$__rate_interval]))"#,
                        legend: "{{envoy_cluster_name}}",
                    }],
                },
                Panel {
                    title: "Latency",
                    description: "Time from the request to the complete response at the client's sidecar, 99 %, by service.",
                    unit: Unit::Milliseconds,
                    targets: &[Target {
                        expr: r#"histogram_quantile(0.99, sum by (le, envoy_cluster_name) (rate(envoy_cluster_upstream_rq_time_bucket{mesh=~"$mesh",envoy_cluster_name=~".+_svc(_.+)?"}[$__rate_interval])))"#,
                        legend: "{{envoy_cluster_name}}",
                    }],
                },
            ],
        },
        Row {
            title: "Connections",
            panels: &[
                Panel {
                    title: "New connections",
                    description: "Connections of clients to endpoints, by service.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (envoy_cluster_name) (rate(envoy_cluster_upstream_cx_total{mesh=~"$mesh",envoy_cluster_name=~".+_svc(_.+)?"}[$__rate_interval]))"#,
                        legend: "{{envoy_cluster_name}}",
                    }],
                },
                Panel {
                    title: "Traffic",
                    description: "Bytes that clients send to and receive from services.",
                    unit: Unit::ByteRate,
                    targets: &[
                        Target {
                            expr: r#"sum(rate(envoy_cluster_upstream_cx_tx_bytes_total{mesh=~"$mesh",envoy_cluster_name=~".+_svc(_.+)?"}[$__rate_interval]))"#,
                            legend: "sent",
                        },
                        Target {
                            expr: r#"sum(rate(envoy_cluster_upstream_cx_rx_bytes_total{mesh=~"$mesh",envoy_cluster_name=~".+_svc(_.+)?"}[$__rate_interval]))"#,
                            legend: "received",
                        },
                    ],
                },
                Panel {
                    title: "TLS handshakes",
                    description: "TLS handshakes with endpoints, by service.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (envoy_cluster_name) (rate(envoy_cluster_ssl_handshake{mesh=~"$mesh",envoy_cluster_name=~".+_svc(_.+)?"}[$__rate_interval]))"#,
                        legend: "{{envoy_cluster_name}}",
                    }],
                },
                Panel {
                    title: "Failed connections",
                    description: "Connections to endpoints that failed, by service.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (envoy_cluster_name) (rate(envoy_cluster_upstream_cx_connect_fail{mesh=~"$mesh",envoy_cluster_name=~".+_svc(_.+)?"}[$__rate_interval]))"#,
                        legend: "{{envoy_cluster_name}}",
                    }],
                },
                Panel {
                    title: "Ejected endpoints",
                    description: "Endpoints that a client does not call for a minute, summed over the clients.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"sum by (envoy_cluster_name) (envoy_cluster_outlier_detection_ejections_active{mesh=~"$mesh",envoy_cluster_name=~".+_svc(_.+)?"})"#,
                        legend: "{{envoy_cluster_name}}",
                    }],
                },
                Panel {
                    title: "Denied by permissions",
                    description: "Requests and connections that no MeshTrafficPermission allows.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum(rate(envoy_http_rbac_denied{mesh=~"$mesh"}[$__rate_interval]))"#,
                        legend: "HTTP",
                    }],
                },
            ],
        },
    ],
};
