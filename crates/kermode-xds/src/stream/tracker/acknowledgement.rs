//! ACKs and NACKs. After a NACK, parts of the response are sent again to find the invalid resource.

use std::sync::Arc;

use kermode_protocol::ads::DeltaDiscoveryRequest;

use super::{InFlight, Tracker, unknown_version};
use crate::store::VersionedName;
use crate::stream::{Event, Rejection};

// === impl Tracker ===

impl Tracker {
    /// Handles the ACK or NACK of the response in flight. Returns `None` for a request with another nonce, which is
    /// neither ACK nor NACK of this response.
    pub(in crate::stream) fn on_ack_or_nack(&mut self, request: &DeltaDiscoveryRequest) -> Option<Event> {
        let in_flight = self
            .in_flight
            .take_if(|sent| sent.nonce == request.response_nonce)?;
        self.has_ack_or_nack = true;
        let resources: Vec<_> = in_flight
            .items
            .iter()
            .map(|(resource, _)| resource.clone())
            .collect();
        let Some(error) = &request.error_detail else {
            for resource in &resources {
                self.rejected.remove(&resource.name);
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

    /// Handles a NACK. If the response contained one resource and no removal, records the rejection of that resource.
    /// Otherwise, schedules parts of the response to be sent again.
    fn on_rejected(&mut self, mut sent: InFlight, message: &Arc<str>) {
        if sent.items.is_empty() {
            // The response contains only removals. A removal cannot be invalid.
            return;
        }
        if sent.items.len() == 1 && sent.removed.is_empty() {
            if let Some((resource, version_before)) = sent.items.pop() {
                let version_before = version_before.unwrap_or_else(|| unknown_version(&resource.name));
                self.set_client_version(&resource.name, version_before);
                let rejection = Rejection {
                    kind: self.kind,
                    resource,
                    message: message.clone(),
                };
                self.rejected.insert(rejection.resource.name.clone(), rejection);
            }
            return;
        }
        // Envoy may have applied any part of the response, so the versions that Envoy has are unknown. Parts of the
        // response are sent again to find the invalid resource.
        let mut names: Vec<Arc<str>> = sent
            .items
            .into_iter()
            .map(|(resource, _)| resource.name.clone())
            .collect();
        for name in &names {
            self.set_client_version(name, unknown_version(name));
        }
        for name in &sent.removed {
            if self.is_subscribed_to(name) {
                self.client_versions.insert(unknown_version(name));
            }
        }
        let second_half = names.split_off(names.len().div_ceil(2));
        let first_half = names;
        // Pushed to the front in reverse order: the removals are sent first, then the first half.
        for part in [second_half, first_half, sent.removed] {
            if !part.is_empty() {
                self.retries.push_front(part);
            }
        }
    }

    /// Records the version that the client has after a NACK. Does nothing for a name from which the client has
    /// unsubscribed.
    fn set_client_version(&mut self, name: &Arc<str>, version: Arc<VersionedName>) {
        if self.client_versions.contains(name) {
            self.client_versions.insert(version);
        }
    }
}
