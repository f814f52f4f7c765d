//! Suite `page-examples`, kind `drain-sequence`: the steps by which `kuma-dp` shuts down.
//!
//! The state machine of the shutdown runs with a simulated clock. Its request to Envoy goes to a server that stands for
//! Envoy's admin interface. Envoy itself is simulated: it ends as soon as it is terminated.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZeroU16;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kermode_agent::envoy::Admin;
use kermode_agent::shutdown::{Action, DrainMode, EnvoyShutdown, Event, ShutdownConfig};
use kermode_model::duration;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::corpus::Case;
use crate::suite::{Outcome, Runner};

/// Runner of the kind `drain-sequence`.
pub(crate) struct DrainSequence;

impl Runner for DrainSequence {
    fn suite(&self) -> &'static str {
        "page-examples"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["drain-sequence"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let drain_time = case.at("/inputs/drainTime").as_str().context("no drain time")?;
        let is_reachable = case.at("/inputs/adminUnreachable") != &json!(true);
        let expected = case.at("/expected/steps");
        let mut actual = steps(duration::parse(drain_time)?, is_reachable)?;
        keep_time_limit(expected, &mut actual)?;
        Ok(Outcome::Compared {
            expected: expected.clone(),
            actual,
        })
    }
}

/// Replaces the time of the end by the expected time limit, if the time does not exceed the limit. Removes it if the
/// case has no time limit.
fn keep_time_limit(expected: &Value, actual: &mut Value) -> Result<()> {
    let is_exit = |step: &&Value| !step["exit"].is_null();
    let limit = expected.as_array().into_iter().flatten().find(is_exit);
    let limit = limit.and_then(|step| step["within"].as_str());
    for step in actual.as_array_mut().into_iter().flatten() {
        let Some(within) = step["within"].as_str().map(duration::parse).transpose()? else {
            continue;
        };
        match limit {
            None => step["within"] = Value::Null,
            Some(limit) if within <= duration::parse(limit)? => step["within"] = json!(limit),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Returns the steps of a shutdown from the first signal on.
fn steps(drain_time: Duration, is_reachable: bool) -> Result<Value> {
    let (admin, request_lines) = start_admin_interface(is_reachable)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let request = || {
        let before = Instant::now();
        let result = runtime.block_on(admin.fail_healthcheck());
        (result.is_ok(), before.elapsed())
    };
    let start = Instant::now();
    let mut now = start;
    let mut steps = Vec::new();
    let mut shutdown = EnvoyShutdown::new(ShutdownConfig {
        drain_time,
        min_drain_time: Duration::ZERO,
        drain_mode: DrainMode::Wait,
        is_native_sidecar: false,
        grace_period: None,
    });
    let mut event = Event::Signal;
    loop {
        event = match shutdown.on_event(event, now) {
            Action::StartDrain => {
                let (is_accepted, elapsed) = request();
                now += elapsed;
                if is_accepted {
                    let request_line = request_lines.recv()?;
                    let is_other_status_accepted = request().0;
                    ensure!(!is_other_status_accepted, "status 503 of Envoy is accepted");
                    let text = format!("{request_line} on 127.0.0.1:<admin port>");
                    steps.push(json!({"http": text, "expectStatus": 200}));
                    Event::DrainStarted
                } else {
                    Event::DrainNotStarted
                }
            }
            Action::None => {
                let until = shutdown
                    .deadline()
                    .context("the shutdown waits without a deadline")?;
                steps.push(json!({"wait": format!("{}s", (until - now).as_secs_f64())}));
                now = until;
                Event::Deadline
            }
            Action::Terminate | Action::Kill => Event::EnvoyEnded(0),
            Action::Exit(code) => {
                let within = format!("{}s", (now - start).as_secs_f64());
                steps.push(json!({"exit": code == 0, "within": within}));
                return Ok(json!(steps));
            }
        };
    }
}

/// Starts a server that responds to the first request with status 200 and to the second one with status 503. Returns the
/// client of the server, and the method and path of each request. If `is_reachable` is false, nothing listens.
fn start_admin_interface(is_reachable: bool) -> Result<(Admin, mpsc::Receiver<String>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = NonZeroU16::new(listener.local_addr()?.port()).context("no port")?;
    let (sender, request_lines) = mpsc::channel();
    if is_reachable {
        thread::spawn(move || -> Result<()> {
            for status in ["200 OK", "503 Service Unavailable"] {
                let (mut connection, _) = listener.accept()?;
                let mut lines = BufReader::new(connection.try_clone()?).lines();
                let request_line = lines.next().context("no request")??;
                // The head of the request ends with an empty line.
                while !lines.next().context("no end of the head")??.is_empty() {}
                write!(connection, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")?;
                let method_and_path = request_line.trim_end_matches(" HTTP/1.1");
                sender.send(method_and_path.to_owned())?;
            }
            Ok(())
        });
    }
    Ok((Admin::new(port), request_lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecar_drains_for_the_drain_time_and_ends_at_once_without_an_admin_interface() {
        let mut drained = steps(Duration::from_secs(7), true).unwrap();
        keep_time_limit(&json!([{"exit": true}]), &mut drained).unwrap();
        assert_eq!(
            drained,
            json!([
                {"http": "POST /healthcheck/fail on 127.0.0.1:<admin port>", "expectStatus": 200},
                {"wait": "7s"},
                {"exit": true, "within": null},
            ])
        );
        let mut not_drained = steps(Duration::from_secs(7), false).unwrap();
        keep_time_limit(&json!([{"exit": true, "within": "6s"}]), &mut not_drained).unwrap();
        assert_eq!(not_drained, json!([{"exit": true, "within": "6s"}]));
    }

    #[test]
    fn end_after_the_time_limit_is_a_difference() {
        let mut actual = json!([{"exit": true, "within": "7s"}]);
        keep_time_limit(&json!([{"exit": true, "within": "6s"}]), &mut actual).unwrap();
        assert_eq!(actual[0]["within"], "7s");
    }
}
