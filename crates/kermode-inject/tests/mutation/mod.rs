//! Deterministic random mutations of the bytes and values of JSON documents.

use fastrand::Rng;
use serde_json::{Value, json};

/// Maximum length of an input, in bytes.
const MAX_LENGTH: usize = 2_000_000;

/// Strings that injection interprets, and malformed strings.
const FRAGMENTS: &[&str] = &[
    "kuma-sidecar",
    "kuma.io/container-patches",
    "kuma.io/sidecar-drain-time",
    "kuma.io/sidecar-env-vars",
    "kuma.io/sidecar-mode",
    "traffic.kuma.io/exclude-outbound-tcp-ports-for-uids",
    "initContainers",
    "restartPolicy",
    "Always",
    "readinessProbe",
    "httpGet",
    "tcpSocket",
    "grpc",
    "HTTPS",
    "resources",
    "imagePullSecrets",
    "k8s.v1.cni.cncf.io/networks",
    "[{\"name\":\"a\"}]",
    "securityContext",
    "terminationGracePeriodSeconds",
    "null",
    "{}",
    "[]",
    "-1",
    "1e999",
    "9223372036854775808",
    "0.1",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "enabled",
    "true",
    "65536",
    "1h-1s",
    ":::",
    ";=;",
    "~1~0/-",
    "\"",
    ",",
    "/spec/containers/0",
];

/// Random generator of one mutated input.
pub(crate) struct Mutator(Rng);

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// Returns one of the documents after one to three mutations.
    pub(crate) fn mutate(mut self, documents: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.0.choice(documents).cloned().unwrap_or_default();
        for _ in 0..self.0.usize(1..4) {
            input = if self.0.u8(0..4) > 0 {
                self.change_value(&input).unwrap_or(input)
            } else {
                self.change_bytes(input, documents)
            };
            input.truncate(MAX_LENGTH);
        }
        input
    }

    fn change_bytes(&mut self, mut input: Vec<u8>, documents: &[Vec<u8>]) -> Vec<u8> {
        let (from, to) = self.random_range(input.len());
        match self.0.u8(0..6) {
            0 => input.truncate(from),
            1 => drop(input.drain(from..to)),
            2 => input[from..to]
                .iter_mut()
                .take(4)
                .for_each(|byte| *byte = self.0.u8(..)),
            3 => {
                let fragment = self.0.choice(FRAGMENTS).copied().unwrap_or_default();
                input.splice(from..from, fragment.bytes());
            }
            4 => {
                let piece = input[from..to].to_vec();
                // One of 256 repetitions may make the input grow to the maximum length.
                let max_repeats = MAX_LENGTH / piece.len().max(1);
                let max_repeats = if self.0.u8(..) == 0 { max_repeats.max(1) } else { 8 };
                let repeats = self.0.usize(1..=max_repeats);
                input.splice(from..from, piece.repeat(repeats));
            }
            _ => {
                let other = self.0.choice(documents).cloned().unwrap_or_default();
                let (other_from, other_to) = self.random_range(other.len());
                input.splice(from..to, other[other_from..other_to].iter().copied());
            }
        }
        input
    }

    /// Returns the start and the end of a random range within `length` bytes. The end is not part of the range.
    fn random_range(&mut self, length: usize) -> (usize, usize) {
        let (one, other) = (self.0.usize(0..=length), self.0.usize(0..=length));
        (one.min(other), one.max(other))
    }

    /// Mutates a value of the document; `None` if the input is not JSON.
    fn change_value(&mut self, input: &[u8]) -> Option<Vec<u8>> {
        let mut root: Value = serde_json::from_slice(input).ok()?;
        self.replace_descendant(&mut root);
        Some(root.to_string().into_bytes())
    }

    /// Replaces a random descendant of a value, usually a deeply nested descendant.
    fn replace_descendant(&mut self, target: &mut Value) {
        let index = self.0.usize(..);
        if self.0.u8(0..8) > 0 {
            match target {
                Value::Array(items) if !items.is_empty() => {
                    let index = index % items.len();
                    return self.replace_descendant(&mut items[index]);
                }
                Value::Object(members) if !members.is_empty() => {
                    let index = index % members.len();
                    if let Some(member) = members.values_mut().nth(index) {
                        return self.replace_descendant(member);
                    }
                }
                _ => {}
            }
        }
        *target = self.random_value(target);
    }

    /// Returns a value of a random kind, which may contain the old value.
    fn random_value(&mut self, old: &Value) -> Value {
        let fragment = self.0.choice(FRAGMENTS).copied().unwrap_or_default();
        match self.0.u8(0..9) {
            0 => Value::Null,
            1 => self.0.bool().into(),
            2 => self.0.i64(..).into(),
            3 => json!(self.0.f64() * 1e9),
            4 => fragment.into(),
            5 => Value::Array(vec![old.clone(); self.0.usize(0..4)]),
            6 => json!({fragment: old}),
            7 => {
                let depth = self.0.usize(1..140);
                (0..depth).fold(old.clone(), |inner, _| json!([inner]))
            }
            _ => fragment.repeat(self.0.usize(1..1_000)).into(),
        }
    }
}
