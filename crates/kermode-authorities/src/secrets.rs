//! Encodes CAs as Secrets, decodes them, and merges the CAs of the Secrets with the CAs in memory. No IO.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use kermode_identity::{Authority, Generation, RotatingAuthority, RotationPlan, Schedule};
use kermode_k8s::controller::secret;
use kermode_model::MeshName;

/// Type of the Secrets, as in Kuma.
pub(super) const SECRET_TYPE: &str = "system.kuma.io/secret";
/// Entry with the private key. In the Secret [`CaSecretNames::first_certificate`], the entry has the certificate
/// instead, as in Kuma.
pub(super) const VALUE_ENTRY: &str = "value";
/// Entry with the certificate.
const CERTIFICATE_ENTRY: &str = "certificate";
/// Entry with the time from which the CA signs, in seconds since the Unix epoch. The first generation has no such
/// entry.
const SIGNS_FROM_ENTRY: &str = "signs-from";
/// Entry with the time until which the previous generation is trusted, in seconds since the Unix epoch. The first
/// generation has no such entry.
const PREDECESSOR_TRUSTED_UNTIL_ENTRY: &str = "predecessor-trusted-until";
/// Entry with the value of the rotation annotation that was in effect when the CA was created.
const REQUEST_ENTRY: &str = "request";

/// Names of the Secrets with the CAs of a mesh's backend.
#[derive(Clone, Debug)]
pub(super) struct CaSecretNames {
    /// The mesh.
    pub(super) mesh: MeshName,
    /// Secret of the first generation, with its key.
    pub(super) first: String,
    /// Secret with the certificate of the first generation, for users and tools.
    pub(super) first_certificate: String,
    /// Prefix of the Secrets of later generations.
    later_prefix: String,
}

/// Result of [`reconcile`].
#[derive(Debug)]
pub(super) struct Reconciled<A = Authority> {
    pub(super) plan: RotationPlan<A>,
    /// CAs in use whose Secrets are missing.
    pub(super) lost: Vec<Generation<A>>,
}

// === impl CaSecretNames ===

impl CaSecretNames {
    pub(super) fn of(mesh: &MeshName, backend: &str) -> Self {
        Self {
            mesh: mesh.clone(),
            first: format!("{mesh}.ca-builtin-key-{backend}"),
            first_certificate: format!("{mesh}.ca-builtin-cert-{backend}"),
            later_prefix: format!("{mesh}.ca-builtin-rotation-{backend}."),
        }
    }

    /// Returns the name of the Secret of a generation.
    pub(super) fn of_generation(&self, number: u32) -> String {
        if number == 1 {
            self.first.clone()
        } else {
            format!("{}{number}", self.later_prefix)
        }
    }

    /// Returns the number of the generation whose Secret has this name. Returns `None` if this is not the Secret of a
    /// second or later generation of this backend.
    pub(super) fn later_generation_number(&self, secret: &str) -> Option<u32> {
        let number = secret.strip_prefix(&self.later_prefix)?.parse().ok()?;
        // Rejects other spellings of the number, such as `02`.
        (number > 1 && self.of_generation(number) == secret).then_some(number)
    }
}

// === encoding ===

/// Encodes a generation as the data of its Secret.
pub(super) fn encode(generation: &Generation) -> secret::SecretData {
    let authority = &generation.authority;
    let mut data = secret::SecretData::from([
        (VALUE_ENTRY.to_owned(), authority.key_pem().into_bytes()),
        (
            CERTIFICATE_ENTRY.to_owned(),
            authority.certificate_pem().into_bytes(),
        ),
    ]);
    encode_rotation(generation, &mut data);
    data
}

/// Adds the schedule and the request of a generation to the data of its Secret.
pub(super) fn encode_rotation<A>(generation: &Generation<A>, data: &mut secret::SecretData) {
    let mut set = |entry: &str, text: String| data.insert(entry.to_owned(), text.into_bytes());
    if let Some(schedule) = generation.schedule {
        set(SIGNS_FROM_ENTRY, seconds(schedule.signs_from).to_string());
        set(
            PREDECESSOR_TRUSTED_UNTIL_ENTRY,
            seconds(schedule.predecessor_trusted_until).to_string(),
        );
    }
    if let Some(request) = &generation.request {
        set(REQUEST_ENTRY, request.clone());
    }
}

/// Decodes the data of the Secret of generation `number`. An error starts with "it" or "its": the caller names the
/// Secret.
pub(super) fn decode(number: u32, data: &secret::SecretData) -> anyhow::Result<Generation> {
    let (certificate, key) = (text(data, CERTIFICATE_ENTRY), text(data, VALUE_ENTRY));
    let certificate = certificate.with_context(|| format!("it has no {CERTIFICATE_ENTRY}"))?;
    let key = key.with_context(|| format!("it has no {VALUE_ENTRY}"))?;
    let authority = Authority::from_pem(certificate, key).context("it does not hold a CA")?;
    decode_rotation(number, authority, data)
}

/// Returns the text of an entry; `None` if the entry is missing or is not UTF-8.
pub(super) fn text<'d>(data: &'d secret::SecretData, entry: &str) -> Option<&'d str> {
    data.get(entry).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

/// Returns the generation of this CA, with the schedule and the request in the data of its Secret. An error starts with
/// "it" or "its": the caller names the Secret.
pub(super) fn decode_rotation<A>(
    number: u32,
    authority: A,
    data: &secret::SecretData,
) -> anyhow::Result<Generation<A>> {
    let required = |entry: &str| text(data, entry).with_context(|| format!("it has no {entry}"));
    let time = |entry: &str| -> anyhow::Result<SystemTime> {
        let seconds = required(entry)?.parse();
        let seconds = seconds.with_context(|| format!("its {entry} is not a number of seconds"))?;
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        time.with_context(|| format!("its {entry} is out of range"))
    };
    let schedule = if number == 1 {
        None
    } else {
        Some(Schedule {
            signs_from: time(SIGNS_FROM_ENTRY)?,
            predecessor_trusted_until: time(PREDECESSOR_TRUSTED_UNTIL_ENTRY)?,
        })
    };
    Ok(Generation {
        number,
        authority: Arc::new(authority),
        schedule,
        request: text(data, REQUEST_ENTRY).map(str::to_owned),
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

// === reconciliation ===

/// Returns the CAs of a backend or of the control plane: the CAs that were `found` in Secrets, and the CAs `in_memory` that are in use but have
/// no Secret. A CA is in use if it signs, or has signed and is still trusted. Returns `None` if there is no CA.
///
/// A user cancels a rotation by deleting the Secret of a CA that does not sign yet.
pub(super) fn reconcile<A: RotatingAuthority>(
    found: Vec<Generation<A>>,
    in_memory: Option<&RotationPlan<A>>,
    now: SystemTime,
) -> Option<Reconciled<A>> {
    let is_found = |number: u32| found.iter().any(|generation| generation.number == number);
    let lost: Vec<Generation<A>> = in_memory.map_or_else(Vec::new, |plan| {
        let signer = plan.signer(now).number;
        plan.trusted(now)
            .filter(|generation| generation.number <= signer && !is_found(generation.number))
            .cloned()
            .collect()
    });
    let all = found.into_iter().chain(lost.iter().cloned()).collect();
    Some(Reconciled {
        plan: RotationPlan::new(all)?,
        lost,
    })
}

#[cfg(test)]
mod tests {
    use kermode_identity::Term;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn mk_generation(number: u32, now: SystemTime) -> Generation {
        let authority = Authority::generate(&MeshName::from("default"), now).expect("a CA");
        Generation {
            number,
            authority: Arc::new(authority),
            schedule: (number > 1).then(|| Schedule::generated_at(now, Term::of(DAY))),
            request: (number > 1).then(|| "please".to_owned()),
        }
    }

    fn generation_numbers(generations: &[Generation]) -> Vec<u32> {
        generations.iter().map(|generation| generation.number).collect()
    }

    #[test]
    fn generation_survives_a_round_trip() {
        for number in [1, 2] {
            let generation = mk_generation(number, SystemTime::now());
            let parsed = decode(number, &encode(&generation)).expect("a CA");
            assert_eq!(parsed.schedule, generation.schedule);
            assert_eq!(parsed.request, generation.request);
            assert_eq!(parsed.authority.certificate(), generation.authority.certificate());
        }
    }

    #[test]
    fn error_about_an_incomplete_secret_names_the_missing_entry() {
        let mut data = encode(&mk_generation(2, SystemTime::now()));
        data.remove(SIGNS_FROM_ENTRY);
        let error = format!("{:#}", decode(2, &data).expect_err("an entry is missing"));
        assert!(error.contains(SIGNS_FROM_ENTRY), "{error}");
        data.remove(VALUE_ENTRY);
        let error = format!("{:#}", decode(2, &data).expect_err("an entry is missing"));
        assert!(error.contains("it has no value"), "{error}");
    }

    #[test]
    fn only_names_that_the_backend_would_choose_are_later_generations() {
        let names = CaSecretNames::of(&MeshName::from("default"), "ca-1");
        assert_eq!(names.later_generation_number(&names.of_generation(7)), Some(7));
        for other in [
            "default.ca-builtin-rotation-ca-1.1",
            "default.ca-builtin-rotation-ca-1.02",
            "default.ca-builtin-rotation-ca-1.2.3",
            "default.ca-builtin-rotation-ca-12.2",
            "other.ca-builtin-rotation-ca-1.2",
            "default.ca-builtin-key-ca-1",
        ] {
            assert_eq!(names.later_generation_number(other), None, "{other}");
        }
    }

    #[test]
    fn ca_without_a_secret_is_restored_if_in_use_and_dropped_if_it_does_not_sign_yet() {
        let start = SystemTime::now();
        let (first, second) = (mk_generation(1, start), mk_generation(2, start));
        let in_memory = RotationPlan::new(vec![first.clone(), second.clone()]).expect("two generations");
        let schedule = second.schedule.expect("a schedule");

        let cancelled =
            reconcile(vec![first.clone()], Some(&in_memory), start).expect("the first generation");
        assert!(cancelled.lost.is_empty());
        assert_eq!(generation_numbers(cancelled.plan.generations()), [1]);

        let restored = reconcile(vec![second.clone()], Some(&in_memory), start).expect("both generations");
        assert_eq!(generation_numbers(&restored.lost), [1]);
        assert_eq!(generation_numbers(restored.plan.generations()), [1, 2]);

        let restored =
            reconcile(vec![first.clone()], Some(&in_memory), schedule.signs_from).expect("both generations");
        assert_eq!(generation_numbers(&restored.lost), [2]);

        // An old CA whose root is no longer trusted is not restored.
        let first_untrusted_at = schedule.predecessor_trusted_until;
        let settled =
            reconcile(vec![second], Some(&in_memory), first_untrusted_at).expect("the second generation");
        assert!(settled.lost.is_empty());
        assert!(
            reconcile::<Authority>(Vec::new(), None, start).is_none(),
            "neither a Secret nor a CA in memory"
        );
    }
}
