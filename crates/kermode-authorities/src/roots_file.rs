//! File of a user with the roots that sidecars trust in place of the control plane's own CA, for a control plane behind
//! a proxy that terminates TLS.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kermode_identity::TrustBundle;
use kermode_k8s::controller::roots::RootsReceiver;
use tokio::sync::watch;

/// Interval at which the file is read. The kubelet replaces a mounted Secret or ConfigMap about once a minute.
const READ_INTERVAL: Duration = Duration::from_mins(1);

/// File with roots in PEM.
pub struct RootsFile {
    path: PathBuf,
    roots: watch::Sender<Arc<str>>,
}

impl RootsFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When the file cannot be read, or contains no certificate.
    pub async fn read(path: PathBuf) -> anyhow::Result<Self> {
        let roots = watch::Sender::new(read(&path).await?);
        Ok(Self { path, roots })
    }

    /// Returns the roots, which follow the file while [`Self::follow`] runs.
    pub fn roots(&self) -> RootsReceiver {
        self.roots.subscribe()
    }

    /// Reads the file at intervals until the future is dropped. A file that is damaged or cannot be read changes nothing.
    pub async fn follow(self) {
        loop {
            tokio::time::sleep(READ_INTERVAL).await;
            match read(&self.path).await {
                Ok(text) => {
                    let is_changed = self
                        .roots
                        .send_if_modified(|roots| std::mem::replace(roots, text.clone()) != text);
                    if is_changed {
                        tracing::info!(file = %self.path.display(), "roots for sidecars have changed");
                    }
                }
                Err(error) => tracing::warn!("{error:#}; the last roots stay in use"),
            }
        }
    }
}

async fn read(path: &PathBuf) -> anyhow::Result<Arc<str>> {
    let problem = || {
        format!(
            "file {} with the roots for sidecars cannot be used",
            path.display()
        )
    };
    let text = tokio::fs::read_to_string(path).await.with_context(problem)?;
    // The file may also contain a private key, which must not be published.
    let roots = TrustBundle::from_pem(&text).with_context(problem)?;
    Ok(roots.to_pem().into())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use kermode_identity::ServingAuthority;

    use super::*;

    fn mk_root() -> String {
        let authority = ServingAuthority::generate(SystemTime::now()).expect("a CA");
        authority.certificate_pem()
    }

    #[tokio::test(start_paused = true)]
    async fn roots_follow_the_file_and_survive_its_damage() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.crt");
        let (old, new) = (mk_root(), mk_root());
        std::fs::write(&path, &old).expect("written");
        let file = RootsFile::read(path.clone()).await.expect("roots");
        let mut roots = file.roots();
        assert_eq!(**roots.borrow_and_update(), *old);
        let following = tokio::spawn(file.follow());
        std::fs::write(&path, "damaged").expect("written");
        tokio::time::sleep(READ_INTERVAL * 2).await;
        assert!(!roots.has_changed().expect("the file is followed"));
        std::fs::write(&path, &new).expect("written");
        roots.changed().await.expect("the file is followed");
        assert_eq!(**roots.borrow(), *new);
        following.abort();
    }

    #[tokio::test]
    async fn private_key_in_the_file_is_left_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("combined.pem");
        let root = mk_root();
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        std::fs::write(&path, format!("{root}{key}")).expect("written");
        let file = RootsFile::read(path).await.expect("roots");
        assert_eq!(**file.roots().borrow(), *root);
    }

    #[tokio::test]
    async fn file_without_a_certificate_is_rejected_by_its_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.crt");
        for text in [None, Some("no certificate")] {
            if let Some(text) = text {
                std::fs::write(&path, text).expect("written");
            }
            let Err(error) = RootsFile::read(path.clone()).await else {
                panic!("{text:?}");
            };
            assert!(format!("{error:#}").contains("ca.crt"), "{error:#}");
        }
    }
}
