//! Bounds on memory: how much of questions is held at once, as bytes on their way in and as documents once read.
//!
//! A document takes far more memory than its text: three bytes of `{},` become hundreds. So what a text will take is
//! estimated, from above, before it is read; what is too much is refused, and what is too much just now waits.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The largest review worth reading, in bytes: an object of etcd's 1.5 MiB, twice, with room to spare.
pub(super) const MAX_BODY: usize = 8 * 1024 * 1024;
/// Bodies held at once, in bytes. Both sums stay well inside the memory that `kumactl install` gives the Pod.
const BODIES: usize = 32 * 1024 * 1024;
/// Estimated memory of all documents held at once, in bytes.
const DOCUMENTS: usize = 128 * 1024 * 1024;
/// Estimated memory of the largest document worth reading, in bytes: tens of thousands of objects.
const MAX_DOCUMENT: usize = 64 * 1024 * 1024;

/// Memory of an object: its first B-tree node.
const OBJECT: usize = 640;
/// Memory of a list: its first four places.
const LIST: usize = 128;
/// Memory of a further member or element: its place, half of which may be spare, and small allocations of its own.
const ELEMENT: usize = 192;

/// Semaphores count in these, to fit large sums.
const UNIT: usize = 1024;

/// The memory that questions may take.
#[derive(Debug)]
pub(super) struct Room {
    bodies: Semaphore,
    documents: Semaphore,
}

/// A part of the room, given back when dropped.
#[derive(Debug)]
pub(super) struct Taken<'a>(#[allow(dead_code)] Option<SemaphorePermit<'a>>);

/// The document would take too much memory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the review would take {estimate} bytes of memory, more than {MAX_DOCUMENT}: it has too many elements"
)]
pub(super) struct TooComplex {
    estimate: usize,
}

// === impl Room ===

impl Default for Room {
    fn default() -> Self {
        Self {
            bodies: Semaphore::new(BODIES / UNIT),
            documents: Semaphore::new(DOCUMENTS / UNIT),
        }
    }
}

impl Room {
    /// Waits until there is room for a body. Without a stated length it is taken to be the largest.
    pub(super) async fn body(&self, length: Option<usize>) -> Taken<'_> {
        take(&self.bodies, length.unwrap_or(MAX_BODY).min(MAX_BODY)).await
    }

    /// Waits until there is room for the document that a text will become.
    ///
    /// # Errors
    /// At once when it would be too large.
    pub(super) async fn document(&self, text: &[u8]) -> Result<Taken<'_>, TooComplex> {
        let estimate = estimate(text);
        if estimate > MAX_DOCUMENT {
            return Err(TooComplex { estimate });
        }
        Ok(take(&self.documents, estimate).await)
    }
}

async fn take(semaphore: &Semaphore, bytes: usize) -> Taken<'_> {
    let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
    // An error means that the semaphore was closed, which nobody does.
    Taken(semaphore.acquire_many(units).await.ok())
}

/// Upper bound of what a JSON text takes as a document, in bytes. Brackets and commas inside of strings count too:
/// cheaper than telling them apart, and real texts have few.
fn estimate(text: &[u8]) -> usize {
    let structure: usize = text
        .iter()
        .map(|byte| match byte {
            b'{' => OBJECT,
            b'[' => LIST,
            b',' => ELEMENT,
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
    fn a_text_that_becomes_a_huge_document_is_refused_before_it_is_read() {
        let room = Room::default();
        for element in ["{\"\":0},", "[],", "0,"] {
            let text = element.repeat(MAX_BODY / element.len());
            let outcome = room.document(text.as_bytes()).now_or_never().expect("no wait");
            assert!(outcome.is_err(), "{element}");
        }
    }

    #[test]
    fn the_largest_pods_that_etcd_takes_have_room() {
        let room = Room::default();
        let prose = "Lorem ipsum dolor sit amet, consetetur sadipscing elitr. ".repeat(50_000);
        let variable = json!({"name": "SOME_VARIABLE", "value": "some value or other, such as a host name"});
        let many = json!({"spec": {"containers": [{"env": vec![variable; 15_000]}]}});
        for pod in [json!({"metadata": {"annotations": {"text": prose}}}), many] {
            let text = pod.to_string();
            assert!(text.len() > 1_000_000);
            assert!(
                room.document(text.as_bytes())
                    .now_or_never()
                    .is_some_and(|taken| taken.is_ok())
            );
        }
    }

    #[test]
    fn what_does_not_fit_now_waits_until_something_is_given_back() {
        let room = Room::default();
        let mut held: Vec<_> = std::iter::from_fn(|| room.body(None).now_or_never()).collect();
        assert_eq!(held.len(), BODIES / MAX_BODY);
        assert!(room.body(Some(UNIT)).now_or_never().is_none());
        held.pop();
        assert!(room.body(Some(UNIT)).now_or_never().is_some());
    }
}
