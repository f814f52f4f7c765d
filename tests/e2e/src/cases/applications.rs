//! Ordinary applications with their clients and load tools, in a mesh with mTLS STRICT. Each server restarts once under
//! load. The short test runs Redis and MariaDB without a restart.

mod database;
mod etcd;
mod mariadb;
mod nginx;
mod postgres;
mod prometheus;
mod redis;

use anyhow::Result;
use futures::future::try_join_all;

use self::database::{check_restart, check_stored_text, new_text};
use self::etcd::ETCD;
use self::mariadb::MARIADB;
use self::nginx::check_nginx_and_proxy;
use self::postgres::POSTGRES;
use self::prometheus::check_prometheus;
use self::redis::REDIS;
use crate::fixture::Fixture;
use crate::harness::application::{check_that_outsiders_get_no_response, with_applications};
use crate::harness::runner::Note;

pub(super) async fn redis_and_mariadb_serve_clients_of_the_mesh_only(fixture: &Fixture) -> Result<Note> {
    // MariaDB first, because it takes longer to start.
    let applications = [&MARIADB.application, &REDIS.application];
    with_applications(fixture, &applications, async || {
        let text = new_text()?;
        let checks = [&MARIADB, &REDIS].map(async |database| {
            database.store(fixture, &text).await?;
            check_stored_text(fixture, database, &text).await
        });
        try_join_all(checks).await?;
        check_that_outsiders_get_no_response(fixture, &applications).await?;
        let handshakes = applications.map(async |application| application.check_mtls(fixture).await);
        let handshakes = try_join_all(handshakes).await?;
        Ok(format!("MariaDB: {}; Redis: {}", handshakes[0], handshakes[1]))
    })
    .await
}

pub(super) async fn redis_keeps_its_data_and_its_clients_recover_when_it_restarts_under_load(
    fixture: &Fixture,
) -> Result<Note> {
    check_restart(fixture, &REDIS).await
}

pub(super) async fn mariadb_keeps_its_data_and_its_clients_recover_when_it_restarts_under_load(
    fixture: &Fixture,
) -> Result<Note> {
    check_restart(fixture, &MARIADB).await
}

pub(super) async fn postgres_keeps_its_data_and_its_clients_recover_when_it_restarts_under_load(
    fixture: &Fixture,
) -> Result<Note> {
    check_restart(fixture, &POSTGRES).await
}

pub(super) async fn etcd_keeps_its_data_and_its_clients_recover_when_it_restarts_under_load(
    fixture: &Fixture,
) -> Result<Note> {
    check_restart(fixture, &ETCD).await
}

pub(super) async fn nginx_and_a_proxy_in_front_of_it_lose_no_request_when_they_restart_under_load(
    fixture: &Fixture,
) -> Result<Note> {
    check_nginx_and_proxy(fixture).await
}

pub(super) async fn prometheus_scrapes_every_pod_by_its_ip_under_strict(fixture: &Fixture) -> Result<Note> {
    check_prometheus(fixture).await
}
