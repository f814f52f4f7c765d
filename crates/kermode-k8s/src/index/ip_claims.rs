//! The Pods that claim each IP. Kubernetes gives an IP to one Pod at a time, but the last status of a Pod that has lost
//! the IP may arrive after the status of the Pod that has it now.

use std::collections::HashMap;
use std::net::IpAddr;

use kermode_model::ObjectKey;

/// Pods by IP.
#[derive(Debug, Default)]
pub(super) struct IpClaims {
    /// The first Pod that claims each IP; usually the only one.
    first: HashMap<IpAddr, ObjectKey>,
    /// Further Pods.
    others: HashMap<IpAddr, Vec<ObjectKey>>,
}

impl IpClaims {
    /// Adds the claim of a Pod.
    pub(super) fn add(&mut self, ip: IpAddr, pod: &ObjectKey) {
        match self.first.get(&ip) {
            None => {
                self.first.insert(ip, pod.clone());
            }
            Some(first) if first == pod => {}
            Some(_) => {
                let others = self.others.entry(ip).or_default();
                if !others.contains(pod) {
                    others.push(pod.clone());
                }
            }
        }
    }

    /// Removes the claim of a Pod, if it exists.
    pub(super) fn remove(&mut self, ip: IpAddr, pod: &ObjectKey) {
        let is_first = self.first.get(&ip) == Some(pod);
        let Some(others) = self.others.get_mut(&ip) else {
            if is_first {
                self.first.remove(&ip);
            }
            return;
        };
        if is_first {
            if let Some(next) = others.pop() {
                self.first.insert(ip, next);
            }
        } else {
            others.retain(|other| other != pod);
        }
        if others.is_empty() {
            self.others.remove(&ip);
        }
    }

    /// Returns the Pods that claim an IP besides a Pod that claims it.
    pub(super) fn rivals<'c>(
        &'c self,
        ip: IpAddr,
        pod: &'c ObjectKey,
    ) -> impl Iterator<Item = &'c ObjectKey> {
        // Without further Pods, the first one is the Pod itself.
        let others = self.others.get(&ip);
        let first = others.and_then(|_| self.first.get(&ip));
        let all = first.into_iter().chain(others.into_iter().flatten());
        all.filter(move |other| *other != pod)
    }

    /// Returns whether no Pod claims an IP.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.others.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_has_the_pods_that_claim_it_in_any_order_of_claims() {
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
