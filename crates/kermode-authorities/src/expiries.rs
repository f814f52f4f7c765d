//! Times at which the certificates that this replica knows expire, for the page. The metrics contain the expiry of the
//! roots, too; the certificates of workloads would be too many series.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use kermode_model::ObjectKey;
use parking_lot::Mutex;

use crate::BackendId;

/// Maximum number of workloads whose certificate is remembered. Bounds the memory of a replica that has issued
/// certificates to many short-lived Pods.
const MAX_WORKLOADS: usize = 20_000;

/// Table of the times of expiry; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Expiries(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Trusted roots of each backend, by number of the generation.
    mesh_roots: BTreeMap<BackendId, BTreeMap<u32, SystemTime>>,
    control_plane_roots: BTreeMap<u32, SystemTime>,
    /// Certificate that this replica presents to proxies and to the API server.
    server: Option<SystemTime>,
    workloads: HashMap<ObjectKey, SystemTime>,
}

/// One certificate of a CA or a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownCertificate {
    /// Owner and use of the certificate.
    pub subject: CertificateSubject,
    /// Time of expiry.
    pub not_after: SystemTime,
}

/// Owner and use of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSubject {
    /// Root of a mesh.
    MeshRoot {
        /// Name of the mesh.
        mesh: String,
        /// Name of the backend in the Mesh.
        backend: String,
        /// Number of the CA: the first has 0, and each rotation adds one.
        generation: u32,
    },
    /// Root of the control plane.
    ControlPlaneRoot {
        /// Number of the CA.
        generation: u32,
    },
    /// Certificate of this replica's servers: webhooks, and the server for proxies.
    Server,
}

impl Expiries {
    pub(crate) fn set_mesh_roots(&self, backend: &BackendId, roots: BTreeMap<u32, SystemTime>) {
        self.0.lock().mesh_roots.insert(backend.clone(), roots);
    }

    pub(crate) fn remove_mesh_roots(&self, backend: &BackendId) {
        self.0.lock().mesh_roots.remove(backend);
    }

    pub(crate) fn set_control_plane(&self, roots: BTreeMap<u32, SystemTime>, server: SystemTime) {
        let mut table = self.0.lock();
        table.control_plane_roots = roots;
        table.server = Some(server);
    }

    /// Remembers the certificate that was issued to a workload at `now`.
    pub fn set_workload(&self, workload: &ObjectKey, not_after: SystemTime, now: SystemTime) {
        let workloads = &mut self.0.lock().workloads;
        if workloads.len() >= MAX_WORKLOADS && !workloads.contains_key(workload) {
            workloads.retain(|_, not_after| *not_after > now);
            if workloads.len() >= MAX_WORKLOADS {
                return;
            }
        }
        workloads.insert(workload.clone(), not_after);
    }

    /// Returns the expiry of the last certificate that this replica issued to a workload; `None` if it issued none.
    pub fn workload(&self, workload: &ObjectKey) -> Option<SystemTime> {
        self.0.lock().workloads.get(workload).copied()
    }

    /// Returns the certificates of the CAs and of this replica's servers.
    pub fn certificates(&self) -> Vec<KnownCertificate> {
        let table = self.0.lock();
        let mut known = Vec::new();
        for (id, roots) in &table.mesh_roots {
            known.extend(roots.iter().map(|(generation, not_after)| KnownCertificate {
                subject: CertificateSubject::MeshRoot {
                    mesh: id.mesh.to_string(),
                    backend: id.backend.clone(),
                    generation: *generation,
                },
                not_after: *not_after,
            }));
        }
        known.extend(
            table
                .control_plane_roots
                .iter()
                .map(|(generation, not_after)| KnownCertificate {
                    subject: CertificateSubject::ControlPlaneRoot {
                        generation: *generation,
                    },
                    not_after: *not_after,
                }),
        );
        known.extend(table.server.map(|not_after| KnownCertificate {
            subject: CertificateSubject::Server,
            not_after,
        }));
        known
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn workloads_are_bounded_and_expired_ones_give_way() {
        let (expiries, start) = (Expiries::default(), SystemTime::UNIX_EPOCH);
        let at = |seconds| start + Duration::from_secs(seconds);
        let key = |number: usize| ObjectKey::new("shop", number.to_string());
        for number in 0..=MAX_WORKLOADS {
            expiries.set_workload(&key(number), at(10), start);
        }
        assert_eq!(expiries.workload(&key(MAX_WORKLOADS)), None, "the table is full");
        expiries.set_workload(&key(3), at(11), start);
        assert_eq!(
            expiries.workload(&key(3)),
            Some(at(11)),
            "a known workload is updated"
        );
        expiries.set_workload(&key(MAX_WORKLOADS), at(20), at(10));
        assert_eq!(expiries.workload(&key(MAX_WORKLOADS)), Some(at(20)));
        assert_eq!(expiries.workload(&key(0)), None, "expired");
        assert_eq!(expiries.workload(&key(3)), Some(at(11)));
    }

    #[test]
    fn roots_of_a_removed_backend_are_forgotten() {
        let expiries = Expiries::default();
        let id = BackendId::new(&"default".into(), "ca-1");
        expiries.set_mesh_roots(&id, [(0, SystemTime::UNIX_EPOCH)].into());
        expiries.set_control_plane([(2, SystemTime::UNIX_EPOCH)].into(), SystemTime::UNIX_EPOCH);
        let subjects = || expiries.certificates().into_iter().map(|known| known.subject);
        let mesh_root = CertificateSubject::MeshRoot {
            mesh: "default".to_owned(),
            backend: "ca-1".to_owned(),
            generation: 0,
        };
        let others = [
            CertificateSubject::ControlPlaneRoot { generation: 2 },
            CertificateSubject::Server,
        ];
        assert!(subjects().eq([mesh_root].into_iter().chain(others.clone())));
        expiries.remove_mesh_roots(&id);
        assert!(subjects().eq(others));
    }
}
