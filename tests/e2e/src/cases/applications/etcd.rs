//! etcd, which is a gRPC service, and its clients: `etcdctl check perf`, which writes for a minute; a watch, which is a
//! stream in both directions; and h2load with unary calls.

use super::database::{Database, Load};
use crate::harness::application::{Application, Service};

pub(super) const ETCD: Database = Database {
    application: Application {
        name: "etcd",
        workload: "deployment/etcd",
        manifests: include_str!("../../../manifests/applications/etcd.yaml"),
        images: &["etcd"],
        client_image: "etcd",
        services: &[Service {
            name: "etcd_e2e-applications_svc_2379",
            probe: "etcdctl --endpoints=etcd.e2e-applications:2379 get text",
        }],
    },
    store: "etcdctl --endpoints=etcd.e2e-applications:2379 put text STORED",
    show: "etcdctl --endpoints=etcd.e2e-applications:2379 get text --print-value-only",
    // The exit code does not matter, because it also shows whether the machine is slow.
    benchmark: Load {
        command: "etcdctl --endpoints=etcd.e2e-applications:2379 check perf > /tmp/perf 2>&1
            tr '\\r' '\\n' < /tmp/perf | grep -E 'ERROR|Throughput'; ! grep -q ERROR /tmp/perf",
        results: &["Throughput"],
    },
    // The data of h2load are a message of 6 bytes: a request for the key `text`.
    last_benchmark: Some(Load {
        command: "etcdctl --endpoints=etcd.e2e-applications:2379 watch text > /tmp/watch & watch=$!
            for number in $(seq 100); do
                etcdctl --endpoints=etcd.e2e-applications:2379 put text $number
                grep PUT /tmp/watch && break
            done
            kill $watch
            grep -q PUT /tmp/watch || exit 1
            printf '\\0\\0\\0\\0\\6\\n\\4text' > /tmp/range
            h2load --clients 4 --max-concurrent-streams 10 --requests 2000 --data /tmp/range \
                --header 'content-type: application/grpc' --header 'te: trailers' \
                http://etcd.e2e-applications:2379/etcdserverpb.KV/Range > /tmp/h2load
            grep '^finished in' /tmp/h2load; grep '2000 succeeded, 0 failed' /tmp/h2load",
        results: &["finished in"],
    }),
    lost: &["code = Unavailable"],
};
