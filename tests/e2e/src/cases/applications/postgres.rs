//! PostgreSQL, psql and pgbench. The server is a StatefulSet, which its clients call by the headless name of its Pod and
//! by a Service with a ClusterIP.

use super::database::{Database, Load};
use crate::harness::application::{Application, Service};

pub(super) const POSTGRES: Database = Database {
    application: Application {
        name: "postgres",
        workload: "statefulset/postgres",
        manifests: include_str!("../../../manifests/applications/postgres.yaml"),
        images: &["postgres"],
        client_image: "postgres",
        services: &[
            Service {
                name: "postgres_e2e-applications_svc_5432",
                probe: "export PGUSER=postgres PGPASSWORD=secret
                    psql --host=postgres-0.postgres.e2e-applications --command='SELECT 1'",
            },
            Service {
                name: "postgres-primary_e2e-applications_svc_5432",
                probe: "export PGUSER=postgres PGPASSWORD=secret
                    psql --host=postgres-primary.e2e-applications --command='SELECT 1'",
            },
        ],
    },
    store: "export PGUSER=postgres PGPASSWORD=secret
        psql --host=postgres-0.postgres.e2e-applications --command=\"
            DROP TABLE IF EXISTS texts; CREATE TABLE texts AS SELECT 'STORED' AS text\"",
    // For some seconds after a restart, the cluster's DNS still has the IP of the old Pod for the headless name.
    show: "export PGUSER=postgres PGPASSWORD=secret
        psql --host=postgres-0.postgres.e2e-applications --tuples-only --command='SELECT text FROM texts' &&
        psql --host=postgres-primary.e2e-applications --tuples-only --command='SELECT text FROM texts'",
    benchmark: Load {
        command: "export PGUSER=postgres PGPASSWORD=secret
        pgbench --host=postgres-0.postgres.e2e-applications --initialize --quiet &&
        pgbench --host=postgres-0.postgres.e2e-applications --client=8 --time=3 &&
        pgbench --host=postgres-primary.e2e-applications --client=8 --time=3",
        results: &["tps = "],
    },
    last_benchmark: None,
    lost: &[
        "server closed the connection unexpectedly",
        "terminating connection due to administrator command",
        "could not translate host name",
        "the database system is shutting down",
    ],
};
