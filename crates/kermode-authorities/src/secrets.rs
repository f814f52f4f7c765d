//! A CA in a Secret, and what the Secrets that are there make of the CAs in memory. No IO.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use kermode_identity::{Authority, Generation, Schedule, Succession};
use kermode_k8s::controller::secret;
use kermode_model::MeshName;

/// Type and keys of the Secrets; type and first key as Kuma has them.
pub(super) const SECRET_TYPE: &str = "system.kuma.io/secret";
pub(super) const VALUE: &str = "value";
const CERTIFICATE: &str = "certificate";
/// Of a CA that follows another one: moments in seconds since the Unix epoch, and what had been asked for.
const SIGNS_FROM: &str = "signs-from";
const PREDECESSOR_UNTIL: &str = "predecessor-trusted-until";
const REQUEST: &str = "request";

/// Names of the Secrets of a mesh's backend.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Key of the first CA.
    pub(super) key: String,
    /// Its certificate, for people and tools that look for it where Kuma keeps it.
    pub(super) certificate: String,
    /// What those of later CAs begin with.
    later: String,
}

/// What there is, and what has to be written.
#[derive(Debug)]
pub(super) struct Reconciled {
    pub(super) succession: Succession,
    /// CAs whose Secrets are gone though they are in use.
    pub(super) lost: Vec<Generation>,
}

// === impl Names ===

impl Names {
    pub(super) fn of(mesh: &MeshName, backend: &str) -> Self {
        Self {
            key: format!("{mesh}.ca-builtin-key-{backend}"),
            certificate: format!("{mesh}.ca-builtin-cert-{backend}"),
            later: format!("{mesh}.ca-builtin-rotation-{backend}."),
        }
    }

    /// The Secret of a CA.
    pub(super) fn of_generation(&self, number: u32) -> String {
        if number == 1 {
            self.key.clone()
        } else {
            format!("{}{number}", self.later)
        }
    }

    /// The number of a later CA, if that is what the Secret is.
    pub(super) fn number(&self, secret: &str) -> Option<u32> {
        let number = secret.strip_prefix(&self.later)?.parse().ok()?;
        // One name for each.
        (number > 1 && self.of_generation(number) == secret).then_some(number)
    }
}

// === contents ===

pub(super) fn contents(generation: &Generation) -> secret::SecretData {
    let authority = &generation.authority;
    let mut data = secret::SecretData::from([
        (VALUE.to_owned(), authority.key_pem().into_bytes()),
        (CERTIFICATE.to_owned(), authority.certificate_pem().into_bytes()),
    ]);
    let mut set = |key: &str, text: String| data.insert(key.to_owned(), text.into_bytes());
    if let Some(schedule) = generation.schedule {
        set(SIGNS_FROM, seconds(schedule.signs_from).to_string());
        set(PREDECESSOR_UNTIL, seconds(schedule.predecessor_until).to_string());
    }
    if let Some(request) = &generation.request {
        set(REQUEST, request.clone());
    }
    data
}

pub(super) fn parse(number: u32, data: &secret::SecretData) -> anyhow::Result<Generation> {
    let text = |key: &str| data.get(key).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let required = |key: &str| text(key).with_context(|| format!("it has no {key}"));
    let authority =
        Authority::from_pem(required(CERTIFICATE)?, required(VALUE)?).context("it does not hold a CA")?;
    let moment = |key: &str| -> anyhow::Result<SystemTime> {
        let seconds = required(key)?.parse();
        let seconds = seconds.with_context(|| format!("its {key} is no number of seconds"))?;
        let moment = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        moment.with_context(|| format!("its {key} is too far away"))
    };
    let schedule = if number == 1 {
        None
    } else {
        Some(Schedule {
            signs_from: moment(SIGNS_FROM)?,
            predecessor_until: moment(PREDECESSOR_UNTIL)?,
        })
    };
    Ok(Generation {
        number,
        authority: Arc::new(authority),
        schedule,
        request: text(REQUEST).map(str::to_owned),
    })
}

fn seconds(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

// === what is found and what is remembered ===

/// The Secrets decide. Only a CA in use whose Secret is gone is kept from memory: proxies trust it. One that was
/// announced and does not sign yet may be deleted to call its rotation off. `None` when there is nothing at all.
pub(super) fn reconcile(
    found: Vec<Generation>,
    in_memory: Option<&Succession>,
    now: SystemTime,
) -> Option<Reconciled> {
    let is_found = |number: u32| found.iter().any(|generation| generation.number == number);
    let lost: Vec<Generation> = in_memory.map_or_else(Vec::new, |memory| {
        let signer = memory.signer(now).number;
        memory
            .trusted(now)
            .filter(|generation| generation.number <= signer && !is_found(generation.number))
            .cloned()
            .collect()
    });
    let all = found.into_iter().chain(lost.iter().cloned()).collect();
    Some(Reconciled {
        succession: Succession::new(all)?,
        lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn mk_generation(number: u32, now: SystemTime) -> Generation {
        let authority = Authority::generate(&MeshName::from("default"), now).expect("a CA");
        Generation {
            number,
            authority: Arc::new(authority),
            schedule: (number > 1).then(|| Schedule::starting(now, DAY)),
            request: (number > 1).then(|| "please".to_owned()),
        }
    }

    fn numbers(generations: &[Generation]) -> Vec<u32> {
        generations.iter().map(|generation| generation.number).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        for number in [1, 2] {
            let generation = mk_generation(number, SystemTime::now());
            let again = parse(number, &contents(&generation)).expect("it is whole");
            assert_eq!(again.schedule, generation.schedule);
            assert_eq!(again.request, generation.request);
            assert_eq!(again.authority.certificate(), generation.authority.certificate());
        }
    }

    #[test]
    fn a_secret_that_lacks_something_says_what() {
        let mut data = contents(&mk_generation(2, SystemTime::now()));
        data.remove(SIGNS_FROM);
        let error = format!("{:#}", parse(2, &data).expect_err("no moment"));
        assert!(error.contains(SIGNS_FROM), "{error}");
        data.remove(VALUE);
        let error = format!("{:#}", parse(2, &data).expect_err("no key"));
        assert!(error.contains("it has no value"), "{error}");
    }

    #[test]
    fn secrets_of_other_backends_are_not_taken_for_later_cas() {
        let names = Names::of(&MeshName::from("default"), "ca-1");
        assert_eq!(names.number(&names.of_generation(7)), Some(7));
        for other in [
            "default.ca-builtin-rotation-ca-1.1",
            "default.ca-builtin-rotation-ca-1.02",
            "default.ca-builtin-rotation-ca-1.2.3",
            "default.ca-builtin-rotation-ca-12.2",
            "other.ca-builtin-rotation-ca-1.2",
            "default.ca-builtin-key-ca-1",
        ] {
            assert_eq!(names.number(other), None, "{other}");
        }
    }

    #[test]
    fn a_ca_in_use_is_restored_and_an_announced_one_is_called_off() {
        let start = SystemTime::now();
        let (first, second) = (mk_generation(1, start), mk_generation(2, start));
        let memory = Succession::new(vec![first.clone(), second.clone()]).expect("two");
        let schedule = second.schedule.expect("it follows another");

        let called_off = reconcile(vec![first.clone()], Some(&memory), start).expect("one");
        assert!(called_off.lost.is_empty());
        assert_eq!(numbers(called_off.succession.generations()), [1]);

        let restored = reconcile(vec![second.clone()], Some(&memory), start).expect("both");
        assert_eq!(numbers(&restored.lost), [1]);
        assert_eq!(numbers(restored.succession.generations()), [1, 2]);

        let restored = reconcile(vec![first.clone()], Some(&memory), schedule.signs_from).expect("both");
        assert_eq!(numbers(&restored.lost), [2]);

        // The old one may be deleted once nobody trusts it.
        let end = schedule.predecessor_until;
        let settled = reconcile(vec![second], Some(&memory), end).expect("one");
        assert!(settled.lost.is_empty());
        assert!(reconcile(Vec::new(), None, start).is_none());
    }
}
