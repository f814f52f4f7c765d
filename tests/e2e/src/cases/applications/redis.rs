//! Redis, redis-cli and redis-benchmark.

use super::database::{Database, Load};
use crate::harness::application::{Application, Service};

pub(super) const REDIS: Database = Database {
    application: Application {
        name: "redis",
        workload: "deployment/redis",
        manifests: include_str!("../../../manifests/applications/redis.yaml"),
        images: &["redis"],
        client_image: "redis",
        services: &[Service {
            name: "redis_e2e-applications_svc_6379",
            probe: "redis-cli -h redis.e2e-applications ping | grep PONG",
        }],
    },
    store: "redis-cli -h redis.e2e-applications set text STORED | grep OK",
    show: "redis-cli -h redis.e2e-applications get text",
    benchmark: Load {
        command: "redis-benchmark -h redis.e2e-applications -c 16 -n 20000 -q -t set,get,lrange_100",
        results: &["requests per second"],
    },
    last_benchmark: None,
    lost: &[
        "Server closed the connection",
        "Connection reset by peer",
        "Could not connect to Redis",
    ],
};
