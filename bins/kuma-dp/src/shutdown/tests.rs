//! Every way from serving to the end.

use super::*;

const DRAIN: Duration = Duration::from_secs(30);

fn mk_draining(native_sidecar: bool, now: Instant) -> Shutdown {
    let mut shutdown = Shutdown::new(DRAIN, native_sidecar);
    assert_eq!(shutdown.on(Event::Signal, now), Action::FailHealthcheck);
    assert_eq!(shutdown.on(Event::HealthcheckFailed(true), now), Action::None);
    shutdown
}

#[test]
fn the_whole_drain_time_is_waited_for_then_envoy_is_asked_and_then_made_to_end() {
    let now = Instant::now();
    let mut shutdown = mk_draining(false, now);
    assert_eq!(shutdown.deadline(), Some(now + DRAIN));
    assert_eq!(shutdown.on(Event::Deadline, now + DRAIN), Action::Terminate);
    assert_eq!(shutdown.deadline(), Some(now + DRAIN + KILL_AFTER));
    assert_eq!(
        shutdown.on(Event::Deadline, now + DRAIN + KILL_AFTER),
        Action::Kill
    );
    assert_eq!(
        shutdown.on(Event::EnvoyEnded(137), now + DRAIN + KILL_AFTER),
        Action::Exit(0)
    );
}

#[test]
fn an_ordinary_sidecar_does_not_end_early_when_connections_are_gone() {
    let now = Instant::now();
    let mut shutdown = mk_draining(false, now);
    assert!(!shutdown.ends_when_idle());
    assert_eq!(shutdown.on(Event::Idle, now), Action::None);
    assert_eq!(shutdown.deadline(), Some(now + DRAIN));
}

#[test]
fn a_native_sidecar_ends_with_the_last_connection() {
    let now = Instant::now();
    let mut shutdown = mk_draining(true, now);
    assert!(shutdown.ends_when_idle());
    assert_eq!(shutdown.on(Event::Idle, now), Action::Terminate);
    assert!(!shutdown.ends_when_idle());
    assert_eq!(shutdown.on(Event::EnvoyEnded(0), now), Action::Exit(0));
}

#[test]
fn a_native_sidecar_waits_no_longer_than_the_drain_time() {
    let now = Instant::now();
    let mut shutdown = mk_draining(true, now);
    assert_eq!(shutdown.on(Event::Deadline, now + DRAIN), Action::Terminate);
}

#[test]
fn an_envoy_that_cannot_be_told_is_not_waited_for() {
    let now = Instant::now();
    let mut shutdown = Shutdown::new(DRAIN, false);
    shutdown.on(Event::Signal, now);
    assert_eq!(
        shutdown.on(Event::HealthcheckFailed(false), now),
        Action::Terminate
    );
}

#[test]
fn a_second_signal_ends_the_wait_and_a_third_ends_the_process() {
    let now = Instant::now();
    let mut shutdown = mk_draining(false, now);
    assert_eq!(shutdown.on(Event::Signal, now), Action::Terminate);
    assert_eq!(shutdown.on(Event::Signal, now), Action::Exit(1));
}

#[test]
fn a_second_signal_counts_while_envoy_is_being_told() {
    let now = Instant::now();
    let mut shutdown = Shutdown::new(DRAIN, false);
    shutdown.on(Event::Signal, now);
    assert_eq!(shutdown.on(Event::Signal, now), Action::Terminate);
    assert_eq!(shutdown.on(Event::HealthcheckFailed(true), now), Action::None);
    assert_eq!(shutdown.on(Event::Signal, now), Action::Exit(1));
}

#[test]
fn the_code_of_an_envoy_that_ends_by_itself_is_passed_on() {
    let now = Instant::now();
    assert_eq!(
        Shutdown::new(DRAIN, false).on(Event::EnvoyEnded(0), now),
        Action::Exit(0)
    );
    assert_eq!(
        Shutdown::new(DRAIN, false).on(Event::EnvoyEnded(139), now),
        Action::Exit(139)
    );
    assert_eq!(
        mk_draining(false, now).on(Event::EnvoyEnded(3), now),
        Action::Exit(3)
    );
}
