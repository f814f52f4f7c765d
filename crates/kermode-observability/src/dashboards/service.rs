//! Dashboard of a service, as the sidecars of its clients see it.

use super::{Dashboard, Panel, Row, Target, Unit, Variable};

/// The dashboard.
pub(super) const DASHBOARD: Dashboard = Dashboard {
    uid: "kermode-service",
    title: "Kermode / Service",
    variables: &[
        Variable {
            name: "mesh",
            title: "Mesh",
            series: "kuma_dp_control_plane_connected",
            label: "mesh",
        },
        Variable {
            name: "service",
            title: "Service",
            series: r#"envoy_cluster_upstream_cx_total{mesh=~"$mesh",envoy_cluster_name=~".+_svc(_.+)?"}"#,
            label: "envoy_cluster_name",
        },
    ],
    rows: &[
        Row {
            title: "Requests",
            panels: &[
                Panel {
                    title: "Requests",
                    description: "Requests by class of status.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (envoy_response_code_class) (rate(envoy_cluster_upstream_rq_xx{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval]))"#,
                        legend: "{{envoy_response_code_class}}xx",
                    }],
                },
                Panel {
                    title: "Successful requests",
                    description: "Part of the requests whose response has a status below 500.",
                    unit: Unit::Fraction,
                    targets: &[Target {
                        expr: r#"sum(rate(envoy_cluster_upstream_rq_xx{mesh=~"$mesh",envoy_cluster_name=~"$service",envoy_response_code_class!="5"}[$__rate_interval])) / sum(rate(envoy_cluster_upstream_rq_xx{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval]))"#,
                        legend: "success",
                    }],
                },
                Panel {
                    title: "Latency",
                    description: "Time from the request to the complete response at the client's sidecar.",
                    unit: Unit::Milliseconds,
                    targets: &[
                        Target {
                            expr: r#"histogram_quantile(0.5, sum by (le) (rate(envoy_cluster_upstream_rq_time_bucket{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval])))"#,
                            legend: "median",
                        },
                        Target {
                            expr: r#"histogram_quantile(0.9, sum by (le) (rate(envoy_cluster_upstream_rq_time_bucket{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval])))"#,
                            legend: "90 %",
                        },
                        Target {
                            expr: r#"histogram_quantile(0.99, sum by (le) (rate(envoy_cluster_upstream_rq_time_bucket{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval])))"#,
                            legend: "99 %",
                        },
                    ],
                },
                Panel {
                    title: "Requests by client",
                    description: "Requests by the Pod that sends them.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum by (namespace, pod) (rate(envoy_cluster_upstream_rq_total{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval]))"#,
                        legend: "{{namespace}}/{{pod}}",
                    }],
                },
                Panel {
                    title: "Active requests",
                    description: "Requests without a complete response.",
                    unit: Unit::Count,
                    targets: &[
                        Target {
                            expr: r#"sum(envoy_cluster_upstream_rq_active{mesh=~"$mesh",envoy_cluster_name=~"$service"})"#,
                            legend: "active",
                        },
                        Target {
                            expr: r#"sum(envoy_cluster_upstream_rq_pending_active{mesh=~"$mesh",envoy_cluster_name=~"$service"})"#,
                            legend: "pending",
                        },
                    ],
                },
                Panel {
                    title: "Retries",
                    description: "Requests that were sent again, at another endpoint.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum(rate(envoy_cluster_upstream_rq_retry{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval]))"#,
                        legend: "retries",
                    }],
                },
            ],
        },
        Row {
            title: "Connections",
            panels: &[
                Panel {
                    title: "Open connections",
                    description: "Open connections to endpoints, by client.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"sum by (namespace, pod) (envoy_cluster_upstream_cx_active{mesh=~"$mesh",envoy_cluster_name=~"$service"})"#,
                        legend: "{{namespace}}/{{pod}}",
                    }],
                },
                Panel {
                    title: "New and failed connections",
                    description: "Connections to endpoints, and those that failed.",
                    unit: Unit::Rate,
                    targets: &[
                        Target {
                            expr: r#"sum(rate(envoy_cluster_upstream_cx_total{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval]))"#,
                            legend: "new",
                        },
                        Target {
                            expr: r#"sum(rate(envoy_cluster_upstream_cx_connect_fail{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval]))"#,
                            legend: "failed",
                        },
                    ],
                },
                Panel {
                    title: "Traffic",
                    description: "Bytes that clients send and receive.",
                    unit: Unit::ByteRate,
                    targets: &[
                        Target {
                            expr: r#"sum(rate(envoy_cluster_upstream_cx_tx_bytes_total{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval]))"#,
                            legend: "sent",
                        },
                        Target {
                            expr: r#"sum(rate(envoy_cluster_upstream_cx_rx_bytes_total{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval]))"#,
                            legend: "received",
                        },
                    ],
                },
            ],
        },
        Row {
            title: "Endpoints",
            panels: &[
                Panel {
                    title: "Endpoints",
                    description: "Endpoints that a client knows, and those that it calls.",
                    unit: Unit::Count,
                    targets: &[
                        Target {
                            expr: r#"max(envoy_cluster_membership_total{mesh=~"$mesh",envoy_cluster_name=~"$service"})"#,
                            legend: "known",
                        },
                        Target {
                            expr: r#"min(envoy_cluster_membership_healthy{mesh=~"$mesh",envoy_cluster_name=~"$service"})"#,
                            legend: "healthy",
                        },
                    ],
                },
                Panel {
                    title: "Ejected endpoints",
                    description: "Endpoints that a client does not call for a minute, by client.",
                    unit: Unit::Count,
                    targets: &[Target {
                        expr: r#"sum by (namespace, pod) (envoy_cluster_outlier_detection_ejections_active{mesh=~"$mesh",envoy_cluster_name=~"$service"})"#,
                        legend: "{{namespace}}/{{pod}}",
                    }],
                },
                Panel {
                    title: "TLS handshakes",
                    description: "TLS handshakes with endpoints.",
                    unit: Unit::Rate,
                    targets: &[Target {
                        expr: r#"sum(rate(envoy_cluster_ssl_handshake{mesh=~"$mesh",envoy_cluster_name=~"$service"}[$__rate_interval]))"#,
                        legend: "handshakes",
                    }],
                },
            ],
        },
    ],
};
