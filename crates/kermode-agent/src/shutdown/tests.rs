//! Tests of all paths of the state machine.

use super::*;

const DRAIN_TIME: Duration = Duration::from_secs(30);

/// Returns the state machine of a sidecar whose drain started at `now`.
fn mk_draining(is_native_sidecar: bool, now: Instant) -> EnvoyShutdown {
    let mut shutdown = EnvoyShutdown::new(DRAIN_TIME, is_native_sidecar);
    assert_eq!(shutdown.on_event(Event::Signal, now), Action::FailHealthcheck);
    assert_eq!(shutdown.on_event(Event::DrainStarted, now), Action::None);
    shutdown
}

#[test]
fn envoy_is_terminated_after_the_drain_time_and_then_killed() {
    let now = Instant::now();
    let mut shutdown = mk_draining(false, now);
    assert_eq!(shutdown.deadline(), Some(now + DRAIN_TIME));
    assert_eq!(
        shutdown.on_event(Event::Deadline, now + DRAIN_TIME),
        Action::Terminate
    );
    assert_eq!(shutdown.deadline(), Some(now + DRAIN_TIME + KILL_AFTER));
    assert_eq!(
        shutdown.on_event(Event::Deadline, now + DRAIN_TIME + KILL_AFTER),
        Action::Kill
    );
    // 137 is the exit code after `SIGKILL`. The agent itself ends without an error.
    assert_eq!(
        shutdown.on_event(Event::EnvoyEnded(137), now + DRAIN_TIME + KILL_AFTER),
        Action::Exit(0)
    );
}

#[test]
fn classic_sidecar_drains_for_the_whole_drain_time() {
    let now = Instant::now();
    let mut shutdown = mk_draining(false, now);
    assert!(!shutdown.ends_when_idle());
    assert_eq!(shutdown.on_event(Event::Idle, now), Action::None);
    assert_eq!(shutdown.deadline(), Some(now + DRAIN_TIME));
}

#[test]
fn native_sidecar_is_terminated_when_its_last_connection_is_closed() {
    let now = Instant::now();
    let mut shutdown = mk_draining(true, now);
    assert!(shutdown.ends_when_idle());
    assert_eq!(shutdown.on_event(Event::Idle, now), Action::Terminate);
    assert!(!shutdown.ends_when_idle());
    assert_eq!(shutdown.on_event(Event::EnvoyEnded(0), now), Action::Exit(0));
}

#[test]
fn native_sidecar_drains_at_most_for_the_drain_time() {
    let now = Instant::now();
    let mut shutdown = mk_draining(true, now);
    assert_eq!(
        shutdown.on_event(Event::Deadline, now + DRAIN_TIME),
        Action::Terminate
    );
}

#[test]
fn envoy_that_cannot_be_drained_is_terminated() {
    let now = Instant::now();
    let mut shutdown = EnvoyShutdown::new(DRAIN_TIME, false);
    shutdown.on_event(Event::Signal, now);
    assert_eq!(shutdown.on_event(Event::DrainNotStarted, now), Action::Terminate);
}

#[test]
fn second_signal_ends_the_drain_and_third_signal_exits() {
    let now = Instant::now();
    let mut shutdown = mk_draining(false, now);
    assert_eq!(shutdown.on_event(Event::Signal, now), Action::Terminate);
    assert_eq!(shutdown.on_event(Event::Signal, now), Action::Exit(1));
}

#[test]
fn second_signal_before_the_drain_terminates_envoy() {
    let now = Instant::now();
    let mut shutdown = EnvoyShutdown::new(DRAIN_TIME, false);
    shutdown.on_event(Event::Signal, now);
    assert_eq!(shutdown.on_event(Event::Signal, now), Action::Terminate);
    assert_eq!(shutdown.on_event(Event::DrainStarted, now), Action::None);
    assert_eq!(shutdown.on_event(Event::Signal, now), Action::Exit(1));
}

#[test]
fn exit_code_of_an_envoy_that_ends_by_itself_is_passed_on() {
    let now = Instant::now();
    assert_eq!(
        EnvoyShutdown::new(DRAIN_TIME, false).on_event(Event::EnvoyEnded(0), now),
        Action::Exit(0)
    );
    assert_eq!(
        EnvoyShutdown::new(DRAIN_TIME, false).on_event(Event::EnvoyEnded(139), now),
        Action::Exit(139)
    );
    assert_eq!(
        mk_draining(false, now).on_event(Event::EnvoyEnded(3), now),
        Action::Exit(3)
    );
}
