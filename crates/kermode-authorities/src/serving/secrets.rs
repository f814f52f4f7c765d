//! Secrets of the control plane's CAs. The Secret of the first CA keeps its name and carries the rotation annotation. Each
//! later CA has a Secret of its own, which is never updated.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use kermode_identity::{Generation, RotationPlan, ServingAuthority};
use kermode_k8s::controller::secret::{self, SecretData, SecretMetadata};
use kube::Client;

use crate::secrets::{decode_rotation, encode_rotation, reconcile, text};

/// Name of the Secret with the first CA.
pub const CA_SECRET: &str = "kuma-control-plane-ca";
/// Type of the Secret with the first CA.
const FIRST_TYPE: &str = "Opaque";
/// Type of the Secrets with later CAs.
pub(super) const LATER_TYPE: &str = "system.kuma.io/control-plane-ca";
/// Entry of a Secret with the certificate.
const CERTIFICATE_ENTRY: &str = "ca.crt";
/// Entry of a Secret with the private key.
const PRIVATE_KEY_ENTRY: &str = "ca.key";

/// Generations of the control plane's CA.
pub(super) type ServingPlan = RotationPlan<ServingAuthority>;
/// A generation of the control plane's CA.
pub(super) type ServingGeneration = Generation<ServingAuthority>;

/// The Secrets, in the control plane's namespace.
pub(super) struct CaSecrets {
    pub(super) client: Client,
    pub(super) namespace: String,
}

impl CaSecrets {
    /// Reads the CAs. Creates the first CA if there is none, and restores lost Secrets of the CAs `in_memory`.
    pub(super) async fn read(&self, in_memory: Option<&ServingPlan>) -> anyhow::Result<ServingPlan> {
        let (client, namespace) = (&self.client, &self.namespace);
        let mut found = Vec::new();
        if let Some(data) = secret::get(client, namespace, CA_SECRET).await? {
            found.push(self.decode(1, &data)?);
        }
        for (name, data) in secret::list(client, namespace, LATER_TYPE).await? {
            if let Some(number) = later_number(&name) {
                found.push(self.decode(number, &data)?);
            }
        }
        let Some(reconciled) = reconcile(found, in_memory, SystemTime::now()) else {
            let first = self.create(&generate_first()?).await?;
            return RotationPlan::new(vec![first]).context("the rotation plan has no CA");
        };
        for lost in &reconciled.lost {
            let name = name_of(lost.number);
            tracing::warn!(
                namespace,
                name,
                "Secret was deleted: it is created again from memory"
            );
            self.create(lost).await?;
        }
        Ok(reconciled.plan)
    }

    /// Reads the metadata of the Secret that carries the rotation annotation.
    pub(super) async fn metadata(&self) -> anyhow::Result<SecretMetadata> {
        let found = secret::get_metadata(&self.client, &self.namespace, CA_SECRET).await?;
        Ok(found.unwrap_or_default())
    }

    /// Creates the Secret of a CA and returns the CA. If another replica has already created the Secret, returns the CA
    /// of that replica.
    pub(super) async fn create(&self, generation: &ServingGeneration) -> anyhow::Result<ServingGeneration> {
        let number = generation.number;
        let secret_type = if number == 1 { FIRST_TYPE } else { LATER_TYPE };
        let name = name_of(number);
        let data = secret::get_or_create(&self.client, &self.namespace, &name, secret_type, || {
            encode(generation)
        });
        self.decode(number, &data.await?)
    }

    /// Decodes the Secret of a generation. Errors name the Secret.
    fn decode(&self, number: u32, data: &SecretData) -> anyhow::Result<ServingGeneration> {
        decode(number, data).with_context(|| format!("Secret {}/{}", self.namespace, name_of(number)))
    }
}

fn generate_first() -> anyhow::Result<ServingGeneration> {
    Ok(Generation {
        number: 1,
        authority: Arc::new(ServingAuthority::generate(SystemTime::now())?),
        schedule: None,
        request: None,
    })
}

fn name_of(number: u32) -> String {
    if number == 1 {
        CA_SECRET.to_owned()
    } else {
        format!("{CA_SECRET}.{number}")
    }
}

/// Returns the number of the generation whose Secret has this name; `None` for another name.
fn later_number(name: &str) -> Option<u32> {
    let number = name.strip_prefix(CA_SECRET)?.strip_prefix('.')?.parse().ok()?;
    // Rejects other spellings of the number, such as `02`.
    (number > 1 && name_of(number) == name).then_some(number)
}

fn encode(generation: &ServingGeneration) -> SecretData {
    let authority = &generation.authority;
    let mut data = SecretData::from([
        (
            CERTIFICATE_ENTRY.to_owned(),
            authority.certificate_pem().into_bytes(),
        ),
        (PRIVATE_KEY_ENTRY.to_owned(), authority.key_pem().into_bytes()),
    ]);
    encode_rotation(generation, &mut data);
    data
}

fn decode(number: u32, data: &SecretData) -> anyhow::Result<ServingGeneration> {
    let required = |entry: &str| {
        text(data, entry).with_context(|| {
            format!(
                "it has no {entry}: restore the Secret from a backup; if there is no backup, delete the Secret, then \
                 restart the control plane"
            )
        })
    };
    let authority = ServingAuthority::from_pem(required(CERTIFICATE_ENTRY)?, required(PRIVATE_KEY_ENTRY)?)
        .context("it does not hold a CA")?;
    decode_rotation(number, authority, data)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kermode_identity::{Schedule, Term};

    use super::*;

    #[test]
    fn generation_survives_a_round_trip() {
        let first = generate_first().expect("a CA");
        let now = SystemTime::now();
        let second = Generation {
            number: 2,
            schedule: Some(Schedule::generated_at(now, Term::of(Duration::from_hours(1)))),
            request: Some("please".to_owned()),
            ..first.clone()
        };
        for generation in [first, second] {
            let parsed = decode(generation.number, &encode(&generation)).expect("a CA");
            assert_eq!(parsed.schedule, generation.schedule);
            assert_eq!(parsed.request, generation.request);
            assert_eq!(parsed.authority.certificate(), generation.authority.certificate());
        }
    }

    #[test]
    fn only_names_that_the_control_plane_would_choose_are_later_generations() {
        assert_eq!(later_number(&name_of(7)), Some(7));
        for other in [
            CA_SECRET,
            "kuma-control-plane-ca.1",
            "kuma-control-plane-ca.02",
            "kuma-control-plane-ca-2",
            "kuma-control-plane-ca.2.3",
        ] {
            assert_eq!(later_number(other), None, "{other}");
        }
    }
}
