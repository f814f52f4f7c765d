//! Tests of all paths of the state machine.

use super::*;

const DRAIN_TIME: Duration = Duration::from_secs(30);

const CLASSIC: ShutdownConfig = ShutdownConfig {
    drain_time: DRAIN_TIME,
    drain_mode: DrainMode::Wait,
    min_drain_time: Duration::ZERO,
    is_native_sidecar: false,
    grace_period: None,
};

const NATIVE: ShutdownConfig = ShutdownConfig {
    is_native_sidecar: true,
    ..CLASSIC
};

const WITH_GRACE_PERIOD: ShutdownConfig = ShutdownConfig {
    grace_period: Some(Duration::from_secs(30)),
    ..NATIVE
};

const ACKNOWLEDGED: ShutdownConfig = ShutdownConfig {
    drain_mode: DrainMode::Acknowledged,
    min_drain_time: Duration::from_secs(7),
    ..CLASSIC
};

/// Returns the state machine of a sidecar whose drain started at `now`, with a signal.
fn mk_draining(config: ShutdownConfig, now: Instant) -> EnvoyShutdown {
    let mut shutdown = EnvoyShutdown::new(config);
    assert_eq!(shutdown.on_event(Event::Signal, now), Action::StartDrain);
    assert_eq!(shutdown.on_event(Event::DrainStarted, now), Action::None);
    shutdown
}

fn activity(connections: u64, in_progress: u64) -> Event {
    Event::Activity(Activity {
        connections,
        in_progress,
    })
}

#[test]
fn envoy_is_terminated_after_the_drain_time_and_then_killed() {
    let now = Instant::now();
    let mut shutdown = mk_draining(CLASSIC, now);
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
    let mut shutdown = mk_draining(CLASSIC, now);
    assert_eq!(shutdown.on_event(Event::EndpointRemoved, now), Action::None);
    assert!(!shutdown.needs_activity());
    assert_eq!(shutdown.on_event(activity(0, 0), now), Action::None);
    assert_eq!(shutdown.deadline(), Some(now + DRAIN_TIME));
}

#[test]
fn drain_mode_acknowledged_ends_the_drain_once_the_endpoint_is_removed_and_no_connection_is_open() {
    let now = Instant::now();
    let mut shutdown = mk_draining(ACKNOWLEDGED, now);
    let application_end = now + ACKNOWLEDGED.min_drain_time;
    assert!(!shutdown.needs_activity());
    assert_eq!(
        shutdown.on_event(activity(0, 0), application_end),
        Action::None,
        "the endpoint is not removed"
    );
    shutdown.on_event(Event::EndpointRemoved, now);
    assert!(shutdown.needs_activity());
    let before = application_end.checked_sub(Duration::from_millis(1)).unwrap();
    assert_eq!(shutdown.on_event(activity(0, 0), before), Action::None);
    assert_eq!(shutdown.on_event(activity(1, 0), application_end), Action::None);
    assert_eq!(shutdown.deadline(), Some(now + DRAIN_TIME));
    assert_eq!(
        shutdown.on_event(activity(0, 0), application_end),
        Action::Terminate
    );
}

#[test]
fn native_sidecar_is_terminated_when_its_last_connection_is_closed() {
    let now = Instant::now();
    let mut shutdown = mk_draining(NATIVE, now);
    assert!(shutdown.needs_activity());
    assert_eq!(shutdown.on_event(activity(1, 0), now), Action::None);
    assert_eq!(shutdown.on_event(activity(0, 0), now), Action::Terminate);
    assert!(!shutdown.needs_activity());
    assert_eq!(shutdown.on_event(Event::EnvoyEnded(0), now), Action::Exit(0));
}

#[test]
fn native_sidecar_waits_only_some_seconds_for_idle_connections_if_the_removal_is_not_acknowledged() {
    let now = Instant::now();
    let mut shutdown = mk_draining(NATIVE, now);
    assert_eq!(shutdown.on_event(activity(3, 0), now), Action::None);
    let later = now + MAX_IDLE_WAIT;
    assert_eq!(shutdown.on_event(activity(3, 1), later), Action::None);
    assert_eq!(shutdown.on_event(activity(3, 0), later), Action::Terminate);
}

#[test]
fn native_sidecar_does_not_wait_for_idle_connections_once_the_endpoint_is_removed() {
    let now = Instant::now();
    let mut shutdown = mk_draining(NATIVE, now);
    shutdown.on_event(Event::EndpointRemoved, now);
    assert_eq!(shutdown.on_event(activity(3, 1), now), Action::None);
    assert_eq!(shutdown.on_event(activity(3, 0), now), Action::Terminate);
}

#[test]
fn drain_starts_when_the_pod_terminates_and_lasts_until_the_signal() {
    let now = Instant::now();
    let mut shutdown = EnvoyShutdown::new(NATIVE);
    assert_eq!(
        shutdown.on_event(Event::PodTerminates { at: now }, now),
        Action::StartDrain
    );
    assert_eq!(shutdown.on_event(Event::DrainStarted, now), Action::None);
    assert_eq!(shutdown.on_event(Event::EndpointRemoved, now), Action::None);
    assert_eq!(shutdown.on_event(activity(0, 0), now), Action::None);
    assert_eq!(shutdown.deadline(), None, "the application may still run");
    assert!(!shutdown.is_final() && !shutdown.needs_activity());
    // The application has ended.
    let later = now + Duration::from_mins(10);
    assert_eq!(shutdown.on_event(Event::Signal, later), Action::None);
    assert_eq!(shutdown.deadline(), Some(later + DRAIN_TIME));
    assert_eq!(shutdown.on_event(activity(1, 0), later), Action::Terminate);
}

#[test]
fn request_to_drain_is_repeated_while_the_pod_is_terminating_and_at_the_signal() {
    let now = Instant::now();
    let mut shutdown = EnvoyShutdown::new(NATIVE);
    shutdown.on_event(Event::PodTerminates { at: now }, now);
    assert_eq!(shutdown.on_event(Event::DrainNotStarted, now), Action::StartDrain);
    assert_eq!(shutdown.on_event(Event::Signal, now), Action::StartDrain);
    assert_eq!(shutdown.on_event(Event::DrainStarted, now), Action::None);
    assert_eq!(shutdown.deadline(), Some(now + DRAIN_TIME));
}

#[test]
fn native_sidecar_drains_until_the_grace_period_leaves_only_the_time_to_stop_envoy() {
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    // The application ends after 3, 12 and 27 s.
    for signal in [3, 12, 27] {
        let mut shutdown = EnvoyShutdown::new(WITH_GRACE_PERIOD);
        shutdown.on_event(Event::PodTerminates { at: now }, now);
        shutdown.on_event(Event::DrainStarted, now);
        assert_eq!(shutdown.deadline(), None, "the application may still run");
        shutdown.on_event(Event::Signal, at(signal));
        assert_eq!(shutdown.deadline(), Some(at(25)), "{signal}");
        assert_eq!(shutdown.on_event(Event::Deadline, at(25)), Action::Terminate);
    }
}

#[test]
fn drain_time_that_ends_before_the_grace_period_ends_the_drain_of_a_native_sidecar() {
    let now = Instant::now();
    let config = ShutdownConfig {
        grace_period: Some(Duration::from_mins(10)),
        ..NATIVE
    };
    let mut shutdown = EnvoyShutdown::new(config);
    shutdown.on_event(Event::PodTerminates { at: now }, now);
    shutdown.on_event(Event::DrainStarted, now);
    let signal = now + Duration::from_mins(1);
    shutdown.on_event(Event::Signal, signal);
    assert_eq!(shutdown.deadline(), Some(signal + DRAIN_TIME));
}

#[test]
fn request_to_drain_that_gets_no_response_ends_with_the_grace_period() {
    let now = Instant::now();
    let mut shutdown = EnvoyShutdown::new(WITH_GRACE_PERIOD);
    shutdown.on_event(Event::PodTerminates { at: now }, now);
    let signal = now + Duration::from_secs(24);
    assert_eq!(shutdown.on_event(Event::Signal, signal), Action::StartDrain);
    let deadline = now + Duration::from_secs(25);
    assert_eq!(shutdown.deadline(), Some(deadline));
    assert_eq!(shutdown.on_event(Event::Deadline, deadline), Action::Terminate);
}

#[test]
fn grace_period_limits_a_drain_that_a_signal_has_started_before_the_report_of_the_termination() {
    let now = Instant::now();
    let mut shutdown = mk_draining(WITH_GRACE_PERIOD, now);
    let started_at = now.checked_sub(Duration::from_secs(15)).unwrap();
    let event = Event::PodTerminates { at: started_at };
    assert_eq!(shutdown.on_event(event, now), Action::None);
    assert_eq!(shutdown.deadline(), Some(now + Duration::from_secs(10)));
}

#[test]
fn grace_period_does_not_limit_the_drain_if_the_start_of_the_termination_is_unknown() {
    let now = Instant::now();
    assert_eq!(
        mk_draining(WITH_GRACE_PERIOD, now).deadline(),
        Some(now + DRAIN_TIME)
    );
}

#[test]
fn native_sidecar_drains_at_most_for_the_drain_time() {
    let now = Instant::now();
    let mut shutdown = mk_draining(NATIVE, now);
    assert_eq!(
        shutdown.on_event(Event::Deadline, now + DRAIN_TIME),
        Action::Terminate
    );
}

#[test]
fn envoy_that_cannot_be_drained_is_terminated() {
    let now = Instant::now();
    let mut shutdown = EnvoyShutdown::new(CLASSIC);
    shutdown.on_event(Event::Signal, now);
    assert_eq!(shutdown.on_event(Event::DrainNotStarted, now), Action::Terminate);
}

#[test]
fn second_signal_ends_the_drain_and_third_signal_exits() {
    let now = Instant::now();
    let mut shutdown = mk_draining(CLASSIC, now);
    assert_eq!(shutdown.on_event(Event::Signal, now), Action::Terminate);
    assert_eq!(shutdown.on_event(Event::Signal, now), Action::Exit(1));
}

#[test]
fn second_signal_before_the_drain_terminates_envoy() {
    let now = Instant::now();
    let mut shutdown = EnvoyShutdown::new(CLASSIC);
    shutdown.on_event(Event::Signal, now);
    assert_eq!(shutdown.on_event(Event::Signal, now), Action::Terminate);
    assert_eq!(shutdown.on_event(Event::DrainStarted, now), Action::None);
    assert_eq!(shutdown.on_event(Event::Signal, now), Action::Exit(1));
}

#[test]
fn exit_code_of_an_envoy_that_ends_by_itself_is_passed_on() {
    let now = Instant::now();
    assert_eq!(
        EnvoyShutdown::new(CLASSIC).on_event(Event::EnvoyEnded(0), now),
        Action::Exit(0)
    );
    assert_eq!(
        EnvoyShutdown::new(CLASSIC).on_event(Event::EnvoyEnded(139), now),
        Action::Exit(139)
    );
    assert_eq!(
        mk_draining(CLASSIC, now).on_event(Event::EnvoyEnded(3), now),
        Action::Exit(3)
    );
}

#[test]
fn classic_sidecar_ends_when_its_application_has_ended_and_nothing_is_in_progress() {
    let now = Instant::now();
    let mut shutdown = EnvoyShutdown::new(CLASSIC);
    assert_eq!(
        shutdown.on_event(Event::ApplicationEnded, now),
        Action::StartDrain
    );
    assert!(shutdown.is_final());
    assert_eq!(shutdown.on_event(Event::DrainStarted, now), Action::None);
    assert_eq!(shutdown.deadline(), Some(now + DRAIN_TIME));
    assert!(shutdown.needs_activity());
    assert_eq!(shutdown.on_event(activity(1, 1), now), Action::None);
    assert_eq!(shutdown.on_event(activity(0, 0), now), Action::Terminate);
    assert_eq!(shutdown.on_event(Event::EnvoyEnded(0), now), Action::Exit(0));
}

#[test]
fn end_of_the_application_shortens_the_drain_of_a_classic_sidecar() {
    let now = Instant::now();
    let mut shutdown = mk_draining(CLASSIC, now);
    assert_eq!(shutdown.on_event(activity(0, 0), now), Action::None);
    assert_eq!(shutdown.on_event(Event::ApplicationEnded, now), Action::None);
    assert_eq!(shutdown.on_event(activity(0, 0), now), Action::Terminate);
}

#[test]
fn crash_of_envoy_after_the_end_of_the_application_is_not_an_error() {
    let now = Instant::now();
    let mut shutdown = EnvoyShutdown::new(CLASSIC);
    shutdown.on_event(Event::ApplicationEnded, now);
    assert_eq!(shutdown.on_event(Event::EnvoyEnded(139), now), Action::Exit(0));
}
