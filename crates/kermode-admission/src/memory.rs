//! Memory budget of reviews: for bodies until they are parsed, and for the JSON documents that result.
//!
//! A document takes far more memory than its text: the three bytes `{},` become hundreds of bytes. The memory of a
//! document is estimated before its text is parsed. If the estimate exceeds the limit for one document, the review is
//! rejected. If the estimate exceeds the rest of the budget, the review waits until other reviews release memory.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Maximum size of the body of a review, in bytes. An object has at most 1.5 MiB (etcd's limit), and a review may hold
/// an old and a new object.
pub(super) const MAX_BODY: usize = 8 * 1024 * 1024;
/// Budget for bodies, in bytes. Both budgets together are well below the memory limit of the control plane's container.
const BODY_BUDGET: usize = 32 * 1024 * 1024;
/// Budget for documents, in bytes of estimated memory.
const DOCUMENT_BUDGET: usize = 128 * 1024 * 1024;
/// Limit of the estimated memory of one document, in bytes. It allows tens of thousands of JSON objects.
const MAX_DOCUMENT: usize = 64 * 1024 * 1024;

/// Estimated memory of a JSON object, in bytes: its first B-tree node.
const OBJECT_BYTES: usize = 640;
/// Estimated memory of a JSON list, in bytes: the capacity for its first four elements.
const LIST_BYTES: usize = 128;
/// Estimated memory of each object member or list element after the first, in bytes. It includes spare capacity of the
/// object or list, and small allocations such as the key.
const ELEMENT_BYTES: usize = 192;

/// Number of bytes that one permit of a semaphore represents. With this unit, the number of permits stays far below the
/// maximum of a semaphore.
const PERMIT_BYTES: usize = 1024;

/// Memory budget of all reviews.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    bodies: Semaphore,
    documents: Semaphore,
}

/// Reserved part of the budget. Dropping the reservation releases this part.
#[derive(Debug)]
pub(super) struct Reservation<'a>(
    #[allow(dead_code, reason = "dropping the permits releases them")] Option<SemaphorePermit<'a>>,
);

/// Error of a document above [`MAX_DOCUMENT`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the review would take {estimate} bytes of memory, more than {MAX_DOCUMENT}: it has too many elements"
)]
pub(super) struct TooComplex {
    estimate: usize,
}

// === impl MemoryBudget ===

impl Default for MemoryBudget {
    fn default() -> Self {
        Self {
            bodies: Semaphore::new(BODY_BUDGET / PERMIT_BYTES),
            documents: Semaphore::new(DOCUMENT_BUDGET / PERMIT_BYTES),
        }
    }
}

impl MemoryBudget {
    /// Reserves memory for a body; waits until there is enough memory. `length` is the `Content-Length`. Without a
    /// `Content-Length`, or if it exceeds [`MAX_BODY`], [`MAX_BODY`] bytes are reserved.
    pub(super) async fn reserve_body(&self, length: Option<usize>) -> Reservation<'_> {
        reserve(&self.bodies, length.unwrap_or(MAX_BODY).min(MAX_BODY)).await
    }

    /// Reserves memory for the document that will be parsed from a text; waits until there is enough memory.
    ///
    /// # Errors
    /// Immediately, if the estimate exceeds [`MAX_DOCUMENT`].
    pub(super) async fn reserve_document(&self, text: &[u8]) -> Result<Reservation<'_>, TooComplex> {
        let estimate = estimate(text);
        if estimate > MAX_DOCUMENT {
            return Err(TooComplex { estimate });
        }
        Ok(reserve(&self.documents, estimate).await)
    }
}

async fn reserve(semaphore: &Semaphore, bytes: usize) -> Reservation<'_> {
    let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
    // `acquire_many` cannot fail, because the semaphore is never closed.
    Reservation(semaphore.acquire_many(permits).await.ok())
}

/// Returns an upper bound of the memory of the document that is parsed from a JSON text, in bytes. Brackets and commas
/// in strings are counted too, because skipping strings takes more time.
fn estimate(text: &[u8]) -> usize {
    let structure: usize = text
        .iter()
        .map(|byte| match byte {
            b'{' => OBJECT_BYTES,
            b'[' => LIST_BYTES,
            b',' => ELEMENT_BYTES,
            _ => 0,
        })
        .sum();
    structure + text.len()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use serde_json::json;

    use super::*;

    #[test]
    fn text_of_a_huge_document_is_rejected_before_it_is_parsed() {
        let budget = MemoryBudget::default();
        for element in ["{\"\":0},", "[],", "0,"] {
            let text = element.repeat(MAX_BODY / element.len());
            let outcome = budget
                .reserve_document(text.as_bytes())
                .now_or_never()
                .expect("no wait");
            assert!(outcome.is_err(), "{element}");
        }
    }

    #[test]
    fn large_pods_fit_into_the_budget() {
        let budget = MemoryBudget::default();
        let prose = "Lorem ipsum dolor sit amet, consetetur sadipscing elitr. ".repeat(50_000);
        let variable = json!({"name": "SOME_VARIABLE", "value": "some value or other, such as a host name"});
        let pod_with_many_variables = json!({"spec": {"containers": [{"env": vec![variable; 15_000]}]}});
        for pod in [
            json!({"metadata": {"annotations": {"text": prose}}}),
            pod_with_many_variables,
        ] {
            let text = pod.to_string();
            assert!(text.len() > 1_000_000);
            assert!(
                budget
                    .reserve_document(text.as_bytes())
                    .now_or_never()
                    .is_some_and(|reserved| reserved.is_ok())
            );
        }
    }

    #[test]
    fn reservation_waits_until_another_reservation_is_released() {
        let budget = MemoryBudget::default();
        let mut reservations: Vec<_> =
            std::iter::from_fn(|| budget.reserve_body(None).now_or_never()).collect();
        assert_eq!(reservations.len(), BODY_BUDGET / MAX_BODY);
        assert!(budget.reserve_body(Some(PERMIT_BYTES)).now_or_never().is_none());
        reservations.pop();
        assert!(budget.reserve_body(Some(PERMIT_BYTES)).now_or_never().is_some());
    }
}
