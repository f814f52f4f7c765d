//! MariaDB, mariadb and mysqlslap. The server sends the first bytes of a connection.

use super::database::{Database, Load};
use crate::harness::application::{Application, Service};

pub(super) const MARIADB: Database = Database {
    application: Application {
        name: "mariadb",
        workload: "deployment/mariadb",
        manifests: include_str!("../../../manifests/applications/mariadb.yaml"),
        images: &["mariadb"],
        client_image: "mariadb",
        services: &[Service {
            name: "mariadb_e2e-applications_svc_3306",
            probe: "mariadb --host=mariadb.e2e-applications --user=app --password=secret --execute='SELECT 1'",
        }],
    },
    store: "mariadb --host=mariadb.e2e-applications --user=app --password=secret app --execute='
        CREATE OR REPLACE TABLE texts (text TEXT); INSERT INTO texts VALUES (\"STORED\")'",
    show: "mariadb --host=mariadb.e2e-applications --user=app --password=secret app --skip-column-names \
           --execute='SELECT text FROM texts'",
    benchmark: Load {
        command: "mysqlslap --host=mariadb.e2e-applications --user=app --password=secret --create-schema=slap \
                --auto-generate-sql --auto-generate-sql-load-type=mixed --concurrency=8 --number-of-queries=4000",
        results: &["Average number of seconds"],
    },
    last_benchmark: None,
    lost: &[
        "Lost connection to server",
        "Server has gone away",
        "Can't connect to server",
    ],
};
