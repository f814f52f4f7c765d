//! What the client says of responses: applied, or refused, and then which part of it.

use std::sync::Arc;

use super::{InFlight, Tracker, unsure};
use crate::store::Stamp;
use crate::stream::{Event, Rejection};
use kermode_protocol::ads::DeltaDiscoveryRequest;

// === impl Tracker ===

impl Tracker {
    /// Takes the answer to the response in flight. Answers to anything else are stale.
    pub(in crate::stream) fn on_answer(&mut self, request: &DeltaDiscoveryRequest) -> Option<Event> {
        let in_flight = self
            .in_flight
            .take_if(|sent| sent.nonce == request.response_nonce)?;
        self.answered = true;
        let resources: Vec<_> = in_flight.items.iter().map(|(stamp, _)| stamp.clone()).collect();
        let Some(error) = &request.error_detail else {
            for stamp in &resources {
                self.rejected.remove(&stamp.name);
            }
            return Some(Event::Acknowledged {
                kind: self.kind,
                resources,
                removed: in_flight.removed,
            });
        };
        let message: Arc<str> = error.message.as_str().into();
        self.on_rejected(in_flight, &message);
        Some(Event::Rejected {
            kind: self.kind,
            resources,
            message,
        })
    }

    fn on_rejected(&mut self, mut sent: InFlight, message: &Arc<str>) {
        if sent.items.is_empty() {
            // Nothing but removals: there is no other way to say it.
            return;
        }
        if sent.items.len() == 1 && sent.removed.is_empty() {
            if let Some((stamp, before)) = sent.items.pop() {
                let before = before.unwrap_or_else(|| unsure(&stamp.name));
                self.restore(&stamp.name, before);
                let rejection = Rejection {
                    kind: self.kind,
                    stamp,
                    message: message.clone(),
                };
                self.rejected.insert(rejection.stamp.name.clone(), rejection);
            }
            return;
        }
        // Envoy may have applied any part of it. Forget the versions, and find out which part is bad.
        let mut names: Vec<Arc<str>> = sent
            .items
            .into_iter()
            .map(|(stamp, _)| stamp.name.clone())
            .collect();
        for name in &names {
            self.restore(name, unsure(name));
        }
        for name in &sent.removed {
            if self.wants(name) {
                self.client.insert(unsure(name));
            }
        }
        let second = names.split_off(names.len().div_ceil(2));
        for part in [second, names, sent.removed] {
            if !part.is_empty() {
                self.retries.push_front(part);
            }
        }
    }

    fn restore(&mut self, name: &Arc<str>, before: Arc<Stamp>) {
        // When the client lost interest meanwhile, it is not remembered any more, and stays so.
        if self.client.contains(name) {
            self.client.insert(before);
        }
    }
}
