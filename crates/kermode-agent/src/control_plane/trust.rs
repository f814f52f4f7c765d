//! Roots that the control plane's certificate is verified with (docs/design.md#roots-of-the-control-plane).
//!
//! The first roots come from the environment of the container, which cannot change. The file is a projected ConfigMap,
//! in which the control plane publishes its current roots. The file is read for each new connection, so a connection
//! attempt after a failed verification uses the roots of that time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use kermode_identity::TrustBundle;
use kermode_model::CONTROL_PLANE_CA_CONFIG_MAP;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt as _;
use tokio_rustls::TlsConnector;

/// Maximum size of the file. A root takes less than 1 KiB.
const MAX_FILE_SIZE: u64 = 256 * 1024;

/// Roots for connections to the control plane.
pub(super) struct Trust {
    file: Option<PathBuf>,
    state: Mutex<TrustState>,
}

struct TrustState {
    /// Connector with the roots in use.
    tls: TlsConnector,
    /// Text of the file from which `tls` was made; `None` for the roots of the environment.
    text: Option<String>,
    /// Last logged problem of the file. The same problem is not logged again.
    logged_problem: Option<String>,
}

impl Trust {
    /// Trusts `roots`, those of the environment, until `file` has roots.
    ///
    /// # Errors
    /// Fails when a root is malformed.
    pub(super) fn new(roots: &TrustBundle, file: Option<PathBuf>) -> anyhow::Result<Self> {
        let tls =
            connector(roots).context("KUMA_CONTROL_PLANE_CA_CERT: a root certificate cannot be used")?;
        Ok(Self {
            file,
            state: Mutex::new(TrustState {
                tls,
                text: None,
                logged_problem: None,
            }),
        })
    }

    /// Returns the connector with the current roots. A missing or damaged file does not change the roots.
    pub(super) async fn connector(&self) -> TlsConnector {
        let Some(file) = &self.file else {
            return self.state.lock().tls.clone();
        };
        let content = read(file).await;
        let mut state = self.state.lock();
        let applied = match content {
            Ok(Some(text)) => state.apply(text, file),
            Ok(None) => {
                state.report_missing(file);
                return state.tls.clone();
            }
            Err(error) => Err(error),
        };
        match applied {
            Ok(()) => state.logged_problem = None,
            Err(error) => state.report(format!("{error:#}"), |problem| {
                tracing::warn!(
                    file = %file.display(),
                    "file with the roots of the control plane cannot be used, the last roots stay in use: {problem}; \
                     check the ConfigMap {CONTROL_PLANE_CA_CONFIG_MAP} of this namespace"
                );
            }),
        }
        state.tls.clone()
    }

    /// Describes where the roots in use come from.
    pub(super) fn source(&self) -> String {
        match &self.file {
            Some(file) if self.state.lock().text.is_some() => file.display().to_string(),
            _ => "KUMA_CONTROL_PLANE_CA_CERT".to_owned(),
        }
    }
}

impl TrustState {
    /// Uses the roots in the text of the file. An unchanged text keeps the connector, which can resume TLS sessions.
    fn apply(&mut self, text: String, file: &Path) -> anyhow::Result<()> {
        if self.text.as_ref() == Some(&text) {
            return Ok(());
        }
        let roots = TrustBundle::from_pem(&text)?;
        self.tls = connector(&roots).context("a root certificate cannot be used")?;
        self.text = Some(text);
        let count = roots.roots().len();
        tracing::info!(file = %file.display(), roots = count, "roots of the control plane read");
        Ok(())
    }

    fn report_missing(&mut self, file: &Path) {
        let had_roots = self.text.is_some();
        self.report("the file does not exist".to_owned(), |_| {
            let file = file.display();
            if had_roots {
                tracing::warn!(
                    %file,
                    "file with the roots of the control plane does not exist any more: the last roots stay in use; check \
                     the ConfigMap {CONTROL_PLANE_CA_CONFIG_MAP} of this namespace"
                );
            } else {
                tracing::info!(
                    %file,
                    "file with the roots of the control plane does not exist yet: the roots of \
                     KUMA_CONTROL_PLANE_CA_CERT are used"
                );
            }
        });
    }

    /// Logs a problem of the file, unless the problem is the last logged one.
    fn report(&mut self, problem: String, log: impl FnOnce(&str)) {
        if self.logged_problem.as_ref() != Some(&problem) {
            log(&problem);
            self.logged_problem = Some(problem);
        }
    }
}

/// Reads the file; `None` if it does not exist.
async fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes).await?;
    ensure!(
        u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_FILE_SIZE),
        "the file is larger than {MAX_FILE_SIZE} bytes"
    );
    Ok(Some(String::from_utf8(bytes).context("the file is not UTF-8")?))
}

/// Returns a connector that verifies the server with these roots.
fn connector(trust: &TrustBundle) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for root in trust.roots() {
        roots.add(root.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(tls)))
}

#[cfg(test)]
mod tests;
