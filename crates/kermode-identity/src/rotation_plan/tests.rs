//! Tests of CA rotations with a simulated clock.

use kermode_model::{DEFAULT_CLOCK_TOLERANCE, MeshName};

use super::*;
use crate::spiffe::tests::mk_dataplane;
use crate::{Entitlement, WorkloadKey};

/// Lifetime of workload certificates.
const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(24);

/// Time at which the first CA is generated. In most tests, the second CA is generated at the same time.
fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn mk_authority(now: SystemTime) -> Arc<Authority> {
    Arc::new(Authority::generate(&MeshName::new("default"), now).unwrap())
}

fn mk_generation(number: u32, schedule: Option<Schedule>, request: Option<&str>) -> Generation {
    Generation {
        number,
        authority: mk_authority(start()),
        schedule,
        request: request.map(str::to_owned),
    }
}

/// Returns a plan of two generations, and the schedule of the second generation.
fn mk_plan() -> (RotationPlan, Schedule) {
    let schedule = Schedule::generated_at(start(), Term::of(CERTIFICATE_LIFETIME));
    let second = mk_generation(2, Some(schedule), Some("request-1"));
    let plan = RotationPlan::new(vec![second, mk_generation(1, None, None)]).unwrap();
    (plan, schedule)
}

fn trusted_generations(plan: &RotationPlan, now: SystemTime) -> Vec<u32> {
    plan.trusted(now).map(|generation| generation.number).collect()
}

#[test]
fn new_ca_is_trusted_then_signs_then_is_trusted_alone() {
    let (plan, schedule) = mk_plan();
    let one_second = Duration::from_secs(1);
    let steps = [
        (start(), Phase::Distributing, vec![1, 2], 1),
        (
            schedule.signs_from - one_second,
            Phase::Distributing,
            vec![1, 2],
            1,
        ),
        (schedule.signs_from, Phase::Reissuing, vec![1, 2], 2),
        (
            schedule.predecessor_trusted_until - one_second,
            Phase::Reissuing,
            vec![1, 2],
            2,
        ),
        (schedule.predecessor_trusted_until, Phase::Settled, vec![2], 2),
    ];
    for (now, phase, trusted, signer) in steps {
        assert_eq!(plan.phase(now), phase);
        assert_eq!(trusted_generations(&plan, now), trusted);
        assert_eq!(plan.signer(now).number, signer);
    }
    assert_eq!(plan.next_change(start()), Some(schedule.signs_from));
    assert_eq!(
        plan.next_change(schedule.signs_from),
        Some(schedule.predecessor_trusted_until)
    );
}

#[test]
fn version_increases_with_each_change_of_the_roots() {
    let plan_of_one_ca = RotationPlan::new(vec![mk_generation(1, None, None)]).unwrap();
    let (plan_of_two_cas, schedule) = mk_plan();
    let versions = [
        plan_of_one_ca.trust(start()).version,
        plan_of_two_cas.trust(start()).version,
        plan_of_two_cas.trust(schedule.predecessor_trusted_until).version,
    ];
    assert!(versions.is_sorted() && versions[0] < versions[1] && versions[1] < versions[2]);
}

/// Simulates proxies that renew at any age of their certificate, and replicas with wrong clocks and outdated CAs.
#[test]
fn every_valid_certificate_is_accepted_by_every_proxy_at_any_time() {
    check_rotation(Duration::from_mins(1), 10, 3);
    let tolerance = i64::try_from(DEFAULT_CLOCK_TOLERANCE.as_secs()).unwrap();
    check_rotation(Duration::from_hours(1), tolerance, 50);
}

/// Checks a rotation every `step` seconds, with certificates that are valid for `lifetime`, and with clocks that are
/// wrong by at most `max_skew` seconds.
fn check_rotation(lifetime: Duration, max_skew: i64, step: usize) {
    let schedule = Schedule::generated_at(start(), Term::of(lifetime));
    let plan_of_one_ca = RotationPlan::new(vec![mk_generation(1, None, None)]).unwrap();
    let plan_of_two_cas = RotationPlan::new(vec![
        plan_of_one_ca.newest().clone(),
        mk_generation(2, Some(schedule), None),
    ])
    .unwrap();
    let shift = |time: SystemTime, seconds: i64| {
        let distance = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            time - distance
        } else {
            time + distance
        }
    };
    // Signer and trusted generations in the response of a replica whose clock is wrong by `skew` seconds and which
    // reads the new CA `staleness` after its creation.
    let respond = |time: SystemTime, skew: i64, staleness: Duration| {
        let plan = if time < start() + staleness {
            &plan_of_one_ca
        } else {
            &plan_of_two_cas
        };
        let clock = shift(time, skew);
        let signer = plan.signer(clock).number;
        (signer, trusted_generations(plan, clock))
    };
    let mut replicas = Vec::new();
    for skew in [-max_skew, 0, max_skew] {
        replicas.extend([(skew, Duration::ZERO), (skew, MAX_STALENESS)]);
    }
    // One minute more than the rotation and the lifetime of the certificates that were issued at its end.
    let simulated_seconds = (lifetime
        + schedule
            .predecessor_trusted_until
            .duration_since(start())
            .unwrap())
    .as_secs()
        + 60;
    for elapsed_seconds in (0..simulated_seconds).step_by(step) {
        let now = start() + Duration::from_secs(elapsed_seconds);
        // The replica's clock determines when a certificate expires. So a certificate of a replica whose clock is ahead
        // by `skew` is valid for `skew` longer than its lifetime.
        let mut responses = Vec::new();
        for (skew, staleness) in &replicas {
            let max_age = lifetime.as_secs().saturating_add_signed(*skew);
            for age in (0..=max_age).step_by(2 * step) {
                responses.push(respond(now - Duration::from_secs(age), *skew, *staleness));
            }
        }
        for (signer, _) in &responses {
            for (_, trusted) in &responses {
                let since = now.duration_since(start());
                assert!(
                    trusted.contains(signer),
                    "{since:?} after the start, CA {signer} signs but only {trusted:?} are trusted"
                );
            }
        }
    }
}

#[test]
fn longer_lifetime_takes_effect_once_the_new_ca_signs() {
    let (plan, schedule) = mk_plan();
    let week = Duration::from_hours(7 * 24);
    let remaining = schedule
        .predecessor_trusted_until
        .duration_since(start())
        .unwrap();
    assert_eq!(plan.lifetime(start(), week), remaining);
    assert_eq!(plan.lifetime(start(), CERTIFICATE_LIFETIME), CERTIFICATE_LIFETIME);
    let before_signing = schedule.signs_from - Duration::from_secs(1);
    assert_eq!(
        plan.lifetime(before_signing, CERTIFICATE_LIFETIME),
        CERTIFICATE_LIFETIME
    );
    assert_eq!(plan.lifetime(schedule.signs_from, week), week);
}

#[test]
fn one_request_causes_one_rotation_and_rotations_do_not_overlap() {
    let plan_of_one_ca = RotationPlan::new(vec![mk_generation(1, None, None)]).unwrap();
    assert_eq!(plan_of_one_ca.due_rotation(start(), None), None);
    assert_eq!(plan_of_one_ca.due_rotation(start(), Some("")), None);
    assert_eq!(
        plan_of_one_ca.due_rotation(start(), Some("request-1")),
        Some(RotationReason::Requested)
    );
    let (plan, schedule) = mk_plan();
    assert_eq!(plan.due_rotation(schedule.signs_from, Some("request-2")), None);
    let end = schedule.predecessor_trusted_until;
    assert_eq!(plan.due_rotation(end, Some("request-1")), None);
    assert_eq!(plan.due_rotation(end, None), None);
    assert_eq!(
        plan.due_rotation(end, Some("request-2")),
        Some(RotationReason::Requested)
    );
}

#[test]
fn ca_is_rotated_at_four_fifths_of_its_validity_without_a_request() {
    let plan_of_one_ca = RotationPlan::new(vec![mk_generation(1, None, None)]).unwrap();
    let due = plan_of_one_ca.newest().authority.validity().renew_at();
    assert_eq!(
        plan_of_one_ca.due_rotation(due - Duration::from_secs(1), None),
        None
    );
    assert_eq!(
        plan_of_one_ca.due_rotation(due, None),
        Some(RotationReason::Ageing)
    );
    assert_eq!(plan_of_one_ca.next_change(start()), Some(due));
}

#[test]
fn certificates_of_both_cas_are_backdated_by_the_clock_tolerance() {
    let (plan, schedule) = mk_plan();
    let entitlement = Entitlement::of(&mk_dataplane(&[&[("kuma.io/service", "web_demo_svc_80")]]));
    let csr = WorkloadKey::generate().unwrap().csr_der().unwrap();
    for now in [start(), schedule.signs_from] {
        let signer = plan.signer(now);
        let issued = signer
            .authority
            .sign_csr(&csr, &entitlement, Term::of(CERTIFICATE_LIFETIME), now);
        assert_eq!(issued.unwrap().validity.not_before, now - DEFAULT_CLOCK_TOLERANCE);
    }
}

#[test]
fn successor_of_an_expired_ca_signs_before_its_scheduled_time() {
    let authority = mk_authority(start());
    let after_expiry = authority.validity().not_after + Duration::from_secs(1);
    let schedule = Schedule::generated_at(after_expiry, Term::of(CERTIFICATE_LIFETIME));
    let second = Generation {
        authority: mk_authority(after_expiry),
        ..mk_generation(2, Some(schedule), None)
    };
    let plan = RotationPlan::new(vec![mk_generation(1, None, None), second]).unwrap();
    assert_eq!(plan.signer(after_expiry).number, 2);
}

#[test]
fn plan_needs_at_least_one_generation() {
    assert!(RotationPlan::<Authority>::new(Vec::new()).is_none());
}
