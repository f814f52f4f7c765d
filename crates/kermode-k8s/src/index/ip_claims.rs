//! The Pods that claim each IP. Kubernetes gives an IP to one Pod at a time, but the last status of a Pod that has lost
//! the IP may arrive after the status of the Pod that has it now.

use std::collections::HashMap;
use std::net::IpAddr;

use kermode_model::ObjectKey;

/// The Pods that claim an IP, by IP. Usually one Pod claims an IP.
#[derive(Debug, Default)]
pub(super) struct IpClaims(HashMap<IpAddr, Vec<ObjectKey>>);

impl IpClaims {
    /// Adds the claim of a Pod.
    pub(super) fn add(&mut self, ip: IpAddr, pod: &ObjectKey) {
        let pods = self.0.entry(ip).or_default();
        if !pods.contains(pod) {
            pods.push(pod.clone());
        }
    }

    /// Removes the claim of a Pod. Does nothing if the Pod does not claim the IP.
    pub(super) fn remove(&mut self, ip: IpAddr, pod: &ObjectKey) {
        if let Some(pods) = self.0.get_mut(&ip) {
            pods.retain(|other| other != pod);
            if pods.is_empty() {
                self.0.remove(&ip);
            }
        }
    }

    /// Returns the other Pods that claim the IP of a Pod.
    pub(super) fn rivals<'c>(
        &'c self,
        ip: IpAddr,
        pod: &'c ObjectKey,
    ) -> impl Iterator<Item = &'c ObjectKey> {
        self.pods(ip).filter(move |other| *other != pod)
    }

    /// Returns the Pods that claim an IP.
    pub(super) fn pods(&self, ip: IpAddr) -> impl Iterator<Item = &ObjectKey> {
        self.0.get(&ip).into_iter().flatten()
    }

    /// Returns whether there are no claims.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_claim_counts_once_and_its_removal_keeps_the_claims_of_other_pods() {
        let pods = ["a", "b", "c"].map(|name| ObjectKey::new("demo", name));
        let ip = IpAddr::from([10, 0, 0, 1]);
        for removed in 0..3 {
            let mut claims = IpClaims::default();
            for pod in pods.iter().chain(&pods) {
                claims.add(ip, pod);
            }
            claims.remove(ip, &pods[removed]);
            claims.remove(ip, &pods[removed]);
            let left: Vec<_> = pods.iter().filter(|pod| **pod != pods[removed]).collect();
            assert_eq!(claims.rivals(ip, left[0]).collect::<Vec<_>>(), [left[1]]);
            assert_eq!(claims.rivals(ip, left[1]).collect::<Vec<_>>(), [left[0]]);
            for pod in left {
                claims.remove(ip, pod);
            }
            assert!(claims.is_empty());
        }
    }
}
